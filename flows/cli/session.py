"""How every verb runs: settings resolved, the store locked, Prefect and Ray ready, the result printed."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from rich.text import Text

from datasets.errors import InputError, without_passwords
from datasets.store import scratch, strict_json
from flows import config as settings
from flows.cli.options import PRESET, Options
from flows.config import RunConfig
from flows.console.error_messages import explain
from flows.console.progress_display import Screen
from flows.console.sanitized_console import Terminal
from flows.console.standard_streams import lost, unfailing, write_document
from flows.console.stop_signals import STOPPED, stopped
from flows.tasks.open_store import store_lock
from flows.tasks.prefect_env import prefect_session


def run_verb(
    overrides: Sequence[str],
    options: Options,
    job: Callable[[RunConfig, Screen], dict[str, Any]],
    *,
    preset: str | None = None,
) -> int:
    """Preset and overrides become one configuration, which is printed or acted on; returns the exit code.

    The job's result is printed; an error becomes one message and its exit code.

    Args:
        preset: of a command that was told none; without one as well, the settings of the last run in the store, which
            is said, else `smoke`.
    """
    errors = Terminal(stderr=True)
    try:
        named = options.preset or preset
        config = settings.load(PRESET if named is None else named, overrides)
        if named is None and (last := settings.of_last_run(config.store, overrides)) not in (None, config):
            config = last
            note = f"settings of the last run in {config.store.root}; --preset NAME takes others, such as {PRESET}"
            errors.print(Text(note), style="dim", soft_wrap=True)
        scratch.use(config.store.scratch, limit_gb=config.store.scratch_gb)
        if options.print_config:
            return print_result({"text": settings.to_toml(config)}, as_json=False)
        with _log_file(options.log_file) as log, Screen(errors, log) as screen:
            try:
                result = job(config, screen)
            except (Exception, KeyboardInterrupt) as error:
                screen.log_end(explain(error).message if isinstance(error, Exception) else STOPPED)
                raise
        result["seconds"] = screen.seconds
    except (Exception, KeyboardInterrupt) as error:
        return _ended(error, errors, debug=options.debug)
    return print_result(result, as_json=options.json)


@contextmanager
def _log_file(path: str) -> Iterator[Terminal | None]:
    """A file that lines are added to, each at once; InputError where it cannot be opened.

    Where it takes no more, as on a full disk, the command goes on, and it is said at the end.
    """
    if not path:
        yield None
        return
    try:
        file = open(path, "a", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115, closed below
    except OSError as error:
        raise InputError(f"--log-file {path} cannot be written: {error.strerror}") from error
    try:
        yield Terminal(file=unfailing(file), width=200)
    finally:
        try:
            file.close()
        except OSError as error:
            Terminal(stderr=True).print(Text(f"--log-file {path} lacks lines: {error.strerror}"), soft_wrap=True)


def _ended(error: BaseException, errors: Terminal, *, debug: bool) -> int:
    """What ended a command, in a message; what fails once it was stopped fails because of that."""
    if isinstance(error, KeyboardInterrupt) or stopped():
        errors.print(STOPPED)
        return stopped() or 130
    if debug:
        errors.print(Text(without_passwords("".join(traceback.format_exception(error)).rstrip())))
    failure = explain(error)
    errors.print(Text(failure.message), style="red", soft_wrap=True)
    return failure.exit_code


def print_result(result: dict[str, Any], *, as_json: bool) -> int:
    """To stdout, as text or as JSON; returns the exit code that the result asks for, or 2 where stdout takes no more.

    A reader that goes away, as `head` does, has what it wanted.
    """
    console_output, exit_code = result.pop("console_output", ()), int(result.pop("exit_code", 0))
    try:
        if "text" in result and not as_json:
            write_document(result["text"])
        elif as_json:
            # A document in a standard format is printed as it is, without what we add to every verb's result.
            write_document(strict_json.dumps(result.get("document", result), indent=2) + "\n")
        else:
            console = Terminal()
            for part in console_output:
                console.print(part)
        sys.stdout.flush()
    except OSError as error:
        return lost(error) or exit_code
    return exit_code


def run_until(verb: str, overrides: Sequence[str], options: Options, *, dry_run: bool = False) -> int:
    """The verb of a pipeline step: every step up to its own; finished ones are not repeated."""

    def job(config: RunConfig, screen: Screen) -> dict[str, Any]:
        if dry_run:
            from flows.cli import pipeline_dry_run

            return pipeline_dry_run.run(config, verb=verb, screen=screen)
        return run_steps(config, verb=verb, screen=screen, debug=options.debug)

    return run_verb(overrides, options, job)


def run_steps(config: RunConfig, *, verb: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Every step up to the verb's own. The result is small enough for JSON, except `console_output`, for people."""
    with prepared(config, verb=verb, screen=screen, debug=debug):
        settings.keep_as_last_run(config)
        from flows import build_corpus, full_run, train_model
        from flows.cli.result_tables import corpus_tables, model_tables, run_tables
        from flows.tasks.early_checks import CORPUS_STEPS

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
    """Checked what can be known now, the store locked, Prefect's home in the store, one Ray session."""
    from flows.tasks.early_checks import check_run
    from pipelines.runtime.cluster import session

    check_run(config, verb=verb)
    with store_lock(config.store.root, verb=verb, data=config.store.data) as store:
        screen.say(f"stemline {verb} · store {config.store.root}")
        screen.say(_services())
        alone = nullcontext() if debug else screen.alone_on_stderr(store / "cache" / "stderr.log")
        with alone, prefect_session(store, debug=debug), session(), _failure_told(config, verb, screen):
            screen.start("start", 0, "")
            yield


@contextmanager
def _failure_told(config: RunConfig, verb: str, screen: Screen) -> Iterator[None]:
    """People are told of an error inside, who may have left the command alone for days."""
    try:
        yield
    except Exception as error:
        if not stopped():
            from flows.console import notifications

            notice = notifications.of_failure(config, f"stemline {verb}", explain(error).message)
            if problem := notifications.send(config.notify, notice):
                screen.say(problem)
        raise


def _services() -> str:
    """What a command starts or asks besides itself."""
    server, cluster = os.environ.get("PREFECT_API_URL"), os.environ.get("RAY_ADDRESS")
    prefect = f"asks Prefect at {server}" if server else "starts a temporary server of Prefect"
    ray = f"Ray at {cluster}" if cluster and cluster != "local" else "a Ray on this machine once a step needs it"
    return without_passwords(f"{prefect}, and {ray}")
