"""Which commit is noted: that of our checkout, that of which a wheel was built, and never a user's own."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.runtime import step_keys
from pipelines.runtime.step_keys import STAMP, code_commit

OURS = '[project]\nname = "stemline"\n'


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    code_commit.cache_clear()
    yield
    code_commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(folder: Path, project: str) -> str:
    """The commit of a new repository with this pyproject.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(project)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


def lies_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(step_keys, "ROOT", folder)
    return folder


def test_of_a_checkout_it_is_its_commit_and_whether_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = repository(lies_in(tmp_path / "stemline", monkeypatch), OURS)
    assert code_commit() == commit
    (tmp_path / "stemline" / "pyproject.toml").write_text(f"{OURS}version = '2'\n")
    code_commit.cache_clear()
    assert code_commit() == f"{commit}+changes"


@pytest.mark.parametrize("within", ["", "venv/lib/python3.11/site-packages", "vendor/stemline"])
@pytest.mark.parametrize("stamp", ["", "5f0c1d2e"])
def test_of_a_users_repository_it_is_never_the_commit(
    within: str, stamp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "song-lab", '[project]\nname = "song-lab"\n')
    home = lies_in(tmp_path / "song-lab" / within, monkeypatch)
    if within.startswith("vendor"):
        (home / "pyproject.toml").write_text(OURS)
    if stamp:
        (home / STAMP).parent.mkdir()
        (home / STAMP).write_text(f"{stamp}\n")
    monkeypatch.chdir(tmp_path / "song-lab")
    assert code_commit() == stamp


def test_inside_a_hook_of_another_repository_it_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = repository(lies_in(tmp_path / "stemline", monkeypatch), OURS)
    repository(tmp_path / "song-lab", '[project]\nname = "song-lab"\n')
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "song-lab" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "song-lab"))
    assert code_commit() == commit


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = lies_in(tmp_path / "unpacked", monkeypatch)
    (home / "pyproject.toml").write_text(OURS)
    assert code_commit() == ""
    monkeypatch.setenv("PATH", "")
    assert shutil.which("git") is None
    assert code_commit() == ""
