"""Whatever becomes of stdout and stderr, the work is done, and what its printing met is told."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.slow  # each starts a process or more
SETTINGS = [sys.executable, "-m", "flows", "run", "--print-config"]
HELP = [sys.executable, "-m", "flows", "--help"]


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two songs, with names that ASCII has not."""
    folder = tmp_path_factory.mktemp("songs")
    for number, title in enumerate(
        ("Über – allem", "夜の音楽 of a very long name that no narrow window can hold at all")
    ):
        (folder / title).mkdir()
        for source in ("drums", "bass", "other", "vocals"):
            noise = np.random.default_rng(number).normal(0, 0.1, (4410, 2))
            soundfile.write(folder / title / f"{source}.wav", noise, 44100)
    return folder


def inspect(songs: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "flows", "inspect", f"corpus.root={songs}", *words]


def shell(command: list[str], redirection: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command with its streams as a shell redirects them; its exit code, not that of a pipe's other end."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}', "bash", *command],
        capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=120,
        env={**os.environ, **variables}, check=False,
    )  # fmt: skip


def complaints(done: "subprocess.CompletedProcess[str]") -> list[str]:
    bad = ("Traceback", "Exception ignored", "BrokenPipe", "fault of the program")
    return [line for line in done.stderr.splitlines() if any(word in line for word in bad)]


@pytest.mark.parametrize("words", [SETTINGS, HELP, "table", "json"], ids=["settings", "help", "table", "json"])
@pytest.mark.parametrize(
    ("redirection", "codes"),
    [("| true", (0, 141)), (">&-", (0,)), ("> /dev/full", (2,)), ("2>&-", (0,)), ("2> /dev/full", (0,)), ("<&-", (0,))],
)
def test_a_stream_that_takes_nothing_costs_no_result(
    songs: Path, words: list[str] | str, redirection: str, codes: tuple[int, ...]
) -> None:
    command = words if isinstance(words, list) else inspect(songs, *(["--json"] if words == "json" else []))
    done = shell(command, redirection)
    assert not complaints(done), done.stderr
    assert done.returncode in codes, done.stderr
    if redirection == "> /dev/full":
        assert "could not be written to stdout (No space left on device)" in " ".join(done.stderr.split())
    elif "2>" in redirection or redirection == "<&-":
        assert len(done.stdout) > 100


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_stream_that_lacks_letters_shows_the_rest_and_documents_keep_them(songs: Path, encoding: str) -> None:
    table = shell(inspect(songs), "", PYTHONIOENCODING=encoding)
    assert (table.returncode, complaints(table)) == (0, [])
    assert "? inspect" in table.stderr, "a check mark elsewhere"
    assert "usable" in table.stdout
    document = shell(inspect(songs, "--json"), "", PYTHONIOENCODING=encoding)
    assert "夜の音楽" in json.dumps(json.loads(document.stdout), ensure_ascii=False)
    settings = shell([*SETTINGS, f"corpus.root={songs}/夜の音楽 🎵 é"], "", PYTHONIOENCODING=encoding)
    assert settings.returncode == 0, settings.stderr
    text = settings.stdout if encoding == "ascii" else settings.stdout.replace("\ufffd", "é")
    assert tomllib.loads(text)["corpus"]["root"] == f"{songs}/夜の音楽 🎵 é"


def test_a_locale_without_utf_8_shows_tables_too(songs: Path, tmp_path: Path) -> None:
    (tmp_path / "Song").symlink_to(next(songs.iterdir()))
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in ((), ("--json",)):
        done = shell(inspect(tmp_path, *words), "", **variables)
        assert (done.returncode, complaints(done)) == (0, []), done.stderr


def test_a_narrow_window_cuts_nothing(songs: Path) -> None:
    wide = shell(inspect(songs), "", COLUMNS="200", TERM="dumb")
    narrow = shell(inspect(songs), "", COLUMNS="20", TERM="dumb")
    assert narrow.returncode == 0
    assert "…" not in narrow.stdout
    words = set(wide.stdout.split())
    assert words <= set(narrow.stdout.split()), words - set(narrow.stdout.split())
