"""Copies of checkpoints: a run whose folder is lost goes on from them, and never from one that is not whole."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipelines.runs import remote_checkpoints, run_folder
from pipelines.runs.uploads import Uploads
from pipelines.training import train, train_result
from tests.pipelines.songs import write_songs
from tests.pipelines.training.test_train import CONFIG, MODEL, SOURCES, run_until_killed
from tests.s3 import BUCKET, object_store


def stored(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_run_whose_folder_is_lost_goes_on_from_the_bucket_also_when_requests_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = write_songs(tmp_path / "songs", {"a": "train", "b": "train", "c": "valid"})
    monkeypatch.setattr(
        "tests.pipelines.training.test_train.CONFIG", replace(CONFIG, backup_uri=f"s3://{BUCKET}/copies")
    )
    expected = train.run(CONFIG, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path / "whole"))
    with object_store() as server:
        run_until_killed(5, chunks, tmp_path / "lost")
        shutil.rmtree(tmp_path / "lost")
        server.failing = 0.2
        asked = len(server.requests)
        config = replace(CONFIG, backup_uri=f"s3://{BUCKET}/copies")
        resumed = train.run(config, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path / "lost"))
        assert any("/current/learner.pt" in path for method, path, _ in server.requests[asked:] if method == "GET")
    assert resumed.model_digest == expected.model_digest
    assert train_result.read_history(resumed) == train_result.read_history(expected)
    assert not resumed.interventions


def make(folder: Path, step: int) -> None:
    """A folder with a checkpoint and a curve up to it."""
    part = folder / run_folder.checkpoint_name(step) / run_folder.CURRENT
    part.mkdir(parents=True)
    (part / "weights").write_bytes(bytes([step]) * 1000)
    run_folder.Lines(folder / run_folder.HISTORY).append({"step": step})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copies of steps 1, 2 and 3 of which two were to be kept."""
    for step in (1, 2, 3):
        make(tmp_path / "run", step)
        remote_checkpoints.commit(tmp_path / "run", step, str(tmp_path / "copies" / "run"), keep=2)
    return tmp_path / "copies" / "run"


def test_files_of_others_beside_checkpoints_and_their_copies_stay(copied: Path, tmp_path: Path) -> None:
    notes, writable = copied / "notes.json", copied.parent / ".writable"
    for path in (notes, writable):
        path.write_text("{}")
    tries = tmp_path / "run" / "step-by-hand"
    tries.mkdir()
    remote_checkpoints.check(str(copied.parent), setting="train.backup_uri")
    with run_folder.Writer(tmp_path / "run", keep=1) as writer:
        for step in (4, 5):
            writer.submit(step, lambda folder: (folder / "weights").touch())
            writer.wait()
            remote_checkpoints.commit(tmp_path / "run", step, str(copied), keep=1)
    assert notes.exists()
    assert writable.exists()
    assert tries.exists()
    assert [path.name for path in sorted((tmp_path / "run").glob("step-0*"))] == ["step-000000005"]
    assert run_folder.newest_step(tmp_path / "run") == 5


def test_the_newest_copies_are_kept_and_the_newest_comes_back_with_the_curve(copied: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in copied.glob("*.json")) == ["step-000000002.json", "step-000000003.json"]
    assert not list(copied.glob("step-000000001*/*/*"))
    back = tmp_path / "back" / "run"
    back.mkdir(parents=True)
    assert remote_checkpoints.fetch_newest(back, str(copied)).passed == ()
    assert stored(back / "step-000000003")["current/weights"] == bytes([3]) * 1000
    assert [point["step"] for point in run_folder.Lines(back / run_folder.HISTORY).read()] == [1, 2, 3]


@pytest.mark.parametrize("harm", ["truncated", "missing", "list"])
def test_a_copy_that_is_not_whole_is_passed_over(copied: Path, tmp_path: Path, harm: str) -> None:
    (file,) = copied.glob("step-000000003-*/current/weights")
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "missing":
        file.unlink()
    else:
        (copied / "step-000000003.json").write_text("{")
    back = tmp_path / "back" / "run"
    back.mkdir(parents=True)
    fetched = remote_checkpoints.fetch_newest(back, str(copied))
    assert [name for name, _ in fetched.passed] == ["step-000000003"]
    assert fetched.step == 2
    assert run_folder.newest_step(back) == 2
    assert [path.name for path in back.iterdir() if path.name.startswith(".fetched")] == []


@pytest.mark.parametrize("outside", ["../outside", "current/../../outside", "/outside"])
@pytest.mark.parametrize("where", ["files", "examples"])
def test_a_list_that_leads_out_of_the_run_is_none(copied: Path, tmp_path: Path, where: str, outside: str) -> None:
    for place in (copied, copied.parent, tmp_path):  # where the paths lead to
        (place / "outside").write_bytes(b"foreign")
    outside = f"{tmp_path}{outside}" if outside.startswith("/") else outside
    listed = json.loads((copied / "step-000000003.json").read_text())
    listed[where] |= {outside: hashlib.sha256(b"foreign").hexdigest()}
    (copied / "step-000000003.json").write_text(json.dumps(listed))
    fetched = remote_checkpoints.fetch_newest(tmp_path / "lost" / "run", str(copied))
    assert (fetched.step, [name for name, _ in fetched.passed]) == (2, ["step-000000003"])
    assert [path.name for path in (tmp_path / "lost").iterdir()] == ["run"]


def test_a_copy_takes_the_place_of_a_damaged_checkpoint(copied: Path, tmp_path: Path) -> None:
    here = tmp_path / "run"
    (here / "step-000000003" / "current" / "weights").write_bytes(b"short")
    assert remote_checkpoints.fetch_newest(here, str(copied)).passed == ()
    assert stored(here / "step-000000003")["current/weights"] == bytes([3]) * 1000


def test_a_place_that_takes_nothing_is_named_before_training_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"train\.backup_uri=.*takes no checkpoints"):
        remote_checkpoints.check(str(tmp_path / "file" / "below"), setting="train.backup_uri")


def test_a_copy_that_fails_stops_nothing_and_is_told(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        raise InputError("the bucket does not answer")

    writer = run_folder.Writer(tmp_path, keep=2, uploads=Uploads(fail))
    with writer:
        writer.submit(1, lambda folder: (folder / "x").write_text("") and None)
    assert writer.complaint == "the bucket does not answer"
    assert run_folder.newest_step(tmp_path) == 1
