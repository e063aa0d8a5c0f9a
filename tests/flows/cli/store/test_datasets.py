"""`stemline datasets` answers from the store alone, in a table or in JSON, and says plainly when there is nothing."""

import json
from pathlib import Path

import pytest

from flows.__main__ import main
from tests.pipelines.songs import write_songs


@pytest.fixture
def store(tmp_path: Path) -> str:
    write_songs(tmp_path / "s", {"Old Song": "train", "b": "valid"}, key="aaaaaa1", num_samples=8000)
    write_songs(tmp_path / "s", {"Old Song": "test", "New Song": "train"}, key="bbbbbb2", num_samples=8000)
    return f"store.root={tmp_path / 's'}"


def test_datasets_are_listed_for_people_and_for_programs(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", store]) == 0
    shown = capsys.readouterr().out
    assert "aaaaaa" in shown
    assert "1/0/1" in shown
    assert main(["datasets", "--json", store]) == 0
    listed = json.loads(capsys.readouterr().out)["versions"]
    assert {version["id"]: version["num_songs"] for version in listed} == {"aaaaaa": 2, "bbbbbb": 2}


def test_two_datasets_are_compared(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "diff", "aaa", "bbb", store]) == 0
    shown = capsys.readouterr().out
    assert "added: New Song" in shown
    assert "removed: b" in shown
    assert "other split: Old Song (train → test)" in shown
    assert main(["datasets", "diff", "aaa", "bbb", "--json", store]) == 0
    assert json.loads(capsys.readouterr().out)["changed_split"] == {"Old Song": ["train", "test"]}
    assert main(["datasets", "diff", "aaa", "zzz", store]) == 2
    assert "no dataset is called 'zzz'" in capsys.readouterr().err


def test_a_song_is_found_in_its_datasets(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "find", "old song", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert {version: [song["split"] for song in songs] for version, songs in found.items()} == {
        "aaaaaa": ["train"],
        "bbbbbb": ["test"],
    }
    assert main(["datasets", "find", "nobody's", store]) == 2
    assert "has a song called" in capsys.readouterr().err


def test_an_empty_store_and_a_wrong_one_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", f"store.root={tmp_path}"]) == 0
    assert "stemline ingest corpus.root=SONGS" in capsys.readouterr().out
    assert main(["datasets", f"store.root={tmp_path}/none"]) == 2
    assert "there is no store" in capsys.readouterr().err
