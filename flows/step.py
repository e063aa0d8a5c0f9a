"""One step of the road as Prefect runs it: progress on the screen, the configuration beside the output, one retry."""

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task

from datasets.schema import ShardSet
from flows import config as door
from flows.screen import current
from pipelines.progress import Progress, stage

P = ParamSpec("P")
T = TypeVar("T")


def resumable(name: str) -> Callable[[Callable[P, T]], Task[P, T]]:
    """A Prefect task with one retry, for lost workers alone.

    A step redoes only what is missing, so a second try costs little. It helps against nothing else: bad input
    stays bad, and a fault of ours would fail again.
    """
    return task(name=name, retries=1, retry_delay_seconds=5, retry_condition_fn=lost_a_worker)


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
    return result


def said(progress: Progress, name: str, job: Callable[[], T], *, words: Callable[[T], str]) -> T:
    """A job of a second or two that says nothing itself."""
    with stage(progress, name):
        result = job()
        progress.finish(words(result))
    return result


def lost_a_worker(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed state comes from Ray itself: a worker, a node or an object that went away."""
    error = state.result(raise_on_failure=False)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"WorkerCrashedError", "NodeDiedError", "ActorDiedError", "ObjectLostError", "RaySystemError"})
