"""Which process of several runs which tests: a file goes to one, and what starts Ray keeps to two of its own.

Tests with Ray wait for half of their time, for processes that start and look for each other. So they run beside the
others, first in the queue for the processors; three at once would starve each other's servers.
"""

import ast
import functools
import os
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

WITH_RAY = 2
NICE = 10

# Those that take longest, so that no process is left with one of them at the end: minutes, then half a minute.
FIRST = (
    "flows/retraining/test_late_runs.py",
    "e2e/test_road.py",
    "docs/test_site.py",
    "models/inference/test_export.py",
)


def order(item: pytest.Item) -> int:
    """The place of a test's file among those that begin."""
    path = item.path.as_posix()
    return next((place for place, name in enumerate(FIRST) if path.endswith(f"tests/{name}")), len(FIRST))


def be_nice_beside_ray() -> None:
    """Processes without Ray take what those with Ray leave: its servers give up where they wait too long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    if int(worker.removeprefix("gw")) >= WITH_RAY:
        os.nice(NICE)


def starts_ray(path: Path, name: str) -> bool:
    """Whether a test is marked as `ray`, by its source: the process that deals out tests has not imported them."""
    return any(marked in (name.partition("[")[0], "pytestmark") for marked in _with_ray(path))


@functools.cache
def _with_ray(path: Path) -> frozenset[str]:
    """The tests of a file that have the mark; `pytestmark` if all have it."""
    found = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and any(map(_says_ray, node.decorator_list)):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and _says_ray(node.value):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def _says_ray(node: ast.expr) -> bool:
    return any(ast.unparse(part) == "pytest.mark.ray" for part in ast.walk(node) if isinstance(part, ast.Attribute))


class Scheduler(LoadFileScheduling):
    """Files in the order of the collection. Once Ray was started in a process, none of the other tests runs there."""

    @functools.cached_property
    def _with_ray(self) -> frozenset[WorkerController]:
        """The first two by number, as in `be_nice_beside_ray`: of all, before any of them has ended; none of so few."""
        if len(self.nodes) <= WITH_RAY:
            return frozenset()
        return frozenset(sorted(self.nodes, key=lambda node: int(node.gateway.id.removeprefix("gw")))[:WITH_RAY])

    def _split_scope(self, nodeid: str) -> str:
        """A file, or those of its tests that start Ray, which come last."""
        file, _, name = nodeid.partition("::")
        return f"{file}::ray" if starts_ray(self.config.rootpath / file, name) else file

    def _takes(self, node: WorkerController, unit: str) -> bool:
        if unit.endswith("::ray"):
            return node in self._with_ray or self._with_ray.isdisjoint(self.nodes)  # those two may have crashed
        return node not in self._with_ray or not self._starts_ray

    @functools.cached_property
    def _starts_ray(self) -> bool:
        assert self.collection is not None
        return any(self._split_scope(nodeid).endswith("::ray") for nodeid in self.collection)

    def _assign_work_unit(self, node: WorkerController) -> None:
        unit = next((unit for unit in self.workqueue if self._takes(node, unit)), None)
        if unit is None:
            node.shutdown()  # once it has done what it has
            return
        self.workqueue.move_to_end(unit, last=False)
        super()._assign_work_unit(node)
