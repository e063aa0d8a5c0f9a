"""A process that dies at the k-th call by which MLflow's client changes something, without the death.

Nothing that follows reaches MLflow. Calls that only read are not counted: whoever dies before one of them leaves what
is left by a death before the next call that writes.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

READS = ("get_", "search_", "list_", "load_", "download_")


class Killed(BaseException):
    """Nothing of ours catches it."""


class Life:
    """Counts calls that write; dies before the k-th, never where `at` is 0."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.calls, self.dead = at, 0, False

    def step(self, name: str) -> None:
        writes = not name.startswith(READS)
        self.calls += writes
        if self.dead or (writes and self.calls == self.at):
            self.dead = True
            raise Killed


@contextmanager
def dying(at: int) -> Iterator[Life]:
    """Inside, the process is dead from before the k-th call that writes on; outside, another process has begun."""
    import mlflow

    life = Life(at)

    def stepping(name: str, call: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            life.step(name)
            return call(*arguments, **options)

        return counted

    kind = mlflow.MlflowClient
    calls = {name: call for name, call in vars(kind).items() if callable(call) and not name.startswith("_")}
    with pytest.MonkeyPatch.context() as patch:
        for name, call in calls.items():
            patch.setattr(kind, name, stepping(name, call))
        with suppress(Killed):
            yield life
    while mlflow.active_run():  # of a thread that is no more
        mlflow.end_run()


def way_back(store: str) -> Callable[[], None]:
    """Brings MLflow's database in a store back to what it is now; files that were written since are left."""
    database = Path(store, "mlflow.db")
    with closing(sqlite3.connect(database)) as connection:
        present = connection.serialize()

    def bring_back() -> None:
        with closing(sqlite3.connect(":memory:")) as before, closing(sqlite3.connect(database)) as connection:
            before.deserialize(present)
            connection.execute("PRAGMA synchronous = OFF")
            before.backup(connection)

    return bring_back
