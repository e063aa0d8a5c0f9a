"""The names below a corpus folder: which are seen, which are left out, and where links lead."""

from pathlib import Path

import pytest

from datasets.corpus.file_listing import is_audio, list_folder, upwards
from datasets.errors import InputError, Unavailable


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"a")


def test_hidden_files_and_those_of_archives_are_left_out_and_dots_of_a_name_are_none(tmp_path: Path) -> None:
    write(tmp_path, "b.wav", "a.wav", ".DS_Store", "song/...Baby.wav", "..and/c.wav", ".cache/d.wav", "__MACOSX/e.wav")
    assert list_folder(str(tmp_path)).folders == {
        "": ("a.wav", "b.wav"), "..and": ("c.wav",), "song": ("...Baby.wav",),
    }  # fmt: skip


def test_a_folder_that_holds_chunks_and_manifests_is_a_store(tmp_path: Path) -> None:
    write(
        tmp_path, "store/chunks/a", "store/manifests/b", "store/separated/c.wav", "song/chunks/d.wav", "x/manifests/e"
    )
    assert set(list_folder(str(tmp_path)).folders) == {"", "song", "song/chunks", "x", "x/manifests"}


def test_links_are_followed_once_and_told_with_where_they_lead(tmp_path: Path) -> None:
    write(tmp_path, "root/a/one.wav", "elsewhere/deep/two.wav")
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "itself").symlink_to(root / "a" / "itself")
    (root / "a" / "again.wav").symlink_to(root / "a" / "one.wav")
    (root / "a" / "far.wav").symlink_to(elsewhere / "deep" / "two.wav")
    listing = list_folder(str(root))
    assert {name: files for name, files in listing.folders.items() if files} == {
        "a": ("far.wav", "itself", "one.wav"), "linked/deep": ("two.wav",),
    }  # fmt: skip
    assert not any("round" in name or "up" in name for name in listing.folders)
    for path, real in (
        ("a/one.wav", root / "a/one.wav"), ("linked/deep/two.wav", elsewhere / "deep/two.wav"),
        ("a/far.wav", elsewhere / "deep/two.wav"), ("linked", elsewhere),
    ):  # fmt: skip
        assert listing.real_path(path) == str(real)
    linked = ("linked", "linked/deep", "linked/deep/two.wav", "a/far.wav", "a/one.wav", "a", "")
    assert [listing.is_linked(path) for path in linked] == [True, True, True, True, False, False, False]


def test_the_bytes_of_a_file_are_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_bytes(b"\xef\xbb\xbftrack")
    listing = list_folder(str(tmp_path))
    assert (listing.content("tags.csv"), listing.content("tags.csv", 5)) == (b"\xef\xbb\xbftrack", b"\xef\xbb\xbftr")
    with pytest.raises(Unavailable, match=r"gone\.csv cannot be read: No such file"):
        listing.content("gone.csv", 5)


def test_audio_is_known_by_its_suffix_in_any_case() -> None:
    assert [is_audio(name) for name in ("a.wav", "a.FLAC", "b.stem.mp3", "wav", ".wav", "a.wav.txt", "a.mid")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_the_folders_above_come_nearest_first_and_without_the_root() -> None:
    assert list(upwards("a/b/c")) == ["a/b/c", "a/b", "a"]
    assert list(upwards("")) == []


def test_a_root_without_a_name_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is empty; set corpus\.root"):
        list_folder(str(tmp_path))
