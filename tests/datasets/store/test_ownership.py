"""Whose a file is: what we wrote may be replaced, and nothing else."""

import json
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.ownership import (
    FILES_MARKER,
    claim_store,
    is_store,
    outputs,
    recorded_files,
    require_folder,
    require_ours,
)
from tests.s3 import BUCKET, object_store

REMEDY = "choose another"


def put(folder: Path, **files: str) -> None:
    with outputs(folder, files, remedy=REMEDY):
        for name, text in files.items():
            (folder / name).write_text(text)


def refused(folder: Path | str, *names: str) -> str:
    with pytest.raises(InputError) as error:
        require_ours(folder, names, remedy=REMEDY)
    return str(error.value)


def test_what_we_wrote_may_be_written_again_and_what_somebody_put_there_may_not(tmp_path: Path) -> None:
    put(tmp_path, a="1", b="2")
    put(tmp_path, a="3", c="4")
    assert (tmp_path / "a").read_text() == "3"
    assert sorted(recorded_files(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "d").write_text("precious")
    said = refused(tmp_path, "a", "d")
    assert "holds d, which stemline did not write" in said
    assert "choose another" in said
    with pytest.raises(InputError), outputs(tmp_path, ["a", "d"], remedy=REMEDY):
        raise AssertionError("nothing may be written before all are known as ours")
    assert sorted(recorded_files(tmp_path)) == ["a", "b", "c"]


def test_a_file_that_somebody_changed_is_theirs(tmp_path: Path) -> None:
    put(tmp_path, a="12345678")
    for text in ("12345679", "123456789", "1234", ""):
        (tmp_path / "a").write_text(text)
        assert "changed since" in refused(tmp_path, "a")
        require_ours(tmp_path, ["a"], remedy=REMEDY, also_ours=lambda name: name == "a")


def test_after_a_kill_what_was_begun_is_ours_and_what_was_never_written_is_not_recorded(tmp_path: Path) -> None:
    with outputs(tmp_path, ["a", "b"], remedy=REMEDY):
        (tmp_path / "a").write_text("half")
        while_writing = (tmp_path / FILES_MARKER).read_text()
    assert sorted(recorded_files(tmp_path)) == ["a"]
    (tmp_path / FILES_MARKER).write_text(while_writing)  # as a kill would leave it
    (tmp_path / "b").write_text("whole")
    require_ours(tmp_path, ["a", "b"], remedy=REMEDY)


def test_a_run_that_writes_nothing_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no luck"), outputs(tmp_path, ["a"], remedy=REMEDY):
        raise ValueError("no luck")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["my notes", "[]", json.dumps({"files": ["a"]}), json.dumps({"written": {"a": 3}})])
def test_a_record_of_somebody_elses_is_not_ours_to_replace(tmp_path: Path, text: str) -> None:
    (tmp_path / FILES_MARKER).write_text(text)
    assert FILES_MARKER in refused(tmp_path, "a")
    assert (tmp_path / FILES_MARKER).read_text() == text


def test_a_file_in_the_place_of_a_folder_is_found_out_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("notes", "notes/deep/er", "gone", "gone/x"):
        with pytest.raises(InputError, match=f"cannot write to .*{name}: .* is no folder.*{REMEDY}"):
            require_folder(tmp_path / name, remedy=REMEDY)
    require_folder(tmp_path, remedy=REMEDY)
    require_folder(tmp_path / "new" / "er", remedy=REMEDY)


def test_a_link_and_a_folder_of_that_name_are_somebodys(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        assert f"holds {name}" in refused(tmp_path, name)


@pytest.mark.slow
def test_an_address_in_s3_is_marked_and_one_of_somebodys_is_refused() -> None:
    with object_store():
        ours, theirs = f"s3://{BUCKET}/songs", f"s3://{BUCKET}/lake"
        assert not is_store(ours)
        claim_store(ours, setting="store.data")
        assert is_store(ours)
        storage.write(f"{ours}/tables/x.parquet", b"ours by now")
        claim_store(ours, setting="store.data")
        storage.write(f"{theirs}/tables/x.parquet", b"precious")
        with pytest.raises(InputError, match=r"store\.data=s3://.*/lake is no store, and tables/"):
            claim_store(theirs, setting="store.data")
        assert storage.names(theirs) == []
        with outputs(f"{ours}/scores", ["a.json"], remedy=REMEDY):
            storage.write(f"{ours}/scores/a.json", b"{}")
        storage.write(f"{ours}/scores/b.json", b"theirs")
        require_ours(f"{ours}/scores", ["a.json"], remedy=REMEDY)
        assert "holds b.json" in refused(f"{ours}/scores", "a.json", "b.json")
