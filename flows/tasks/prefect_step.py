"""One step of the road as Prefect runs it: here or as a job of a cluster, with what it made shown on Prefect's page.

Progress goes to the screen, the configuration beside the output, and a lost worker is worth another try.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task

from datasets.schema import ShardSet
from flows import config as door
from flows.console.progress_display import current
from flows.tasks import artifacts
from pipelines.runtime import ray_jobs
from pipelines.runtime.progress import Progress, stage

P = ParamSpec("P")
T = TypeVar("T")
RETRY_DELAYS_S = [5.0, 30.0]
_LOST = {
    "WorkerCrashedError", "NodeDiedError", "ActorDiedError", "ActorUnavailableError", "ObjectLostError",
    "RaySystemError", "JobLostError",
}  # fmt: skip


def resumable(name: str) -> Callable[[Callable[P, T]], Task[P, T]]:
    """A Prefect task that is tried again, after a pause, when workers were lost, and only then.

    A step redoes only what is missing, so another try costs little. It helps against nothing else: bad input
    stays bad, and a fault of ours would fail again.
    """

    def made(function: Callable[P, T]) -> Task[P, T]:
        @functools.wraps(function)
        def anywhere(*args: P.args, **kwargs: P.kwargs) -> T:
            server = ray_jobs.server()
            return _sent(server, name, function, *args, **kwargs) if server else function(*args, **kwargs)

        decorate = task(
            name=name, retries=len(RETRY_DELAYS_S), retry_delay_seconds=RETRY_DELAYS_S, retry_condition_fn=lost_a_worker
        )
        return decorate(anywhere)

    return made


def _sent(server: str, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    from prefect.runtime import flow_run

    from flows.tasks import remote_step

    arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    result = cast(T, remote_step.send(server, name, function, arguments, run=str(flow_run.root_flow_run_id or "")))
    artifacts.show(name, result)
    return result


def step(
    name: str,
    config: door.RunConfig,
    job: Callable[[Progress], T],
    *,
    words: Callable[[T], str],
    outputs: Callable[[T], Iterable[ShardSet]] = lambda result: (),
) -> T:
    """Runs the job; `words` says what came of it, `outputs` are the tables beside which the configuration is kept."""
    screen = current()
    screen.finished.discard(name)
    result = job(screen)
    if name not in screen.finished:
        screen.cached(name, words(result))
    for table in outputs(result):
        door.write(config, table.uri.removesuffix(".json") + ".toml")
    artifacts.show(name, result)
    return result


def said(progress: Progress, name: str, job: Callable[[], T], *, words: Callable[[T], str]) -> T:
    """A job of a second or two that says nothing itself."""
    with stage(progress, name):
        result = job()
        progress.finish(words(result))
    return result


def lost_a_worker(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed state comes from Ray itself: a worker, a node, a job or an object that went away."""
    error = state.result(raise_on_failure=False)
    kinds = {kind.__name__ for kind in type(error).__mro__} | set(getattr(error, "kinds", ()))
    return bool(kinds & _LOST)
