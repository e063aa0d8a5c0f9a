"""What can be said of a song by its signal.

`StemStatistics` takes a song block by block and holds a few numbers per second: `measures` are its numbers for the
whole song, `worst` the seconds that speak most against it, `signature` what it is recognized by. `rules/violations.py`
holds the numbers against the rules; `fingerprint.find_matches` compares songs with each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import mono
from datasets.quality.against_mixture.mixture_fit import MIN_COMPARED_S, MixtureFit
from datasets.quality.against_mixture.stem_changes import StemFault
from datasets.quality.bandwidth import cutoff_hz
from datasets.quality.bleed import NO_BLEED_DB, BleedMeter
from datasets.quality.fingerprint import FingerprintExtractor, Signature
from datasets.quality.loudness import STEPS_PER_S, KWeighting, integrated, lufs
from datasets.quality.stem_classifier import LABELS, MIN_RATE, StemClassifier
from datasets.quality.stem_defects.bit_depth import BitDepth
from datasets.quality.stem_defects.clicks import clicks
from datasets.quality.stem_defects.clipping import flat_share
from datasets.quality.stem_defects.dropouts import DropoutCounter
from datasets.quality.stem_defects.flattened_peaks import FlattenedPeaks
from datasets.quality.stem_defects.hum import HumMeter
from datasets.quality.stem_defects.one_sided import one_sided
from datasets.quality.stem_landmarks import StemLandmarks

Array = NDArray[np.float64]

# Of measures and rules: raise it when the same stems measure, or are judged, otherwise (CONTRIBUTING.md)
VERSION = 6

_FLOOR_DB = -120.0
_SAME_TOP = 0.99  # of the song's highest level: the ceiling that it was cut off at
_SMALL_OFFSET = 0.003  # of full scale; what is nearer to zero is not worth listening to
_LOUD_PEAK_DB = 20.0  # dBFS of a second that is worth listening to for its level alone
_NEAR_MIXTURE_DB = -20.0  # of residual; what is nearer to the mixture is not worth listening to
_GATED_DB = -60.0  # a stem's level below which nothing is heard in it
_WINDOW_S = 0.0464  # 2048 samples at 44.1 kHz
_NUM_WORST = 3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSegment:
    """Where in a song something is at its worst; worth listening to, whether or not a rule forbids it."""

    reason: str  # of `schema.REASONS`
    source: str
    start_s: float
    stop_s: float
    value: float  # in the unit of the measure of that name, over these seconds
    other: str = ""  # the second source, where two are concerned


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
        self._dropouts = DropoutCounter(len(self._sources), sample_rate)
        self._hum = HumMeter(sample_rate)
        self._flattened = FlattenedPeaks(len(self._sources), sample_rate)
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
        left_ST, right_ST = (second_SCT[:, channel].astype(np.float64) for channel in (0, -1))
        loud_SCT = np.abs(second_SCT)
        power_SC = np.stack([_dot(left_ST, left_ST), _dot(right_ST, right_ST)], axis=1)
        second = {
            "power": power_SC,
            "cross": _dot(left_ST, right_ST),
            "peak": loud_SCT.max(axis=(1, 2)).astype(np.float64),
            "mean": second_SCT.mean(axis=2).astype(np.float64),
            "flat": np.array([flat_share(*both) for both in zip(second_SCT, loud_SCT, strict=True)]),
            "dropouts": self._dropouts.add(second_SCT).astype(np.float64),
            "clicks": clicks(second_SCT, power_SC[:, : second_SCT.shape[1]]).astype(np.float64),
            "weighted": self._weighting.power(second_SCT).sum(axis=1).T,
        }
        for name, value in second.items():
            self._seconds.setdefault(name, []).append(value)
        self._bits.add(second_SCT, power_SC.mean(axis=1))
        self._flattened.add(second_SCT, loud_SCT)
        self._listener.add(mono(sum_CT))
        mono_ST = mono(second_SCT)
        self._hum.add(mono_ST)
        self._add_spectra(mono_ST, second)
        if self._mixture is not None:
            self._mixture.add(second_SCT, block[-1])

    def _add_spectra(self, mono_ST: Samples, second: Mapping[str, Array]) -> None:
        """Frames of 46 ms that overlap by half and do not reach over the end of the second, of which much is known."""
        from scipy.fft import rfft

        length = len(self._window)
        if mono_ST.shape[1] < length:
            return
        level_ST = mono_ST - mono_ST.mean(axis=1, keepdims=True)  # an offset from zero is no sound
        frames_SNT = sliding_window_view(level_ST, length, axis=-1)[:, :: length // 2]
        spectra_SNF = rfft(frames_SNT * self._window)
        power_SNF = np.square(spectra_SNF.real) + np.square(spectra_SNF.imag)
        self._long_term += power_SNF.mean(axis=1) * self._weights[-1]
        self._spectra_s += self._weights[-1]
        self._bleed.add(spectra_SNF, power_SNF)
        self._landmarks.add(power_SNF)
        if self._labels is not None:
            sides_2S = _sides(second["power"], second["cross"], second["mean"])
            self._labels.add(power_SNF, second["power"].mean(axis=1), sides_2S, self._weights[-1])

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

        Of single stems besides: clicks (per second), hum_heard_s (in which hum was looked for), and where there is hum
        hum_hz (50 or 60) and hum_db, relative to the stem; where it can be told, flattened, the log odds that its
        loudest peaks were, and their level, ceiling_db in dBFS (see `flattened_peaks`).
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
        cut_S = self._dropouts.one_channel_cut(len(self._sources))
        one_sided_S = one_sided(self._series("power"), self._series("cross"), cut_S)
        result: dict[str, float] = {}
        for position, source in enumerate(self._sources):
            result[f"{source}_dropouts"] = float(self._series("dropouts")[:, position].sum())
            result[f"{source}_one_sided"] = float(one_sided_S[position])
            result[f"{source}_clicks"] = float(self._mean(self._series("clicks")[:, position]))
            result[f"{source}_hum_heard_s"] = float(self._hum.num_audible_s(position))
            if hum := self._hum.hum(position):
                result[f"{source}_hum_hz"], result[f"{source}_hum_db"] = hum
            if flattened := self._flattened.found(position):
                result[f"{source}_flattened"], result[f"{source}_ceiling_db"] = flattened
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
            for reason in ("dropouts", "clicks"):
                moments += _stretches(reason, source, self._series(reason)[:, position], floor=0.0)
            if self._hum.hum(position):  # heard best where the stem hardly plays
                quiet_N = np.where(levels_NS[:, position] > _GATED_DB, -levels_NS[:, position], -np.inf)
                moments += _stretches("hum", source, quiet_N, floor=-np.inf)
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


def _window_samples(sample_rate: int) -> int:
    return int(2 ** round(np.log2(_WINDOW_S * sample_rate)))


def _dot(one_ST: Array, other_ST: Array) -> Array:
    """Mean product over the last axis."""
    product: Array = np.einsum("st,st->s", one_ST, other_ST) / one_ST.shape[-1]
    return product


def _sides(power_SC: Array, cross_S: Array, mean_SC: Array) -> Array:
    """Mean squares, without an offset, of the sum of the outer channels and of their difference, of shape (2, S)."""
    both_S, left_S, right_S = power_SC.sum(axis=1), mean_SC[:, 0], mean_SC[:, -1]
    squares_2S = np.stack(
        [both_S + 2 * cross_S - (left_S + right_S) ** 2, both_S - 2 * cross_S - (left_S - right_S) ** 2]
    )
    result: Array = np.maximum(squares_2S, 0.0)
    return result


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
