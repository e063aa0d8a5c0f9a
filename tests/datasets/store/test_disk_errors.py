"""A disk that is full or closed to us is named, with the setting that names another."""

import errno
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import SCRATCH, GuardedFile, disk_errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_the_stores_own_fault(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"the disk of .* is full: a file of at least 7 bytes did not fit"),
        Path("/dev/full").open("wb", buffering=0) as full,
        GuardedFile(full, tmp_path, lambda: 7) as file,
    ):
        file.write(b"seven b")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*/file: .*store\.root=DIR"):
        storage.write(tmp_path / "file" / "below", b"x")


def test_a_disk_that_fills_up_with_work_on_a_store_in_s3_is_not_the_stores(tmp_path: Path) -> None:
    for name, remedy in ((f"{SCRATCH}0", r"store\.scratch=DIR"), ("store", r"store\.root=DIR")):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=remedy), disk_errors(tmp_path / name):
            raise OSError(errno.ENOSPC, "No space left on device")
