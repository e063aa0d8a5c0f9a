"""How every verb runs: settings resolved, the store locked, Prefect and Ray ready, the result printed."""

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from rich.text import Text

from datasets.store import strict_json
from flows import config as settings
from flows.cli.options import PRESET, Options
from flows.config import RunConfig
from flows.console.error_messages import explain
from flows.console.progress_display import Screen
from flows.console.sanitized_console import Terminal
from flows.tasks.prefect_env import prefect_session
from flows.tasks.store_lock import store_lock

CORPUS_STEPS = ("ingest", "curate", "analyze", "automix")
# Verbs that talk to MLflow.
WITH_REGISTRY = (
    "evaluate",
    "promote",
    "run",
    "demo",
    "compare",
    "listen",
    "retrain",
)


def run_verb(
    overrides: Sequence[str],
    options: Options,
    job: Callable[[RunConfig, Screen], dict[str, Any]],
    *,
    preset: str = PRESET,
) -> int:
    """Preset and overrides become one configuration, which is printed or acted on; returns the exit code.

    The job's result is printed; an error becomes one message and its exit code.
    """
    errors = Terminal(stderr=True)
    try:
        config = settings.load(options.preset or preset, overrides)
        if options.print_config:
            sys.stdout.write(settings.to_toml(config))
            return 0
        with Screen(errors) as screen:
            result = job(config, screen)
        result["seconds"] = screen.seconds
    except KeyboardInterrupt:
        errors.print("Stopped. Run the same command again to continue.")
        return 130
    except Exception as error:
        if options.debug:
            errors.print(Text("".join(traceback.format_exception(error)).rstrip()))
        failure = explain(error)
        errors.print(Text(failure.message), style="red", soft_wrap=True)
        return failure.exit_code
    return print_result(result, as_json=options.json)


def print_result(result: dict[str, Any], *, as_json: bool) -> int:
    """To stdout, as text or as JSON; returns the exit code that the result asks for."""
    console_output, exit_code = result.pop("console_output", ()), int(result.pop("exit_code", 0))
    if as_json:
        # A document in a standard format is printed as it is, without what we add to every verb's result.
        sys.stdout.write(strict_json.dumps(result.get("document", result), indent=2) + "\n")
        return exit_code
    console = Terminal()
    for part in console_output:
        console.print(part)
    return exit_code


def run_until(verb: str, overrides: Sequence[str], options: Options) -> int:
    """The verb of a pipeline step: every step up to its own; finished ones are not repeated."""
    return run_verb(
        overrides, options, lambda config, screen: run_steps(config, verb=verb, screen=screen, debug=options.debug)
    )


def run_steps(config: RunConfig, *, verb: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Every step up to the verb's own. The result is small enough for JSON, except `console_output`, for people."""
    if verb not in CORPUS_STEPS:
        config.model.check()  # not after an hour of ingesting
    with prepared(config, verb=verb, screen=screen, debug=debug):
        from flows import build_corpus, full_run, train_model
        from flows.cli.result_tables import corpus_tables, model_tables, run_tables

        if verb in CORPUS_STEPS:
            corpus = build_corpus.build_corpus(config, until=verb)
            output = corpus_tables(corpus)
            return {**asdict(corpus), "funnel": asdict(corpus.funnel), "console_output": output}
        if verb in train_model.STEPS:
            corpus = build_corpus.build_corpus(config)
            model = train_model.train_model(config, corpus, until=verb)
            return {**asdict(model), "console_output": model_tables(model)}
        result = full_run.full_run(config)
        return {**asdict(result), "console_output": run_tables(result, store=config.store.root)}


@contextmanager
def prepared(config: RunConfig, *, verb: str, screen: Screen, debug: bool) -> Iterator[None]:
    """The store locked, the servers of the environment reachable, Prefect's home in the store, one Ray session."""
    from pipelines import registry
    from pipelines.registry.connection import check_address
    from pipelines.runtime.cluster import session

    with store_lock(config.store.root, verb=verb, data=config.store.data) as store, terminable():
        screen.say(f"stemline {verb} · store {config.store.root}")
        if verb in WITH_REGISTRY:
            check_address(registry.address(str(store)))  # not after an hour of training
        alone = nullcontext() if debug else screen.alone_on_stderr(store / "cache" / "stderr.log")
        with alone, prefect_session(store, debug=debug), session():
            screen.start("start", 0, "")
            yield


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that Ray, Prefect and MLflow are taken down with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
