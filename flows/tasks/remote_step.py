"""One step as a job of a cluster: sent from here, run there by `python -m flows.tasks.remote_step CALL ANSWER`.

Call and answer are JSON files in the data folder, so both ends only need shared storage. The job's output comes
back as lines of its log: marked ones are progress, the others are logged as they are.
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

from datasets.errors import InputError, without_passwords
from datasets.store import scratch, storage, strict_json
from flows import config as settings
from flows.console.error_messages import explain
from flows.console.progress_display import Screen, current
from pipelines.evaluation import evaluate
from pipelines.preparation import analyze, automix, curate, ingest, label_check
from pipelines.runtime import ray_jobs
from pipelines.runtime.ray_jobs import JobLostError, JobSpec, RayJob
from pipelines.runtime.step_keys import Step
from pipelines.training import train

_LOG = logging.getLogger("flows.tasks.remote_step")
VERSION = 1  # of the format of calls and answers
STEP = Step(
    name="job",
    version=VERSION,
    # A job that began before a step changed would give another result: its answer must not be used.
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
WRITE_EVERY_S = 2.0
_CALLS = ("start", "advance", "note", "finish", "cached", "detail", "say")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInputs:
    """Everything that decides on what a job does."""

    step: str
    arguments: Mapping[str, Any]


class JobFailedError(RuntimeError):
    """A step that failed in the cluster by a fault of the program; `kinds` are the names of the error's classes."""

    def __init__(self, message: str, kinds: frozenset[str]) -> None:
        super().__init__(message)
        self.kinds = kinds


def send(server: str, name: str, function: Callable[..., Any], arguments: Mapping[str, Any], *, run: str) -> Any:
    """What `function` returns for the arguments, one of which is the configuration, run by a job of the cluster.

    InputErrors of the job come back as such, other errors as JobFailedError.
    """
    config = next(value for value in arguments.values() if isinstance(value, settings.RunConfig))
    where = f"{function.__module__}:{function.__qualname__}"
    inputs = JobInputs(step=name, arguments={key: _as_dict(value) for key, value in arguments.items()})
    call = json.dumps({"function": where, "arguments": inputs.arguments})
    key = f"{name}-{STEP.key(inputs)[:12]}"
    folder = storage.join(config.store.tables, "cache", "jobs")
    request = storage.join(folder, f"{key}.json")
    storage.write(request, call.encode())

    def command(job: str) -> str:
        answer = storage.join(folder, f"{job}.answer.json")
        return f"python -m flows.tasks.remote_step {shlex.quote(request)} {shlex.quote(answer)}"

    job = ray_jobs.submit_or_attach(
        server, JobSpec(name=key, command=command, run=run), on_log_line=_JobProgressReader(current())
    )
    _LOG.info("%s: job %s of %s, %s", name, job.id, without_passwords(server), job.status)
    return _answer(job, storage.join(folder, f"{job.id}.answer.json"), typing.get_type_hints(function)["return"])


def _answer(job: RayJob, address: str, kind: Any) -> Any:
    try:
        answer = json.loads(storage.read(address))
    except FileNotFoundError:
        if job.status == "STOPPED":
            raise InputError(f"job {job.id} was stopped in the cluster; run the same command to continue") from None
        raise JobLostError(f"job {job.id} ended without an answer: {job.message or job.status}") from None
    if "error" not in answer:
        return settings.parse(kind, json.dumps(answer["result"]))
    error = answer["error"]
    if error["exit_code"] == 2:
        raise InputError(error["message"])
    raise JobFailedError(f"job {job.id}: {error['message']}", frozenset(error["kinds"]))


def _as_dict(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


class _JobProgressReader:
    """Calls the screen as the marked lines of a job say; other lines go to the log."""

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


class JobProgressWriter(Screen):
    """A screen that writes its calls as marked lines, progress at most every two seconds."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self._pending, self._written_s = 0.0, 0.0

    def start(self, name: str, total: float, unit: str) -> None:
        super().start(name, total, unit)
        self._pending = 0.0
        self._write("start", name, total, unit)

    def advance(self, amount: float = 1.0) -> None:
        self._pending += amount
        if time.monotonic() - self._written_s > WRITE_EVERY_S:
            self._write_pending()

    def note(self, text: str) -> None:
        if time.monotonic() - self._written_s > WRITE_EVERY_S:
            self._write_pending()
            self._write("note", text)

    def finish(self, summary: str) -> None:
        self._write_pending()
        super().finish(summary)
        self._write("finish", summary)

    def cached(self, name: str, summary: str) -> None:
        self._write("cached", name, summary)

    def detail(self, text: str) -> None:
        self._write("detail", text)

    def say(self, text: str) -> None:
        self._write("say", text)

    def _write_pending(self) -> None:
        if self._pending:
            self._write("advance", self._pending)
        self._pending, self._written_s = 0.0, time.monotonic()

    def _write(self, call: str, *arguments: Any) -> None:
        sys.stdout.write(f"{MARK}{json.dumps([call, arguments])}\n")
        sys.stdout.flush()


def run_remote_step(request: str, answer: str) -> int:
    """Runs the step that the call names and writes the answer; 0 if that is a result, 1 if it is an error."""
    from pipelines.runtime.cluster import session

    try:
        with JobProgressWriter(), session():
            function, arguments = _read_call(request)
            for config in (value for value in arguments.values() if isinstance(value, settings.RunConfig)):
                scratch.use(config.store.scratch, limit_gb=config.store.scratch_gb)
            content: dict[str, Any] = {"result": _as_dict(function(**arguments))}
    except Exception as error:
        logging.getLogger("flows.tasks.remote_step").exception("the step failed")
        failure = explain(error)
        kinds = sorted({kind.__name__ for kind in type(error).__mro__})
        content = {"error": {"message": failure.message, "exit_code": failure.exit_code, "kinds": kinds}}
    storage.write(answer, strict_json.dumps(content).encode())
    return int("error" in content)


def _read_call(request: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function and its arguments, of the types that it declares; only our own steps can be called."""
    call = json.loads(storage.read(request))
    module, _, name = call["function"].partition(":")
    step = getattr(importlib.import_module(module), name, None) if module.startswith("flows.") else None
    function = getattr(getattr(step, "fn", None), "__wrapped__", None)
    if function is None:
        raise InputError(f"{call['function']} is not a step that can run as a job")
    hints = typing.get_type_hints(function)
    return function, {key: settings.parse(hints[key], json.dumps(value)) for key, value in call["arguments"].items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(run_remote_step(*sys.argv[1:]))
