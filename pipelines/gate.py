"""Whether a candidate may replace the champion: rules in, a decision with its reason out, and nothing else.

Both must have been scored on the same songs under the same protocol. The first candidate of all is held against the
unprocessed mixture alone. Decisions are made on nSDR, which every song has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from datasets.errors import InputError
from pipelines.evaluate import ScoreSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The rules; all in dB of nSDR."""

    min_improvement: float = 3.0  # over the unprocessed mixture, mean over songs and sources
    min_nsdr: float = 0.0  # mean over songs and sources; silence scores 0 dB, some 5 dB above the mixture
    margin: float = 0.0  # the candidate must beat the champion by more than this, overall
    source_tolerance: float = 0.5  # and no source may fall further than this below the champion's


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate says, and why, in one sentence for people and in numbers for tables."""

    promote: bool
    reason: str
    improvement: float  # over the mixture, dB
    gain: float | None  # over the champion, dB; None where there is none
    source_gains: Mapping[str, float]  # the same per source; empty where there is no champion
    num_songs: int


def decide(candidate: ScoreSummary, champion: ScoreSummary | None, config: GateConfig) -> Decision:
    """Promote, or say which rule forbids it. InputError if the two were not scored alike."""
    if champion is not None:
        _require_comparable(candidate, champion)
    gains = {} if champion is None else _gains(candidate, champion)
    gain = None if champion is None else candidate.overall.nsdr - champion.overall.nsdr
    obstacle = _obstacle(candidate, champion, config, gain=gain, gains=gains)
    return Decision(
        promote=obstacle is None,
        reason=obstacle or _praise(candidate, gain),
        improvement=candidate.overall.improvement,
        gain=gain,
        source_gains=gains,
        num_songs=len(candidate.track_ids),
    )


def _require_comparable(candidate: ScoreSummary, champion: ScoreSummary) -> None:
    if candidate.protocol != champion.protocol:
        raise InputError(
            f"the candidate was scored under {candidate.protocol!r}, the champion under {champion.protocol!r}: scoring "
            "both under one protocol would do"
        )
    if candidate.dataset_digest != champion.dataset_digest or candidate.track_ids != champion.track_ids:
        only = sorted(set(candidate.track_ids) ^ set(champion.track_ids))
        seen = f"{len(only)} songs were heard by one of them only, such as {only[0]!r}" if only else "the audio differs"
        raise InputError(f"candidate and champion were scored on different songs ({seen}): scoring both anew would do")
    if set(candidate.sources) != set(champion.sources):
        raise InputError(
            f"the candidate separates {sorted(candidate.sources)}, the champion {sorted(champion.sources)}: "
            "they are no rivals; another registry.name would do"
        )


def _gains(candidate: ScoreSummary, champion: ScoreSummary) -> dict[str, float]:
    return {source: score.nsdr - champion.sources[source].nsdr for source, score in candidate.sources.items()}


def _obstacle(
    candidate: ScoreSummary,
    champion: ScoreSummary | None,
    config: GateConfig,
    *,
    gain: float | None,
    gains: Mapping[str, float],
) -> str | None:
    """The first rule that forbids the promotion, as a sentence; None if none does."""
    improvement = candidate.overall.improvement
    # Written so that a score that is no number passes no rule.
    if not improvement >= config.min_improvement:
        return (
            f"It improves on the unprocessed mixture by {improvement:+.2f} dB nSDR over {_songs(candidate)}; "
            f"{config.min_improvement:+.2f} dB are asked for."
        )
    if not candidate.overall.nsdr >= config.min_nsdr:
        return (
            f"It scores {candidate.overall.nsdr:+.2f} dB nSDR over {_songs(candidate)}; {config.min_nsdr:+.2f} dB are "
            "asked for, and silence scores 0 dB."
        )
    if champion is None or gain is None:
        return None
    if candidate.model_digest == champion.model_digest:
        return "It is the champion already: the same weights."
    if not gain > config.margin:
        return (
            f"It scores {gain:+.2f} dB nSDR against the champion over {_songs(candidate)}; "
            f"more than {config.margin:+.2f} dB are asked for."
        )
    worst = min(gains, key=lambda source: gains[source])
    if not gains[worst] >= -config.source_tolerance:
        return (
            f"It scores {gain:+.2f} dB nSDR against the champion, but {gains[worst]:+.2f} dB on {worst}; a loss of "
            f"{config.source_tolerance:.2f} dB is allowed."
        )
    return None


def _praise(candidate: ScoreSummary, gain: float | None) -> str:
    over_mixture = f"{candidate.overall.improvement:+.2f} dB nSDR over the unprocessed mixture"
    if gain is None:
        return f"The first champion: {over_mixture}, over {_songs(candidate)}."
    return f"It scores {gain:+.2f} dB nSDR against the champion and {over_mixture}, over {_songs(candidate)}."


def _songs(summary: ScoreSummary) -> str:
    return f"{len(summary.track_ids)} song{'s' if len(summary.track_ids) != 1 else ''}"
