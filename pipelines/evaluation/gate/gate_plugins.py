"""Rules of the gate from plug-ins: each is called with the scores of both models, and gives (met, sentence)."""

from collections.abc import Iterator

from datasets.errors import InputError
from models.plugins import Plugin, PluginKind, require
from pipelines.evaluation.gate.gate_config import GateConfig
from pipelines.evaluation.gate.rules import Check
from pipelines.evaluation.summary import ScoreSummary

GATE_RULE = PluginKind(noun="gate rule", group="stemline.gate_rules", setting="gate.plugins", error=InputError)


def gate_rules(config: GateConfig) -> list[Plugin]:
    """The rules that the settings name; InputError where one is not there, or nothing to call."""
    return [rule for name in config.plugins if (rule := require(GATE_RULE, name))]


def plugin_checks(candidate: ScoreSummary, champion: ScoreSummary | None, config: GateConfig) -> Iterator[Check]:
    """The outcome of each, under its name; the sentence ends with the version of its code.

    There is no champion where the candidate would be the first.
    """
    for rule in gate_rules(config):
        outcome = rule.call(candidate, champion)
        if not (isinstance(outcome, tuple) and [type(part) for part in outcome] == [bool, str] and outcome[1].strip()):
            raise rule.failure(f"returned {outcome!r:.60}: want (met, sentence), a bool and a text")
        yield Check(rule=rule.name, met=outcome[0], message=f"{outcome[1]} [{rule.version}]")
