"""Whether a candidate may replace the champion. Read `decision.py` first, then `rules.py`."""

from pipelines.evaluation.gate.decision import CLEAN, GateDecision, after_approval, decide
from pipelines.evaluation.gate.gate_config import GateConfig, with_tags
from pipelines.evaluation.gate.paired_gains import Pairs, compare
from pipelines.evaluation.gate.rules import Check

__all__ = [
    "CLEAN",
    "Check",
    "GateConfig",
    "GateDecision",
    "Pairs",
    "after_approval",
    "compare",
    "decide",
    "with_tags",
]
