"""Ray is there when the body runs and gone afterwards, and an address that does not answer is said to be so soon."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from pipelines.cluster import Resources, connect, map_rows


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def no_ray() -> Iterator[None]:
    import ray

    if ray.is_initialized():
        pytest.skip("Ray is up in this process, so no address would be asked")
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
    assert time.monotonic() - started < 10


def test_an_address_that_is_none_is_told_what_would_do(no_ray: None) -> None:
    with pytest.raises(InputError, match="host:port"), connect(address="somewhere"):
        pass


@pytest.mark.slow
def test_a_server_that_is_not_ray_is_refused_within_thirty_seconds(no_ray: None) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(InputError, match="is not Ray"), connect(address=address):
            pass
        assert time.monotonic() - started < 30


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
def test_a_users_mistake_in_a_task_is_one_here(ray_local: Any) -> None:
    with pytest.raises(InputError, match=r"^the disk of /somewhere is full$"):
        list(map_rows(_double, [{"value": 1}, {"value": None}]))


_SESSION = """
import glob, os
from pipelines.cluster import connect
before = set(glob.glob("/tmp/sl-*"))
with connect(num_cpus=1) as ray:
    with connect() as again:
        assert again is ray
    assert ray.is_initialized()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:"), address
    during = set(glob.glob("/tmp/sl-*")) - before
assert not ray.is_initialized()
assert len(during) >= 1
print(*during)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_ray_listens_here_only_says_nothing_and_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SESSION],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not any(Path(folder).exists() for folder in done.stdout.split())
    assert not (tmp_path / ".ray").exists()
