"""What is said of a file for ever is what its bytes prove; all else is tried again."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from datasets.errors import AudioError, Changed, Unavailable
from datasets.schema import StemFile
from datasets.store import storage
from datasets.store.verified_reads import read_proven


def _listed(path: Path) -> StemFile:
    stamp = storage.stamp(path)
    assert stamp is not None
    return StemFile(path=str(path), num_bytes=stamp.size, changed_ns=stamp.changed_ns)


def _content(local: Mapping[str, str]) -> list[bytes]:
    return [Path(path).read_bytes() for path in local.values()]


def test_files_that_stay_as_they_are_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    calls: list[Mapping[str, str]] = []

    def read(local: Mapping[str, str]) -> list[bytes]:
        calls.append(local)
        return _content(local)

    assert read_proven([_listed(tmp_path / "a"), _listed(tmp_path / "b")], read) == [b"one", b"two"]
    assert len(calls) == 1
    assert read_proven([StemFile(path=str(tmp_path / "a"))], read) == [b"one"]  # listed without its size and time


@pytest.mark.parametrize("when", ["before", "meanwhile", "same size and time", "gone"])
@pytest.mark.parametrize("error", [False, True])
def test_a_file_that_changes_is_noticed_after_its_last_block(tmp_path: Path, when: str, error: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first")
    file = _listed(path)

    def change() -> None:
        if when == "gone":
            path.unlink()
            return
        (tmp_path / "new").write_bytes(b"other" if when == "same size and time" else b"another")
        os.utime(tmp_path / "new", ns=(file.changed_ns, file.changed_ns))
        os.replace(tmp_path / "new", path)

    def read(local: Mapping[str, str]) -> list[bytes]:
        content = _content(local)
        if when != "before":
            change()
        if error:
            raise AudioError("undecodable", "half of it is missing")
        return content

    if when == "before":
        change()
    with pytest.raises(Unavailable if when == "gone" else Changed, match=r"cannot be read|changed"):
        read_proven([file], read)


def test_a_file_of_another_time_and_the_same_content_is_the_one_that_was_listed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    file = _listed(tmp_path / "a")
    os.utime(tmp_path / "a", ns=(0, 0))
    assert read_proven([file], _content, is_same=lambda: True) == [b"one"]
    with pytest.raises(Changed, match="changed after the corpus was listed"):
        read_proven([file], _content)


def test_a_verdict_needs_two_readings_that_agree(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    attempts: list[int] = []

    def fails_once(local: Mapping[str, str]) -> list[bytes]:
        attempts.append(1)
        if len(attempts) == 1:
            raise AudioError("undecodable", "a disk that hiccups gives fewer bytes")
        return _content(local)

    assert read_proven([_listed(tmp_path / "a")], fails_once) == [b"one"]

    def fails(local: Mapping[str, str]) -> list[bytes]:
        raise AudioError("clipped", "as always")

    with pytest.raises(AudioError, match="as always") as caught:
        read_proven([_listed(tmp_path / "a")], fails)
    assert caught.value.reason == "clipped"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading is an input/output error")
def test_bytes_that_cannot_be_read_prove_nothing() -> None:
    def fails(local: Mapping[str, str]) -> None:
        raise AudioError("undecodable", "it ends early")

    with pytest.raises(Unavailable, match="/proc/self/mem cannot be read: Input/output error"):
        read_proven([StemFile(path="/proc/self/mem")], fails)


def test_errors_of_the_system_while_reading_are_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")

    def read(local: Mapping[str, str]) -> None:
        raise OSError(116, "Stale file handle", "/nas/a")

    with pytest.raises(Unavailable, match="/nas/a cannot be read: Stale file handle"):
        read_proven([_listed(tmp_path / "a")], read)


@pytest.mark.timeout(60)
def test_a_pipe_and_a_device_are_refused_without_waiting_for_their_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def read(local: Mapping[str, str]) -> None:
        raise AudioError("undecodable", "no file of audio")

    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(AudioError, match="no file of audio"):
            read_proven([StemFile(path=str(path))], read)
