"""Ray is there when the body runs and gone afterwards, and an address that does not answer is said to be so soon."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import soundfile

from datasets.errors import InputError
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from pipelines.runtime import cluster
from pipelines.runtime.cluster import Resources, connect, map_rows


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def no_ray() -> Iterator[None]:
    import ray

    # tests/conftest.py runs these before what starts Ray: once it is up, no address would be asked.
    assert not ray.is_initialized()
    yield
    assert not ray.is_initialized()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_that_refuses_is_named_at_once(no_ray: None, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = form.format(_closed_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with (
        pytest.raises(InputError, match=r"Ray does not answer at .*correct RAY_ADDRESS, or unset it") as caught,
        connect(),
    ):
        pass
    assert address in str(caught.value)
    assert time.monotonic() - started < 60  # Ray by itself would try for minutes


def test_an_address_that_is_none_is_told_what_would_do(no_ray: None) -> None:
    with pytest.raises(InputError, match="host:port"), connect(address="somewhere"):
        pass


@pytest.mark.slow
def test_a_server_that_is_not_ray_is_refused_within_thirty_seconds(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster._PROBE_S + cluster._HANDSHAKE_S < 30
    monkeypatch.setattr(cluster, "_HANDSHAKE_S", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="is not Ray"), connect(address=address):
            pass


def _double(item: dict[str, Any]) -> dict[str, Any]:
    if item["value"] is None:
        raise InputError("the disk of /somewhere is full")
    return {"value": 2 * item["value"], "tags": {str(item["value"]): [1, None, "x\n"]}}


@pytest.mark.ray
def test_every_item_has_its_result_and_ragged_values_pass_unchanged(ray_local: Any) -> None:
    with connect() as ray:
        assert ray is ray_local
        results = list(map_rows(_double, [{"value": value} for value in range(5)], resources=Resources(num_cpus=0.5)))
    assert sorted(results, key=lambda row: row["value"]) == [
        {"value": 2 * value, "tags": {str(value): [1, None, "x\n"]}} for value in range(5)
    ]
    assert ray_local.is_initialized()
    assert list(map_rows(_double, [])) == []


@pytest.mark.ray
def test_a_task_that_asks_for_more_memory_than_any_node_has_runs_alone(ray_local: Any) -> None:
    results = list(map_rows(_double, [{"value": 2}], resources=Resources(memory_bytes=10**16)))
    assert [row["value"] for row in results] == [4]


@pytest.mark.ray
def test_a_users_mistake_in_a_task_is_one_here(ray_local: Any) -> None:
    with pytest.raises(InputError, match=r"^the disk of /somewhere is full$"):
        list(map_rows(_double, [{"value": 1}, {"value": None}]))


def _mark(item: dict[str, Any]) -> dict[str, Any]:
    """Leaves a file, and its process ends where that is the first time."""
    file = Path(item["file"])
    if item["dies"] and not file.exists():
        file.touch()
        os._exit(1)
    file.touch()
    time.sleep(item["seconds"])
    return {"file": file.name}


@pytest.mark.ray
def test_an_item_whose_worker_died_is_done_by_another(ray_local: Any, tmp_path: Path) -> None:
    items = [{"file": str(tmp_path / f"{number}"), "dies": number == 1, "seconds": 0} for number in range(3)]
    assert sorted(row["file"] for row in map_rows(_mark, items)) == ["0", "1", "2"]


@pytest.mark.ray
def test_items_that_nobody_waits_for_any_more_are_not_begun(ray_local: Any, tmp_path: Path) -> None:
    items = [{"file": str(tmp_path / f"{number:02d}"), "dies": False, "seconds": 0.05} for number in range(60)]
    results = map_rows(_mark, items)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    time.sleep(0.8)  # in which uncancelled ones would be begun
    begun = sorted(file.name for file in tmp_path.iterdir())
    assert int(begun[-1]) < 10, begun


_SESSION = """
import glob, os, subprocess, sys
from pipelines.runtime.cluster import connect
with connect(num_cpus=1) as ray:
    with connect() as again:
        assert again is ray
    assert ray.is_initialized()
    address = ray.get_runtime_context().gcs_address
    rooms = ("datasets", "models", "pipelines")
    ours = ray.get(ray.remote(lambda: [__import__(room).__file__ for room in rooms]).remote())
    assert all(file.startswith(os.environ["PYTHONPATH"]) for file in ours), ours
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    stranger = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR')"
    refused = subprocess.run([sys.executable, "-c", stranger, address], env=environment, capture_output=True)
    assert refused.returncode != 0
    during = glob.glob(f"/tmp/sl-{os.getpid()}-*")
assert not ray.is_initialized()
assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"} & set(os.environ)
assert len(during) == 1
print(*during)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_ray_refuses_strangers_says_nothing_and_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(repository)}
    command, mine = tmp_path / "bin" / "session.py", tmp_path / "mine"  # as a command is started in a user's project
    command.parent.mkdir()
    command.write_text(_SESSION)
    for name in ("datasets", "models", "pipelines"):
        (mine / name).mkdir(parents=True)
        (mine / name / "__init__.py").write_text("raise RuntimeError('a package of the working folder was imported')\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(command)],
        cwd=mine,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Ray announces the level that pipelines/__init__.py sets for its C++ side; a loaded machine may need a second try.
    expected = ("RAY_BACKEND_LOG_LEVEL", "trying again")
    assert [line for line in done.stderr.splitlines() if not any(words in line for words in expected)] == []
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert not any(Path(folder).exists() for folder in done.stdout.split())
    assert not (tmp_path / ".ray").exists()


_FAILED = """
import psutil
from datasets.errors import InputError
from pipelines.runtime import cluster
from ray._private.node import Node

def fail(node):
    started.append(sorted(node.all_processes))
    raise RuntimeError("no raylet today")

started, cluster._TRIES, Node.start_ray_processes = [], 1, fail
try:
    with cluster.connect(num_cpus=1):
        pass
except InputError as error:
    print(error)
print(started, [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)])
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_start_that_failed_leaves_no_process_to_the_next_try(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", _FAILED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    message, told = done.stdout.splitlines()
    assert "Ray does not start on this machine (no raylet today)" in message
    assert told == "[['dashboard', 'gcs_server']] []"  # no monitor among what a head starts


def test_folders_of_killed_commands_are_removed_and_those_of_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_sessions", lambda: tmp_path)
    hour_ago = time.time() - 3600
    for name in ("sl-1-killed", "sl-2-half_removed", "sl-3-living", "sl-4-begun", "sl-mine", "else"):
        (tmp_path / name / "session").mkdir(parents=True)
        if name in ("sl-1-killed", "sl-3-living"):
            (tmp_path / name / ".alive").touch()
        if name != "sl-4-begun":
            os.utime(tmp_path / name, (hour_ago, hour_ago))
    with ExitStack() as stack, (tmp_path / "sl-3-living" / ".alive").open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        ours = cluster._session_folder(stack)
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {"sl-3-living", "sl-4-begun", "sl-mine", "else", Path(ours).name}
    assert not Path(ours).exists()


_REMOTE = """
import json, os, sys
from pipelines.runtime.cluster import connect
from pipelines.preparation.ingest import CorpusConfig, IngestConfig, run
with connect() as ray:
    seen = ray.get(ray.remote(lambda: (os.getcwd(), os.environ.get("MLFLOW_TRACKING_URI"))).remote())
    result = run(CorpusConfig(root=sys.argv[1]), IngestConfig(sample_rate=8000), store=sys.argv[2])
print(json.dumps([*seen, result.chunks.num_rows]))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_ray_address_sends_the_same_job_to_a_cluster_with_code_and_settings(
    ray_local: Any, tmp_path: Path, repository: Path
) -> None:
    for name in ("One", "Two", "Three"):
        (tmp_path / "c" / name).mkdir(parents=True)
        for source in SOURCES:
            noise = row_rng(0, name, source).standard_normal((16000, 2)) * 0.1
            soundfile.write(tmp_path / "c" / name / f"{source}.wav", noise, 8000)
    address = ray_local.get_runtime_context().gcs_address
    environment = {
        "RAY_ADDRESS": address,
        "MLFLOW_TRACKING_URI": "http://example.invalid",
        "PYTHONPATH": str(repository),
    }
    done = subprocess.run(
        [sys.executable, "-c", _REMOTE, str(tmp_path / "c"), str(tmp_path / "s")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder, uri, num_rows = json.loads(done.stdout.splitlines()[-1])
    assert "runtime_resources" in folder, "workers run from the copy that travelled"
    assert (uri, num_rows) == ("http://example.invalid", 3)
    assert ray_local.is_initialized()


_TERMINATED = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("it is up to me", flush=True))
from pipelines.runtime.cluster import connect
with connect(num_cpus=1) as ray:
    ray.get(ray.put(1))
    os.kill(os.getpid(), signal.SIGTERM)
    deadline_s = time.monotonic() + 6
    while time.monotonic() < deadline_s:
        time.sleep(0.1)
    print("still here", flush=True)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("joined", [False, True])
def test_what_a_process_does_at_a_signal_stays_as_it_was(ray_local: Any, repository: Path, joined: bool) -> None:
    """Ray's own handler would abort it three seconds later."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    if joined:
        environment["RAY_ADDRESS"] = ray_local.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", _TERMINATED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["it is up to me", "still here"]), done.stderr
