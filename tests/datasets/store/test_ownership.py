"""Whose a file is: what we wrote may be replaced, and nothing else."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.ownership import (
    FILES_MARKER,
    STORE_MARKER,
    claim_store,
    is_store,
    outputs,
    recorded_files,
    require_claimable,
    require_folder,
    require_ours,
    require_store,
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


LOCK = {"verb": "train", "pid": 7, "since": "2026-01-01"}
RESULT = {"run_key": "abc", "checkpoint": "runs/abc/model", "model_digest": "d", "history": []}
MANIFEST = {"schema_version": 3, "table": "chunks", "step": "ingest", "key": "abc", "shards": [], "extra": {}}


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    ("name", "content", "known"),
    [
        ("stemline-store.json", {"format": "stemline-store", "version": 1}, True),
        ("stemline-store.json", {"format": "another-store", "version": 1}, False),
        ("stemline-store.json", ["stemline-store"], False),
        (".lock", LOCK, True),
        (".lock", LOCK | {"verb": "analyze", "host": "a"}, True),
        (".lock", LOCK | {"verb": "gc"}, False),  # it ran on any folder
        (".lock", without(LOCK, "since"), False),
        (".lock", ["verb", "pid", "since"], False),
        ("runs/abc/result.json", RESULT, True),
        ("runs/abc/result.json", RESULT | {"scores": {}}, True),
        ("runs/abd/result.json", RESULT, False),
        ("runs/abc/result.json", without(RESULT, "history"), False),
        ("runs/abc/result.json", "abc", False),
        ("manifests/ingest-abc.json", MANIFEST, True),
        ("manifests/ingest-abc.json", MANIFEST | {"songs": 3}, True),
        ("manifests/ingest-abd.json", MANIFEST, False),
        ("manifests/ingest-abc.json", without(MANIFEST, "extra"), False),
        ("manifests/ingest-abc.json", "ingest-abc", False),
        ("manifests/ingest-abc.txt", MANIFEST, False),
    ],
)
def test_a_store_is_known_by_its_marker_or_by_what_only_we_write(
    tmp_path: Path, name: str, content: Any, known: bool
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(json.dumps(content))
    assert is_store(tmp_path) == known
    if known:
        require_store(tmp_path, setting="store.root")
    else:
        with pytest.raises(InputError, match=r"store\.root=.* is no.* store.*store\.root=DIR"):
            require_store(tmp_path, setting="store.root")


def test_a_new_store_carries_a_marker_that_says_what_it_is(tmp_path: Path) -> None:
    claim_store(tmp_path / "new", setting="store.root")
    marker = tmp_path / "new" / STORE_MARKER
    told = json.loads(marker.read_text())
    assert (told["format"], told["version"]) == ("stemline-store", 1)
    marker.write_text(json.dumps(told | {"note": "mine"}))
    claim_store(tmp_path / "new", setting="store.root")  # again: it stays as it is
    assert json.loads(marker.read_text())["note"] == "mine"


@pytest.mark.parametrize("name", ["tables/a.parquet", "tables", "cache/flows/a", "mlflow.db", "report.html"])
def test_a_folder_that_uses_a_name_of_a_store_is_somebodys(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=r"store\.root=.* is no.* store"):
        require_claimable(tmp_path, setting="store.root")
    with pytest.raises(InputError):
        claim_store(tmp_path, setting="store.root")
    assert not (tmp_path / STORE_MARKER).exists()


def test_empty_folders_and_files_of_other_names_are_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "notes.txt").write_text("precious")
    require_claimable(tmp_path, setting="store.root")
    (tmp_path / "report.html").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"report\.html"):
        require_claimable(tmp_path, setting="store.root")


def test_a_message_names_five_files_and_counts_the_others(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).write_text("precious")
    assert "a, b, c, d, e, which" in refused(tmp_path, *"abcde")
    assert "a, b, c, d, e and 2 more" in refused(tmp_path, *"abcdefg")


def test_stems_of_before_there_were_records_are_ours_while_their_size_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "drums.wav").write_bytes(bytes(100))
    (tmp_path / "bass.wav").write_bytes(bytes(100))
    record = {"key": "k", "files": {"drums": "drums.wav", "bass": "bass.wav"}, "file_bytes": {"drums": 100, "bass": 99}}
    (tmp_path / "separation.json").write_text(json.dumps(record))

    def require(name: str) -> None:
        require_ours(tmp_path, [name], remedy=REMEDY, record="separation.json")

    require("drums.wav")
    with pytest.raises(InputError, match=r"bass\.wav"):
        require("bass.wav")
    (tmp_path / "separation.json").write_text(json.dumps(without(record, "key")))
    with pytest.raises(InputError, match=r"separation\.json"):
        require("drums.wav")


def test_a_record_says_of_each_file_its_size_and_its_digest(tmp_path: Path) -> None:
    put(tmp_path, a="12345678")
    assert recorded_files(tmp_path) == {"a": {"bytes": 8, "sha256": hashlib.sha256(b"12345678").hexdigest()}}


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
