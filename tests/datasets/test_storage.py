"""Files on a disk and in an S3 store: the same verbs, the same promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets import storage
from datasets.errors import InputError
from tests.s3 import BUCKET, ObjectStore, object_store


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture
def s3(server: ObjectStore) -> Iterator[ObjectStore]:
    """The server in good health, and again so afterwards."""
    yield server
    server.failing, server.delay_s, server.refuse_after = 0.0, 0.0, None
    server.requests.clear()


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


def test_a_missing_file_is_a_file_not_found_error_on_both(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(root, "missing"))
    assert storage.stamp(storage.join(root, "missing")) is None


def test_walk_goes_top_down_in_order_and_leaves_out_what_is_taken_out(s3: ObjectStore) -> None:
    root = f"s3://{BUCKET}/walk"
    for name in ("two/x.wav", "one/a.wav", "one/deep/b.wav", "top.txt"):
        storage.write(storage.join(root, *name.split("/")), b"x")
    seen = []
    for folder, subfolders, files in storage.walk(root):
        seen.append((folder.removeprefix(root), list(subfolders), files))
        subfolders[:] = [name for name in subfolders if name != "deep"]
    assert seen == [("", ["one", "two"], ["top.txt"]), ("/one", ["deep"], ["a.wav"]), ("/two", [], ["x.wav"])]


def test_a_store_that_fails_every_fifth_request_loses_nothing(s3: ObjectStore) -> None:
    root = f"s3://{BUCKET}/faults"
    s3.failing = 0.2
    for number in range(12):
        storage.write(storage.join(root, str(number)), bytes([number]) * 1000)
    assert [storage.read(storage.join(root, str(number))) for number in range(12)] == [
        bytes([number]) * 1000 for number in range(12)
    ]


def test_a_slow_store_is_waited_for(s3: ObjectStore) -> None:
    s3.delay_s = 0.3
    storage.write(f"s3://{BUCKET}/slow", b"x")
    assert storage.read(f"s3://{BUCKET}/slow") == b"x"


def test_lost_credentials_are_named_and_no_secret_is_told(s3: ObjectStore) -> None:
    s3.refuse_after = 0
    with pytest.raises(InputError, match=r"s3://songs/x: .*credentials .* AWS_ACCESS_KEY_ID") as caught:
        storage.write(f"s3://{BUCKET}/x", b"x")
    assert "secret-for-tests" not in str(caught.value)


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="names no bucket"):
        storage.absolute("s3://")
    assert storage.absolute("s3://bucket/folder/") == "s3://bucket/folder"
