"""Whether every node of a cluster reads what this process writes: asked before any work, not found out after hours."""

import time
import uuid
from typing import Any

from datasets.errors import InputError
from datasets.store import storage

PATIENCE_S = 10.0
_START_S = 110.0  # that a node may take to start a process
_PAUSE_S = 0.5
_SEEN: set[tuple[str, frozenset[str]]] = set()  # stores, and the nodes that read what is written to them


def require_seen_by_all(ray: Any, store: str) -> None:
    """InputError that names each node that does not read, within ten seconds, a marker that is written to the store.

    One node is not asked, nor the same nodes twice.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]] if store else []
    cluster = (store, frozenset(node["NodeID"] for node in nodes))
    if len(nodes) < 2 or cluster in _SEEN:
        return
    marker, content = storage.join(storage.absolute(store), "cache", f"seen-{uuid.uuid4().hex}"), uuid.uuid4().bytes
    storage.write(marker, content)
    try:
        answers = {_start(ray, node, marker, content): node for node in nodes}
        done, late = ray.wait(list(answers), num_returns=len(answers), timeout=PATIENCE_S + _START_S)
        reasons = {_name(answers[answer]): _answer(ray, answer) for answer in done}
        reasons |= {_name(answers[answer]): f"it did not answer for {PATIENCE_S + _START_S:.0f} s" for answer in late}
    finally:
        storage.remove(marker)
    alive = {_name(node) for node in ray.nodes() if node["Alive"]}  # what died meanwhile is given no work either
    if blind := {name: why for name, why in reasons.items() if why and name in alive}:
        details = "; ".join(f"node {name}: {why}" for name, why in sorted(blind.items()))
        raise InputError(
            f"not every node of the cluster reads what this command writes to the store {store} ({details}). Either "
            "put it into a folder that all nodes share, store.root=DIR, or into an object store, "
            "store.root=s3://BUCKET/FOLDER, which every node may read and write"
        )
    _SEEN.add(cluster)


def _start(ray: Any, node: dict[str, Any], marker: str, content: bytes) -> Any:
    task = ray.remote(num_cpus=0, max_retries=0, label_selector={"ray.io/node-id": node["NodeID"]})(_look)
    return task.remote(marker, content, PATIENCE_S)


def _answer(ray: Any, answer: Any) -> str:
    try:
        return str(ray.get(answer))
    except Exception as error:  # of Ray: the node was lost, or runs other code
        return (str(error).strip() or type(error).__name__).splitlines()[0]


def _name(node: dict[str, Any]) -> str:
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return f"{host} ({address}, {node['NodeID'][:8]})"


def _look(marker: str, content: bytes, patience_s: float) -> str:
    """Why a node does not read the marker in this time, in a few words; empty where it does."""
    deadline_s = time.monotonic() + patience_s
    while why := _missing(marker, content):
        if time.monotonic() > deadline_s:
            return why
        time.sleep(_PAUSE_S)
    return ""


def _missing(marker: str, content: bytes) -> str:
    try:
        return "" if storage.read(marker) == content else f"{marker} is another file there"
    except FileNotFoundError:
        return f"there is no {marker}"
    except (InputError, OSError) as error:
        return str(error)
