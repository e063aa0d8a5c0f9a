"""What can be said of a song by its signal, and the verdict on it.

A `Meter` hears a song block by block and holds a few numbers per second; `judge` turns them into keep or a
reason. `find_duplicates` compares songs with each other by their signatures. The presence rule is that of the
HT Demucs paper (Rouard et al. 2023): a source must be louder than -40 dB in at least 30 % of seconds.

Names that come next, so that callers can be written for them:
`Meter(sources=, sample_rate=, silence_db=).add(stems_SCT, mixture_CT=None)`, where the mixture is the file that came
with the stems; `.measures() -> dict[str, float]`; `.worst() -> tuple[Moment, ...]`, where
`Moment(reason, source, start_s, stop_s, value, other="")` is independent of thresholds and JSON-sized;
`.signature() -> Signature`, a one-dimensional uint64 array, which `fingerprint.pack`/`unpack` turn into text and back.
`faults(measures, rules, *, sources, moments=()) -> tuple[Fault(reason, source, detail), ...]` are all broken rules and
`judge(measures, rules, *, sources, moments=()) -> (keep, reason, detail)` the first of them.
`fingerprint.find_matches(signatures, *, min_similarity) -> tuple[Match, ...]`, where `Match(later, first, similarity,
start_s, stop_s, first_start_s, speed, semitones)`; `find_duplicates(signatures, *, min_similarity) -> {later: first}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.audio import Samples
from datasets.errors import InputError

Signature = NDArray[np.int8]

_FLOOR_DB = -120.0
_FLAT_LEVEL = 0.98  # where a waveform that stands still has hit the ceiling
_MARKS_PER_S = 128
_MARK_SHARE = 32 / 344.53125  # of the time between marks: the mean over it leaves what is below about 700 Hz
_MARK_THRESHOLD = 1e-4  # steps below -80 dB count as none: they would not survive a lossy copy
_MIN_MARKS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a song must be like to be kept; every threshold can be set."""

    silence_db: float = -40.0  # dBFS; a second of a stem below this is silent
    min_presence: float = 0.3  # of all seconds in which each source must sound; 0 keeps silent stems
    max_clipped: float = 0.002  # of a stem's samples that stand still at full scale; 1 keeps clipped stems
    min_similarity: float = 0.9  # of two signatures from which on songs are the same audio; above 1 keeps duplicates

    def __post_init__(self) -> None:
        for name in ("min_presence", "max_clipped"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"curate.{name}={getattr(self, name)}; a share from 0 to 1 would do")
        if self.silence_db > 0:
            raise InputError(f"curate.silence_db={self.silence_db}; full scale is 0 dB, so 0 or less would do")
        if self.min_similarity <= 0.5:
            raise InputError(
                f"curate.min_similarity={self.min_similarity}; unrelated songs reach 0.5, so more would do"
            )


class Meter:
    """Measures of one song, heard in consecutive blocks of stems_SCT of any length."""

    def __init__(self, *, sources: Sequence[str], sample_rate: int, silence_db: float = -40.0) -> None:
        self._sources = tuple(sources)
        self._rate = sample_rate
        self._silence_db = silence_db
        self._num_samples = 0
        self._rest: Samples | None = None
        self._power: list[NDArray[np.float64]] = []  # per second, of shape (S,)
        self._marks: list[Signature] = []
        self._energy_S = np.zeros(len(self._sources))
        self._peak_S = np.zeros(len(self._sources))
        self._flat_S = np.zeros(len(self._sources))
        self._values = 0

    def add(self, stems_SCT: Samples) -> None:
        """Hear the next block."""
        num_samples = stems_SCT.shape[2]
        if not num_samples:
            return
        self._num_samples += num_samples
        self._values += stems_SCT.shape[1] * num_samples
        self._energy_S += np.square(stems_SCT, dtype=np.float64).sum(axis=(1, 2))
        loud_SCT = np.abs(stems_SCT)
        self._peak_S = np.maximum(self._peak_S, loud_SCT.max(axis=(1, 2)))
        still = (stems_SCT[:, :, 1:] == stems_SCT[:, :, :-1]) & (loud_SCT[:, :, 1:] >= _FLAT_LEVEL)
        self._flat_S += still.sum(axis=(1, 2))
        joined_SCT = stems_SCT if self._rest is None else np.concatenate([self._rest, stems_SCT], axis=2)
        whole = joined_SCT.shape[2] // self._rate
        for second in range(whole):
            self._add_second(joined_SCT[:, :, second * self._rate : (second + 1) * self._rate])
        self._rest = joined_SCT[:, :, whole * self._rate :].copy()

    def _add_second(self, second_SCT: Samples) -> None:
        self._power.append(np.square(second_SCT, dtype=np.float64).mean(axis=(1, 2)))
        self._marks.append(_marks(second_SCT, self._rate))

    def measures(self) -> dict[str, float]:
        """Duration, and per source: presence, level, peak and the share of samples that stand still at full scale.

        Presence counts whole seconds; a song shorter than one counts as one second.
        """
        power = self._power or [self._energy_S / max(1, self._values)]
        levels_NS = _db(np.stack(power))
        presence_S = (levels_NS > self._silence_db).mean(axis=0)
        result = {"duration_s": self._num_samples / self._rate}
        for position, source in enumerate(self._sources):
            result[f"{source}_presence"] = float(presence_S[position])
            result[f"{source}_rms_db"] = float(_db(self._energy_S / max(1, self._values))[position])
            result[f"{source}_peak"] = float(self._peak_S[position])
            result[f"{source}_clipped"] = float(self._flat_S[position] / max(1, self._values))
        return result

    def signature(self) -> Signature:
        """128 signs for each whole second: whether the sum of all stems, below about 700 Hz, rises or falls.

        Gain does not change it and lossy coding hardly; two unrelated songs agree by chance only.
        """
        return np.concatenate(self._marks) if self._marks else np.zeros(0, np.int8)


def measure(
    stems_SCT: Samples, *, sources: Sequence[str], sample_rate: int, silence_db: float = -40.0
) -> dict[str, float]:
    """The measures of a song in memory; see `Meter.measures`."""
    meter = Meter(sources=sources, sample_rate=sample_rate, silence_db=silence_db)
    meter.add(stems_SCT)
    return meter.measures()


def judge(measures: Mapping[str, float], rules: Rules, *, sources: Sequence[str]) -> tuple[bool, str, str]:
    """Keep or not, the reason of `schema.REASONS`, and the evidence in words."""
    silent = silent_sources(measures, rules, sources=sources)
    if silent:
        heard = ", ".join(f"{source} in {measures[f'{source}_presence']:.0%}" for source in silent)
        return False, "silent_source", f"sounds above {rules.silence_db:g} dB: {heard} of seconds"
    clipped = [source for source in sources if measures[f"{source}_clipped"] > rules.max_clipped]
    if clipped:
        share = ", ".join(f"{source} {measures[f'{source}_clipped']:.2%}" for source in clipped)
        return False, "clipped", f"samples that stand still at full scale: {share}"
    return True, "", ""


def silent_sources(measures: Mapping[str, float], rules: Rules, *, sources: Sequence[str]) -> list[str]:
    """The sources that sound in too few seconds."""
    return [source for source in sources if measures[f"{source}_presence"] < rules.min_presence]


def find_duplicates(signatures: Mapping[str, Signature], *, min_similarity: float) -> dict[str, str]:
    """Songs that repeat the audio of another, each with the first of its kind in the order of names.

    Compared are songs whose lengths differ by a second at most, from their starts on; a copy that is shifted,
    stretched or transposed is not found. Nearly silent songs have too little to compare and are left alone.
    """
    names = sorted(name for name, marks in signatures.items() if np.count_nonzero(marks) >= _MIN_MARKS)
    first_of: dict[str, str] = {}
    by_length: dict[int, list[str]] = {}
    for name in names:
        by_length.setdefault(len(signatures[name]) // (_MARKS_PER_S - 1), []).append(name)
    for seconds, same in by_length.items():
        near = sorted(same + by_length.get(seconds + 1, []))
        length = seconds * (_MARKS_PER_S - 1)
        for one, other in _similar_pairs([signatures[name][:length] for name in near], min_similarity):
            earlier, later = near[one], near[other]
            first = first_of.get(earlier, earlier)
            first_of[later] = min(first, first_of.get(later, first))
    return first_of


def _similar_pairs(signatures: Sequence[Signature], min_similarity: float) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, whose share of agreeing signs is at least `min_similarity`."""
    marks = np.stack(signatures).astype(np.float32)
    norms = np.sqrt(np.maximum(1, np.count_nonzero(marks, axis=1)))
    pairs = []
    for row in range(len(marks) - 1):
        agreement = 0.5 + 0.5 * (marks[row + 1 :] @ marks[row]) / (norms[row] * norms[row + 1 :])
        pairs += [(row, row + 1 + int(hit)) for hit in np.flatnonzero(agreement >= min_similarity)]
    return pairs


def _marks(second_SCT: Samples, sample_rate: int) -> Signature:
    """Rise (1), fall (-1) or neither (0) between the 128 marks of a second, as 127 signs."""
    mono_T = second_SCT.sum(axis=0, dtype=np.float64).mean(axis=0)
    step = max(1, sample_rate // _MARKS_PER_S)
    means = mono_T[: step * _MARKS_PER_S].reshape(-1, step)[:, : max(1, round(step * _MARK_SHARE))].mean(axis=1)
    rises = np.diff(means)
    return np.where(np.abs(rises) < _MARK_THRESHOLD, 0, np.sign(rises)).astype(np.int8)


def _db(power: NDArray[np.float64]) -> NDArray[np.float64]:
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))
