"""A store in an object store: one command at a time, whatever machines it comes from, and none that is dead."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets.errors import InputError
from datasets.store import scratch, storage
from datasets.store.ownership import is_store
from flows.tasks import open_store, process_identity, store_lease
from flows.tasks.store_lease import StoreLease
from pipelines import registry
from tests.flows.tasks.test_open_store import HOLDER
from tests.s3 import BUCKET, ObjectStore, object_store


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture
def root(server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address for a store, where claims are soon void."""
    monkeypatch.setattr(store_lease, "VALID_S", 3.0)
    monkeypatch.setattr(store_lease, "RENEW_S", 0.5)
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "scratch"))
    yield f"s3://{BUCKET}/{tmp_path.name}"
    server.read_only = False


def claims(root: str) -> list[str]:
    return storage.names(f"{root}/{store_lease.FOLDER}")


def test_a_second_command_is_told_who_holds_the_store_until_the_first_is_killed(root: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_lease, "VALID_S", 30.0)  # it renews its claim every five seconds
        with (
            pytest.raises(InputError, match=rf"in use by `stemline train`, process {holder.pid} on .*, since .*UTC"),
            open_store.store_lock(root, verb="train"),
        ):
            pass
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()
        with open_store.store_lock(root, verb="ingest") as folder:  # of this machine, so known to be dead
            assert is_store(root)
            assert folder == scratch.scratch(root)
            assert folder.is_dir()
            assert len(claims(root)) == 1
    assert claims(root) == []


def test_what_a_dead_machine_held_is_free_after_a_while(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = StoreLease(root, verb="train")
    dead.content["machine"] = "elsewhere"
    assert dead._ask() == {}
    alive = StoreLease(root, verb="ingest")
    assert alive._ask().keys() == {dead.name}
    assert claims(root) == [dead.name]
    alive.take(0.0)
    assert claims(root) == [alive.name]
    alive.release()
    assert claims(root) == []


@pytest.mark.parametrize("seconds", [-600.0, 600.0])
def test_a_clock_that_is_ten_minutes_off_takes_no_store_from_anybody(
    root: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Ages of claims are told by the clock of the object store."""
    monkeypatch.setattr(store_lease, "VALID_S", 30.0)
    elsewhere = StoreLease(root, verb="train")
    elsewhere.content["machine"] = "elsewhere"
    assert elsewhere._ask() == {}
    now_s, gmtime = time.time, time.gmtime
    monkeypatch.setattr(time, "time", lambda: now_s() + seconds)
    monkeypatch.setattr(time, "gmtime", lambda at=None: gmtime(time.time() if at is None else at))
    assert StoreLease(root, verb="ingest")._ask().keys() == {elsewhere.name}
    elsewhere.release()
    assert StoreLease(root, verb="ingest")._ask() == {}


def test_a_command_ends_that_could_not_renew_its_claim_while_another_took_the_store(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a machine that is cut off from the object store, which waits for it, while others are not."""
    ended, write = threading.Event(), store_lease.write_json
    lost, taker = StoreLease(root, verb="train"), StoreLease(root, verb="ingest")
    lost.content["machine"] = "elsewhere"
    cut_off, back = threading.Event(), threading.Event()

    def put(address: str, content: dict[str, object]) -> None:
        if address.endswith(lost.name) and cut_off.is_set():
            back.wait(60.0)
        write(address, content)

    monkeypatch.setattr(store_lease, "write_json", put)
    monkeypatch.setattr(store_lease.os, "kill", lambda pid, number: ended.set())
    lost.take(0.0)
    cut_off.set()
    taker.take(60.0)
    assert not ended.is_set()
    back.set()
    assert ended.wait(60.0)
    lost.release()
    taker.release()
    assert claims(root) == []


def test_of_commands_that_ask_at_once_never_two_hold_the_store(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lease, "VALID_S", 60.0)
    monkeypatch.setattr(process_identity, "is_running", lambda pid, start: True)
    holding: list[str] = []
    seen: list[int] = []

    def command() -> None:
        lease = StoreLease(root, verb="train")
        lease.take(60.0)
        holding.append(lease.name)
        seen.append(len(holding))
        holding.remove(lease.name)
        lease.release()

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]


def test_a_scratch_folder_without_room_is_refused_before_a_server_fails_on_it(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    with (
        pytest.raises(InputError, match=r"the disk of .*stemline-scratch-\w+ is full: 5 MB .*store\.scratch=DIR"),
        open_store.store_lock(root, verb="ingest"),
    ):
        pass
    assert claims(root) == []


def test_a_store_that_cannot_be_used_is_refused_before_anything_starts(root: str, server: ObjectStore) -> None:
    for address, verb, words in (
        ("s3://nowhere/x", "train", r"store\.root=s3://nowhere/x cannot be used: .*there is no such bucket: create it"),
        ("gs://bucket/x", "train", r"must be a folder of this machine or s3://BUCKET/FOLDER, got 'gs://bucket/x'"),
        ("s3://", "train", "names no bucket"),
    ):
        with pytest.raises(InputError, match=words), open_store.store_lock(address, verb=verb):
            pass
    server.read_only = True
    with (
        pytest.raises(InputError, match=r"store\.root=.* cannot be used: .*do not allow this: set AWS_ACCESS_KEY_ID"),
        open_store.store_lock(root, verb="train"),
    ):
        pass
    server.read_only = False
    with pytest.raises(InputError, match=r"where MLflow can keep no database: .* set MLFLOW_TRACKING_URI="):
        registry.address(root)
    storage.write(f"{root}/tables/mine.parquet", b"precious")
    with pytest.raises(InputError, match="is no store, and tables/ in it"), open_store.store_lock(root, verb="train"):
        pass
