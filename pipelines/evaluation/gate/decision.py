"""Whether a candidate may replace the champion: rules in, a decision with its reasons out, and nothing else.

Both must have been scored on the same songs under the same protocol. They are compared song by song
(`paired_bootstrap.py`), and the candidate is promoted only if the lower bound of its gain lies above the margin and no
source is likely to be worse than the tolerance. The bound allows for other songs and for another seed of the same
recipe (`seed_noise.py`). The first candidate of all is compared with silence and the unprocessed mixture alone, and
whatever the settings, no model that is no better than these two becomes the champion. Decisions are made on nSDR, which
every source has in every song in which it sounds; what a model puts where it does not is leakage, and has a rule of its
own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from datasets.store.strict_json import FORMER_NAME
from pipelines.evaluation.gate.gate_config import GateConfig
from pipelines.evaluation.gate.gate_plugins import plugin_checks
from pipelines.evaluation.gate.paired_gains import compare, over_remaining, plural, require_comparable
from pipelines.evaluation.gate.rules import (
    Check,
    champion_rules,
    contamination_rule,
    license_rule,
    or_nan,
    standalone_rules,
    with_bound,
)
from pipelines.evaluation.paired_bootstrap import Difference
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from pipelines.evaluation.summary import ScoreSummary
from pipelines.lineage.contamination import Contamination
from pipelines.lineage.song_licenses import SongLicenses

CLEAN = Contamination()
NOT_KNOWN = SongLicenses(gaps=("the songs that it learned from are not known",))


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
    licenses: SongLicenses | None = None,
) -> GateDecision:
    """Promote, or say which rules forbid it. InputError if the two were not scored alike.

    Songs that one of the two was trained with are left out of every rule and of every number. `noise` is that of seeds,
    by default the setting alone. `licenses` are those of the songs that the candidate learned from.
    """
    noise = noise or seed_noise([], config.seed_noise_db)
    if champion is not None:
        require_comparable(candidate, champion)
    left_out = tuple(sorted(contamination.songs.keys() & candidate.songs.keys()))
    scores = over_remaining(candidate, left_out)
    num_models = 1 if champion is None else 2
    alone = (
        *map(_marked, standalone_rules(scores, config)),
        contamination_rule(left_out, contamination, num_models=num_models),
        *([_marked(license_rule(licenses or NOT_KNOWN))] if config.refuse_non_commercial else []),
    )
    own = tuple(plugin_checks(scores, over_remaining(champion, left_out) if champion else None, config))
    if champion is None:
        alone = (*alone, *map(_marked, own))
        reason = _obstacle(alone) or f"The first champion: {_over_mixture(scores)}, over {plural(scores.songs)}."
        return GateDecision(
            promote=all(check.met for check in alone), reason=reason, improvement=or_nan(scores.overall.improvement),
            checks=alone, num_songs=len(scores.songs), left_out=left_out,
        )  # fmt: skip
    pairs = compare(candidate, champion, config, left_out=contamination.songs, noise=noise)
    against = champion_rules(scores, over_remaining(champion, left_out), config, pairs, noise)
    checks = (*alone, *map(_marked, (*against, *own)))
    praise = f"It scores {with_bound(pairs.gain, config)}, and {_over_mixture(scores)}."
    return GateDecision(
        promote=all(check.met for check in checks),
        reason=_obstacle(checks) or praise,
        improvement=or_nan(scores.overall.improvement),
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


def _marked(check: Check) -> Check:
    """The rule with a sentence that says that it passed, where it did; one that did not pass is a reason by itself."""
    return replace(check, message=f"Passed: {check.message}") if check.met else check


def _obstacle(checks: Sequence[Check]) -> str | None:
    return next((check.message for check in checks if not check.met), None)


def _over_mixture(candidate: ScoreSummary) -> str:
    return f"{candidate.overall.improvement:+.2f} dB nSDR over the unprocessed mixture"
