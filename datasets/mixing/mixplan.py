"""Which stems go together, and how each is stretched, shifted and transposed: recipes, not audio.

Each track is the reference of a few mixes. One of its sources, drawn at random, opens the mix and stays as it
is; the others come from tracks of the same split whose tempo, up to an octave, and key lie within the
limits. Candidates are found in an index sorted by tempo, so that the work per mix does not grow with the
corpus. `render.py` carries a plan out.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from datasets.analysis.harmony import semitone_distance
from datasets.analysis.song_profile import DRUMS
from datasets.errors import InputError
from datasets.field_constraints import NonNegativeFloat, Probability, Range, check_ranges
from datasets.schema import MixPlan, Part, Profile
from datasets.seeding import row_rng

Array = NDArray[np.float64]

# Raise it when the same profiles and settings give other plans (CONTRIBUTING.md)
VERSION = 1

SILENT_DB = -60.0
MAX_GAIN_DB = 12.0
MAX_TRIES = 64  # candidates looked at for one part before the plan goes without it
FASTEST_PULSE_BPM = 150.0  # of songs whose bars are not known; faster ones may be half as fast
MIN_CENTS = 5.0  # of difference in tuning; less is not heard, and not worth resampling for
PAIR_S = 0.07  # farther apart, two beats are two beats


@dataclass(frozen=True, slots=True, kw_only=True)
class MixRules:
    """How far a stem may be bent to fit."""

    # Largest relative change of tempo of a part, after octaves
    max_tempo_change: Annotated[float, Range(ge=0, le=0.4)] = 0.15
    octaves: bool = True  # count half, double, quarter and fourfold tempo as the same
    # Largest transposition, with the cents that bring a part to the mix's tuning
    max_semitones: Annotated[int, Range(ge=0, le=6)] = 3
    allow_self: bool = False  # let a track give more than one part of its own mix
    min_cover: Probability = 0.5  # share of the mix during which each part must be there
    # Largest predicted distance between beats, as the median over the beats of a part
    max_beat_error_ms: NonNegativeFloat = 35.0
    min_tempo_confidence: Probability = 0.1  # tracks whose tempo is less certain are neither reference nor candidate
    # Tracks whose beats are right with less probability than this are neither reference nor candidate either
    min_phase_confidence: Probability = 0.82

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="automix.rules.")


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
    """The tracks of one split, by tempo: a search looks at two places of a sorted list, however long it is."""

    def __init__(self, profiles: Iterable[Profile], split: str, rules: MixRules) -> None:
        self.rules = rules
        usable = [item for item in profiles if item.split == split and has_beat(item, rules)]
        self._entries = sorted(((self._place(item.tempo_bpm), item.track_id, item) for item in usable), key=_first_two)
        self._places = [place for place, _, _ in self._entries]
        self._grids = {item.track_id: BeatGrid.of(item) for item in usable}

    def grid(self, track_id: str) -> "BeatGrid":
        return self._grids[track_id]

    def near(self, tempo_bpm: float) -> "TempoCandidates":
        """Tracks whose tempo can be brought to this one, in order of tempo and id."""
        low, high = (np.log2(1.0 + sign * self.rules.max_tempo_change) for sign in (-1.0, 1.0))
        center = self._place(tempo_bpm)
        spans: list[range] = []
        for turn in (-1.0, 0.0, 1.0) if self.rules.octaves else (0.0,):
            # tempo_bpm / candidate lies between 1 - change and 1 + change
            start = bisect_left(self._places, center + turn - high - 1e-12)
            stop = bisect_right(self._places, center + turn - low + 1e-12)
            spans.append(range(max(start, spans[-1].stop) if spans else start, stop))
        return TempoCandidates(self._entries, spans)

    def _place(self, tempo_bpm: float) -> float:
        place = float(np.log2(tempo_bpm))
        return place % 1.0 if self.rules.octaves else place


class TempoCandidates:
    """Stretches of an index; nothing is copied."""

    def __init__(self, entries: Sequence[tuple[float, str, Profile]], spans: Sequence[range]) -> None:
        self._entries, self._spans = entries, spans

    def __len__(self) -> int:
        return sum(map(len, self._spans))

    def __iter__(self) -> Iterator[Profile]:
        return (self._entries[place][2] for span in self._spans for place in span)

    def shuffled(self, rng: np.random.Generator, count: int) -> Iterator[Profile]:
        """Up to `count` of them, none twice, in random order; the work is that of those taken."""
        moved: dict[int, int] = {}  # where a shuffle of the whole list would have put what stood at these places
        total = len(self)
        for place, share in enumerate(rng.random(min(count, total)).tolist()):
            other = place + int(share * (total - place))
            chosen, moved[other] = moved.get(other, other), moved.get(place, place)
            yield self._at(chosen)

    def _at(self, place: int) -> Profile:
        for span in self._spans:
            if place < len(span):
                break
            place -= len(span)
        return self._entries[span[place]][2]


def _first_two(entry: tuple[float, str, Profile]) -> tuple[float, str]:
    return entry[0], entry[1]


def has_beat(profile: Profile, rules: MixRules) -> bool:
    """Whether the track's beats can be aligned to anything."""
    enough = profile.tempo_bpm > 0.0 and len(profile.beats_s) >= 2
    sure = profile.tempo_confidence >= rules.min_tempo_confidence
    return enough and sure and profile.phase_confidence >= rules.min_phase_confidence


def _plan_one(
    reference: Profile, copy: int, index: TempoIndex, *, seed: int, sources: tuple[str, ...], sample_rate: int
) -> MixPlan:
    rng = row_rng(seed, "mix", reference.track_id, copy)
    order = [sources[place] for place in rng.permutation(len(sources))]
    own = next((source for source in order if sounds(reference, source)), None)
    missing: list[str] = []
    parts: list[Part] = []
    found: list[FittingPart] = []
    if not has_beat(reference, index.rules):
        missing.append("the reference has no clear beat")
    elif own is None:
        missing.append("the reference is silent")
    else:
        parts.append(_own_part(reference, own))
        search = _Search(reference=reference, index=index, near=index.near(reference.tempo_bpm), rng=rng)
        # Drums have no key: beside them the first pitched part sets it.
        tones = NO_TONES if own == DRUMS else PartTones(chroma=reference.chroma, tuning_cents=reference.tuning_cents)
        for source in (source for source in order if source != own):
            fitting = search.find(source, tones, sample_rate=sample_rate)
            if isinstance(fitting, str):
                missing.append(f"no {source}: {fitting}")
                continue
            found.append(fitting)
            tones = tones if tones.chroma else fitting.tones
    parts += sorted((item.part for item in found), key=lambda part: sources.index(part.source))
    distances = [item.distance for item in found if item.distance is not None]
    return MixPlan(
        mix_id=f"{reference.track_id} ~ mix {copy}",
        seed=seed,
        split=reference.split,
        tempo_bpm=reference.tempo_bpm,
        key=reference.key,
        parts=tuple(parts),
        beat_error_ms=round(max((item.error_ms for item in found), default=0.0), 3),
        key_distance=round(float(np.mean(distances)) if distances else 0.0, 4),
        reason="; ".join(missing),
    )


def sounds(profile: Profile, source: str) -> bool:
    return profile.loudness_db.get(source, SILENT_DB) > SILENT_DB


def _own_part(reference: Profile, source: str) -> Part:
    return Part(track_id=reference.track_id, source=source, stretch=1.0, semitones=0, shift_samples=0, gain_db=0.0)


# -- one part -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTones:
    """What a part must agree with; without chroma, with nothing."""

    chroma: tuple[float, ...] = ()
    tuning_cents: float = 0.0


NO_TONES = PartTones()


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingPart:
    """A part that fits, and how well."""

    part: Part
    error_ms: float
    distance: float | None  # in key; None where there was nothing to clash with
    tones: PartTones  # of the part as it will sound


@dataclass(slots=True, kw_only=True)
class _Search:
    """The search for the parts of one mix."""

    reference: Profile
    index: TempoIndex
    near: TempoCandidates
    rng: np.random.Generator
    # Alignments within one mix are remembered, so that stems of the same song stay together.
    fits: dict[str, "BeatAlignment | None"] = field(default_factory=dict)

    def find(self, source: str, tones: PartTones, *, sample_rate: int) -> FittingPart | str:
        """The first candidate, in random order, that sounds, fits in key, and can be aligned; or why none."""
        refused: Counter[str] = Counter()
        for candidate in self.near.shuffled(self.rng, MAX_TRIES):
            if candidate.track_id == self.reference.track_id and not self.index.rules.allow_self:
                continue
            if not sounds(candidate, source):
                refused["silent"] += 1
                continue
            turn = _turn(tones, candidate) if source != DRUMS else NO_TURN
            if abs(turn.total_semitones) > self.index.rules.max_semitones:  # the best of all twelve lies beyond it
                refused[f"more than {self.index.rules.max_semitones} semitones away"] += 1
                continue
            fit = self._fit(candidate)
            if fit is None:
                refused["too short, or of beats or bars that do not fit"] += 1
                continue
            part = Part(
                track_id=candidate.track_id,
                source=source,
                stretch=round(fit.stretch, 8),
                semitones=turn.semitones,
                shift_samples=round(fit.shift_s * sample_rate),
                gain_db=_gain_db(self.reference, candidate, source),
                cents=turn.cents,
            )
            return FittingPart(part=part, error_ms=fit.error_ms, distance=turn.distance, tones=turn.tones)
        return self._explain(refused)

    def _fit(self, candidate: Profile) -> "BeatAlignment | None":
        if candidate.track_id not in self.fits:
            own, other = self.index.grid(self.reference.track_id), self.index.grid(candidate.track_id)
            self.fits[candidate.track_id] = align(own, other, self.index.rules, self.rng)
        return self.fits[candidate.track_id]

    def _explain(self, refused: Counter[str]) -> str:
        limit = f"within {self.index.rules.max_tempo_change:.0%} of {self.reference.tempo_bpm:.1f} bpm"
        if not refused:
            return f"no other track of the split is {limit}"
        told = ", ".join(f"{count} {why}" for why, count in sorted(refused.items()))
        return f"of {refused.total()} tracks {limit} none fits: {told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """How a candidate is brought into the key and tuning of a mix."""

    semitones: int = 0
    cents: float = 0.0
    distance: float | None = None
    tones: PartTones = NO_TONES

    @property
    def total_semitones(self) -> float:
        """How far the part is transposed, tuning included."""
        return self.semitones + self.cents / 100


NO_TURN = _Turn()


def _turn(tones: PartTones, candidate: Profile) -> _Turn:
    """Whole semitones by chroma, which both songs have in their own tuning, and the difference of those tunings."""
    if not candidate.chroma:
        return NO_TURN
    if not tones.chroma:
        return _Turn(tones=PartTones(chroma=candidate.chroma, tuning_cents=candidate.tuning_cents))
    semitones, distance = semitone_distance(tones.chroma, candidate.chroma, 6)
    cents = round(tones.tuning_cents - candidate.tuning_cents, 2)
    if semitones + cents / 100 < -6:  # of six up and six down the latter is found, and the former is nearer
        semitones += 12
    turned = tuple(np.roll(candidate.chroma, semitones).tolist())
    return _Turn(
        semitones=semitones,
        cents=cents if abs(cents) >= MIN_CENTS else 0.0,
        distance=distance,
        tones=PartTones(chroma=turned, tuning_cents=tones.tuning_cents),
    )


def _gain_db(reference: Profile, candidate: Profile, source: str) -> float:
    """What makes the part as loud as the reference's own stem; 0 where the reference has none."""
    if not sounds(reference, source):
        return 0.0
    difference = reference.loudness_db[source] - candidate.loudness_db[source]
    return round(float(np.clip(difference, -MAX_GAIN_DB, MAX_GAIN_DB)), 2)


# -- alignment ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatAlignment:
    """Time t of a stem goes to `stretch * t + shift_s` of the mix."""

    stretch: float
    shift_s: float
    error_ms: float  # median distance between beats that should coincide


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeatGrid:
    """The beats of one track as arrays, made once: planning compares each with many others."""

    duration_s: float
    tempo_bpm: float
    beats_s: Array
    downbeats_s: Array
    beat_s: float  # between two beats, median; 0 with fewer than two
    bar_s: float

    @classmethod
    def of(cls, profile: Profile) -> "BeatGrid":
        beats_s, downbeats_s = np.asarray(profile.beats_s), np.asarray(profile.downbeats_s)
        beat_s, bar_s = (
            float(np.median(np.diff(times_s))) if times_s.size > 1 else 0.0 for times_s in (beats_s, downbeats_s)
        )
        return cls(
            duration_s=profile.duration_s,
            tempo_bpm=profile.tempo_bpm,
            beats_s=beats_s,
            downbeats_s=downbeats_s,
            beat_s=beat_s,
            bar_s=bar_s,
        )


def align(reference: BeatGrid, candidate: BeatGrid, rules: MixRules, rng: np.random.Generator) -> BeatAlignment | None:
    """Where and how fast the candidate plays along; None when it is too short or its beats do not fit.

    Downbeat meets downbeat where both tracks have them, else beat meets beat. Among the places that cover
    the mix equally well one is chosen at random.
    """
    octaves = float(np.round(np.log2(reference.tempo_bpm / candidate.tempo_bpm))) if rules.octaves else 0.0
    stretch = candidate.tempo_bpm * 2.0**octaves / reference.tempo_bpm
    if abs(1.0 / stretch - 1.0) > rules.max_tempo_change + 1e-9:
        return None
    barred = bool(reference.downbeats_s.size and candidate.downbeats_s.size)
    if not (_same_metre(reference, candidate, stretch) if barred else _one_pulse(reference, candidate, octaves)):
        return None
    own = reference.downbeats_s if barred else reference.beats_s
    other = stretch * (candidate.downbeats_s if barred else candidate.beats_s)
    shifts = np.unique(np.concatenate([own[0] - other, own - other[0]]))
    length = stretch * candidate.duration_s
    covers = np.minimum(reference.duration_s, shifts + length) - np.maximum(0.0, shifts)
    covers = np.maximum(0.0, covers) / reference.duration_s
    good = shifts[(covers >= rules.min_cover) & (covers >= covers.max() - 0.05)]
    if good.size == 0:
        return None
    fit = _refine(reference, candidate, stretch, float(rng.choice(good)))
    if fit is None or abs(1.0 / fit.stretch - 1.0) > rules.max_tempo_change + 1e-9:  # what is rendered keeps the limit
        return None
    return fit if fit.error_ms <= rules.max_beat_error_ms else None


def _same_metre(reference: BeatGrid, candidate: BeatGrid, stretch: float) -> bool:
    """Whether bars are equally long, up to octaves: bars of three and of four beats drift apart, beat by beat."""
    if not reference.bar_s or not candidate.bar_s:
        return True
    octaves = float(np.log2(reference.bar_s / (stretch * candidate.bar_s)))
    return abs(octaves - round(octaves)) < 0.1


def _one_pulse(reference: BeatGrid, candidate: BeatGrid, octaves: float) -> bool:
    """Whether beats alone tell how two songs go together.

    Grids an octave apart fit in two ways, one of them off the beat, and so do grids that may have been heard at
    twice the tempo. Bars would decide; here there are none.
    """
    return octaves == 0.0 and max(reference.tempo_bpm, candidate.tempo_bpm) <= FASTEST_PULSE_BPM


def _refine(reference: BeatGrid, candidate: BeatGrid, stretch: float, shift_s: float) -> BeatAlignment | None:
    """The line through pairs of beats that fall together; tempo figures are too coarse for minutes of music."""
    error_ms = 0.0
    for _ in range(2):
        moved = stretch * candidate.beats_s + shift_s
        if reference.beat_s < stretch * candidate.beat_s:
            theirs, ours = _pairs(moved, reference.beats_s)
        else:
            ours, theirs = _pairs(reference.beats_s, moved)
        if ours.size < 2:
            return None
        wanted, source = reference.beats_s[ours], candidate.beats_s[theirs]
        if wanted.size >= 8:
            spread = source - source.mean()
            slope = float(spread @ wanted / (spread @ spread))
            stretch = slope if abs(slope / stretch - 1.0) < 0.02 else stretch
        left = wanted - stretch * source
        shift_s = float(np.median(left))
        error_ms = 1000.0 * float(np.median(np.abs(left - shift_s)))
    return BeatAlignment(stretch=stretch, shift_s=shift_s, error_ms=error_ms)


def _pairs(few: Array, many: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of beats within 70 ms of each other: each beat of the sparser grid with the nearest of the denser.

    Each grid has two beats at least (`has_beat`).
    """
    right = np.clip(np.searchsorted(many, few), 1, many.size - 1)
    nearest = np.where(few - many[right - 1] < many[right] - few, right - 1, right)
    close = np.nonzero(np.abs(many[nearest] - few) <= PAIR_S)[0]
    return close, nearest[close]
