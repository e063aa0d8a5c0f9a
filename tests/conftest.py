"""What every test shares: a quiet environment, one small Ray for the whole run, and where songs with truth are."""

import gc
import importlib
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import scheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")
for quiet in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(quiet, "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "900")  # seconds alone, minutes under load
# A user's own servers must not hear of test runs.
for address in ("RAY_ADDRESS", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
    os.environ.pop(address, None)
os.environ["RAY_AUTH_MODE"] = "disabled"  # else Ray writes a token into the home folder

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        scheduling.be_nice_beside_ray()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> scheduling.Scheduler:
    return scheduling.Scheduler(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[None]:
    """What the tests import lives until the end: no search for garbage looks at a million such objects again.

    And it looks less often: where a network is traced, a ninth of the time went into it, and a thirtieth does now.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        # pytest listens at every logger that keeps its records to itself, and where anybody does, torch describes each
        # graph that it traces.
        logging.getLogger("torch.__trace").propagate = True


@pytest.hookimpl(trylast=True)  # when it is known what is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts Ray comes last: some tests hold how it is started, and it can be started once in a process.

    Files of many slow tests come first, so that of several processes none is left with one at the end.
    """
    for item in items:
        marked = item.get_closest_marker("ray") is not None
        assert marked == scheduling.starts_ray(item.path, item.name), f"mark {item.nodeid} as `ray` by a literal"
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.get_closest_marker("ray") is not None, scheduling.order(item), -slow[item.path]))


def pytest_runtest_setup() -> None:
    """MLflow makes a new database by dozens of migrations: once in a process from here on, and then copies of it.

    Nor does a test wait for the disk at every commit: no machine loses its power in one.
    """
    books = sys.modules.get("mlflow.store.db.utils")
    if books is not None and books._upgrade_db.__module__ == books.__name__:
        from sqlalchemy import event, pool

        books._upgrade_db = _once(books._upgrade_db)
        event.listen(pool.Pool, "connect", _without_waiting)


def _without_waiting(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def _once(upgrade: Callable[[Any], None]) -> Callable[[Any], None]:
    made: list[sqlite3.Connection] = []

    def upgrade_or_copy(engine: Any) -> None:
        from sqlalchemy import inspect

        if engine.dialect.name != "sqlite" or inspect(engine).has_table("alembic_version"):
            upgrade(engine)
            return
        if not made:
            upgrade(engine)
            made.append(sqlite3.connect(":memory:", check_same_thread=False))
            with closing(engine.raw_connection()) as connection:
                connection.driver_connection.backup(made[0])
        with closing(engine.raw_connection()) as connection:
            made[0].backup(connection.driver_connection)

    return upgrade_or_copy


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Songs with known stems, beats and keys that stand beside the checkout on some machines."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no folder of songs with ground truth at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_local() -> Iterator[Any]:
    """One Ray of two CPUs for the whole test run; it takes about ten seconds to start."""
    importlib.import_module("pipelines")  # sets the variables that Ray reads at its first import
    import ray

    # Unix socket paths end at 107 characters, so the folder stands near the root.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    _start_ray(ray, folder)
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server for the whole test run: flows that are called in this process keep their records there."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=900):
        yield


def _start_ray(ray: Any, folder: str) -> None:
    """Ray gives its own start 30 s, and its agent half of that; a loaded machine exceeds them: so several tries."""
    from pipelines.runtime.cluster import lean_start

    for attempt in range(6):
        try:
            with lean_start():
                ray.init(
                    address="local",
                    num_cpus=2,
                    include_dashboard=False,
                    object_store_memory=400 * 2**20,
                    _temp_dir=folder,
                    logging_level="ERROR",
                    log_to_driver=False,
                )
            return
        except Exception:
            ray.shutdown()
            if attempt == 5:
                raise
            time.sleep(2)
