"""Whether a candidate may replace the champion: rules in, a decision with its reasons out, and nothing else.

Both must have been scored on the same songs under the same protocol. They are compared song by song
(`paired_bootstrap.py`), and the candidate is promoted only if the lower bound of its gain lies above the margin and no
source is likely to be worse than the tolerance. The bound allows for other songs and for another seed of the same
recipe (`seed_noise.py`). The first candidate of all is compared with silence and the unprocessed mixture alone, and
whatever the settings, no model that is no better than these two becomes the champion. Decisions are made on nSDR, which
every source has in every song in which it sounds; what a model puts where it does not is leakage, and has a rule of its
own.
"""

import csv
import fnmatch
import glob
import io
import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Annotated

from datasets.errors import InputError
from datasets.field_constraints import Decibels, NonNegativeFloat, PositiveFloat, PositiveInt, Range, check_ranges
from datasets.store import storage
from datasets.store.strict_json import FORMER_NAME
from pipelines.evaluation.paired_bootstrap import Difference, difference
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from pipelines.evaluation.summary import ScoreSummary, SongScore, SourceScore
from pipelines.lineage.contamination import Contamination

CLEAN = Contamination()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The rules; in dB of nSDR where nothing else is said."""

    # Least gain over the mixture, mean over songs and sources; no setting lets a model through that gains nothing
    min_improvement: Decibels = 3.0
    # Least score, the same mean; silence scores 0 dB, the mixture some 5 dB below that, and no setting lets a model
    # through that is no better than silence
    min_nsdr: Decibels = 0.0
    # Of each lower bound; at 0.95 some 8 of 100 equal models would pass
    confidence: Annotated[float, Range(ge=0.5, lt=1)] = 0.975
    min_songs: PositiveInt = 8  # with fewer, no candidate replaces a champion
    margin: Decibels = 0.0  # what the lower bound of the gain over the champion must exceed
    # Standard deviation of the mean gain between two seeds of one recipe, for which the bound of the gain allows;
    # retrainings in the registry that differ in their seed alone correct it. 0: no allowance
    seed_noise_db: Annotated[float, Range(ge=0, unit="dB")] = 0.1
    # How far below 0 the lower bound of any source's gain may lie
    source_tolerance: Annotated[float, Range(ge=0, unit="dB")] = 0.5
    # How far below 0 the mean gain over any slice of the songs may lie
    slice_tolerance: Annotated[float, Range(ge=0, unit="dB")] = 1.0
    # Slices of your own: for each name patterns of track ids, such as */Jazz*
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tags: str = ""  # a CSV file of track_id,tag, such as genres: each tag is a slice
    # How many dB more than the champion's the leakage into silent stems may be, relative to the mixture
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
            f"gate.tags must be a CSV file of track_id,tag; {config.tags} cannot be read ({error})"
        ) from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header != ["track_id", "tag"] or any(len(row) != 2 for row in rows[1:] if row):
        raise InputError(f"gate.tags must have the columns track_id,tag in each line, got {header} in {config.tags}")
    members: dict[str, list[str]] = {}
    for track_id, tag in filter(None, rows[1:]):
        members.setdefault(tag.strip(), []).append(glob.escape(track_id.strip()))
    return replace(config, slices={**{tag: tuple(ids) for tag, ids in sorted(members.items())}, **config.slices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one rule."""

    rule: str
    met: bool
    message: str = field(metadata={FORMER_NAME: "said"})  # a sentence for people


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """The gate's decision and why: in one sentence, rule by rule, and in numbers for tables."""

    promote: bool
    reason: str
    improvement: float  # over the mixture, dB
    checks: tuple[Check, ...]
    num_songs: int  # that were compared
    champion_digest: str = ""  # of the champion that it was compared with; empty where there is none
    gain: Difference | None = None  # over the champion; None where there is none, as all below
    source_gains: Mapping[str, Difference] = field(default_factory=dict)
    slice_gains: Mapping[str, Difference] = field(default_factory=dict)
    # Gain in dB that this many songs detect at 80 % power; None for one song as well
    min_detectable_gain: float | None = field(default=None, metadata={FORMER_NAME: "visible"})
    left_out: tuple[str, ...] = ()  # songs that the candidate or the champion was trained with
    seed_noise: SeedNoise | None = None  # for which the bounds of `gain` allow
    # Who was asked for approval and answered; empty where nobody was asked, or nobody answered
    approver: str = field(default="", metadata={FORMER_NAME: "asked"})


def decide(
    candidate: ScoreSummary,
    champion: ScoreSummary | None,
    config: GateConfig,
    *,
    contamination: Contamination = CLEAN,
    noise: SeedNoise | None = None,
) -> GateDecision:
    """Promote, or say which rules forbid it. InputError if the two were not scored alike.

    Songs that one of the two was trained with are left out of every rule and of every number. `noise` is that of seeds,
    by default the setting alone.
    """
    noise = noise or seed_noise([], config.seed_noise_db)
    if champion is not None:
        _require_comparable(candidate, champion)
    left_out = tuple(sorted(contamination.songs.keys() & candidate.songs.keys()))
    scores = _over_remaining(candidate, left_out)
    num_models = 1 if champion is None else 2
    alone = (*map(_marked, _alone(scores, config)), _contamination(left_out, contamination, num_models=num_models))
    if champion is None:
        reason = _obstacle(alone) or f"The first champion: {_over_mixture(scores)}, over {_songs(scores.songs)}."
        return GateDecision(
            promote=all(check.met for check in alone), reason=reason, improvement=_number(scores.overall.improvement),
            checks=alone, num_songs=len(scores.songs), left_out=left_out,
        )  # fmt: skip
    pairs = compare(candidate, champion, config, left_out=contamination.songs, noise=noise)
    against = _against_champion(scores, _over_remaining(champion, left_out), config, pairs, noise)
    checks = (*alone, *map(_marked, against))
    praise = f"It scores {_with_bound(pairs.gain, config)}, and {_over_mixture(scores)}."
    return GateDecision(
        promote=all(check.met for check in checks),
        reason=_obstacle(checks) or praise,
        improvement=_number(scores.overall.improvement),
        checks=checks,
        num_songs=pairs.gain.num_songs,
        champion_digest=champion.model_digest,
        gain=pairs.gain,
        source_gains=pairs.sources,
        slice_gains=pairs.slices,
        min_detectable_gain=pairs.gain.min_detectable_gain(config.confidence) if pairs.gain.num_songs > 1 else None,
        left_out=pairs.left_out,
        seed_noise=noise,
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
    candidate: ScoreSummary,
    champion: ScoreSummary,
    config: GateConfig,
    *,
    left_out: Collection[str] = (),
    noise: SeedNoise | None = None,
) -> Pairs:
    """What the first of two, scored alike, gains over the second; InputError where they were not scored alike.

    The bounds of the mean gain allow for seeds as well, those of sources for songs alone: they are compared with a
    tolerance, and claim nothing.
    """
    noise = noise or seed_noise([], config.seed_noise_db)
    _require_comparable(candidate, champion)
    left_out = tuple(sorted(set(left_out) & candidate.songs.keys()))
    theirs = champion.songs
    gains = {  # of the sources that sound in a song
        track_id: {source: nsdr - theirs[track_id].nsdr[source] for source, nsdr in score.nsdr.items()}
        for track_id, score in _remaining(candidate, left_out).items()
    }
    means = {track_id: statistics.fmean(gain.values()) for track_id, gain in gains.items() if gain}
    if not means:
        raise InputError(f"no stem sounds in any of the {_songs(gains)}: score songs whose stems are above -60 dBFS")
    by_source = {source: [gain[source] for gain in gains.values() if source in gain] for source in candidate.sources}

    def over(values: Sequence[float]) -> Difference:
        return difference(values, confidence=config.confidence)

    return Pairs(
        gain=difference(list(means.values()), confidence=config.confidence, seed_noise_db=noise.std_db),
        songs=means,
        sources={source: over(values) for source, values in by_source.items() if values},
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
            f"no song is left to score: each of the {_songs(summary.songs)} was trained with; score on songs that were "
            "not, such as those of another corpus.test_fraction or corpus.root"
        )
    return songs


def _over_remaining(summary: ScoreSummary, left_out: Collection[str]) -> ScoreSummary:
    """The scores over the songs that are not left out: the nSDR, on which alone the gate decides."""
    songs = _remaining(summary, left_out)
    if len(songs) == len(summary.songs):
        return summary

    def over(source: str) -> SourceScore:
        counted = [song for song in songs.values() if source in song.nsdr]
        floors = [song.mixture_nsdr[source] for song in counted if source in song.mixture_nsdr]
        return SourceScore(
            nsdr=_mean(song.nsdr[source] for song in counted),
            mixture_nsdr=_mean(floors) if floors or not counted else summary.sources[source].mixture_nsdr,
            sdr=None,
            mixture_sdr=None,
            num_songs=len(counted),
        )

    sources = {source: over(source) for source in summary.sources}
    overall = SourceScore(
        nsdr=_mean(score.nsdr for score in sources.values() if score.nsdr is not None),
        mixture_nsdr=_mean(score.mixture_nsdr for score in sources.values() if score.mixture_nsdr is not None),
        sdr=None,
        mixture_sdr=None,
        num_songs=sum(bool(song.nsdr) for song in songs.values()),
    )
    return replace(summary, songs=songs, sources=sources, overall=overall)


def _mean(values: Iterable[float]) -> float | None:
    present = list(values)
    return statistics.fmean(present) if present else None


def _number(score: float | None) -> float:
    """NaN where there is no score, which passes no rule."""
    return math.nan if score is None else score


def _require_comparable(candidate: ScoreSummary, champion: ScoreSummary) -> None:
    if candidate.protocol != champion.protocol:
        raise InputError(
            f"the candidate was scored under {candidate.protocol!r}, the champion under {champion.protocol!r}: score "
            "both under one protocol"
        )
    if candidate.dataset_digest != champion.dataset_digest or candidate.songs.keys() != champion.songs.keys():
        only = sorted(candidate.songs.keys() ^ champion.songs.keys())
        why = f"{_songs(only)} scored for one of them only, such as {only[0]!r}" if only else "the audio differs"
        raise InputError(f"candidate and champion were scored on different songs ({why}): score both again")
    if set(candidate.sources) != set(champion.sources):
        raise InputError(
            f"the candidate separates {sorted(candidate.sources)}, the champion {sorted(champion.sources)}: "
            "their sources differ; they cannot be compared. Set another registry.name"
        )


def _slices(songs: Mapping[str, SongScore], config: GateConfig) -> dict[str, list[str]]:
    """Quarters of the songs, from eight on: the quietest, the longest, the shortest; and what the settings name."""
    slices: dict[str, list[str]] = {}
    quarter = len(songs) // 4
    if quarter >= 2:
        by_level = sorted(songs, key=lambda track_id: (songs[track_id].level_db, track_id))
        by_length = sorted(songs, key=lambda track_id: (songs[track_id].duration_s, track_id))
        slices = {"quiet": by_level[:quarter], "short": by_length[:quarter], "long": by_length[-quarter:]}
    for name, patterns in config.slices.items():
        members = [
            track_id for track_id in songs if any(fnmatch.fnmatchcase(track_id, pattern) for pattern in patterns)
        ]
        if len(members) >= 2:  # one song alone has no confidence bound
            slices[name] = members
    return slices


# -- rules ----------------------------------------------------------------------------------------------------


def _alone(candidate: ScoreSummary, config: GateConfig) -> Iterator[Check]:
    """Rules that need no champion. All are written so that a score of NaN passes none."""
    improvement, nsdr = _number(candidate.overall.improvement), _number(candidate.overall.nsdr)
    yield Check(rule="silence", met=nsdr > 0, message=_trivial_message("silence", nsdr, 0.0, candidate))
    yield Check(
        rule="mixture",
        met=improvement > 0,
        message=_trivial_message("the unprocessed mixture", nsdr, nsdr - improvement, candidate),
    )
    yield Check(
        rule="min_improvement",
        met=improvement >= config.min_improvement,
        message=f"It improves on the unprocessed mixture by {improvement:+.2f} dB nSDR over {_songs(candidate.songs)}; "
        f"the minimum is {config.min_improvement:+.2f} dB.",
    )
    yield Check(
        rule="min_nsdr",
        met=nsdr >= config.min_nsdr,
        message=f"It scores {nsdr:+.2f} dB nSDR over {_songs(candidate.songs)}; the minimum is "
        f"{config.min_nsdr:+.2f} dB, and silence scores 0 dB.",
    )
    if config.max_size_mb:
        size_mb = candidate.size_bytes / 1e6
        yield Check(
            rule="max_size_mb",
            met=size_mb <= config.max_size_mb,
            message=f"Its weights take {size_mb:.1f} MB; the limit is {config.max_size_mb:g} MB.",
        )
    if config.max_real_time:
        factor = candidate.real_time_factor
        yield Check(
            rule="max_real_time",
            met=factor is not None and factor <= config.max_real_time,
            message="The time to separate the songs was not measured; score them again."
            if factor is None
            else f"A second of song takes {factor:.2f} s to separate; the limit is {config.max_real_time:g} s.",
        )


def _against_champion(
    candidate: ScoreSummary, champion: ScoreSummary, config: GateConfig, pairs: Pairs, noise: SeedNoise
) -> Iterator[Check]:
    """Rules that compare with the champion."""
    gain = pairs.gain
    yield Check(
        rule="other_weights",
        met=candidate.model_digest != champion.model_digest,
        message="It is the champion already: the same weights."
        if candidate.model_digest == champion.model_digest
        else "Its weights differ from the champion's.",
    )
    yield Check(
        rule="min_songs",
        met=gain.num_songs >= config.min_songs,
        message=f"{_songs(gain.num_songs)} {'can' if gain.num_songs >= config.min_songs else 'cannot'} confirm "
        f"{gain.mean:+.2f} dB nSDR against the champion; the minimum is {config.min_songs}.",
    )
    yield Check(rule="margin", met=gain.low > config.margin, message=_gain_message(gain, config, noise))
    for source, own in pairs.sources.items():
        yield Check(
            rule=f"source_tolerance, {source}",
            # A few songs have no bound: their mean decides.
            met=(own.low if math.isfinite(own.low) else own.mean) >= -config.source_tolerance,
            message=_source_message(source, own, config, len(candidate.songs)),
        )
    for name, own in pairs.slices.items():
        yield Check(
            rule=f"slice_tolerance, {name}",
            met=own.mean >= -config.slice_tolerance,
            message=f"On {own.num_songs} {name} songs it scores {own.mean:+.2f} dB nSDR against the champion; the "
            f"limit is a loss of {config.slice_tolerance:.2f} dB.",
        )
    yield from _leakage(candidate, champion, config)


def _contamination(left_out: Sequence[str], contamination: Contamination, *, num_models: int) -> Check:
    """Always met: songs that would flatter a model are left out of every other rule."""
    model, neither = ("one of the two", "Neither was") if num_models == 2 else ("it", "It was not")
    if left_out:
        reasons = ", ".join(f"{track_id} ({contamination.songs[track_id]})" for track_id in left_out)
        verb = "is" if len(left_out) == 1 else "are"
        message = f"{_songs(left_out)} that {model} was trained with {verb} left out: {reasons}."
    elif contamination.known:
        message = f"{neither} trained with any of these songs."
    else:
        message = "None of these songs is among the known training songs."
    if not contamination.known:
        why = f": {'; '.join(contamination.gaps)}" if contamination.gaps else ""
        message += f" The record of what {model} was trained with is incomplete{why}."
    if not contamination.by_fingerprint:
        message += (
            " Only identical audio was looked for; curate the dataset again to detect other masters and excerpts."
        )
    return Check(rule="contamination", met=True, message=message)


def after_approval(decision: GateDecision, *, name: str, promote: bool, why: str) -> GateDecision:
    """The decision after a person was asked for approval, who may only turn a yes into a no; no `name`: no answer."""
    answer = "yes" if promote else "no"
    message = f"{name} says {answer}{f': {why}' if why else ''}." if name else f"{why}."
    return replace(
        decision,
        promote=decision.promote and promote,
        reason=f"{decision.reason} {message}" if promote else message,
        checks=(*decision.checks, Check(rule="approval", met=promote, message=message)),
        approver=name,
    )


def _leakage(candidate: ScoreSummary, champion: ScoreSummary, config: GateConfig) -> Iterator[Check]:
    """More leakage where a stem is silent, which no ratio to the reference measures well; the worst song counts."""
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
            message=f"Where {source} is silent it leaks up to {leaked_db:.1f} dB relative to the mixture "
            f"(in {track_id}), {excess_db:+.1f} dB against the champion's worst; the limit is "
            f"{config.leakage_tolerance_db:+.1f} dB.",
        )


def _worst_leak(scores: ScoreSummary, source: str) -> tuple[float, str] | None:
    """The loudest leak of a source, in dB relative to the mixture, and its song; None where it is silent nowhere."""
    leaks = [(song.leakage_db[source], name) for name, song in scores.songs.items() if source in song.leakage_db]
    return max(leaks) if leaks else None


# -- messages ----------------------------------------------------------------------------------------------------


def _trivial_message(estimate: str, nsdr: float, floor: float, candidate: ScoreSummary) -> str:
    better = "Better" if nsdr > floor else "No better"
    scores = f"{nsdr:+.2f} dB nSDR over {_songs(candidate.songs)}"
    return f"{better} than {estimate}, which scores {f'{floor:+.2f}' if floor else '0'} dB: its mean is {scores}."


def _marked(check: Check) -> Check:
    """The rule with a sentence that says that it passed, where it did; one that did not pass is a reason by itself."""
    return replace(check, message=f"Passed: {check.message}") if check.met else check


def _obstacle(checks: Sequence[Check]) -> str | None:
    return next((check.message for check in checks if not check.met), None)


def _gain_message(gain: Difference, config: GateConfig, noise: SeedNoise) -> str:
    message = f"It scores {_with_bound(gain, config)}; the bound must exceed {config.margin:+.2f} dB."
    if noise.std_db:
        differ = f"two seeds of one recipe differ by {noise.std_db:.2f} dB (standard deviation, {noise.source})"
        message += f" The bound allows for seeds: {differ}."
    if gain.num_songs < 2:
        return message
    detectable = (
        f"With {_songs(gain.num_songs)} the detectable gain at 80 % power is "
        f"{gain.min_detectable_gain(config.confidence):.2f} dB"
    )
    needed = gain.songs_needed(gain.mean - config.margin, config.confidence)
    if needed is None:
        return f"{message} {detectable}; no number of songs confirms the observed gain, which another seed may undo."
    return f"{message} {detectable}{f'; the observed gain needs {_songs(needed)}' if needed else ''}."


def _source_message(source: str, gain: Difference, config: GateConfig, num_songs: int) -> str:
    at_worst = f"may be worse by up to {-gain.low:.2f} dB" if gain.low < 0 else f"gains at least {gain.low:.2f} dB"
    bound = f" and {at_worst} ({100 * config.confidence:g} % bound)" if math.isfinite(gain.low) else ""
    counted = (
        f" over the {gain.num_songs} of {_songs(num_songs)} in which it sounds" if gain.num_songs < num_songs else ""
    )
    return (
        f"{source} scores {gain.mean:+.2f} dB nSDR against the champion{counted}{bound}; the limit is a loss of "
        f"{config.source_tolerance:.2f} dB."
    )


def _with_bound(gain: Difference, config: GateConfig) -> str:
    return (
        f"{gain.mean:+.2f} dB nSDR against the champion over {_songs(gain.num_songs)} (lower "
        f"{100 * config.confidence:g} % bound {gain.low:+.2f} dB)"
    )


def _over_mixture(candidate: ScoreSummary) -> str:
    return f"{candidate.overall.improvement:+.2f} dB nSDR over the unprocessed mixture"


def _songs(songs: Sized | int) -> str:
    count = songs if isinstance(songs, int) else len(songs)
    return f"{count} song{'s' if count != 1 else ''}"
