"""Which stems go together, and how each is stretched, shifted and transposed: recipes, not audio.

Each track is the reference of a few mixes. One of its sources, drawn by dice, opens the mix and stays as it
is; the others come from tracks of the same split whose tempo, up to an octave, and key lie within the
limits. Candidates are found in an index sorted by tempo, so that the work per mix does not grow with the
corpus. `render.py` carries a plan out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.dice import dice
from datasets.errors import InputError
from datasets.harmony import semitone_distance
from datasets.profile import DRUMS
from datasets.schema import MixPlan, Part, Profile

Array = NDArray[np.float64]

SILENT_DB = -60.0
MAX_GAIN_DB = 12.0
MAX_TRIES = 64  # candidates looked at for one part before the plan goes without it
PAIR_S = 0.07  # farther apart, two beats are two beats


@dataclass(frozen=True, slots=True, kw_only=True)
class MixRules:
    """How far a stem may be bent to fit."""

    max_tempo_change: float = 0.15  # relative, after octaves
    octaves: bool = True  # half, double, quarter and fourfold tempo count as the same
    max_semitones: int = 3
    allow_self: bool = False  # a track may give more than one part of its own mix
    min_cover: float = 0.5  # share of the mix during which each part must be there
    max_beat_error_ms: float = 35.0  # predicted, median over the beats of a part
    min_tempo_confidence: float = 0.1  # tracks with less are neither reference nor candidate

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_tempo_change <= 0.4:
            raise InputError(f"max_tempo_change={self.max_tempo_change}; 0 to 0.4 would do")
        if not 0 <= self.max_semitones <= 6:
            raise InputError(f"max_semitones={self.max_semitones}; 0 to 6 would do")
        if not 0.0 <= self.min_cover <= 1.0:
            raise InputError(f"min_cover={self.min_cover}; 0 to 1 would do")


def plan(
    profiles: Iterable[Profile],
    *,
    seed: int,
    mixes_per_track: int,
    rules: MixRules,
    sources: Sequence[str],
    sample_rate: int = 44100,
) -> list[MixPlan]:
    """`mixes_per_track` plans for each profile, in the order of their ids; the first part is the reference's own.

    A plan depends on the seed, its reference and the tracks that could fit it. Where nothing fits, the part
    is missing and `reason` says why.
    """
    ordered = sorted(profiles, key=lambda profile: profile.track_id)
    indices = {split: TempoIndex(ordered, split, rules) for split in sorted({item.split for item in ordered})}
    return [
        _plan_one(profile, copy, indices[profile.split], seed=seed, sources=tuple(sources), sample_rate=sample_rate)
        for profile in ordered
        for copy in range(mixes_per_track)
    ]


class TempoIndex:
    """The tracks of one split, by tempo."""

    def __init__(self, profiles: Sequence[Profile], split: str, rules: MixRules) -> None:
        self.rules = rules
        usable = [item for item in profiles if item.split == split and has_beat(item, rules)]
        self._entries = sorted(((self._place(item.tempo_bpm), item.track_id, item) for item in usable), key=_first_two)
        self._places = [place for place, _, _ in self._entries]

    def near(self, tempo_bpm: float) -> list[Profile]:
        """Tracks whose tempo can be brought to this one, in order of tempo and id."""
        low = np.log2(1.0 - self.rules.max_tempo_change) if self.rules.max_tempo_change < 1.0 else -1.0
        high = np.log2(1.0 + self.rules.max_tempo_change)
        center = self._place(tempo_bpm)
        turns = (-1.0, 0.0, 1.0) if self.rules.octaves else (0.0,)
        found = []
        for turn in turns:
            # tempo_bpm / candidate lies between 1 - change and 1 + change
            start = bisect_left(self._places, center + turn - high - 1e-12)
            stop = bisect_right(self._places, center + turn - low + 1e-12)
            found += [entry[2] for entry in self._entries[start:stop]]
        return found

    def _place(self, tempo_bpm: float) -> float:
        place = float(np.log2(tempo_bpm))
        return place % 1.0 if self.rules.octaves else place


def _first_two(entry: tuple[float, str, Profile]) -> tuple[float, str]:
    return entry[0], entry[1]


def has_beat(profile: Profile, rules: MixRules) -> bool:
    """Whether the track's beats can be aligned to anything."""
    enough = profile.tempo_bpm > 0.0 and len(profile.beats_s) >= 2
    return enough and profile.tempo_confidence >= rules.min_tempo_confidence


def _plan_one(
    reference: Profile, copy: int, index: TempoIndex, *, seed: int, sources: tuple[str, ...], sample_rate: int
) -> MixPlan:
    rng = dice(seed, "mix", reference.track_id, copy)
    order = [sources[place] for place in rng.permutation(len(sources))]
    sounding = [source for source in order if sounds(reference, source)]
    missing: list[str] = []
    parts: list[Part] = []
    errors_ms: list[float] = []
    distances: list[float] = []
    fits: dict[str, Alignment | None] = {}
    if not has_beat(reference, index.rules):
        missing.append("the reference has no clear beat")
    elif not sounding:
        missing.append("the reference is silent")
    else:
        parts.append(_own_part(reference, sounding[0]))
        near = index.near(reference.tempo_bpm)
        # Drums have no key: beside them the first pitched part sets it.
        chroma = () if sounding[0] == DRUMS else reference.chroma
        for source in (source for source in order if source != sounding[0]):
            found = _find(reference, source, near, chroma, rng, fits, rules=index.rules, sample_rate=sample_rate)
            if found is None:
                missing.append(_explain(reference, source, near, index.rules))
                continue
            parts.append(found.part)
            errors_ms.append(found.error_ms)
            if source != DRUMS:
                distances += [found.distance] if chroma else []
                chroma = chroma or found.chroma
    return MixPlan(
        mix_id=f"{reference.track_id} ~ mix {copy}",
        seed=seed,
        split=reference.split,
        tempo_bpm=reference.tempo_bpm,
        key=reference.key,
        parts=(*parts[:1], *sorted(parts[1:], key=lambda part: sources.index(part.source))),
        beat_error_ms=round(max(errors_ms, default=0.0), 3),
        key_distance=round(float(np.mean(distances)) if distances else 0.0, 4),
        reason="; ".join(missing),
    )


def sounds(profile: Profile, source: str) -> bool:
    return profile.loudness_db.get(source, SILENT_DB) > SILENT_DB


def _own_part(reference: Profile, source: str) -> Part:
    return Part(track_id=reference.track_id, source=source, stretch=1.0, semitones=0, shift_samples=0, gain_db=0.0)


def _explain(reference: Profile, source: str, near: Sequence[Profile], rules: MixRules) -> str:
    others = [item for item in near if rules.allow_self or item.track_id != reference.track_id]
    limit = f"{rules.max_tempo_change:.0%} of {reference.tempo_bpm:.1f} bpm"
    if not others:
        return f"no {source}: no other track of the split is within {limit}"
    return f"no {source}: none of {len(others)} tracks within {limit} sounds, is long enough and fits in key"


# -- one part -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A part that fits, and how well."""

    part: Part
    error_ms: float
    distance: float
    chroma: tuple[float, ...]  # of the part as it will sound


def _find(
    reference: Profile,
    source: str,
    near: Sequence[Profile],
    chroma: tuple[float, ...],
    rng: np.random.Generator,
    fits: dict[str, "Alignment | None"],
    *,
    rules: MixRules,
    sample_rate: int,
) -> Found | None:
    """The first candidate, in an order drawn by dice, that sounds, fits in key, and can be aligned.

    `fits` remembers alignments within one mix, so that stems of the same song stay together.
    """
    for place in rng.permutation(len(near))[:MAX_TRIES]:
        candidate = near[place]
        if not sounds(candidate, source) or (candidate.track_id == reference.track_id and not rules.allow_self):
            continue
        semitones, distance = (0, 0.0) if source == DRUMS else _transposition(chroma, candidate.chroma, rules)
        if semitones is None:
            continue
        if candidate.track_id not in fits:
            fits[candidate.track_id] = align(reference, candidate, rules, rng)
        fit = fits[candidate.track_id]
        if fit is None:
            continue
        part = Part(
            track_id=candidate.track_id,
            source=source,
            stretch=round(fit.stretch, 8),
            semitones=semitones,
            shift_samples=round(fit.shift_s * sample_rate),
            gain_db=_gain_db(reference, candidate, source),
        )
        turned = tuple(np.roll(candidate.chroma, semitones).tolist()) if candidate.chroma else ()
        return Found(part=part, error_ms=fit.error_ms, distance=distance, chroma=turned)
    return None


def _transposition(
    chroma: tuple[float, ...], candidate: tuple[float, ...], rules: MixRules
) -> tuple[int | None, float]:
    """Semitones and the distance left; None when the best of all twelve lies beyond the limit."""
    semitones, distance = semitone_distance(chroma, candidate, 6)
    return (semitones, distance) if abs(semitones) <= rules.max_semitones else (None, distance)


def _gain_db(reference: Profile, candidate: Profile, source: str) -> float:
    """What makes the part as loud as the reference's own stem; 0 where the reference has none."""
    if not sounds(reference, source):
        return 0.0
    difference = reference.loudness_db[source] - candidate.loudness_db[source]
    return round(float(np.clip(difference, -MAX_GAIN_DB, MAX_GAIN_DB)), 2)


# -- alignment ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Time t of a stem goes to `stretch * t + shift_s` of the mix."""

    stretch: float
    shift_s: float
    error_ms: float  # median distance between beats that should coincide


def align(reference: Profile, candidate: Profile, rules: MixRules, rng: np.random.Generator) -> Alignment | None:
    """Where and how fast the candidate plays along; None when it is too short or its beats do not fit.

    Downbeat meets downbeat where both tracks have them, else beat meets beat. Among the places that cover
    the mix equally well the dice choose.
    """
    octaves = np.round(np.log2(reference.tempo_bpm / candidate.tempo_bpm)) if rules.octaves else 0.0
    stretch = candidate.tempo_bpm * 2.0 ** float(octaves) / reference.tempo_bpm
    if abs(1.0 / stretch - 1.0) > rules.max_tempo_change + 1e-9:
        return None
    barred = bool(reference.downbeats_s and candidate.downbeats_s)
    own = np.asarray(reference.downbeats_s if barred else reference.beats_s)
    other = stretch * np.asarray(candidate.downbeats_s if barred else candidate.beats_s)
    shifts = np.unique(np.concatenate([own[0] - other, own - other[0]]))
    length = stretch * candidate.duration_s
    covers = np.minimum(reference.duration_s, shifts + length) - np.maximum(0.0, shifts)
    covers = np.maximum(0.0, covers) / reference.duration_s
    good = shifts[(covers >= rules.min_cover) & (covers >= covers.max() - 0.05)]
    if good.size == 0:
        return None
    fit = _refine(reference, candidate, stretch, float(rng.choice(good)))
    return fit if fit is not None and fit.error_ms <= rules.max_beat_error_ms else None


def _refine(reference: Profile, candidate: Profile, stretch: float, shift_s: float) -> Alignment | None:
    """The line through pairs of beats that fall together; tempo figures are too coarse for minutes of music."""
    own, other = np.asarray(reference.beats_s), np.asarray(candidate.beats_s)
    for _ in range(2):
        pairs = _pairs(own, stretch * other + shift_s)
        if pairs[0].size < 2:
            return None
        wanted, source = own[pairs[0]], other[pairs[1]]
        if wanted.size >= 8:
            slope, _ = np.polyfit(source, wanted, 1)
            stretch = float(slope) if abs(slope / stretch - 1.0) < 0.02 else stretch
        shift_s = float(np.median(wanted - stretch * source))
    error_ms = 1000.0 * float(np.median(np.abs(wanted - stretch * source - shift_s)))
    return Alignment(stretch=stretch, shift_s=shift_s, error_ms=error_ms)


def _pairs(own: Array, other: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of beats within 70 ms of each other: each beat of the sparser grid with the nearest of the denser."""
    if len(own) < 2 or len(other) < 2:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if np.median(np.diff(own)) < np.median(np.diff(other)):
        theirs, ours = _pairs(other, own)
        return ours, theirs
    right = np.clip(np.searchsorted(other, own), 1, len(other) - 1)
    nearest = np.where(own - other[right - 1] < other[right] - own, right - 1, right)
    close = np.nonzero(np.abs(other[nearest] - own) <= PAIR_S)[0]
    return close, nearest[close]
