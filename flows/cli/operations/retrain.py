"""`stemline retrain`: train again if that is worth it, as the deployment does; with `--explain`, say only whether."""

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

RUN = "stemline retrain"  # under this name a retraining by hand is noted, and continued after a kill


def retrain(
    *overrides: Overrides,
    explain: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only say whether it would train now, and why.")
    ] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Bring the dataset up to date and train again if a trigger fires, as the `retrain` deployment does.

    Example: `stemline retrain --explain store.root=store retrain.new_hours=5`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: explained(config) if explain else run(config, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, *, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Whether it was trained again and why, and what came of it."""
    config.model.check()  # not after an hour of ingesting
    with prepared(config, verb="retrain", screen=screen, debug=debug):
        from flows.cli.result_tables import run_tables
        from flows.retraining.retrain_model import retrain_model

        result = retrain_model(config, run=RUN, due=retrain_log.now())
    shown: list[Any] = [Text(result.reason, overflow="fold")]
    if result.full_run is None:
        return {"retrained": False, "why": result.reason, "shown": shown}
    shown += run_tables(result.full_run, store=config.store.root)
    return {"retrained": True, "why": result.reason, **asdict(result.full_run), "shown": shown}


def explained(config: RunConfig) -> dict[str, Any]:
    """Whether the model would be trained again now, in one sentence, and what was done so far."""
    facts = retrain_log.look(config)
    judged = retrain_policy.judge(facts, config.retrain)
    shown: list[Any] = [Text(judged.sentence, overflow="fold")]
    if facts.done:
        rows = [[one.began_at[:16], one.ended_at[:16] or "–", one.champion or "–", one.reason] for one in facts.done]
        shown.append(table("Retrainings", ["began, UTC", "ended", "champion", "why"], rows[::-1]))
    return {"retrain": judged.retrain, "why": judged.sentence, "facts": asdict(facts), "shown": shown}
