"""Whether a candidate may replace the champion: rules in, a decision with its reasons out, and nothing else.

Both must have been scored on the same songs under the same protocol. They are compared song by song
(`paired_bootstrap.py`), and the candidate is promoted only if the lower bound of its gain lies above the margin and no
source is likely to be worse than the tolerance. The first candidate of all is held against the unprocessed mixture
alone. Decisions are made on nSDR, which every song has.
"""

import csv
import fnmatch
import glob
import io
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Annotated

from datasets.errors import InputError
from datasets.ranges import Decibels, NonNegativeFloat, PositiveFloat, PositiveInt, Range, check_ranges
from datasets.store import storage
from pipelines.evaluation.paired_bootstrap import Difference, difference
from pipelines.evaluation.summary import ScoreSummary, SongScore, SourceScore
from pipelines.lineage.contamination import Contamination

CLEAN = Contamination()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The rules; in dB of nSDR where nothing else is said."""

    min_improvement: Decibels = 3.0  # least gain over the mixture, mean over songs and sources
    min_nsdr: Decibels = 0.0  # least score, the same mean; silence scores 0 dB, the mixture some 5 dB below that
    # Of each lower bound; at 0.95 some 8 of 100 equal models would pass
    confidence: Annotated[float, Range(ge=0.5, lt=1)] = 0.975
    min_songs: PositiveInt = 8  # with fewer, no candidate replaces a champion
    margin: Decibels = 0.0  # what the lower bound of the gain over the champion must exceed
    # How far below 0 the lower bound of any source's gain may lie
    source_tolerance: Annotated[float, Range(ge=0, unit="dB")] = 0.5
    # How far below 0 the mean gain over any slice of the songs may lie
    slice_tolerance: Annotated[float, Range(ge=0, unit="dB")] = 1.0
    # Slices of your own: for each name patterns of track ids, such as */Jazz*
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tags: str = ""  # a CSV file of track_id,tag, such as genres: each tag is a slice
    # How much louder than the champion's the leakage into silent stems may be
    leakage_tolerance_db: NonNegativeFloat = 3.0
    max_size_mb: NonNegativeFloat = 0.0  # largest size of the files of the weights; 0: any
    # Most seconds of computing per second of song, as measured in scoring; 0: any
    max_real_time: NonNegativeFloat = 0.0
    approval: bool = False  # ask a person before a candidate that passed is promoted
    approval_s: PositiveFloat = 86400.0  # how long to wait for the answer; none means no

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="gate.")


def with_tags(config: GateConfig) -> GateConfig:
    """The rules with a slice for each tag of the file `config.tags`; slices of the settings win over tags."""
    if not config.tags:
        return config
    try:
        rows = list(csv.reader(io.StringIO(storage.read(config.tags).decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"gate.tags={config.tags} cannot be read ({error}); a CSV file of track_id,tag would do"
        ) from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header != ["track_id", "tag"] or any(len(row) != 2 for row in rows[1:] if row):
        raise InputError(f"gate.tags={config.tags} has the columns {header}; track_id,tag in each line would do")
    members: dict[str, list[str]] = {}
    for track_id, tag in filter(None, rows[1:]):
        members.setdefault(tag.strip(), []).append(glob.escape(track_id.strip()))
    return replace(config, slices={**{tag: tuple(ids) for tag, ids in sorted(members.items())}, **config.slices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule, as it came out."""

    rule: str
    met: bool
    said: str  # a sentence for people


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """What the gate says and why: in one sentence, rule by rule, and in numbers for tables."""

    promote: bool
    reason: str
    improvement: float  # over the mixture, dB
    checks: tuple[Check, ...]
    num_songs: int  # that were compared
    champion_digest: str = ""  # of the champion that it was held against; empty where there is none
    gain: Difference | None = None  # over the champion; None where there is none, as all below
    source_gains: Mapping[str, Difference] = field(default_factory=dict)
    slice_gains: Mapping[str, Difference] = field(default_factory=dict)
    visible: float | None = None  # dB that so many songs show in four of five cases; None for one song as well
    left_out: tuple[str, ...] = ()  # songs that the candidate or the champion has heard in training
    asked: str = ""  # who was asked and gave their word; empty where nobody was, or nobody answered


def decide(
    candidate: ScoreSummary, champion: ScoreSummary | None, config: GateConfig, *, heard: Contamination = CLEAN
) -> GateDecision:
    """Promote, or say which rules forbid it. InputError if the two were not scored alike.

    Songs that one of the two `heard` in training are left out before any rule is applied, and of every number.
    """
    if champion is not None:
        _require_comparable(candidate, champion)
    left_out = tuple(sorted(heard.songs.keys() & candidate.songs.keys()))
    unheard = _over_remaining(candidate, left_out)
    alone = (*_alone(unheard, config), _contamination(left_out, heard, num_models=1 if champion is None else 2))
    if champion is None:
        reason = _obstacle(alone) or f"The first champion: {_over_mixture(unheard)}, over {_songs(unheard.songs)}."
        return GateDecision(
            promote=all(check.met for check in alone), reason=reason, improvement=unheard.overall.improvement,
            checks=alone, num_songs=len(unheard.songs), left_out=left_out,
        )  # fmt: skip
    pairs = compare(candidate, champion, config, heard=heard.songs)
    checks = (*alone, *_beside(unheard, _over_remaining(champion, left_out), config, pairs))
    praise = f"It scores {_sure(pairs.gain, config)} and {_over_mixture(unheard)}."
    return GateDecision(
        promote=all(check.met for check in checks),
        reason=_obstacle(checks) or praise,
        improvement=unheard.overall.improvement,
        checks=checks,
        num_songs=pairs.gain.num_songs,
        champion_digest=champion.model_digest,
        gain=pairs.gain,
        source_gains=pairs.sources,
        slice_gains=pairs.slices,
        visible=pairs.gain.visible(config.confidence) if pairs.gain.num_songs > 1 else None,
        left_out=pairs.left_out,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """A first model's gains over a second, song by song, in dB of nSDR."""

    gain: Difference
    songs: Mapping[str, float]  # mean over sources, by track id
    sources: Mapping[str, Difference]
    slices: Mapping[str, Difference]
    left_out: tuple[str, ...]


def compare(
    candidate: ScoreSummary, champion: ScoreSummary, config: GateConfig, *, heard: Collection[str] = ()
) -> Pairs:
    """What the first of two, scored alike, gains over the second; InputError where they were not scored alike."""
    _require_comparable(candidate, champion)
    left_out = tuple(sorted(set(heard) & candidate.songs.keys()))
    gains = {
        track_id: {source: score.nsdr[source] - champion.songs[track_id].nsdr[source] for source in candidate.sources}
        for track_id, score in _remaining(candidate, left_out).items()
    }
    means = {track_id: statistics.fmean(gain.values()) for track_id, gain in gains.items()}

    def over(values: Sequence[float]) -> Difference:
        return difference(values, confidence=config.confidence)

    return Pairs(
        gain=over(list(means.values())),
        songs=means,
        sources={source: over([gain[source] for gain in gains.values()]) for source in candidate.sources},
        slices={
            name: over([means[track_id] for track_id in members])
            for name, members in _slices({track_id: candidate.songs[track_id] for track_id in means}, config).items()
        },
        left_out=left_out,
    )


def _remaining(summary: ScoreSummary, left_out: Collection[str]) -> dict[str, SongScore]:
    """The songs that are not left out; InputError where none remains."""
    songs = {track_id: score for track_id, score in summary.songs.items() if track_id not in left_out}
    if not songs:
        raise InputError(
            f"each of the {_songs(summary.songs)} was heard by one of the two in training; compare them on songs that "
            "neither has heard, such as those of another corpus.test_fraction or corpus.root"
        )
    return songs


def _over_remaining(summary: ScoreSummary, left_out: Collection[str]) -> ScoreSummary:
    """The scores over the songs that are not left out: the nSDR, on which alone the gate decides."""
    songs = _remaining(summary, left_out)
    if len(songs) == len(summary.songs):
        return summary

    def over(source: str, told: SourceScore) -> SourceScore:
        floors = [song.mixture_nsdr.get(source, told.mixture_nsdr) for song in songs.values()]
        nsdr = statistics.fmean(song.nsdr[source] for song in songs.values())
        return SourceScore(nsdr=nsdr, mixture_nsdr=statistics.fmean(floors), sdr=None, mixture_sdr=None)

    sources = {source: over(source, told) for source, told in summary.sources.items()}
    overall = SourceScore(
        nsdr=statistics.fmean(score.nsdr for score in sources.values()),
        mixture_nsdr=statistics.fmean(score.mixture_nsdr for score in sources.values()),
        sdr=None,
        mixture_sdr=None,
    )
    return replace(summary, songs=songs, sources=sources, overall=overall)


def _require_comparable(candidate: ScoreSummary, champion: ScoreSummary) -> None:
    if candidate.protocol != champion.protocol:
        raise InputError(
            f"the candidate was scored under {candidate.protocol!r}, the champion under {champion.protocol!r}: scoring "
            "both under one protocol would do"
        )
    if candidate.dataset_digest != champion.dataset_digest or candidate.songs.keys() != champion.songs.keys():
        only = sorted(candidate.songs.keys() ^ champion.songs.keys())
        seen = f"{len(only)} songs were heard by one of them only, such as {only[0]!r}" if only else "the audio differs"
        raise InputError(f"candidate and champion were scored on different songs ({seen}): scoring both anew would do")
    if set(candidate.sources) != set(champion.sources):
        raise InputError(
            f"the candidate separates {sorted(candidate.sources)}, the champion {sorted(champion.sources)}: "
            "they are no rivals; another registry.name would do"
        )


def _slices(songs: Mapping[str, SongScore], config: GateConfig) -> dict[str, list[str]]:
    """Quarters of the songs, from eight on: the quietest, the longest, the shortest; and what the settings name."""
    found: dict[str, list[str]] = {}
    quarter = len(songs) // 4
    if quarter >= 2:
        by_level = sorted(songs, key=lambda track_id: (songs[track_id].level_db, track_id))
        by_length = sorted(songs, key=lambda track_id: (songs[track_id].duration_s, track_id))
        found = {"quiet": by_level[:quarter], "short": by_length[:quarter], "long": by_length[-quarter:]}
    for name, patterns in config.slices.items():
        members = [
            track_id for track_id in songs if any(fnmatch.fnmatchcase(track_id, pattern) for pattern in patterns)
        ]
        if len(members) >= 2:  # of one song no mean is known, let alone how sure it is
            found[name] = members
    return found


# -- rules ----------------------------------------------------------------------------------------------------


def _alone(candidate: ScoreSummary, config: GateConfig) -> Iterator[Check]:
    """What needs no champion. All rules are written so that a score that is no number passes none."""
    improvement, nsdr = candidate.overall.improvement, candidate.overall.nsdr
    yield Check(
        rule="min_improvement",
        met=improvement >= config.min_improvement,
        said=f"It improves on the unprocessed mixture by {improvement:+.2f} dB nSDR over {_songs(candidate.songs)}; "
        f"{config.min_improvement:+.2f} dB are asked for.",
    )
    yield Check(
        rule="min_nsdr",
        met=nsdr >= config.min_nsdr,
        said=f"It scores {nsdr:+.2f} dB nSDR over {_songs(candidate.songs)}; {config.min_nsdr:+.2f} dB are asked for, "
        "and silence scores 0 dB.",
    )
    if config.max_size_mb:
        size_mb = candidate.size_bytes / 1e6
        yield Check(
            rule="max_size_mb",
            met=size_mb <= config.max_size_mb,
            said=f"Its files have {size_mb:.1f} MB; {config.max_size_mb:g} MB are allowed.",
        )
    if config.max_real_time:
        real_time = candidate.real_time
        yield Check(
            rule="max_real_time",
            met=real_time is not None and real_time <= config.max_real_time,
            said="How long it took to separate the songs was not measured; scoring them anew would do."
            if real_time is None
            else f"It took {real_time:.2f} s for a second of song; {config.max_real_time:g} s are allowed.",
        )


def _beside(candidate: ScoreSummary, champion: ScoreSummary, config: GateConfig, pairs: Pairs) -> Iterator[Check]:
    """What the champion is needed for."""
    gain = pairs.gain
    yield Check(
        rule="other_weights",
        met=candidate.model_digest != champion.model_digest,
        said="It is the champion already: the same weights."
        if candidate.model_digest == champion.model_digest
        else "Its weights are others than the champion's.",
    )
    yield Check(
        rule="min_songs",
        met=gain.num_songs >= config.min_songs,
        said=f"{_songs(range(gain.num_songs))} tell too little of {gain.mean:+.2f} dB nSDR against the champion; "
        f"{config.min_songs} are asked for.",
    )
    yield Check(rule="margin", met=gain.low > config.margin, said=_gain_said(gain, config))
    for source, own in pairs.sources.items():
        yield Check(
            rule=f"source_tolerance, {source}",
            met=own.low >= -config.source_tolerance,
            said=f"On {source} it scores {_sure(own, config)}; a loss of {config.source_tolerance:.2f} dB is allowed.",
        )
    for name, own in pairs.slices.items():
        yield Check(
            rule=f"slice_tolerance, {name}",
            met=own.mean >= -config.slice_tolerance,
            said=f"On {own.num_songs} {name} songs it scores {own.mean:+.2f} dB nSDR against the champion; a loss of "
            f"{config.slice_tolerance:.2f} dB is allowed.",
        )
    yield from _leakage(candidate, champion, config)


def _contamination(left_out: Sequence[str], heard: Contamination, *, num_models: int) -> Check:
    """Never an obstacle: songs that would flatter a model are not among those that any rule looks at."""
    one, none = ("one of them", "Neither was") if num_models == 2 else ("it", "It was not")
    if left_out:
        named = ", ".join(f"{track_id} ({heard.songs[track_id]})" for track_id in left_out)
        said = f"{_songs(left_out)} that {one} was trained with are left out: {named}."
    elif heard.known:
        said = f"{none} trained with any of these songs."
    else:
        said = "None of these songs was found among what is known of the training."
    if not heard.known:
        why = f": {'; '.join(heard.gaps)}" if heard.gaps else ""
        said += f" All that {one} was trained with is not known any more{why}."
    if not heard.by_fingerprint:
        said += " Only equal audio was looked for; datasets curated anew tell other masters and excerpts, too."
    return Check(rule="contamination", met=True, said=said)


def with_word(decision: GateDecision, *, name: str, promote: bool, why: str) -> GateDecision:
    """The decision after a person was asked who may only turn a yes into a no; nobody is a `name` that is empty."""
    answer = "yes" if promote else "no"
    said = f"{name} says {answer}{f': {why}' if why else ''}." if name else f"{why}."
    return replace(
        decision,
        promote=decision.promote and promote,
        reason=f"{decision.reason} {said}" if promote else said,
        checks=(*decision.checks, Check(rule="approval", met=promote, said=said)),
        asked=name,
    )


def _leakage(candidate: ScoreSummary, champion: ScoreSummary, config: GateConfig) -> Iterator[Check]:
    """More sound where a stem is silent, which no ratio to the reference tells well; the worst song counts."""
    more: dict[str, tuple[float, float, str]] = {}
    for source in candidate.sources:
        ours, theirs = _worst_leak(candidate, source), _worst_leak(champion, source)
        if ours and theirs:
            more[source] = (ours[0] - theirs[0], *ours)
    if more:
        source = max(more, key=lambda name: more[name][0])
        excess_db, leaked_db, track_id = more[source]
        yield Check(
            rule="leakage_tolerance_db",
            met=excess_db <= config.leakage_tolerance_db,
            said=f"Where {source} is silent it lets {leaked_db:.1f} dBFS through at worst (in {track_id}), "
            f"{excess_db:+.1f} dB against the champion's worst; {config.leakage_tolerance_db:+.1f} dB are allowed.",
        )


def _worst_leak(scores: ScoreSummary, source: str) -> tuple[float, str] | None:
    """The loudest leak of a source in dBFS and its song; None where the source is silent nowhere."""
    leaks = [(song.leakage_db[source], name) for name, song in scores.songs.items() if source in song.leakage_db]
    return max(leaks) if leaks else None


# -- words ----------------------------------------------------------------------------------------------------


def _obstacle(checks: Sequence[Check]) -> str | None:
    return next((check.said for check in checks if not check.met), None)


def _gain_said(gain: Difference, config: GateConfig) -> str:
    said = f"It scores {_sure(gain, config)}; more than {config.margin:+.2f} dB must be sure."
    if gain.num_songs < 2:
        return said
    seen = f"So many songs show {gain.visible(config.confidence):.2f} dB in four of five cases"
    needed = gain.songs_needed(gain.mean - config.margin, config.confidence)
    return f"{said} {seen}; it would take {needed} to show what was seen." if needed else f"{said} {seen}."


def _sure(gain: Difference, config: GateConfig) -> str:
    return (
        f"{gain.mean:+.2f} dB nSDR against the champion over {_songs(range(gain.num_songs))}, {gain.low:+.2f} dB or "
        f"more with {100 * config.confidence:g} % confidence"
    )


def _over_mixture(candidate: ScoreSummary) -> str:
    return f"{candidate.overall.improvement:+.2f} dB nSDR over the unprocessed mixture"


def _songs(songs: Sized) -> str:
    return f"{len(songs)} song{'s' if len(songs) != 1 else ''}"
