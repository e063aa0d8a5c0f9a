"""What every test shares: a quiet environment, one small Ray for the whole run, and where songs with truth are."""

import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
for quiet in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(quiet, "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# A user's own servers must not hear of test runs.
for address in ("RAY_ADDRESS", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
    os.environ.pop(address, None)
os.environ["RAY_AUTH_MODE"] = "disabled"  # else Ray writes a token into the home folder

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts Ray comes last: some tests hold how it is started, and it can be started once in a process."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


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


def _start_ray(ray: Any, folder: str) -> None:
    """Ray gives its own start 30 s, a constant in its source that a loaded machine exceeds: so three tries."""
    for attempt in range(3):
        try:
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
            if attempt == 2:
                raise
            time.sleep(2)
