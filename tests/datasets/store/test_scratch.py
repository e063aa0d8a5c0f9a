"""The scratch folder of a machine: what nobody uses goes, the longest unused first; what a process uses stays."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datasets.store import scratch

STORE = "s3://songs/store"
HOLDER = """
import sys
from pathlib import Path
from datasets.store import scratch
scratch.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    monkeypatch.setenv(scratch.LIMIT, "0.000002")  # 2000 bytes
    return tmp_path


def filled(folder: Path, *, used_s: int, num_bytes: int = 1000) -> Path:
    """A folder that was last used then."""
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(bytes(num_bytes))
    os.utime(folder, (used_s, used_s))
    return folder


@contextmanager
def held_by_another_process(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_longest_unused_goes_until_the_rest_fits() -> None:
    store = scratch.scratch(STORE)
    oldest = filled(store / "runs" / "a", used_s=1_000)
    newest = filled(store / "runs" / "b", used_s=3_000)
    model = filled(scratch.scratch_of_model("s3://songs/model"), used_s=2_000)
    other = filled(scratch.scratch("s3://songs/other") / "cache" / "models" / "c", used_s=1_500)
    assert scratch.tidy() == [oldest, other]
    assert scratch.tidy() == []
    assert newest.is_dir()
    assert model.is_dir()
    assert (store / "runs").is_dir()


def test_things_of_others_beside_it_stay(base: Path) -> None:
    mine = filled(base / "precious", used_s=1)
    file = base / f"{scratch.SCRATCH}notes"
    file.write_bytes(bytes(9000))
    (base / f"{scratch.SCRATCH}link").symlink_to(mine)
    assert scratch.tidy() == []
    assert (mine / "data").is_file()
    assert file.is_file()


def test_what_another_process_uses_stays_until_it_is_killed() -> None:
    used = scratch.scratch(STORE) / "runs" / "used"
    with held_by_another_process(used) as process:
        (used / "data").write_bytes(bytes(5000))
        unused = filled(scratch.scratch(STORE) / "runs" / "unused", used_s=2_000)
        assert scratch.tidy() == [unused]
        assert not scratch.remove(used)
        assert (used / "data").is_file()
        process.kill()
        process.wait()
        assert scratch.tidy() == [used]
    assert list((scratch.scratch(STORE) / "runs").iterdir()) == [], "no lock is left"


def test_two_hold_one_folder_and_it_goes_after_the_second() -> None:
    folder = scratch.scratch(STORE) / "runs" / "both"
    with held_by_another_process(folder):
        scratch.hold(folder)
    assert not scratch.remove(folder)
    scratch.let_go(folder)
    assert scratch.remove(folder)
    assert scratch.hold(folder).is_dir(), "it is made anew for the next"
    scratch.let_go(folder)


def test_what_a_killed_command_was_about_to_remove_goes() -> None:
    leftover = filled(scratch.scratch(STORE) / "runs" / f"{scratch._GONE}0123", used_s=5_000, num_bytes=10)
    assert scratch.tidy() == []
    assert not leftover.exists()


def test_a_store_on_a_disk_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "runs" / "a"
    assert scratch.hold(folder) == folder
    assert not folder.parent.exists()
