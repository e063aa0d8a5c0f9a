"""The manual page `stemline.1` from the command line itself: `make man` writes it, and a test compares it."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from stemline_reference import Argument, Verb, common, is_common, usage, verbs

PAGE = Path(__file__).resolve().parents[2] / "infra" / "man" / "stemline.1"
ENVIRONMENT = {
    "MLFLOW_TRACKING_URI": "the MLflow server or database; without it, mlflow.db in the store",
    "PREFECT_API_URL": "the Prefect server; without it, a temporary one",
    "RAY_ADDRESS": "the Ray cluster; without it, this machine",
    "STEMLINE_NOTIFY": "who is told of promotions and failures: addresses of Apprise, with spaces between",
    "STEMLINE_WEBHOOK_SECRET": "of stemline webhook: the secret that MLflow signs its requests with",
    "WANDB_API_KEY": "of train.wandb: the account at Weights & Biases",
}
EXITS = {"0": "done", "1": "a fault of stemline or of a service", "2": "bad input", "130": "Ctrl-C", "143": "SIGTERM"}


def page() -> str:
    """The whole page in the macros of man(7)."""
    listed = verbs()
    release = version("stemline")
    lines = [f'.TH STEMLINE 1 "" "stemline {release}" "User Commands"', ".SH NAME"]
    lines += [r"stemline \- from a folder of multitrack songs to a separation model in production", ".SH SYNOPSIS"]
    lines += [r".B stemline \fIVERB\fR [\fIKEY\fR=\fIVALUE\fR ...] [\fIOPTIONS\fR]", ".SH DESCRIPTION"]
    lines += ["A verb does one thing; settings are dotted names with a value, such as train.steps=20."]
    lines += [r"\fBstemline config\fR \fIKEY\fR explains any of them,"]
    lines += [r"\fBstemline\fR \fIVERB\fR \fB\-\-help\fR lists those of a verb."]
    lines += [".SH OPTIONS OF EVERY VERB", *_arguments(common(listed))]
    for group, inside in groupby(listed, key=lambda verb: verb.group):
        lines.append(f".SH {group.upper() or 'OTHER'}")
        for verb in inside:
            lines += _verb(verb)
    lines += [".SH ENVIRONMENT", *_entries(ENVIRONMENT), ".SH EXIT STATUS", *_entries(EXITS)]
    return "\n".join(lines) + "\n"


def _verb(verb: Verb) -> Iterator[str]:
    yield ".SS " + _escaped(usage(verb))
    for number, paragraph in enumerate(verb.summary.split("\n\n")):
        yield from ([".PP"] if number else []) + [_escaped(paragraph)]
    yield from _arguments([argument for argument in verb.arguments if not is_common(argument)])
    if verb.example:
        yield from (".PP", "Example:", ".EX", _escaped(verb.example), ".EE")


def _arguments(arguments: list[Argument]) -> Iterator[str]:
    for argument in arguments:
        yield from (".TP", rf"\fB{_escaped(', '.join(argument.names))}\fR", _escaped(argument.meaning))


def _entries(entries: dict[str, str]) -> Iterator[str]:
    for name, meaning in entries.items():
        yield from (".TP", rf"\fB{_escaped(name)}\fR", _escaped(f"{meaning[0].upper()}{meaning[1:]}."))


def _escaped(text: str) -> str:
    """Text without Markdown's marks, which man(7) does not read as requests."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
