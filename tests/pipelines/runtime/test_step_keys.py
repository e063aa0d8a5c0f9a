"""What keys hang on, and which commit is noted: ours or that of the wheel, and never that of a user's repository."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime import step_keys
from pipelines.runtime.step_keys import STAMP, Step, code_commit

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


@dataclass(frozen=True)
class Inputs:
    songs: tuple[str, ...] = ("a", "b")
    mixtures: Mapping[str, str] = field(default_factory=dict)


STEP = Step(name="mix", version=1, uses={"audio": 1, "render": 1})


def test_a_key_hangs_on_name_versions_settings_and_inputs_and_on_no_order_of_names() -> None:
    key = STEP.key(Inputs(mixtures={"a": "1", "b": "2"}), {"rate": 44100, "seed": 0})
    assert STEP.key(Inputs(mixtures={"b": "2", "a": "1"}), {"seed": 0, "rate": 44100}) == key
    turned = replace(STEP, uses={"render": 1, "audio": 1})
    assert turned.key(Inputs(mixtures={"a": "1", "b": "2"}), {"rate": 44100, "seed": 0}) == key
    others = [
        replace(STEP, name="other").key(Inputs()),
        replace(STEP, version=2).key(Inputs()),
        replace(STEP, uses={"audio": 2, "render": 1}).key(Inputs()),
        replace(STEP, uses={}).key(Inputs()),
        STEP.key(Inputs(), {"seed": 1}),
        STEP.key(Inputs(songs=("b", "a"))),
        STEP.key(Inputs(mixtures={"a": "1"})),
        step_keys.incomplete_key(STEP.key(Inputs()), ["a"]),
    ]
    assert len({STEP.key(Inputs()), *others}) == 9


@pytest.mark.parametrize("wrong", [{"songs": 1}, ("a",), "a", Inputs])
def test_inputs_that_are_no_declared_record_make_no_key(wrong: Any) -> None:
    with pytest.raises(TypeError, match="the inputs of mix must be a declared record"):
        STEP.key(wrong)


def test_what_has_no_text_of_its_own_makes_no_key() -> None:
    with pytest.raises(TypeError, match="a key cannot be made of a object"):
        STEP.key(Inputs(), {"model": object()})
