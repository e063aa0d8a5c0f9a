"""Commands as jobs of a Ray cluster elsewhere: sent once, found again by who sends the same, stopped with their run.

RAY_ADDRESS=http://HEAD:8265 asks for it. A job's name says what it does, so that a flow that was killed and started
again goes on listening to the job that still runs. RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) is shown where it is set.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from pipelines.runtime.cluster import forwarded
from pipelines.runtime.follow_job_log import JobLog
from pipelines.runtime.source_package import source_package

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LOOK_S = (0.5, 5.0)  # between two looks at a job: at first, and after a while
STOP_WITHIN_S = 60.0
PATIENCE_S = 300.0  # with a cluster that does not answer while a job is under way
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_RUN = "stemline_run"


class JobLostError(RuntimeError):
    """The cluster lost a job, or stopped answering: sending it again helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What is to be done; equal names mean the same work."""

    name: str  # letters, digits and dashes
    command: Callable[[str], str]  # the shell command, by the id of the job
    run: str  # the flow run that sends it, with which it is stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """A job that has ended; `status` is SUCCEEDED, FAILED or STOPPED."""

    id: str
    status: str
    message: str
    attached: bool  # it was there already when it was asked for


def server() -> str | None:
    """The address that jobs are sent to, where RAY_ADDRESS is a web address; None where Ray is joined or started."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith(("http://", "https://")) else None


def submit_or_attach(address: str, spec: JobSpec, *, on_log_line: Callable[[str], None]) -> RayJob:
    """The job of a specification at its end; `on_log_line` is called with every line it writes.

    A running job of that name is attached to, one that this run has finished is taken as it is, else one is submitted.
    Ctrl-C stops the job; a process that is killed does not.
    """
    client = _client(address)
    submission = _find(client, spec)
    if submission is None and spec.run:
        _end_others(client, spec.run)
    name = submission or _submit(client, spec)
    try:
        status, message = _follow(client, name, on_log_line)
    except KeyboardInterrupt:
        client.stop_job(name)
        raise
    return RayJob(id=name, status=status, message=message, attached=submission is not None)


def stop(address: str, run: str) -> list[str]:
    """Stops every job of a run that is under way; their ids."""
    client = _client(address)
    names = _under_way(client, run)
    for name in names:
        client.stop_job(name)
    return names


def nodes(address: str) -> list[dict[str, float]]:
    """What each living node of the cluster has, such as {"CPU": 8.0, "GPU": 1.0}."""
    _client(address)  # says in plain words why there is none
    from ray.util.state import list_nodes

    return [dict(node.resources_total) for node in list_nodes(address, filters=[("state", "=", "ALIVE")])]


def _under_way(client: "JobSubmissionClient", run: str) -> list[str]:
    mine = [job for job in client.list_jobs() if (job.metadata or {}).get(_RUN) == run]
    return [str(job.submission_id) for job in mine if job.submission_id and _word(job.status) not in _OVER]


def _end_others(client: "JobSubmissionClient", run: str) -> None:
    """A run does one step after the other: what still runs for it is a step of older code, on the same files."""
    deadline_s = time.monotonic() + STOP_WITHIN_S
    while others := _under_way(client, run):
        for name in others:
            client.stop_job(name)
        if time.monotonic() > deadline_s:
            raise JobLostError(f"{', '.join(others)} of the same run cannot be stopped")
        time.sleep(LOOK_S[0])


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"the Ray cluster at {address} asks for another token ({str(error).splitlines()[0]}); set RAY_AUTH_TOKEN "
            "to the one its nodes were started with"
        ) from None
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster takes jobs at {address} ({str(error).splitlines()[0]}); start it with its dashboard, "
            "correct RAY_ADDRESS, or unset it to work on this machine"
        ) from None


def _find(client: "JobSubmissionClient", spec: JobSpec) -> str | None:
    """A job of that name that runs, or that this very run has finished."""
    for job in _attempts(client, spec):
        status = _word(job.status)
        if status not in _OVER or (status == "SUCCEEDED" and (job.metadata or {}).get(_RUN) == spec.run):
            return str(job.submission_id)
    return None


def _attempts(client: "JobSubmissionClient", spec: JobSpec) -> list[Any]:
    return [job for job in client.list_jobs() if (job.submission_id or "").rpartition("-")[0] == spec.name]


def _submit(client: "JobSubmissionClient", spec: JobSpec) -> str:
    """Ids are used once: the first free number after the name is the attempt. Whoever sent it first is listened to."""
    number = len(_attempts(client, spec)) + 1
    name = f"{spec.name}-{number}"
    environment = {"working_dir": source_package(), "env_vars": forwarded()}
    try:
        return client.submit_job(
            entrypoint=spec.command(name), submission_id=name, runtime_env=environment, metadata={_RUN: spec.run}
        )
    except RuntimeError:
        if name in {job.submission_id for job in client.list_jobs()}:
            return name
        raise


def _follow(client: "JobSubmissionClient", name: str, on_log_line: Callable[[str], None]) -> tuple[str, str]:
    """Status and message of a job once it is over."""
    pause_s, answered_s = LOOK_S[0], time.monotonic()
    with JobLog(client, name, on_log_line) as log:
        while True:
            try:
                info = client.get_job_info(name)  # before the log, which is then whole when the job is over
                over = _word(info.status) in _OVER
                log.end() if over else log.pass_on()
                answered_s = time.monotonic()
            except (OSError, RuntimeError) as error:
                if "404" in str(error) or time.monotonic() - answered_s > PATIENCE_S:
                    raise JobLostError(f"the Ray cluster lost job {name}: {str(error).splitlines()[0]}") from error
                time.sleep(LOOK_S[1])
                continue
            if over:
                return _word(info.status), info.message or ""
            time.sleep(pause_s)
            pause_s = min(LOOK_S[1], pause_s * 1.2)


def _word(status: Any) -> str:
    return str(getattr(status, "value", status))
