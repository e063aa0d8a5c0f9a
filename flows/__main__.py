"""The command `stemline`: puts the verbs together. Each verb is a file in `flows/cli`, named as the verb.

A verb's file is imported when that verb runs, and none of them imports anything heavy at its top.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cyclopts import App, CycloptsError, Group
from rich.text import Text

from datasets.store.http_proxies import bypass_proxies
from flows.console.sanitized_console import Terminal
from flows.console.standard_streams import lost, make_usable
from flows.console.stop_signals import leave_at_once, stop_signals, stopped

# Group in the help: package in flows.cli, and its verbs in the order shown.
VERBS = {
    "Pipeline": (
        "pipeline", ("run", "demo", "ingest", "curate", "analyze", "automix", "train", "evaluate", "promote"),
    ),
    "Before you start": ("planning", ("init", "presets", "config", "inspect", "plan", "doctor")),
    "Models": (
        "models",
        (
            "separate", "compare", "listen", "outliers", "history", "lineage", "card", "rollback", "export", "compress",
            "bag",
        ),
    ),
    "Store": ("store", ("datasets", "forget", "gc")),
    "Operations": ("operations", ("ui", "deploy", "retrain", "notify", "webhook", "sbom")),
}  # fmt: skip
VERB_NAMES = tuple(verb for _, verbs in VERBS.values() for verb in verbs)
WITHOUT_SETTINGS = ("presets", "config", "sbom")  # `config` explains them all
RENAMED = {"corpus": "inspect", "inventory": "sbom", "why": "retrain --explain"}  # verbs of 0.1.0


def build_app() -> App:
    """The command line with every verb, none of which is imported yet."""
    app = App(
        name="stemline",
        console=Terminal(),
        help="From a folder of multitrack songs to a separation model in production.",
        version=version("stemline"),
        help_format="markdown",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for title, (package, verbs) in VERBS.items():
        group = Group.create_ordered(title)
        for verb in verbs:
            order = VERB_NAMES.index(verb)
            app.command(f"flows.cli.{package}.{verb}:{verb}", name=verb, group=group, sort_key=order)
    app.register_install_completion_command(
        help="Let bash, zsh or fish complete verbs and options; writes to their files in your home, and says where."
    )
    flags = Group.create_ordered("Other")
    for flag in ("--help", "--version", "--install-completion"):
        app[flag].group = flags
    return app


app = build_app()


def main(tokens: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code: 0 done, 1 our fault, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""
    make_usable()
    _ensure_home()
    bypass_proxies()
    with stop_signals(_remove_sessions):
        code = _run(tokens)
    if tokens is None and stopped():
        leave_at_once(code)
    return code


def _run(tokens: Sequence[str] | None) -> int:
    tokens = sys.argv[1:] if tokens is None else tokens
    if tokens and tokens[0] in RENAMED:
        return _refuse(f"`stemline {tokens[0]}` is called `stemline {RENAMED[tokens[0]]}` now.")
    if not tokens or tokens[0] in app.help_flags:  # only here is every verb's help needed
        for verb in VERB_NAMES:
            app[verb]
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
        if len(tokens) > 1 and tokens[0] in VERB_NAMES and not {*app.help_flags}.isdisjoint(tokens):
            _list_settings(tokens[0])
    except CycloptsError as error:
        return _refuse(f"{error}\nSee `stemline --help`.")
    except KeyboardInterrupt:
        return stopped() or 130
    except OSError as error:  # of printing the help: a verb catches what is raised in it
        return lost(error)
    return code if isinstance(code, int) else 0


def _list_settings(verb: str) -> None:
    """Below the help of a verb that takes any: those that act in it."""
    from flows.cli import verb_settings

    if verb not in WITHOUT_SETTINGS:
        for part in verb_settings.lines(verb):
            Terminal().print(part)


def _ensure_home() -> None:
    """A user without a name and without HOME gets `/`, as in a container: Prefect asks for it when it is imported."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _remove_sessions() -> None:
    """Of a Ray that this process started, if it did, the folder."""
    if cluster := sys.modules.get("pipelines.runtime.cluster"):
        cluster.remove_session_folders()


def _refuse(message: str) -> int:
    Terminal(stderr=True).print(Text(message), style="red", soft_wrap=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
