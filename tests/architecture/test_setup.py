"""`.ci/sync`, where nothing is there yet: what it is about to install comes first, and what it cannot has words."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = ("bash", "cat", "cut", "dirname", "env", "grep", "id", "sed", "sha256sum", "uname")


@pytest.fixture
def bare(repository: Path, tmp_path: Path) -> Path:
    """A checkout on a machine that has neither uv, Python nor apt-get, nor a program that tests start."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "checkout" / ".ci").mkdir(parents=True)
    for name in (".ci/sync", "pyproject.toml", *(path.name for path in repository.glob("requirements*.lock"))):
        shutil.copy(repository / name, tmp_path / "checkout" / name)
    return tmp_path


def sync(bare: Path, kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(bare / "bin" / "bash"), ".ci/sync", kind],
        cwd=bare / "checkout",
        env={"PATH": str(bare / "bin"), "HOME": str(bare)},
        capture_output=True,
        text=True,
    )


def test_what_is_about_to_be_installed_stands_before_the_first_install(bare: Path) -> None:
    told = sync(bare, "runtime")
    assert told.returncode == 2
    lines = told.stderr.splitlines()
    first = next(place for place, line in enumerate(lines) if "installing" in line)
    assert any(line.startswith("  requirements.lock into .venv/: ") for line in lines[:first])
    assert any(line.startswith("  uv ") for line in lines[:first])
    assert not {"ffmpeg", "chromium", "postgresql", "requirements-dev.lock"} & set(re.findall(r"[\w.-]+", told.stderr))
    assert "python3 with its venv module is missing, and sync installs that as root only" in lines[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere sync looks for ffmpeg only")
def test_what_tests_use_is_asked_for_by_name_where_it_cannot_be_installed(bare: Path) -> None:
    told = sync(bare, "dev")
    assert told.returncode == 2
    assert "apt-get install ffmpeg" in told.stderr
    assert "installing" not in told.stderr
    (bare / "bin" / "ffmpeg").symlink_to("/bin/true")
    told = sync(bare, "dev")
    assert "no chromium" in told.stderr
    assert "  requirements-dev.lock into .venv/: " in told.stderr


@pytest.mark.parametrize(("had", "asked", "top"), [
    ("runtime 0", "runtime", "requirements.lock"), ("extras 0", "runtime", "requirements-extras.lock"),
    ("runtime 0", "extras", "requirements-extras.lock"), ("dev 0", "runtime", "requirements-dev.lock"),
    ("0123abcd", "extras", "requirements-dev.lock"),
])  # fmt: skip
def test_a_checkout_that_was_made_ready_for_more_stays_so(bare: Path, had: str, asked: str, top: str) -> None:
    (bare / "checkout" / ".venv").mkdir()
    (bare / "checkout" / ".venv" / ".synced").write_text(had)
    named = re.findall(r"^  (requirements\S*) into", sync(bare, asked).stderr, re.MULTILINE)
    assert named[-1] == top


@pytest.mark.slow
def test_the_warm_up_finds_what_it_compiles(repository: Path) -> None:
    text = (repository / ".ci" / "sync").read_text(encoding="utf-8")
    (code,) = re.findall(r"<<'PY'.*?\n(.*?)^PY$", text, re.DOTALL | re.MULTILINE)
    told = os.environ | {"NUMBA_DEBUG_CACHE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "beat_track_dp" in done.stdout, "the loops that take longest"
