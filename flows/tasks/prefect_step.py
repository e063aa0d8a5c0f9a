"""How a step runs under Prefect: in this process or as a job of a cluster, tried again when a worker is lost.

Progress goes to the screen, and the result to an artifact on Prefect's page of the run.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task

from flows.console.progress_display import current
from flows.tasks import prefect_artifacts
from pipelines.runtime import ray_jobs
from pipelines.runtime.progress import Progress, stage

P = ParamSpec("P")
T = TypeVar("T")
RUN_NAME = "{config.model.preset}, songs {config.corpus.root}"  # of runs of a flow, instead of Prefect's "calm-owl"
RETRY_DELAYS_S = [5.0, 30.0]
_LOST = {
    "WorkerCrashedError", "NodeDiedError", "ActorDiedError", "ActorUnavailableError", "ObjectLostError",
    "RaySystemError", "JobLostError",
}  # fmt: skip


def resumable(name: str) -> Callable[[Callable[P, T]], Task[P, T]]:
    """A Prefect task that is retried after lost workers only; it runs as a job where RAY_ADDRESS names a job server.

    A step redoes only what is missing, so a retry is cheap. Bad input and faults of the program would fail again.
    """

    def decorate(function: Callable[P, T]) -> Task[P, T]:
        @functools.wraps(function)
        def here_or_remote(*args: P.args, **kwargs: P.kwargs) -> T:
            server = ray_jobs.server()
            return _run_remote(server, name, function, *args, **kwargs) if server else function(*args, **kwargs)

        prefect_task = task(
            name=name, retries=len(RETRY_DELAYS_S), retry_delay_seconds=RETRY_DELAYS_S, retry_condition_fn=lost_a_worker
        )
        return prefect_task(here_or_remote)

    return decorate


def _run_remote(server: str, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    from prefect.runtime import flow_run

    from flows.tasks import remote_step

    arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    result = cast(T, remote_step.send(server, name, function, arguments, run=str(flow_run.root_flow_run_id or "")))
    prefect_artifacts.show(name, result)
    return result


def step(name: str, job: Callable[[Progress], T], *, summary: Callable[[T], str]) -> T:
    """The result of a job that reports its own progress; `summary` says in a few words what it is.

    A job that reported no stage of this name found its result finished, and the screen says so.
    """
    screen = current()
    screen.finished.discard(name)
    result = job(screen)
    if name not in screen.finished:
        screen.cached(name, summary(result))
    prefect_artifacts.show(name, result)
    return result


def run_quick(name: str, job: Callable[[], T], *, summary: Callable[[T], str]) -> T:
    """The same for a job of a second or two, which reports no progress: it is one stage."""

    def as_stage(progress: Progress) -> T:
        with stage(progress, name):
            result = job()
            progress.finish(summary(result))
        return result

    return step(name, as_stage, summary=summary)


def lost_a_worker(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed state comes from Ray itself: a worker, a node, a job or an object was lost."""
    error = state.result(raise_on_failure=False)
    kinds = {kind.__name__ for kind in type(error).__mro__} | set(getattr(error, "kinds", ()))
    return bool(kinds & _LOST)
