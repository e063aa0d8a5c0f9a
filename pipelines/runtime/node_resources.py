"""What the nodes of a cluster have, and how much of it tasks and actors may ask for."""

import math
from collections.abc import Iterable, Mapping, Sequence

from datasets.shards.manifests import Song


def affordable(memory_bytes: int) -> int | None:
    """At most what the largest node has: a task that fits nowhere would wait for ever."""
    return int(min(memory_bytes, max(_memories(), default=0))) or None


def side_by_side(actor_bytes: int, task_bytes: int, *, num_actors: int) -> tuple[int | None, int | None]:
    """What each of some actors and the tasks after them may ask for, so that beside all actors one task has room.

    Less than they need where there is less; None where no node says what it has.
    """
    return _split(actor_bytes, task_bytes, num_actors=num_actors, nodes=_memories())


def _split(actor: int, task: int, *, num_actors: int, nodes: Sequence[float]) -> tuple[int | None, int | None]:
    largest = max(nodes, default=0)
    task = int(min(task, largest / 3))
    each = math.ceil(num_actors / max(1, sum(node == largest for node in nodes)))  # on a node, if all go to the largest
    return int(min(actor, (largest - task) / each)) or None, task or None


def has_gpus() -> bool:
    """Whether any node has a GPU."""
    return any(node.get("GPU", 0) >= 1 for node in _nodes())


def workers_that_fit(worker_bytes: int, *, use_gpu: bool, beside_bytes: int = 0) -> int:
    """How many actors of a CPU, or a GPU, each the nodes hold together, at least one.

    `beside_bytes` are kept free on every node for a task that works beside its actors.
    """
    return _count_workers(_nodes(), "GPU" if use_gpu else "CPU", worker_bytes, beside_bytes)


def _count_workers(nodes: Sequence[Mapping[str, float]], kind: str, worker: int, beside: int) -> int:
    def fitting(node: Mapping[str, float]) -> int:
        num = int(node.get(kind, 0))
        return min(num, max(1, int((node["memory"] - beside) // worker))) if "memory" in node else num

    return max(1, sum(map(fitting, nodes)))


def _memories() -> list[float]:
    """What each living node has, in bytes."""
    return [node.get("memory", 0.0) for node in _nodes()]


def _nodes() -> list[Mapping[str, float]]:
    """The resources of each living node."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def song_bytes(songs: Iterable[Song], *, num_sources: int) -> int:
    """Of the longest of some songs, all of its stems in memory as float32."""
    return max((4 * num_sources * song.channels * song.num_samples for song in songs), default=0)
