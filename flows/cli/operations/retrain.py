"""`stemline retrain`: trains again if a trigger fires, as the deployment does; with `--explain`, only says whether."""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from flows import retrain_policy
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from flows.retraining import retrain_log
from flows.retraining.facts import gather_facts

RUN = "stemline retrain"  # the name of a manual retraining in the log, by which it is continued after a kill


def retrain(
    *overrides: Overrides,
    explain: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only say whether it would train now, and why.")
    ] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Bring the dataset up to date and train again if a trigger fires, as the `retrain` deployment does.

    Example: `stemline retrain --explain store.root=STORE retrain.new_hours=5`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: explained(config) if explain else run(config, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, *, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Whether it was trained again and why, and the result of the run."""
    with prepared(config, verb="retrain", screen=screen, debug=debug):
        from flows.cli.result_tables import run_tables
        from flows.retraining.retrain_model import retrain_model

        result = retrain_model(config, run=RUN, due=retrain_log.now())
    reason = Text(result.reason, overflow="fold")
    if result.full_run is None:
        return {"retrained": False, "why": result.reason, "console_output": [reason]}
    tables = run_tables(result.full_run, store=config.store.root)
    return {"retrained": True, "why": result.reason, **asdict(result.full_run), "console_output": [reason, *tables]}


def explained(config: RunConfig) -> dict[str, Any]:
    """Whether the model would be trained again now, in one sentence, and the log of retrainings."""
    facts = gather_facts(config)
    judgement = retrain_policy.judge(facts, config.retrain)
    remarks = retrain_policy.remarks(facts)
    output: list[Any] = [Text(sentence, overflow="fold") for sentence in (judgement.sentence, *remarks)]
    if facts.done:
        rows = [
            [
                past.began_at[:16],
                past.ended_at[:16] or "–",
                past.status,
                past.champion or "–",
                past.error or past.reason,
            ]
            for past in facts.done
        ]
        output.append(table("Retrainings", ["began, UTC", "ended", "how", "champion", "why"], rows[::-1]))
    return {
        "retrain": judgement.retrain,
        "why": judgement.sentence,
        "remarks": remarks,
        "facts": asdict(facts),
        "console_output": output,
    }
