"""One step as a job of a cluster: sent from here, run there by `python -m flows.tasks.remote_step CALL ANSWER`.

Call and answer are JSON files in the store's tables, so that both ends must reach those and nothing else of each
other. What the job says comes back as lines of its log: marked ones draw progress, the others are told as they are.
"""

import importlib
import json
import logging
import shlex
import sys
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.errors import InputError
from datasets.store import storage, strict_json
from flows import config as door
from flows.console.error_messages import explain
from flows.console.progress_display import Screen, current
from pipelines.evaluation import evaluate
from pipelines.preparation import analyze, automix, curate, ingest, label_check
from pipelines.runtime import ray_jobs
from pipelines.runtime.ray_jobs import JobLostError, JobSpec, RayJob
from pipelines.runtime.step_keys import Step
from pipelines.training import train

_LOG = logging.getLogger("flows.tasks.remote_step")
VERSION = 1  # of calls and answers
STEP = Step(
    name="job",
    version=VERSION,
    # A job that began before a step changed would do other work: nobody must wait for its answer.
    uses={
        **ingest.SONG.versions,
        **curate.STEP.versions,
        **label_check.STEP.versions,
        **analyze.STEP.versions,
        **automix.PLAN.versions,
        **automix.STEP.versions,
        **train.STEP.versions,
        **evaluate.STEP.versions,
    },
)
MARK = "@stemline "
SAY_EVERY_S = 2.0
_CALLS = ("start", "advance", "note", "finish", "cached", "detail", "say")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInputs:
    """All that decides on what a job does."""

    step: str
    arguments: Mapping[str, Any]


class JobFailedError(RuntimeError):
    """A step that failed in the cluster by a fault of the program; `kinds` are the names of the error's classes."""

    def __init__(self, message: str, kinds: frozenset[str]) -> None:
        super().__init__(message)
        self.kinds = kinds


def send(server: str, name: str, function: Callable[..., Any], arguments: Mapping[str, Any], *, run: str) -> Any:
    """What `function` returns for the arguments, one of which is the configuration; done by a job of the cluster.

    InputErrors of the job come back as such, other errors as JobFailedError.
    """
    config = next(value for value in arguments.values() if isinstance(value, door.RunConfig))
    where = f"{function.__module__}:{function.__qualname__}"
    inputs = JobInputs(step=name, arguments={key: _plain(value) for key, value in arguments.items()})
    call = json.dumps({"function": where, "arguments": inputs.arguments})
    key = f"{name}-{STEP.key(inputs)[:12]}"
    folder = storage.join(config.store.tables, "cache", "jobs")
    asked = storage.join(folder, f"{key}.json")
    storage.write(asked, call.encode())

    def command(job: str) -> str:
        answer = storage.join(folder, f"{job}.answer.json")
        return f"python -m flows.tasks.remote_step {shlex.quote(asked)} {shlex.quote(answer)}"

    job = ray_jobs.submit_or_attach(
        server, JobSpec(name=key, command=command, run=run), on_log_line=_Listener(current())
    )
    _LOG.info("%s: job %s of %s, %s", name, job.id, server, job.status)
    return _answer(job, storage.join(folder, f"{job.id}.answer.json"), typing.get_type_hints(function)["return"])


def _answer(job: RayJob, address: str, kind: Any) -> Any:
    try:
        told = json.loads(storage.read(address))
    except FileNotFoundError:
        if job.status == "STOPPED":
            raise InputError(f"job {job.id} was stopped in the cluster; the same command goes on from there") from None
        raise JobLostError(f"job {job.id} ended without an answer: {job.message or job.status}") from None
    if "error" not in told:
        return door.parse(kind, json.dumps(told["result"]))
    if told["error"]["exit_code"] == 2:
        raise InputError(told["error"]["message"])
    raise JobFailedError(f"job {job.id}: {told['error']['message']}", frozenset(told["error"]["kinds"]))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


class _Listener:
    """Draws the marked lines of a job on the screen; the others go to the log."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def __call__(self, line: str) -> None:
        if not line.startswith(MARK):
            if line.strip():
                _LOG.info("%s", line)
            return
        try:
            call, arguments = json.loads(line.removeprefix(MARK))
        except ValueError:
            return
        if call in _CALLS:
            getattr(self._screen, call)(*arguments)


# --- in the cluster -----------------------------------------------------------------------------------------


class Relay(Screen):
    """A screen that writes what it is told as marked lines, progress at most every two seconds."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self._owed, self._told_s = 0.0, 0.0

    def start(self, name: str, total: float, unit: str) -> None:
        super().start(name, total, unit)
        self._owed = 0.0
        self._tell("start", name, total, unit)

    def advance(self, amount: float = 1.0) -> None:
        self._owed += amount
        if time.monotonic() - self._told_s > SAY_EVERY_S:
            self._pay()

    def note(self, text: str) -> None:
        if time.monotonic() - self._told_s > SAY_EVERY_S:
            self._pay()
            self._tell("note", text)

    def finish(self, summary: str) -> None:
        self._pay()
        super().finish(summary)
        self._tell("finish", summary)

    def cached(self, name: str, summary: str) -> None:
        self._tell("cached", name, summary)

    def detail(self, text: str) -> None:
        self._tell("detail", text)

    def say(self, text: str) -> None:
        self._tell("say", text)

    def _pay(self) -> None:
        if self._owed:
            self._tell("advance", self._owed)
        self._owed, self._told_s = 0.0, time.monotonic()

    def _tell(self, call: str, *arguments: Any) -> None:
        sys.stdout.write(f"{MARK}{json.dumps([call, arguments])}\n")
        sys.stdout.flush()


def carry_out(asked: str, answer: str) -> int:
    """Does what the call asks for, writes the answer, and is 0 if that is a result."""
    from pipelines.runtime.cluster import session

    try:
        with Relay(), session():
            function, arguments = _read_call(asked)
            told: dict[str, Any] = {"result": _plain(function(**arguments))}
    except Exception as error:
        logging.getLogger("flows.tasks.remote_step").exception("the step failed")
        failure = explain(error)
        kinds = sorted({kind.__name__ for kind in type(error).__mro__})
        told = {"error": {"message": failure.message, "exit_code": failure.exit_code, "kinds": kinds}}
    storage.write(answer, strict_json.dumps(told).encode())
    return int("error" in told)


def _read_call(asked: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function and its arguments, of the types that it declares; only steps of ours can be called."""
    told = json.loads(storage.read(asked))
    module, _, name = told["function"].partition(":")
    step = getattr(importlib.import_module(module), name, None) if module.startswith("flows.") else None
    function = getattr(getattr(step, "fn", None), "__wrapped__", None)
    if function is None:
        raise InputError(f"{told['function']} is no step that can be carried out as a job")
    hints = typing.get_type_hints(function)
    return function, {key: door.parse(hints[key], json.dumps(value)) for key, value in told["arguments"].items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(carry_out(*sys.argv[1:]))
