"""What the end of a verb says became of the candidate."""

import pytest

from flows.cli.result_tables import outcome
from pipelines.evaluation.gate import GateDecision
from pipelines.registry import ModelVersion


@pytest.mark.parametrize(
    ("alias", "reason", "said"),
    [
        (
            "",
            "No better than silence, which scores 0 dB: its mean is -0.10 dB nSDR over 2 songs.",
            "models:/stemline/3 is registered as candidate, not promoted: no better than silence, which scores 0 dB: "
            "its mean is -0.10 dB nSDR over 2 songs.",
        ),
        ("", "Ada says no.", "models:/stemline/3 is registered as candidate, not promoted: Ada says no."),
        ("champion", "The first champion: +6.00 dB.", "Promoted: The first champion: +6.00 dB."),
    ],
)
def test_a_candidate_is_said_to_be_one(alias: str, reason: str, said: str) -> None:
    decision = GateDecision(promote=bool(alias), reason=reason, improvement=1.0, checks=(), num_songs=2)
    version = ModelVersion(name="stemline", version="3", run_id="r", run_key="k", digest="d", alias=alias)
    assert outcome(decision, version).plain == said
    assert outcome(decision, None).plain.startswith("Would be promoted" if alias else "Would not be promoted")
