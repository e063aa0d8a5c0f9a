"""What can be said of a song by its signal, and the verdict on it.

`StemStatistics` takes a song block by block and holds a few numbers per second: `measures` are its numbers for the
whole song, `worst` the seconds that speak most against it, `signature` what it is recognized by. `faults` holds the
numbers against the `QualityRules`, `judge` makes keep or the first reason of them; `fingerprint.find_matches` and
`find_duplicates` compare songs with each other. The presence rule is that of the HT Demucs paper (Rouard et al.
2023): a source must be louder than -40 dB in at least 30 % of seconds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import mono
from datasets.errors import InputError
from datasets.field_constraints import (
    AnyNumber,
    Correlation,
    NonNegativeFloat,
    NonPositiveFloat,
    PositiveFloat,
    Probability,
    check_ranges,
)
from datasets.quality.alignment import RANGE_S
from datasets.quality.bandwidth import cutoff_hz
from datasets.quality.bleed import NO_BLEED_DB, BleedMeter
from datasets.quality.fingerprint import FingerprintExtractor, Signature, clock, find_duplicates
from datasets.quality.loudness import STEPS_PER_S, KWeighting, integrated, lufs
from datasets.quality.mixture_fit import MIN_COMPARED_S, MixtureFit, StemFault
from datasets.quality.stem_classifier import LABELS, MIN_RATE, StemClassifier, likeliest
from datasets.quality.stem_defects import BitDepth, dropouts, one_sided
from datasets.quality.stem_landmarks import StemLandmarks

__all__ = [
    "QualityRules",
    "RuleViolation",
    "Signature",
    "StemStatistics",
    "WorstSegment",
    "faults",
    "find_duplicates",
    "judge",
    "measure",
]

Array = NDArray[np.float64]

# Of measures and rules: raise it when the same stems measure, or are judged, otherwise (CONTRIBUTING.md)
VERSION = 2

_FLOOR_DB = -120.0
_FLAT_STEP = 2.0**-15  # samples within one step of 16 bits stand still
_FLAT_EDGE = 8 * _FLAT_STEP  # a round top of the same width falls by half of this at most beside it
_FLAT_RUN = 3  # samples; limiters hold the ceiling for one or two
_FLAT_FLOOR = 0.01  # of full scale: below, steps of 16 bits are coarse enough to look flat
_SAME_TOP = 0.99  # of the song's highest level: the ceiling that it was cut off at
_SMALL_OFFSET = 0.003  # of full scale; what is nearer to zero is not worth listening to
_LOUD_PEAK_DB = 20.0  # dBFS of a second that is worth listening to for its level alone
_NEAR_MIXTURE_DB = -20.0  # of residual; what is nearer to the mixture is not worth listening to
_GATED_DB = -60.0  # a stem's level below which nothing is heard in it
_ANY_GAIN_DB = 1000.0  # that switch the rule off
_NO_ODDS = 1000.0  # that switch the rule off
_WINDOW_S = 0.0464  # 2048 samples at 44.1 kHz
_NUM_WORST = 3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRules:
    """What a song must be like to be kept; every threshold can be set, and each rule be switched off."""

    silence_db: NonPositiveFloat = -40.0  # dBFS; a second of a stem below this level counts as silent
    min_presence: Probability = 0.3  # share of all seconds in which each source must sound; 0 keeps silent stems
    # dBFS; a stem with a higher peak holds integers that were taken for floats; 1000 keeps any
    max_peak_db: AnyNumber = 30.0
    # Share of a stem's samples that may be clipped (in flat tops); 1 keeps clipped stems
    max_clipped: Probability = 0.0005
    max_offset: Probability = 0.01  # DC offset: how far from zero a stem's mean may lie, of full scale; 1 keeps any
    # Least correlation between the channels of a stem; -1 keeps stems that cancel in mono
    min_correlation: Correlation = -0.9
    max_dropouts: NonNegativeFloat = 1.0  # times a stem may fall to zero for a moment without fading; 1e9 keeps any
    max_one_sided: Probability = 0.1  # share of a stem's seconds in which one channel may be dead; 1 keeps any
    min_bits: NonNegativeFloat = 9.0  # of a stem's samples, by the steps between them; 0 keeps any
    max_noise: Probability = 0.5  # share of a stem's seconds that may be nothing but steady noise; 1 keeps any
    # Lowest frequency at which a stem's spectrum may end as if cut; 0 keeps lossy songs (MUSDB18)
    min_cutoff_hz: NonNegativeFloat = 0.0
    # Level of another stem that a stem may hold; -20 through a room reads as -25; 0 keeps any
    max_bleed_db: NonPositiveFloat = -25.0
    # Time by which a stem may be off the mixture that came with it, if any; 1000 keeps any
    max_shift_ms: NonNegativeFloat = 3.0
    max_residual_db: NonPositiveFloat = -3.0  # level of what the stems leave of that mixture, against it; 0 keeps any
    # Level by which a stem may differ from that mixture, which also finds stems that are upside down, of another song,
    # or that lack a channel or some milliseconds; 1000 keeps any
    max_gain_db: NonNegativeFloat = 2.0
    # Log of how much likelier other names for the stems may be than their own; 1000 keeps any
    max_label_odds: NonNegativeFloat = 1.0
    # Share of the shorter song that another must hold to be its copy; > 1 keeps copies
    min_similarity: PositiveFloat = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="curate.")


# The settings that switch off the rule behind each reason; several rules may be behind one.
SWITCHED_OFF: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "silent_source": ({"min_presence": 0},),
    "too_loud": ({"max_peak_db": 1000},),
    "clipped": ({"max_clipped": 1},),
    "offset": ({"max_offset": 1},),
    "inverted": ({"min_correlation": -1},),
    "dropouts": ({"max_dropouts": 1e9},),
    "one_sided": ({"max_one_sided": 1},),
    "coarse": ({"min_bits": 0},),
    "noise": ({"max_noise": 1},),
    "lossy": ({"min_cutoff_hz": 0},),
    "bleed": ({"max_bleed_db": 0},),
    "misaligned": ({"max_shift_ms": 1000},),
    "unlike_mixture": ({"max_gain_db": 1000}, {"max_residual_db": 0}, {"max_gain_db": 1000, "max_residual_db": 0}),
    "swapped": ({"max_label_odds": 1000},),
    "mislabelled": ({"model": ""},),  # of `CurateConfig`
}


def in_toml(settings: Mapping[str, Any]) -> str:
    """Settings of curation as the command line takes them."""
    words = (f'{name}=""' if value == "" else f"{name}={value:g}" for name, value in settings.items())
    return " ".join(f"curate.{word}" for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSegment:
    """Where in a song something is at its worst; worth listening to, whether or not a rule forbids it."""

    reason: str  # of `schema.REASONS`
    source: str
    start_s: float
    stop_s: float
    value: float  # in the unit of the measure of that name, over these seconds
    other: str = ""  # the second source, where two are concerned


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleViolation:
    """One rule that a song breaks."""

    reason: str  # of `schema.REASONS`
    source: str
    detail: str  # in words, with the seconds where it is worst
    other: str = ""  # the second source, where two are concerned

    def worst(self, moments: Sequence[WorstSegment]) -> list[WorstSegment]:
        """Those of `StemStatistics.worst` that are about this fault, the worst first."""
        key = (self.reason, self.source, self.other)
        return [moment for moment in moments if (moment.reason, moment.source, moment.other) == key]


class StemStatistics:
    """Measures of one song, heard in consecutive blocks of stems_SCT of any length.

    With each block may come the same stretch of the mixture file that the stems came with, or with none.
    """

    def __init__(self, *, sources: Sequence[str], sample_rate: int, silence_db: float = -40.0) -> None:
        self._sources = tuple(sources)
        self._rate = sample_rate
        self._silence_db = silence_db
        self._rest: Samples | None = None
        self._num_samples = 0
        self._weighting = KWeighting(sample_rate)
        self._listener = FingerprintExtractor(sample_rate)
        self._seconds: dict[str, list[Array]] = {}  # name -> an array of shape (S, ...) for each second
        self._window = np.hanning(_window_samples(sample_rate) + 1)[:-1].astype(np.float32)
        num_bins = len(self._window) // 2 + 1
        self._bits = BitDepth(len(self._sources))
        self._bleed = BleedMeter(len(self._sources), num_bins)
        self._landmarks = StemLandmarks(len(self._sources), sample_rate, num_bins)
        self._labels = StemClassifier(len(self._sources), sample_rate, num_bins) if sample_rate >= MIN_RATE else None
        self._long_term = np.zeros((len(self._sources), num_bins))
        self._weights: list[float] = []  # of the seconds: 1, and less for a last one that is not whole
        self._spectra_s = 0.0  # of the song that `_long_term` sums
        self._mixture: MixtureFit | None = None
        self._ended = False

    def add(self, stems_SCT: Samples, mixture_CT: Samples | None = None) -> None:
        """Add the next block."""
        assert not self._ended, "add() after measures(): make a new StemStatistics"
        if not self._num_samples and mixture_CT is not None:
            self._mixture = MixtureFit(len(self._sources), self._rate)
        assert (mixture_CT is None) == (self._mixture is None), "the mixture comes with every block or with none"
        self._num_samples += stems_SCT.shape[2]
        block = stems_SCT if mixture_CT is None else np.concatenate([stems_SCT, mixture_CT[None]])
        joined = block if self._rest is None else np.concatenate([self._rest, block], axis=2)
        whole = joined.shape[2] // self._rate
        for second in range(whole):
            one_SCT = joined[:, :, second * self._rate : (second + 1) * self._rate]
            self._add_second(np.ascontiguousarray(one_SCT))  # channels may come interleaved: sums take twice as long
        self._rest = joined[:, :, whole * self._rate :].copy()

    def _add_second(self, block: Samples) -> None:
        """Hear a second, or what is left of one at the song's end."""
        self._weights.append(block.shape[2] / self._rate)
        second_SCT = block[: len(self._sources)]
        sum_CT = second_SCT.sum(axis=0)
        left_ST, right_ST = second_SCT[:, 0], second_SCT[:, -1]
        second = {
            "power": np.stack([_dot(left_ST, left_ST), _dot(right_ST, right_ST)], axis=1),
            "cross": _dot(left_ST, right_ST),
            "peak": np.abs(second_SCT).max(axis=(1, 2)).astype(np.float64),
            "mean": second_SCT.mean(axis=2).astype(np.float64),
            "flat": np.array([flat_share(stem_CT) for stem_CT in second_SCT]),
            "dropouts": dropouts(second_SCT, self._rate).astype(np.float64),
            "weighted": self._weighting.power(second_SCT).sum(axis=1).T,
        }
        for name, value in second.items():
            self._seconds.setdefault(name, []).append(value)
        self._bits.add(second_SCT, second["power"].mean(axis=1))
        self._listener.add(mono(sum_CT))
        self._add_spectra(second_SCT)
        if self._mixture is not None:
            self._mixture.add(second_SCT, block[-1])

    def _add_spectra(self, second_SCT: Samples) -> None:
        """Frames of 46 ms that overlap by half and do not reach over the second's end."""
        from scipy.fft import rfft

        length = len(self._window)
        if second_SCT.shape[2] < length:
            return
        frames_SNT = sliding_window_view(mono(second_SCT), length, axis=-1)[:, :: length // 2]
        spectra_SNF = rfft(frames_SNT * self._window)
        power_SNF = np.square(spectra_SNF.real) + np.square(spectra_SNF.imag)
        self._long_term += power_SNF.mean(axis=1) * self._weights[-1]
        self._spectra_s += self._weights[-1]
        self._bleed.add(spectra_SNF, power_SNF)
        self._landmarks.add(power_SNF)
        if self._labels is not None:
            self._labels.add(power_SNF, second_SCT)

    def _end(self) -> None:
        """Hear what is left of the last second; a song shorter than one is heard as one, with silence after it."""
        if self._ended:
            return
        rest_SCT = np.zeros((len(self._sources), 1, 0), np.float32) if self._rest is None else self._rest
        if not self._weights:
            rest_SCT = np.pad(rest_SCT, ((0, 0), (0, 0), (0, self._rate - rest_SCT.shape[2])))
        if rest_SCT.shape[2]:
            self._add_second(rest_SCT)
        self._rest, self._ended = None, True

    def _series(self, name: str) -> Array:
        """One measure over all seconds, of shape (N, S, ...), the last of which may not be whole."""
        self._end()
        return np.stack(self._seconds[name])

    def _mean(self, series: Array | NDArray[np.bool_]) -> Array:
        """Mean over the song of a series (N, ...)."""
        mean: Array = np.average(series, axis=0, weights=self._weights)
        return mean

    def measures(self) -> dict[str, float]:
        """Duration, loudness of the sum of all stems in LUFS, and per source:

        presence (share of seconds), rms_db, lufs (BS.1770-4, integrated), short_lufs (the loudest 3 s), peak, clipped
        (share of clipped samples), offset (the mean, of full scale), correlation (of the channels; 1 for dual
        mono, -1 for inverted polarity), cutoff_hz (see `bandwidth`), bleed_OTHER_db where another stem is heard in it
        (see `bleed`), dropouts (how many), one_sided (share of seconds in which one channel is dead), bits (see
        `stem_defects`), noise (share of seconds that are steady noise), and as_LABEL, the log of how probable each
        name is for it (see `stem_classifier`). With a mixture: residual_db, compared_s (seconds), shift_ms of each
        source where it is clear (see `alignment`), and for a source that is not as the mixture has it (see
        `mixture_fit`) mixture_KIND, for how many seconds, and gain_db.
        """
        power_NS = self._series("power").mean(axis=2)
        weighted = np.concatenate(self._seconds["weighted"])  # tenths of seconds
        result = {"duration_s": self._num_samples / self._rate, "lufs": integrated(weighted[:, -1])}
        for position, source in enumerate(self._sources):
            tenths = weighted[:, position]
            result |= {
                f"{source}_presence": float(self._mean(_db(power_NS[:, position]) > self._silence_db)),
                f"{source}_rms_db": float(_db(self._mean(power_NS[:, position]))),
                f"{source}_lufs": integrated(tenths),
                f"{source}_short_lufs": _loudest(tenths),
                f"{source}_peak": float(self._series("peak")[:, position].max()),
                f"{source}_clipped": float(self._mean(self._flat()[:, position])),
                f"{source}_offset": float(np.abs(self._mean(self._series("mean")[:, position])).max()),
                f"{source}_correlation": self._correlation(position),
                f"{source}_cutoff_hz": cutoff_hz(self._long_term[position] / self._spectra_s, self._rate),
            }
        return result | self._defects() | self._between_stems() | self._against_mixture()

    def _defects(self) -> dict[str, float]:
        one_sided_S = one_sided(self._series("power"), self._series("cross"))
        result: dict[str, float] = {}
        for position, source in enumerate(self._sources):
            result[f"{source}_dropouts"] = float(self._series("dropouts")[:, position].sum())
            result[f"{source}_one_sided"] = float(one_sided_S[position])
            if np.isfinite(bits := self._bits.bits()[position]):
                result[f"{source}_bits"] = float(bits)
            if self._labels is not None:
                result[f"{source}_noise"] = float(self._labels.noise()[position])
        return result

    def _between_stems(self) -> dict[str, float]:
        result: dict[str, float] = {}
        levels_SS = self._bleed.levels_db()
        for into, onto in np.argwhere(levels_SS > NO_BLEED_DB):
            result[f"{self._sources[into]}_bleed_{self._sources[onto]}_db"] = float(levels_SS[into, onto])
        if self._labels is not None:
            for source, odds in zip(self._sources, self._labels.log_odds(), strict=True):
                if np.isfinite(odds).all():
                    result |= {f"{source}_as_{label}": float(odd) for label, odd in zip(LABELS, odds, strict=True)}
        return result

    def _against_mixture(self) -> dict[str, float]:
        if self._mixture is None:
            return {}
        if (compared_s := self._mixture.compared_s()) < MIN_COMPARED_S:
            return {"compared_s": compared_s}
        residual_db = self._mixture.residual_db()[0]
        shifts = zip(self._sources, self._mixture.shifts_s(), strict=True)
        result = {f"{source}_shift_ms": 1000 * shift for source, shift in shifts if shift is not None}
        for fault in self._stem_faults():
            source = self._sources[fault.place]
            result[f"{source}_mixture_{fault.kind}"] = fault.num_s
            if fault.gain_db:
                result[f"{source}_gain_db"] = fault.gain_db
        return {"residual_db": residual_db, "compared_s": compared_s, **result}

    def _stem_faults(self) -> list[StemFault]:
        assert self._mixture is not None
        return self._mixture.faults()

    def _flat(self) -> Array:
        """Share of flat tops per second, where they lie at the highest level of the song: square waves do elsewhere."""
        peak_NS = self._series("peak")
        return np.where(peak_NS >= _SAME_TOP * peak_NS.max(axis=0), self._series("flat"), 0.0)

    def _correlation(self, position: int) -> float:
        left, right = self._mean(self._series("power")[:, position])
        both = float(np.sqrt(left * right))
        return float(np.clip(self._mean(self._series("cross")[:, position]) / both, -1, 1)) if both > 0 else 1.0

    def worst(self) -> tuple[WorstSegment, ...]:
        """Per reason and source up to three stretches of seconds where it is worst, the worst first."""
        moments: list[WorstSegment] = []
        levels_NS = _db(self._series("power").mean(axis=2))
        for position, source in enumerate(self._sources):
            moments += _stretches("silent_source", source, -levels_NS[:, position], floor=-self._silence_db)
            peak_N = self._series("peak")[:, position]
            moments += _stretches("too_loud", source, peak_N, floor=10 ** (_LOUD_PEAK_DB / 20))
            moments += _stretches("clipped", source, self._flat()[:, position], floor=0.0)
            offset = np.abs(self._series("mean")[:, position]).max(axis=-1)
            moments += _stretches("offset", source, offset, floor=_SMALL_OFFSET)
            moments += _stretches("dropouts", source, self._series("dropouts")[:, position], floor=0.0)
        for into, onto in np.argwhere(self._bleed.levels_db() > NO_BLEED_DB):
            # Where the other is loudest beside a stem that sounds at all, its bleed is heard best.
            gap = np.where(levels_NS[:, into] > _GATED_DB, levels_NS[:, onto] - levels_NS[:, into], -np.inf)
            names = {"source": self._sources[into], "other": self._sources[onto]}
            moments += _stretches("bleed", badness_N=gap, floor=-np.inf, **names)
        if self._mixture is not None:
            moments += _stretches("unlike_mixture", "", self._mixture.residual_db()[1], floor=_NEAR_MIXTURE_DB)
            for fault in self._stem_faults():
                there_N = np.isin(np.arange(len(levels_NS)), fault.seconds)
                badness_N = np.where(there_N, levels_NS[:, fault.place] + 200, 0.0)
                moments += _stretches("unlike_mixture", self._sources[fault.place], badness_N, floor=0.0)
        duration_s = self._num_samples / self._rate
        return tuple(replace(moment, stop_s=min(moment.stop_s, max(duration_s, 1.0))) for moment in moments)

    def signature(self) -> Signature:
        """What `find_duplicates` compares: landmarks of the sum of all stems; see `fingerprint`."""
        self._end()
        return self._listener.signature()

    def stem_signatures(self) -> dict[str, Signature]:
        """What each stem is recognized by in another song; see `stem_landmarks`."""
        self._end()
        return dict(zip(self._sources, self._landmarks.signatures(), strict=True))


def measure(
    stems_SCT: Samples, *, sources: Sequence[str], sample_rate: int, silence_db: float = -40.0
) -> dict[str, float]:
    """The measures of a song in memory; see `StemStatistics.measures`."""
    meter = StemStatistics(sources=sources, sample_rate=sample_rate, silence_db=silence_db)
    meter.add(stems_SCT)
    return meter.measures()


# --- judging ------------------------------------------------------------------------------------------------


def judge(
    measures: Mapping[str, float], rules: QualityRules, *, sources: Sequence[str], moments: Sequence[WorstSegment] = ()
) -> tuple[bool, str, str]:
    """Keep or not, the reason of `schema.REASONS`, and the evidence in words: the first of `faults` decides."""
    for fault in faults(measures, rules, sources=sources, moments=moments):
        return False, fault.reason, fault.detail
    return True, "", ""


def faults(
    measures: Mapping[str, float], rules: QualityRules, *, sources: Sequence[str], moments: Sequence[WorstSegment] = ()
) -> tuple[RuleViolation, ...]:
    """Every rule that the song breaks; `moments` of `StemStatistics.worst` add where."""
    rooms = (_silence, _waveform, _defects, _spectrum, _mixture, _names)
    found = [fault for room in rooms for fault in room(measures, rules, sources)]
    return tuple(replace(fault, detail=fault.detail + _where(fault, moments)) for fault in found)


def silent_sources(measures: Mapping[str, float], rules: QualityRules, *, sources: Sequence[str]) -> list[str]:
    """The sources that sound in too few seconds."""
    return [source for source in sources if measures[f"{source}_presence"] < rules.min_presence]


def _silence(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    silent = silent_sources(measures, rules, sources=sources)
    if silent:
        heard = ", ".join(f"{source} in {measures[f'{source}_presence']:.0%}" for source in silent)
        detail = f"sounds above {rules.silence_db:g} dB: {heard} of seconds"
        yield RuleViolation(reason="silent_source", source=silent[0], detail=detail)


def _waveform(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for source in sources:
        peak_db = float(_db(np.square(measures[f"{source}_peak"])))
        if peak_db > rules.max_peak_db:
            detail = f"{source}: its highest sample is {peak_db:.0f} dB beyond full scale"
            yield RuleViolation(reason="too_loud", source=source, detail=detail)
        clipped, offset = measures[f"{source}_clipped"], measures[f"{source}_offset"]
        correlation = measures[f"{source}_correlation"]
        if clipped > rules.max_clipped:
            yield RuleViolation(
                reason="clipped", source=source, detail=f"{source}: {clipped:.2%} of samples are clipped"
            )
        if offset > rules.max_offset:
            yield RuleViolation(
                reason="offset", source=source, detail=f"{source}: mean {offset:.1%} of full scale off zero"
            )
        if correlation < rules.min_correlation:
            detail = f"{source}: its channels cancel each other, correlation {correlation:.2f}"
            yield RuleViolation(reason="inverted", source=source, detail=detail)


def _defects(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for source in sources:
        times, share = measures.get(f"{source}_dropouts", 0.0), measures.get(f"{source}_one_sided", 0.0)
        bits, noise = measures.get(f"{source}_bits", 24.0), measures.get(f"{source}_noise", 0.0)
        if times > rules.max_dropouts:
            detail = f"{source}: falls to zero {times:.0f} times without fading"
            yield RuleViolation(reason="dropouts", source=source, detail=detail)
        if share > rules.max_one_sided:
            detail = f"{source}: one channel is dead in {share:.0%} of seconds"
            yield RuleViolation(reason="one_sided", source=source, detail=detail)
        if bits < rules.min_bits:
            detail = f"{source}: its samples have {bits:.0f} bits"
            yield RuleViolation(reason="coarse", source=source, detail=detail)
        if noise > rules.max_noise:
            detail = f"{source}: nothing but steady noise in {noise:.0%} of seconds"
            yield RuleViolation(reason="noise", source=source, detail=detail)


def _spectrum(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for source in sources:
        cutoff = measures[f"{source}_cutoff_hz"]
        if cutoff < rules.min_cutoff_hz:
            yield RuleViolation(
                reason="lossy", source=source, detail=f"{source}: its spectrum is cut off at {cutoff:.0f} Hz"
            )
        for other in sources:
            level = measures.get(f"{source}_bleed_{other}_db", NO_BLEED_DB)
            if level > rules.max_bleed_db and rules.max_bleed_db < 0:
                detail = f"{source}: {other} is heard in it at {level:.0f} dB"
                yield RuleViolation(reason="bleed", source=source, detail=detail, other=other)


def _mixture(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    shifted = set()
    for source in sources:
        shift = measures.get(f"{source}_shift_ms", 0.0)
        if abs(shift) > rules.max_shift_ms and rules.max_shift_ms < 1000 * RANGE_S:
            shifted.add(source)
            detail = f"{source}: {abs(shift):.1f} ms {'after' if shift > 0 else 'before'} its place in the mixture"
            yield RuleViolation(reason="misaligned", source=source, detail=detail)
    named = [] if rules.max_gain_db >= _ANY_GAIN_DB else list(_against_mixture(measures, rules, sources, shifted))
    yield from named
    if (residual := measures.get("residual_db", NO_BLEED_DB)) > rules.max_residual_db and not named:
        detail = f"the stems leave {residual:.1f} dB of the mixture that came with them"
        yield RuleViolation(reason="unlike_mixture", source="", detail=detail)


def _against_mixture(
    measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str], shifted: Collection[str]
) -> Iterator[RuleViolation]:
    """What the mixture says against single stems, but for the shifted ones, which explain nothing where they are."""
    for source in sources:
        gain_db = measures.get(f"{source}_gain_db", 0.0)
        for kind, words in _MIXTURE_WORDS.items():
            seconds = measures.get(f"{source}_mixture_{kind}")
            if seconds is None or source in shifted or ("level" in kind and abs(gain_db) <= rules.max_gain_db):
                continue
            part = f", for {seconds:.0f} s" if kind != "missing" and seconds < measures["compared_s"] - 1 else ""
            level = f"{abs(gain_db):.1f} dB too {'loud' if gain_db > 0 else 'quiet'}"
            told = words.format(level=level, seconds=seconds)
            yield RuleViolation(reason="unlike_mixture", source=source, detail=f"{source}: {told}{part}")


# What is said of a stem of which the mixture holds something else, by `StemFault.kind`.
_MIXTURE_WORDS = {
    "level": "{level} against the mixture",
    "left_level": "its left channel is {level} against the mixture",
    "right_level": "its right channel is {level} against the mixture",
    "inverted": "upside down against the mixture (its polarity)",
    "exchanged": "left and right are exchanged against the mixture",
    "left_dead": "its left channel is silent, and the mixture has it",
    "right_dead": "its right channel is silent, and the mixture has it",
    "absent": "the mixture holds nothing of it: it is of another song, at another rate, or far too loud",
    "missing": "{seconds:.2f} s of it are missing that the mixture has",
}


def _names(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    given, odds = likeliest(measures, sources)
    if odds > rules.max_label_odds and rules.max_label_odds < _NO_ODDS:
        wrong = {source: label for source, label in given.items() if source != label}
        words = ", ".join(f"{source} sounds like {label}" for source, label in wrong.items())
        yield RuleViolation(reason="swapped", source=next(iter(wrong)), detail=f"{words}; log odds {odds:.1f}")


def _where(fault: RuleViolation, moments: Sequence[WorstSegment]) -> str:
    """The worst stretches of a fault, in the order of time."""
    own = sorted((moment.start_s, moment.stop_s) for moment in fault.worst(moments))
    if not own or fault.reason == "silent_source":
        return ""
    return f", worst at {', '.join(f'{clock(start)}-{clock(stop)}' for start, stop in own)}"


# --- one second ---------------------------------------------------------------------------------------------


def flat_share(stem_CT: Samples) -> float:
    """Share of clipped samples: runs at the highest level that is reached, entered and left by a step.

    The level need not be full scale: what was clipped and turned down is found too. Round tops of low tones stand
    still as well, but no neighbour of theirs falls by more than a few steps.
    """
    loud_CT = np.abs(stem_CT)
    top_C1 = loud_CT.max(axis=1, keepdims=True)
    high_CT = (loud_CT >= top_C1 - _FLAT_STEP) & (top_C1 > _FLAT_FLOOR)
    row, column = np.divmod(np.flatnonzero(high_CT), stem_CT.shape[1])
    if len(row) < _FLAT_RUN:
        return 0.0
    breaks = np.flatnonzero((np.diff(row) != 0) | (np.diff(column) != 1)) + 1
    first, last = np.r_[0, breaks], np.r_[breaks, len(row)] - 1
    width = last - first + 1
    before = stem_CT[row[first], np.maximum(column[first] - 1, 0)]
    after = stem_CT[row[last], np.minimum(column[last] + 1, stem_CT.shape[1] - 1)]
    edge = np.maximum(
        np.abs(stem_CT[row[first], column[first]] - before), np.abs(stem_CT[row[last], column[last]] - after)
    )
    flat = (width >= _FLAT_RUN) & (edge > _FLAT_EDGE)
    return float(width[flat].sum() / stem_CT.size)


def _window_samples(sample_rate: int) -> int:
    return int(2 ** round(np.log2(_WINDOW_S * sample_rate)))


def _dot(one_ST: Samples, other_ST: Samples) -> Array:
    """Mean product over the last axis."""
    product: Array = np.einsum("st,st->s", one_ST, other_ST, dtype=np.float64) / one_ST.shape[-1]
    return product


def _loudest(tenths: Array) -> float:
    """Loudness of the loudest three seconds, in LUFS."""
    width = min(len(tenths), 3 * STEPS_PER_S)
    return float(lufs(np.convolve(tenths, np.full(width, 1 / width), "valid").max()))


def _stretches(reason: str, source: str, badness_N: Array, *, floor: float, other: str = "") -> Iterator[WorstSegment]:
    """The worst seconds above `floor`, neighbours joined, the worst first."""
    worst = np.argsort(-badness_N, kind="stable")[:_NUM_WORST]
    chosen = np.sort(worst[badness_N[worst] > floor])
    groups = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1) if chosen.size else []
    for group in sorted(groups, key=lambda seconds: -badness_N[seconds].max()):
        yield WorstSegment(
            reason=reason,
            source=source,
            start_s=float(group[0]),
            stop_s=float(group[-1] + 1),
            value=float(badness_N[group].max()),
            other=other,
        )


def _db(power: Array) -> Array:
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))
