"""The command line in this process: where the process is not the point, a test pays for no second start of it."""

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.__main__ import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command left: its exit code, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def stemline(*words: str) -> Answer:
    """`stemline WORDS`, with Ray and Prefect where this process has them already (`ray_local`, `prefect_server`)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), as_before():
        code = main(words)
    return Answer(code=code, out=out.getvalue(), err=err.getvalue())


def asked(*words: str) -> Any:
    """What it answers as JSON; it must succeed."""
    answer = stemline(*words, "--json")
    assert answer.code == 0, answer.err[-3000:]
    return answer.json


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """A command sets variables and moves log handlers for the process that it has to itself."""
    environment, handlers, raises = dict(os.environ), list(logging.root.handlers), logging.raiseExceptions
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        logging.root.handlers[:] = handlers
        logging.raiseExceptions = raises
