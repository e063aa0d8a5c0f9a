"""The rules of the gate one by one, each with its outcome and a sentence for people."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from datasets.store.strict_json import FORMER_NAME
from pipelines.evaluation.gate.gate_config import GateConfig
from pipelines.evaluation.gate.paired_gains import Pairs, plural
from pipelines.evaluation.paired_bootstrap import Difference
from pipelines.evaluation.seed_noise import SeedNoise
from pipelines.evaluation.summary import ScoreSummary
from pipelines.lineage.contamination import Contamination
from pipelines.lineage.song_licenses import SongLicenses

# Of leakage, relative to the mixture: a model that leaks less than that is no better for it than another that does.
INAUDIBLE_DB = -60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one rule."""

    rule: str
    met: bool
    message: str = field(metadata={FORMER_NAME: "said"})  # a sentence for people


def standalone_rules(candidate: ScoreSummary, config: GateConfig) -> Iterator[Check]:
    """Rules that need no champion. All are written so that a score of NaN passes none."""
    improvement, nsdr = or_nan(candidate.overall.improvement), or_nan(candidate.overall.nsdr)
    yield Check(rule="silence", met=nsdr > 0, message=_trivial_message("silence", nsdr, 0.0, candidate))
    yield Check(
        rule="mixture",
        met=improvement > 0,
        message=_trivial_message("the unprocessed mixture", nsdr, nsdr - improvement, candidate),
    )
    yield Check(
        rule="min_improvement",
        met=improvement >= config.min_improvement,
        message=f"It improves on the unprocessed mixture by {improvement:+.2f} dB nSDR over {plural(candidate.songs)}; "
        f"the minimum is {config.min_improvement:+.2f} dB.",
    )
    yield Check(
        rule="min_nsdr",
        met=nsdr >= config.min_nsdr,
        message=f"It scores {nsdr:+.2f} dB nSDR over {plural(candidate.songs)}; the minimum is "
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


def license_rule(licenses: SongLicenses) -> Check:
    """Of `refuse_non_commercial`: met where every song that the model learned from has a licence that does not forbid
    commercial use.
    """
    passed = not licenses.non_commercial and not licenses.not_known and not licenses.gaps
    return Check(rule="refuse_non_commercial", met=passed, message=f"Licences of its songs: {licenses.summary}.")


def champion_rules(
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
        message=f"{plural(gain.num_songs)} {'can' if gain.num_songs >= config.min_songs else 'cannot'} confirm "
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


def _leakage(candidate: ScoreSummary, champion: ScoreSummary, config: GateConfig) -> Iterator[Check]:
    """More leakage where a stem is silent, which no ratio to the reference measures well.

    Looked at twice: in the worst song of each, which no others make up for, and song by song, since a model that leaks
    in every song as much as the champion in its worst is worse than that.
    """
    leaks = [
        finding
        for source in candidate.sources
        for finding in (_worst_leak(source, candidate, champion), _mean_leak(source, candidate, champion))
        if finding
    ]
    if leaks:
        excess_db, message, floor = max(leaks, key=lambda finding: round(finding[0], 6))  # of equal ones the first
        yield Check(
            rule="leakage_tolerance_db",
            met=excess_db <= config.leakage_tolerance_db,
            message=f"Where {message}; the limit is {config.leakage_tolerance_db:+.1f} dB{floor}.",
        )


def _worst_leak(source: str, candidate: ScoreSummary, champion: ScoreSummary) -> tuple[float, str, str] | None:
    """How much louder the candidate's loudest leak of a source is than the champion's, in words too, and a remark.

    None where the source is silent nowhere.
    """
    ours, theirs = _leaks(source, candidate), _leaks(source, champion)
    if not ours or not theirs:
        return None
    leaked_db, track_id = max((leaked_db, track_id) for track_id, leaked_db in ours.items())
    excess_db = max(leaked_db, INAUDIBLE_DB) - max(*theirs.values(), INAUDIBLE_DB)
    floor = f"; what is below {INAUDIBLE_DB:g} dB counts as that" if leaked_db < INAUDIBLE_DB else ""
    message = f"{source} is silent it leaks up to {leaked_db:.1f} dB relative to the mixture (in {track_id})"
    return excess_db, f"{message}, {excess_db:+.1f} dB against the champion's worst", floor


def _mean_leak(source: str, candidate: ScoreSummary, champion: ScoreSummary) -> tuple[float, str, str] | None:
    """How much more of a source the candidate leaks than the champion in the same song: the mean, in words too.

    Over the songs in which one of the two is heard to leak; None where neither is.
    """
    ours, theirs = _leaks(source, candidate), _leaks(source, champion)
    excesses = [
        max(ours[track_id], INAUDIBLE_DB) - max(theirs[track_id], INAUDIBLE_DB)
        for track_id in sorted(ours.keys() & theirs.keys())
        if max(ours[track_id], theirs[track_id]) > INAUDIBLE_DB
    ]
    if not excesses:
        return None
    excess_db = math.fsum(excesses) / len(excesses)
    message = f"{source} is silent it leaks {excess_db:+.1f} dB relative to the champion in the same song"
    return excess_db, f"{message}, the mean over {plural(len(excesses))} in which one of the two is heard", ""


def _leaks(source: str, scores: ScoreSummary) -> dict[str, float]:
    """What leaks of a source into each song where it is silent for a while, in dB relative to the mixture."""
    return {track_id: song.leakage_db[source] for track_id, song in scores.songs.items() if source in song.leakage_db}


def contamination_rule(left_out: Sequence[str], contamination: Contamination, *, num_models: int) -> Check:
    """Always met: songs that would flatter a model are left out of every other rule."""
    model, neither = ("one of the two", "Neither was") if num_models == 2 else ("it", "It was not")
    if left_out:
        reasons = ", ".join(f"{track_id} ({contamination.songs[track_id]})" for track_id in left_out)
        verb = "is" if len(left_out) == 1 else "are"
        message = f"{plural(left_out)} that {model} was trained with {verb} left out: {reasons}."
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


def _trivial_message(estimate: str, nsdr: float, floor: float, candidate: ScoreSummary) -> str:
    better = "Better" if nsdr > floor else "No better"
    scores = f"{nsdr:+.2f} dB nSDR over {plural(candidate.songs)}"
    return f"{better} than {estimate}, which scores {f'{floor:+.2f}' if floor else '0'} dB: its mean is {scores}."


def _gain_message(gain: Difference, config: GateConfig, noise: SeedNoise) -> str:
    message = f"It scores {with_bound(gain, config)}; the bound must exceed {config.margin:+.2f} dB."
    if noise.std_db:
        differ = f"two seeds of one recipe differ by {noise.std_db:.2f} dB (standard deviation, {noise.source})"
        message += f" The bound allows for seeds: {differ}."
    if gain.num_songs < 2:
        return message
    detectable = (
        f"With {plural(gain.num_songs)} the detectable gain at 80 % power is "
        f"{gain.min_detectable_gain(config.confidence):.2f} dB"
    )
    needed = gain.songs_needed(gain.mean - config.margin, config.confidence)
    if needed is None:
        return f"{message} {detectable}; no number of songs confirms the observed gain, which another seed may undo."
    return f"{message} {detectable}{f'; the observed gain needs {plural(needed)}' if needed else ''}."


def _source_message(source: str, gain: Difference, config: GateConfig, num_songs: int) -> str:
    at_worst = f"may be worse by up to {-gain.low:.2f} dB" if gain.low < 0 else f"gains at least {gain.low:.2f} dB"
    bound = f" and {at_worst} ({100 * config.confidence:g} % bound)" if math.isfinite(gain.low) else ""
    counted = (
        f" over the {gain.num_songs} of {plural(num_songs)} in which it sounds" if gain.num_songs < num_songs else ""
    )
    return (
        f"{source} scores {gain.mean:+.2f} dB nSDR against the champion{counted}{bound}; the limit is a loss of "
        f"{config.source_tolerance:.2f} dB."
    )


def with_bound(gain: Difference, config: GateConfig) -> str:
    return (
        f"{gain.mean:+.2f} dB nSDR against the champion over {plural(gain.num_songs)} (lower "
        f"{100 * config.confidence:g} % bound {gain.low:+.2f} dB)"
    )


def or_nan(score: float | None) -> float:
    """NaN where there is no score, which passes no rule."""
    return math.nan if score is None else score
