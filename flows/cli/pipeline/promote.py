"""`stemline promote`: through the gate, or past it with --version, --force and --reason."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from datasets.errors import InputError
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_until, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen
from pipelines import registry
from pipelines.evaluation.gate import Check, GateDecision


def promote(
    *overrides: Overrides,
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Say what the gate would decide; register nothing.")
    ] = False,
    version: Annotated[
        int | None, Parameter(show_default=False, help="Promote this version past the gate; with --force and --reason.")
    ] = None,
    force: Annotated[bool, Parameter(negative="", show_default=False, help="Pass the gate; with --version.")] = False,
    reason: Annotated[str, Parameter(show_default=False, help="Why, for `stemline history`.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Register the trained model, and make it the champion if the gate lets it pass.

    What was rolled back from, and what the gate refused, is promoted by name only: --version, --force and --reason.

    --dry-run decides on the model that the store trained last, with the settings of that run.

    Example: `stemline promote --dry-run store.root=STORE`
    """
    if version is None and not force and not reason:
        if not dry_run:
            return run_until("promote", overrides, options)
        return run_verb(
            overrides,
            options,
            lambda config, screen: decide_only(config, overrides, of_last_run=not options.preset, screen=screen),
        )
    return run_verb(
        overrides,
        options,
        lambda config, screen: by_name(config, version, force=force and not dry_run, reason=reason, screen=screen),
    )


def decide_only(config: RunConfig, overrides: Sequence[str], *, of_last_run: bool, screen: Screen) -> dict[str, Any]:
    """What the gate would decide on what a store has trained and scored; nothing is written."""
    from flows.cli import promote_dry_run
    from flows.cli.result_tables import model_tables

    screen.start("decide", 0, "")
    training = promote_dry_run.find_training(config, overrides, of_last_run=of_last_run)
    model = promote_dry_run.decide_only(training)
    screen.finish(f"run {training.trained.run_key}, with its settings" if of_last_run else training.trained.run_key)
    return {**asdict(model), "console_output": model_tables(model)}


def by_name(config: RunConfig, version: int | None, *, force: bool, reason: str, screen: Screen) -> dict[str, Any]:
    """The entry of the promotion log; a version becomes the champion past the gate, and nothing is trained."""
    from flows.console import notifications
    from flows.console.version_card import describe_version

    if version is None or not force or not reason.strip():
        given = [f"--version {version}"] if version is not None else []
        given += [*(["--force"] if force else []), *([f"--reason {reason!r}"] if reason else [])]
        raise InputError(
            "to promote past the gate, give all of --version N, --force and --reason TEXT, without --dry-run; got "
            + (" ".join(given) or "none of them")
        )
    screen.start("promote", 0, "")
    why = reason.strip()
    decision = GateDecision(
        promote=True,
        reason=why,
        improvement=math.nan,
        num_songs=0,
        checks=(Check(rule="force", met=True, message=why),),
    )
    promoted, entry = registry.promote_by_name(config.registry, str(version), asdict(decision), store=config.store.root)
    problem = notifications.send(
        config.notify, notifications.of_decision(config, promoted, promoted=True, reason=f"past the gate: {why}")
    )
    describe_version(config, promoted)  # last: it can fail, and the promotion is done
    screen.finish(
        f"models:/{promoted.name}@{registry.CHAMPION} is version {promoted.version}, past the gate, instead of "
        f"{entry.before or 'none'}{f'; {problem}' if problem else ''}"
    )
    return {**asdict(entry), "uri": promoted.uri}
