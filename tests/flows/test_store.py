"""The store folder: one command at a time, writable or refused."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from datasets.errors import InputError
from flows import store

HOLDER = """
import sys
from flows import store
with store.held(sys.argv[1], verb="train"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_store_is_made_and_released(tmp_path: Path) -> None:
    for _ in range(2):
        with store.held(str(tmp_path / "a" / "store"), verb="run") as folder:
            assert folder.is_absolute()
            assert folder.is_dir()


def test_a_second_command_is_told_who_holds_the_store_until_the_first_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InputError, match=rf"in use by `stemline train`, process {holder.pid}, since .*store\.root=DIR"),
        store.held(str(tmp_path), verb="run"),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    with store.held(str(tmp_path), verb="run"):
        pass


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"), store.held(str(tmp_path / "file" / "x"), verb="run"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written to"), store.held(str(tmp_path / "shut"), verb="run"):
        pass


def test_a_read_only_file_system_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written to"), store.held("/proc/stemline", verb="run"):
        pass


def test_an_address_that_is_no_folder_is_refused() -> None:
    with pytest.raises(InputError, match="s3://bucket"), store.held("s3://bucket/x", verb="run"):
        pass


def test_a_patient_command_has_the_store_once_the_other_is_gone(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with store.held(str(tmp_path), verb="run", patience_s=30.0):
            order.append("second")

    with store.held(str(tmp_path), verb="train"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
