"""What git tracks: nothing large, secret or tied to one machine, and no lock of another tool."""

import re
import subprocess
from pathlib import Path

import pytest

MAX_BYTES = 1_000_000
# Built from parts, so that this file does not find itself.
MACHINE = re.compile(
    r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/|" + "py" + r"thonhosted\.org|" + r"py" + r"pi\.org/s"
)
SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|ghp_[A-Za-z0-9]{30}")


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this copy of the project is no git checkout")
    return [repository / name for name in listed.stdout.split("\0") if name and (repository / name).is_file()]


def matches(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}: {hit.group(0)}" for hit in pattern.finditer(text)]
    return found


def test_no_file_is_large(tracked: list[Path]) -> None:
    assert [path.name for path in tracked if path.stat().st_size > MAX_BYTES] == []


def test_no_file_names_a_path_of_one_machine_or_a_download_address(tracked: list[Path]) -> None:
    assert matches(tracked, MACHINE) == []


def test_no_file_holds_a_secret(tracked: list[Path]) -> None:
    assert matches(tracked, SECRET) == []


def test_no_uv_lock_is_committed(tracked: list[Path]) -> None:
    assert "uv.lock" not in {path.name for path in tracked}


@pytest.mark.parametrize("left", ["stemline-store/mlflow.db", "mlruns/0/meta.yaml"])
def test_what_our_commands_and_mlflow_write_beside_the_source_is_ignored(
    left: str, tracked: list[Path], repository: Path
) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", left], cwd=repository).returncode == 0
