"""A scan knows which songs are estimates of a model, and believes nothing of the note that none of ours would say."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets.corpus.layouts.found_song import LayoutRules
from datasets.corpus.layouts.separated_stems import (
    NOT_RECORDED,
    RECORD,
    Teacher,
    as_extra,
    as_json,
    kept_extra,
    of_extra,
)
from datasets.corpus.scan import scan, survey
from datasets.errors import InputError
from datasets.schema import SOURCES
from datasets.store import storage
from tests.s3 import BUCKET, object_store

TEACHER = Teacher(weights=("a" * 64,), name="models:/big/3", licenses={"CC-BY-NC-4.0": 7, "MIT": 1}, complete=True)


def write_song(root: Path, name: str, record: Any = None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for source in SOURCES:
        (folder / f"{source}.wav").write_bytes(f"{name}/{source}".encode())
    if record is not None:
        (folder / RECORD).write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


def record(model: Any = None) -> dict[str, Any]:
    return {"key": "k", "files": {}, "file_bytes": {}, "written": {}, **({"model": model} if model else {})}


def test_a_scan_knows_the_teacher_of_each_song(tmp_path: Path) -> None:
    write_song(tmp_path / "songs", "train/taught", record(as_json(TEACHER)))
    write_song(tmp_path / "songs", "train/taught too", record(as_json(TEACHER)))
    write_song(tmp_path / "songs", "train/before that was noted", record())
    write_song(tmp_path / "songs", "train/killed", {"written": {}})
    write_song(tmp_path / "songs", "train/stems of its own")
    write_song(tmp_path / "songs", "train/another program's", {"model": "no teacher"})
    elsewhere = write_song(tmp_path, "elsewhere", record(as_json(TEACHER)))
    (tmp_path / "songs/train/linked").symlink_to(elsewhere)
    elsewhere = write_song(tmp_path, "elsewhere too", record(as_json(TEACHER)))
    apart = write_song(tmp_path / "songs", "train/linked files")
    for source in SOURCES:
        (apart / f"{source}.wav").unlink()
        (apart / f"{source}.wav").symlink_to(elsewhere / f"{source}.wav")
    found = scan(tmp_path / "songs").teachers
    assert found == {
        "train/taught": TEACHER,
        "train/taught too": TEACHER,
        "train/linked": TEACHER,
        "train/linked files": TEACHER,
        "train/before that was noted": NOT_RECORDED,
        "train/killed": NOT_RECORDED,
    }
    remarks = survey(tmp_path / "songs").remarks
    assert "the stems of 4 songs are estimates of models:/big/3" in remarks
    assert "the stems of 2 songs are estimates of a model that was not recorded" in remarks


def test_songs_that_a_list_names_outside_the_corpus_have_their_teacher(tmp_path: Path) -> None:
    outside = write_song(tmp_path, "outside", record(as_json(TEACHER)))
    (tmp_path / "songs").mkdir()
    rows = [f"listed,{source},{outside / source}.wav" for source in SOURCES]
    (tmp_path / "songs" / "songs.csv").write_text("\n".join(["song,instrum,path", *rows]))
    found = scan(tmp_path / "songs", rules=LayoutRules(allow_outside=True))
    assert list(found.teachers.values()) == [TEACHER]


@pytest.mark.slow
def test_in_an_object_store_it_is_the_same(tmp_path: Path) -> None:
    taught = write_song(tmp_path, "train/taught", record(as_json(TEACHER)))
    own = write_song(tmp_path, "train/own")
    with object_store():
        for folder in (taught, own):
            for file in folder.iterdir():
                storage.write(f"s3://{BUCKET}/corpus/train/{folder.name}/{file.name}", file.read_bytes())
        assert survey(f"s3://{BUCKET}/corpus").teachers == {"train/taught": TEACHER}


def changed(**fields: Any) -> dict[str, Any]:
    return record({**as_json(TEACHER), **fields})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it is no JSON file"),
        ("[" * 100_000, "it is no JSON file"),
        (json.dumps(record()) + " " * (1 << 20), "it is larger than 1048576 bytes"),
        (record("models:/big/3"), "its model is no object"),
        (changed(format_version=2), r"model.format_version is '2' and this stemline reads 1"),
        (changed(weights=["../x"]), "model.weights must be at most 64 digests of 64 hex digits"),
        (changed(weights=["a" * 64] * 65), "model.weights must be"),
        (changed(name="a\nb"), "model.name must be printable text of at most 300 characters"),
        (changed(name="a" * 301), "model.name must be"),
        (changed(licenses={"MIT": -1}), "model.licenses must give numbers of songs for at most 1000 licences"),
        (changed(licenses={"MIT": True}), "model.licenses must"),
        (changed(licenses={str(number): 1 for number in range(1001)}), "model.licenses must"),
        (changed(complete=1), "model.complete must be true or false"),
    ],
)
def test_a_record_that_is_none_of_ours_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    write_song(tmp_path, "train/A", content)
    with pytest.raises(InputError, match=f"train/A/{RECORD} must say which model .*{message}"):
        scan(tmp_path)


def test_names_of_licences_in_a_record_become_one_line(tmp_path: Path) -> None:
    write_song(tmp_path, "train/A", changed(licenses={"M\x1bIT\n": 2, "M IT": 3}))
    assert dict(scan(tmp_path).teachers["train/A"].licenses) == {"M IT": 5}


def test_a_dataset_keeps_the_teachers_of_its_songs_and_none_where_there_are_none() -> None:
    extra = json.loads(json.dumps(as_extra({"a": TEACHER, "b": TEACHER, "c": NOT_RECORDED})))
    keys, teachers = of_extra(kept_extra({**extra, "else": 1}))
    assert {name: teachers[key] for name, key in keys.items()} == {"a": TEACHER, "b": TEACHER, "c": NOT_RECORDED}
    assert as_extra({}) == kept_extra({}) == {}
    assert of_extra({}) == ({}, {})
