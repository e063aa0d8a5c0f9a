"""Files on a disk and in an S3 store: the same verbs, the same promises."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import pytest

from datasets.errors import Changed, InputError, Unavailable
from datasets.store import storage
from tests.s3 import BUCKET, ObjectStore, object_store


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_what_is_written_is_read_back(root: str, tmp_path: Path) -> None:
    address = storage.join(root, "a", "b.bin")
    storage.write(address, b"0123456789")
    assert storage.read(address) == b"0123456789"
    stamp = storage.stamp(address)
    assert stamp is not None
    assert stamp.size == 10
    with storage.open_reader(address) as file:
        file.seek(3)
        assert file.read(4) == b"3456"
    storage.fetch(address, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_a_name_appears_only_when_all_is_written(root: str) -> None:
    address = storage.join(root, "whole.bin")

    def fail_midway() -> None:
        with storage.replacing(address) as file:
            file.write(b"half")
            raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        fail_midway()
    assert storage.stamp(address) is None
    assert storage.names(root) == []


def test_what_fails_while_a_file_is_written_is_told_by_its_own_name(root: str) -> None:
    """A temporary folder that is full, or a corpus that is gone, is not the store's fault."""

    def fail_midway(number: int) -> None:
        with storage.replacing(storage.join(root, "whole.bin")) as file:
            file.write(b"half")
            raise OSError(number, os.strerror(number), "/elsewhere/vocals.wav")

    for number in (errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EIO):
        with pytest.raises(OSError, match="elsewhere") as caught:
            fail_midway(number)
        assert caught.value.filename == "/elsewhere/vocals.wav"
    assert storage.names(root) == []


def test_names_lists_the_files_of_one_folder(root: str) -> None:
    for name in ("b.json", "a.json", "deep/c.json"):
        storage.write(storage.join(root, *name.split("/")), b"x")
    assert storage.names(root) == ["a.json", "b.json"]
    assert storage.names(storage.join(root, "nowhere")) == []


def test_removing_twice_is_no_error(root: str) -> None:
    address = storage.join(root, "gone")
    storage.write(address, b"x")
    storage.remove(address)
    storage.remove(address)
    assert storage.stamp(address) is None


def test_a_folder_goes_with_all_that_is_below_it_and_leaves_no_object_that_stands_for_it(root: str) -> None:
    for name in ("a/x", "a/deep/y", "a-b/z"):
        storage.write(storage.join(root, *name.split("/")), b"x")
    for _ in range(2):
        storage.remove_folder(storage.join(root, "a"))
        if storage.is_remote(root):
            client, path = storage.filesystem(root)
            left = [info.path for info in client.get_file_info(fs.FileSelector(path, recursive=True))]
        else:
            path, left = root, [str(below) for below in Path(root).rglob("*")]
        assert sorted(left) == [f"{path}/a-b", f"{path}/a-b/z"]


def test_a_missing_file_is_a_file_not_found_error_on_both(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(root, "missing"))
    assert storage.stamp(storage.join(root, "missing")) is None


def test_all_objects_below_an_address_are_listed_with_their_sizes(s3: ObjectStore) -> None:
    root = f"s3://{BUCKET}/list"
    for name in ("two/x.wav", "one/a.wav", "one/deep/b.wav", "top.txt"):
        storage.write(storage.join(root, *name.split("/")), name.encode())
    found = storage.files_below(root)
    assert {path: stamp.size for path, stamp in found.items()} == {
        "one/a.wav": 9, "one/deep/b.wav": 14, "top.txt": 7, "two/x.wav": 9,
    }  # fmt: skip
    assert list(found) == sorted(found)
    assert storage.files_below(f"s3://{BUCKET}/nowhere") == {}


def test_fetched_objects_last_as_long_as_the_context(s3: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "here.wav").write_bytes(b"here")
    storage.write(f"s3://{BUCKET}/f/there.wav", b"there")
    addresses = [str(tmp_path / "here.wav"), f"s3://{BUCKET}/f/there.wav"]
    with storage.fetched(addresses) as local:
        assert local[addresses[0]] == addresses[0]
        copy = Path(local[addresses[1]])
        assert (copy.name, copy.read_bytes()) == ("there.wav", b"there")
    assert not copy.exists()


def test_only_objects_need_a_folder_for_temporary_files(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"s3://{BUCKET}/temporary/a.wav"
    storage.write(address, b"abc")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "removed"))
    with storage.fetched([str(tmp_path / "there.wav")]) as local:
        assert local == {str(tmp_path / "there.wav"): str(tmp_path / "there.wav")}
    with pytest.raises(Unavailable, match=r"TMPDIR.*removed"), storage.fetched([address]):
        pass
    monkeypatch.undo()
    with pytest.raises(Unavailable, match=r"missing\.wav cannot be read: there is no such object"):
        storage.fetched([f"s3://{BUCKET}/temporary/missing.wav"]).__enter__()


def test_an_object_that_is_replaced_while_it_is_copied_is_noticed(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its ETag: size and the second of its change may stay the same."""
    address = f"s3://{BUCKET}/replaced/a.wav"
    storage.write(address, b"first")
    assert storage.state(address) == storage.state(address)
    copy = shutil.copyfileobj

    def copied_then_replaced(source: Any, target: Any, length: int) -> None:
        copy(source, target, length)
        monkeypatch.undo()
        storage.write(address, b"other")

    monkeypatch.setattr(shutil, "copyfileobj", copied_then_replaced)
    with pytest.raises(Changed, match="changed while it was read"):
        storage.fetch(address, tmp_path / "copy")
    storage.fetch(address, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"other"


@pytest.mark.parametrize("begin", [5, 20])
def test_a_range_beyond_the_end_is_an_error(root: str, begin: int) -> None:
    storage.write(storage.join(root, "short"), b"0123456789")
    with pytest.raises(OSError, match="no bytes"):
        storage.read_range(storage.join(root, "short"), begin, begin + 10)


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="names no bucket"):
        storage.absolute("s3://")
    assert storage.absolute("s3://bucket/folder/") == "s3://bucket/folder"
