"""Of several processes two start Ray, and run nothing else; files stay whole."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

CONFTEST = """
from pathlib import Path
import os, time
import pytest
from tests.conftest import pytest_collection_modifyitems, pytest_configure, pytest_xdist_make_scheduler

if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
    time.sleep(1)  # the first process is the last to be ready

def pytest_runtest_call(item):
    process = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    with open("ran", "a") as file:
        file.write(f"{process} {item.path.stem} {item.get_closest_marker('ray') is not None} {os.nice(0)}\\n")
    time.sleep(0.05)
"""
MIXED = """
import pytest
@pytest.mark.ray
@pytest.mark.parametrize("name", ["a::b", "c"])
def test_with(name): pass
def test_without(): pass
"""
ALL = "import pytest\npytestmark = [pytest.mark.slow, pytest.mark.ray]\ndef test_with(): pass\n"
NONE = "def test_without(): pass\ndef test_again(): pass\n"


SLOW = """
import time
import pytest
pytestmark = pytest.mark.ray
@pytest.mark.parametrize("number", range(6))
def test_with(number): time.sleep(0.3)
"""


def ran(
    folder: Path, repository: Path, *options: str, files: tuple[str, ...] = (MIXED, ALL, NONE) * 2
) -> list[list[str]]:
    """Process, file, whether with Ray, and niceness of each test of the files, in their order."""
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  ray: Ray\n  slow: slow\n")
    for number, text in enumerate(files):
        (folder / f"test_{number}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--dist=loadfile", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return [line.split() for line in (folder / "ran").read_text().splitlines()]


@pytest.mark.slow
def test_what_starts_ray_has_two_processes_of_its_own(tmp_path: Path, repository: Path) -> None:
    seen = ran(tmp_path / "four", repository, "-n", "4", "--no-loadscope-reorder")
    assert len(seen) == 12
    of: dict[str, set[str]] = defaultdict(set)
    for process, _, with_ray, _ in seen:
        of[with_ray].add(process)
    assert of == {"True": {"gw0", "gw1"}, "False": {"gw2", "gw3"}}
    assert len({(process, file, with_ray) for process, file, with_ray, _ in seen}) == 2 + 4 + 2  # none is torn apart
    beside = {int(nice) for process, *_, nice in seen if process in ("gw2", "gw3")}
    assert min(beside) > max(int(nice) for process, *_, nice in seen if process in ("gw0", "gw1"))


@pytest.mark.slow
def test_one_that_started_ray_takes_no_other_test_when_the_second_has_ended(tmp_path: Path, repository: Path) -> None:
    seen = ran(tmp_path / "four", repository, "-n", "4", "--no-loadscope-reorder", files=(SLOW, ALL, *[NONE] * 60))
    assert {process for process, _, with_ray, _ in seen if with_ray == "False"} == {"gw2", "gw3"}
    assert len(seen) == 6 + 1 + 120


@pytest.mark.slow
def test_two_processes_share_all_and_ray_comes_last(tmp_path: Path, repository: Path) -> None:
    seen = ran(tmp_path / "two", repository, "-n", "2", "--no-loadscope-reorder")
    for own in ("gw0", "gw1"):
        kinds = [with_ray for process, _, with_ray, _ in seen if process == own]
        assert kinds == sorted(kinds)
        assert set(kinds) == {"False", "True"}
    alone = ran(tmp_path / "alone", repository)
    assert [with_ray for _, _, with_ray, _ in alone] == ["False"] * 6 + ["True"] * 6
