"""An S3 store that fails, is slow or refuses."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.store import storage
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


def test_a_range_of_a_known_object_is_one_request(s3: ObjectStore) -> None:
    address = f"s3://{BUCKET}/range"
    storage.write(address, bytes(range(100)))
    storage.read_range(address, 0, 1)
    s3.requests.clear()
    assert storage.read_range(address, 10, 14) == bytes(range(10, 14))
    assert [(method, asked) for method, _, asked in s3.requests] == [("GET", "bytes=10-13")]


def test_folders_are_empty_whose_files_were_removed_and_those_below_them_are_not_named(s3: ObjectStore) -> None:
    root = f"s3://{BUCKET}/emptied"
    for name in ("a/b/1", "a/b/2", "c/d/3", "c/e/4", "f"):
        storage.write(f"{root}/{name}", b"x")
    for name in ("a/b/1", "c/d/3"):
        storage.remove(f"{root}/{name}")
    assert storage.empty_folders(root) == [f"{root}/c/d"]
    storage.remove(f"{root}/a/b/2")
    assert storage.empty_folders(root) == [f"{root}/a", f"{root}/c/d"]
    assert storage.empty_folders(f"{root}/c/d") == storage.empty_folders(f"{root}/none") == []


@pytest.mark.slow
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


def test_a_clock_that_the_store_refuses_is_named_where_it_answers_with_no_more_than_a_status(s3: ObjectStore) -> None:
    s3.refuse_after, s3.refusal = 0, ("RequestTimeTooSkewed", "The difference ... is too large.")
    with pytest.raises(InputError, match=r"s3://songs/x: .*a clock that is more than 15 minutes off is refused"):
        storage.read(f"s3://{BUCKET}/x")


@pytest.mark.slow
def test_small_reads_are_tried_again_where_the_refusal_is_longer_than_what_was_asked_for(s3: ObjectStore) -> None:
    address = f"s3://{BUCKET}/small/table.bin"
    content = bytes(range(256)) * 40
    storage.write(address, content)
    storage.write(f"{address}.note", b"{}")
    s3.failing = 0.5
    assert storage.read(f"{address}.note") == b"{}"
    for begin in range(0, len(content), 1000):
        assert storage.read_range(address, begin, begin + 7) == content[begin : begin + 7]
        with storage.open_reader(address) as file:
            file.seek(begin)
            assert file.read(91) == content[begin : begin + 91]
    with pytest.raises(OSError, match="it has no bytes 10240 to 10250"):
        storage.read_range(address, 10_230, 10_250)


def test_a_copy_that_cannot_be_written_here_is_not_the_stores_fault(s3: ObjectStore, tmp_path: Path) -> None:
    storage.write(f"s3://{BUCKET}/copied", b"x")
    with pytest.raises(IsADirectoryError) as caught:
        storage.fetch(f"s3://{BUCKET}/copied", tmp_path)
    assert caught.value.errno == errno.EISDIR
