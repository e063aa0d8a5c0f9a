"""A store in an object store: what one machine has learned another goes on with, bit for bit; half of it counts not."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import pytest
import torch

from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.store import scratch, storage
from datasets.store.atomic_json import read_json
from models.weights import checkpoint
from models.weights.model_identity import describe
from pipelines import registry
from pipelines.runs import remote_checkpoints, stored_model, uploads
from pipelines.runs.run_place import RunPlace
from pipelines.training import train, train_result
from pipelines.training.train_config import build_model
from pipelines.training.train_result import TrainResult
from pipelines.training.workers import LocalSession
from tests.pipelines.songs import write_songs
from tests.pipelines.training.test_train import CONFIG, MODEL, SONGS, SOURCES, run, run_until_killed, wreck
from tests.s3 import BUCKET, ObjectStore, object_store


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), SONGS)


@pytest.fixture(scope="module")
def undisturbed(chunks: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(CONFIG, chunks, tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(server: ObjectStore, tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}"


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_machine(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on as on a machine that has only this folder."""
    patch.setenv(scratch.VARIABLE, str(folder))


def half_an_upload(address: str) -> None:
    """What a machine leaves that dies while it brings a checkpoint: files, and no list."""
    storage.write(f"{address}/step-000000006-0badbeef/current/weights.safetensors", b"half")


def altered(address: str) -> None:
    """The newest checkpoint with one bit flipped, under its old list."""
    listed = read_json(f"{address}/step-000000003.json")
    assert listed is not None
    weights = f"{address}/{listed['folder']}/best/weights.safetensors"
    data = bytearray(storage.read(weights))
    data[-1] ^= 1
    storage.write(weights, bytes(data))


def deleted(address: str) -> None:
    """The newest checkpoint without one of its files, as somebody leaves it who makes room in the bucket."""
    listed = read_json(f"{address}/step-000000003.json")
    assert listed is not None
    storage.remove(f"{address}/{listed['folder']}/current/learner.pt")


def list_deleted(address: str) -> None:
    """The files of the newest checkpoint without their list."""
    storage.remove(f"{address}/step-000000003.json")


# What the next start says of the newest checkpoint, where it says anything.
SAID = {altered: "best/weights.safetensors is truncated or was", deleted: "it has no current/learner.pt"}


@pytest.mark.parametrize("harm", [half_an_upload, altered, deleted, list_deleted])
def test_a_training_goes_on_where_another_machine_was_killed_and_ends_as_if_undisturbed(
    chunks: ShardSet, undisturbed: TrainResult, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any
) -> None:
    address = RunPlace(store=store, name=undisturbed.run_key).address
    on_machine(monkeypatch, tmp_path / "first")
    run_until_killed(5, chunks, store)
    assert remote_checkpoints.newest_step(address) == 3
    harm(address)
    on_machine(monkeypatch, tmp_path / "second")
    resumed = run(CONFIG, chunks, store)
    assert resumed.model_digest == undisturbed.model_digest
    assert train_result.read_history(resumed) == train_result.read_history(undisturbed)
    assert (resumed.checkpoint, resumed.history) == (f"{address}/model", f"{address}/history.jsonl")
    told = f"step 0: passed over a damaged checkpoint: step-000000003: {SAID.get(harm, '')}"
    assert [words.startswith(told) for words in resumed.interventions] == ([True] if harm in SAID else [])
    # Nothing that no list names is left, the model is whole, and what there is to be listened to is the same.
    here = storage.files_below(address)
    listed = [read_json(f"{address}/step-{step:09d}.json") or {} for step in (3, 6)]
    named = {f"{one['folder']}/{inside}" for one in listed for inside in one["files"]}
    assert {path for path in here if path.startswith("step-") and "/" in path} == named
    for name in checkpoint.FILES[:2]:
        storage.fetch(f"{address}/model/{name}", tmp_path / name)
    assert (tmp_path / "weights.safetensors").read_bytes() == Path(
        undisturbed.checkpoint, "weights.safetensors"
    ).read_bytes()
    examples = below(Path(undisturbed.history).parent / "examples")
    assert {path: storage.read(f"{address}/{path}") for path in here if path.startswith("examples/")} == {
        f"examples/{path}": data for path, data in examples.items()
    }
    assert list((tmp_path / "second").rglob("step-*")) == []  # it is all in the bucket now
    # A third machine finds it finished, and trains nothing.
    on_machine(monkeypatch, tmp_path / "third")
    assert run(CONFIG, chunks, store) == resumed
    assert not (tmp_path / "third").exists()


def test_a_training_that_is_taken_back_knows_of_it_wherever_it_goes_on(
    chunks: ShardSet, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are all that tells it to go on with a lower rate."""
    on_machine(monkeypatch, tmp_path / "first")
    wreck(monkeypatch, {3, 4})
    config = replace(CONFIG, recovery=replace(CONFIG.recovery, max_skipped=1))
    result = run(config, chunks, store)
    assert result.interventions == ("step 5: rollback: 2 steps in a row had no finite gradient",)
    events = storage.read(f"{store}/runs/{result.run_key}/events.jsonl")
    assert json.loads(events)["did"] == "rollback"
    listed = read_json(f"{store}/runs/{result.run_key}/step-000000006.json")
    assert listed is not None
    speed = storage.read(f"{store}/runs/{result.run_key}/{listed['folder']}/speed.jsonl").splitlines()
    assert 0 <= json.loads(speed[-1])["upload_stall"] < 1


def test_the_checkpoint_of_another_machine_is_fetched_once_and_must_be_the_one_that_was_chosen(
    chunks: ShardSet, undisturbed: TrainResult, store: str, server: ObjectStore, tmp_path: Path
) -> None:
    address, made = f"{store}/runs/key", Path(undisturbed.history).parent
    remote_checkpoints.commit(made, 6, address, keep=2)
    chosen = remote_checkpoints.fetch_newest(tmp_path / "first", address)
    assert chosen.step == 6
    remote_checkpoints.fetch(tmp_path / "other", address, 6, chosen.digest)
    assert below(tmp_path / "other" / "step-000000006") == below(made / "step-000000006")
    server.requests.clear()
    remote_checkpoints.fetch(tmp_path / "other", address, 6, chosen.digest)
    assert not any("weights" in path for _, path, _ in server.requests)
    remote_checkpoints.commit(made, 6, address, keep=2)  # by somebody else meanwhile
    with pytest.raises(InputError, match="its list is not the one that training goes on from"):
        remote_checkpoints.fetch(tmp_path / "other", address, 6, chosen.digest)


def test_a_model_is_fetched_once_to_each_machine_and_an_altered_one_is_refused(
    undisturbed: TrainResult, store: str, server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(undisturbed.checkpoint)
    assert stored_model.on_this_machine(undisturbed.checkpoint) == made
    assert stored_model.share(made, str(tmp_path)) == str(made)
    address = stored_model.share(made, store)
    digest = describe(made).digest[:16]
    assert address == f"{store}/cache/models/{digest}"
    on_machine(monkeypatch, tmp_path / "first")
    here = stored_model.on_this_machine(address)
    assert here.is_relative_to(tmp_path / "first")
    assert below(here) == below(made)
    (here / checkpoint.WEIGHTS).write_bytes(b"cut")
    assert below(stored_model.on_this_machine(address)) == below(made)
    server.requests.clear()
    stored_model.on_this_machine(stored_model.share(made, store))
    assert not any(checkpoint.WEIGHTS in path for method, path, _ in server.requests if method != "HEAD")
    storage.write(f"{address}/{checkpoint.WEIGHTS}", b"other weights")
    on_machine(monkeypatch, tmp_path / "second")
    with pytest.raises(InputError, match=rf"cache/models/{digest} was altered: "):
        stored_model.on_this_machine(address)
    storage.remove(f"{address}/{checkpoint.CONFIG}")
    with pytest.raises(InputError, match="is no whole model"):
        stored_model.on_this_machine(address)


def a_file(folder: Path, made: Path) -> Path:
    """The same model as one file with its configuration inside."""
    shutil.copyfile(made / checkpoint.WEIGHTS, folder / "start.safetensors")
    return folder / "start.safetensors"


@pytest.mark.parametrize("form", ["folder", "file"])
def test_weights_to_begin_with_are_where_every_machine_can_read_them(
    chunks: ShardSet, undisturbed: TrainResult, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    on_machine(monkeypatch, tmp_path / "first")
    made = Path(undisturbed.checkpoint)
    start = a_file(tmp_path, made) if form == "file" else made
    model = replace(MODEL, init_from=str(start))
    given = ([(chunks, 1.0)],)
    here, there = (
        train.job_of(CONFIG, model, *given, sources=SOURCES, store=place) for place in (str(tmp_path), store)
    )
    assert here.model.init_from == str(start)
    assert there.model.init_from.startswith(f"{store}/cache/models/")
    assert train.key_of(here) == train.key_of(there)
    expected = build_model(here).state_dict()
    if form == "file":
        start.unlink()  # the other machine does not see it
    on_machine(monkeypatch, tmp_path / "second")
    for name, values in build_model(there).state_dict().items():
        assert torch.equal(values, expected[name])
    assert registry.resolve(there.model.init_from, store=store).is_relative_to(tmp_path / "second")
    if form == "file":
        storage.write(there.model.init_from, b"other weights")
        with pytest.raises(InputError, match=r"start\.safetensors was altered: remove it, then run"):
            stored_model.on_this_machine(there.model.init_from)
        storage.remove(there.model.init_from)
        with pytest.raises(InputError, match=r"there is no model s3://.*start\.safetensors"):
            stored_model.on_this_machine(there.model.init_from)


def test_credentials_that_expire_end_a_training_with_advice_and_it_goes_on_with_new_ones(
    chunks: ShardSet,
    undisturbed: TrainResult,
    store: str,
    server: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_machine(monkeypatch, tmp_path / "first")
    monkeypatch.setattr(uploads, "_PAUSE_S", 0.05)
    address = RunPlace(store=store, name=undisturbed.run_key).address

    def expire(self: Any, step: int, text: str) -> None:
        while step == 5 and server.refuse_after is None:  # once the first checkpoint is there
            if remote_checkpoints.newest_step(address) == 3:
                server.refuse_after = len(server.requests)

    monkeypatch.setattr(LocalSession, "report_progress", expire)
    with pytest.raises(InputError, match=r"step 6 could not be brought to the store.*set AWS_ACCESS_KEY_ID"):
        run(CONFIG, chunks, store)
    server.refuse_after = None
    monkeypatch.undo()
    assert remote_checkpoints.newest_step(address) == 3
    on_machine(monkeypatch, tmp_path / "second")
    assert run(CONFIG, chunks, store).model_digest == undisturbed.model_digest


def test_a_full_scratch_folder_is_named_with_the_setting_that_moves_it(
    chunks: ShardSet, undisturbed: TrainResult, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    advice = r"the disk of .*stemline-scratch-.* is full.*store\.scratch=DIR"
    on_machine(monkeypatch, tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(InputError, match=advice):
            run(CONFIG, chunks, store)
    run_until_killed(5, chunks, store)
    on_machine(monkeypatch, tmp_path / "second")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "fetch", full)
        with pytest.raises(InputError, match=advice):
            run(CONFIG, chunks, store)
    made = stored_model.share(Path(undisturbed.checkpoint), store)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "fetch", full)
        with pytest.raises(InputError, match=advice):
            stored_model.on_this_machine(made)
    assert run(CONFIG, chunks, store).model_digest == undisturbed.model_digest


def test_files_of_a_checkpoint_go_side_by_side_and_of_one_that_is_not_kept_no_object_stays(
    undisturbed: TrainResult, server: ObjectStore, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, address, in_flight, side_by_side = Path(undisturbed.history).parent, f"{store}/runs/key", [], Event()
    send = remote_checkpoints.send

    def observed(path: Path, target: str) -> str:
        if "/current/" in target:
            in_flight.append(target)
            if len(in_flight) > 1:
                side_by_side.set()
            assert side_by_side.wait(20), "one file after the other"
        return send(path, target)

    monkeypatch.setattr(remote_checkpoints, "send", observed)
    for step in (3, 6):
        remote_checkpoints.commit(made, step, address, keep=1)
    s3 = boto3.client("s3", endpoint_url=server.url)
    objects = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{address.removeprefix(f's3://{BUCKET}/')}/")["Contents"]
    names = [one["Key"].split("/runs/key/")[1] for one in objects]
    assert [name for name in names if name.startswith("step-000000003")] == []
    assert len([name for name in names if name.startswith("step-000000006-")]) == 7


def test_in_a_versioned_bucket_what_was_removed_or_replaced_counts_no_more(
    undisturbed: TrainResult, server: ObjectStore, tmp_path: Path
) -> None:
    bucket = f"versioned-{tmp_path.name[-8:].strip('_').replace('_', '-')}"
    s3 = boto3.client("s3", endpoint_url=server.url)
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    made, address = Path(undisturbed.history).parent, f"s3://{bucket}/runs/key"
    for step in (3, 6, 6):
        remote_checkpoints.commit(made, step, address, keep=1)
    assert remote_checkpoints.remove_leftovers(address) > 0  # files of the list that was replaced
    assert len(s3.list_object_versions(Bucket=bucket)["DeleteMarkers"]) > 0
    assert [path for path in storage.files_below(address) if path.endswith(".json") and "/" not in path] == [
        "step-000000006.json"
    ]
    found = remote_checkpoints.fetch_newest(tmp_path / "here", address)
    assert (found.step, found.passed) == (6, ())
    remote_checkpoints.forget(address, "step-000000006")
    assert remote_checkpoints.fetch_newest(tmp_path / "there", address).step == 0


def test_songs_that_somebody_deleted_are_named_with_the_step_that_makes_them(
    server: ObjectStore, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, tmp_path / "first")
    table = write_songs(f"{store}/data", SONGS)  # type: ignore[arg-type]
    storage.remove(f"{store}/data/chunks/songs-k.parquet")
    with pytest.raises(InputError, match=r"shard s3://.*songs-k\.parquet cannot be read .*; run ingest again"):
        run(CONFIG, table, store)
    storage.remove(table.uri)
    with pytest.raises(InputError, match=r"no manifest at s3://.*; run the step that makes it again"):
        run(CONFIG, table, store)


# A command of another store in the same scratch folder, which may keep nothing there.
TIDYING = """
from datasets.store import scratch
print("begun", flush=True)
while True:
    for folder in scratch.tidy():
        print(folder, flush=True)
"""


def test_another_command_that_tidies_the_same_scratch_folder_all_the_while_disturbs_no_training(
    chunks: ShardSet, undisturbed: TrainResult, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, tmp_path / "machine")
    monkeypatch.setenv(scratch.LIMIT, "0.0")
    made = stored_model.share(Path(undisturbed.checkpoint), store)
    unused = RunPlace(store=store, name="interrupted").folder
    storage.write(unused / "step-000000001" / "learner.pt", b"state")
    command = [sys.executable, "-c", TIDYING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "begun\n"
            assert other.stdout.readline().strip() == str(unused)
            result = run(CONFIG, chunks, store)
            copy = stored_model.on_this_machine(made)
            assert below(copy) == below(Path(undisturbed.checkpoint))
            assert other.poll() is None
        finally:
            other.kill()
    assert result.model_digest == undisturbed.model_digest
    assert not unused.exists()
