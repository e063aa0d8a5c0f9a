"""One step of the road as Prefect runs it: progress on the screen, the configuration beside the output, one retry."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from datasets.schema import ShardSet
from flows import config as door
from flows.screen import current
from pipelines.progress import Progress

T = TypeVar("T")

# A step redoes only what is missing, so a second try costs little. It helps against lost workers, and against
# nothing else: bad input stays bad, and a fault of ours would fail again.
RETRY = {"retries": 1, "retry_delay_seconds": 5, "retry_condition_fn": lambda task, run, state: lost_a_worker(state)}


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
        door.write(config, Path(table.uri).with_suffix(".toml"))
    return result


def lost_a_worker(state: Any) -> bool:
    """Whether a failed state comes from Ray itself: a worker, a node or an object that went away."""
    error = state.result(raise_on_failure=False)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"WorkerCrashedError", "NodeDiedError", "ActorDiedError", "ObjectLostError", "RaySystemError"})
