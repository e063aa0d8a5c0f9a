"""`stemline inspect` shows how every file would be read, and opens none."""

import json
from pathlib import Path

import pytest

from flows.__main__ import main

FILES = {
    "Ada - One": ("Kick In", "OH L", "OH R", "sub", "Keys", "vocals2", "fx", "Mix v3", "Drum Bus"),
    "Ben - [Live] Two": ("drums", "bass", "other", "vocals", "mixture"),
    "Cleo - Three": ("Kick", "Bass", "Gtr", "Vox", "Zorp 2"),
    "Dov - Four": ("808", "Hats", "Pad", "Vox"),
}


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for song, names in FILES.items():
        for name in names:
            (tmp_path / song).mkdir(exist_ok=True)
            (tmp_path / song / f"{name}.wav").write_bytes(b"no audio at all")
    return tmp_path


def test_every_name_is_shown_with_what_it_was_read_as(
    songs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", f"corpus.root={songs}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "Songs (3 multitrack, 1 folders)",
        "kick drums kick 2 Ada - One/Kick In.wav",
        "drum the sum of other files kit 1",
        "mix no stem by its name 1 Ada - One/Mix v3.wav",
        "Unknown names", "zorp 1 1 Cleo - Three/Zorp 2.wav",
        "Ambiguous names", "808.wav may be bass or kick",
        "list a word of the name under a source or under [ignore]",
        "Ben - [Live] Two/drums.wav",
        "Licences, by song: unknown 2.",
    ):  # fmt: skip
        assert words in shown
    assert "1 + 1" in shown  # a left and a right file


def test_json_has_every_file(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (songs / "Ben - [Live] Two" / "LICENSE.txt").write_text("CC0 1.0 Universal\n")
    assert (
        main(["inspect", f"corpus.root={songs}", "--json", "corpus.unknown=leave_out", r'corpus.license="my\nown"'])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["licenses"] == {"my own": 2, "CC0-1.0": 1}
    assert sum(len(song["files"]) for song in result["songs"]) == sum(map(len, FILES.values()))
    assert {song["title"]: song["reason"] for song in result["songs"]} == {
        "Ada - One": "", "Ben - [Live] Two": "", "Cleo - Three": "", "Dov - Four": "ambiguous_stem",
    }  # fmt: skip
    by_path = {file["path"]: file for song in result["songs"] for file in song["files"]}
    assert by_path["OH L.wav"] == {
        "path": "OH L.wav", "status": "used", "source": "drums", "kind": "overheads", "side": "left",
        "version_of": "",
    }  # fmt: skip
    assert sum(name["files"] for name in result["names"]) == sum(map(len, FILES.values()))


def test_a_corpus_without_a_usable_song_exits_with_2(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"corpus.root={songs}", 'corpus.sources=["choir","horns"]']) == 2
    assert main(["inspect"]) == 2
    assert "corpus.root=DIR names the folder" in capsys.readouterr().err


def test_a_taxonomy_of_ones_own_is_used_and_its_path_becomes_absolute(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text('extends = "default"\n[ignore]\nwords = ["zorp"]\n')
    assert main(["inspect", f"corpus.root={songs}", "corpus.taxonomy=own.toml", "--json"]) == 0
    reasons = {song["title"]: song["reason"] for song in json.loads(capsys.readouterr().out)["songs"]}
    assert reasons["Cleo - Three"] == ""
    assert main(["inspect", "corpus.taxonomy=own.toml", "--print-config"]) == 0
    assert f'taxonomy = "{tmp_path}/own.toml"' in capsys.readouterr().out


def test_a_corpus_of_a_test_folder_has_nothing_to_train_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for song in ("One", "Two"):
        (tmp_path / "Test" / song).mkdir(parents=True)
        for source in ("drums", "bass", "other", "vocals"):
            (tmp_path / "Test" / song / f"{source}.wav").write_bytes(b"no audio at all")
    assert main(["inspect", f"corpus.root={tmp_path}"]) == 0
    assert "all songs are in Test/ (2), and folders of such names are taken at their word" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["inspect", f"corpus.root={tmp_path}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {song["split"] for song in result["songs"]} == {"test"}
    assert result["drawn_shares"] == {}


def test_versions_csv_files_and_shares_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for artist in ("Ann", "Bob", "Cid"):
        for number in range(1, 11):
            (tmp_path / "train" / f"{artist} - Song {number}").mkdir(parents=True)
            for name in ("drums", "bass", "other", "vocals", *(["vocals copy"] if number == 3 else [])):
                (tmp_path / "train" / f"{artist} - Song {number}" / f"{name}.wav").write_bytes(b"no audio at all")
    (tmp_path / "about.csv").write_text("path,type\nAnn,folder\n")
    assert main(["inspect", f"corpus.root={tmp_path}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "Versions by their names", "train/Ann - Song 3/vocals copy.wav",
        "about.csv is not used: its paths are no audio",
        "valid: 33% of the songs, 10% asked for; groups stay together, and the largest, ",
    ):  # fmt: skip
        assert words in shown
    assert main(["inspect", f"corpus.root={tmp_path}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["drawn_shares"]["valid"] == {"asked": 0.1, "drawn": 0.3333}
    assert [file["name"] for file in result["csv_files"]] == ["about.csv"]
    (song,) = (song for song in result["songs"] if song["title"] == "Ann - Song 3")
    assert [file["version_of"] for file in song["files"]] == ["", "", "", "vocals.wav", ""]
