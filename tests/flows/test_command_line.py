"""The command `stemline` before any heavy work: help, settings, exit codes and messages."""

import json
import re
import socket
import tomllib
from pathlib import Path

import pytest

from flows.__main__ import main

VERBS = (
    "demo", "run", "ingest", "curate", "analyze", "automix", "train", "evaluate", "promote", "separate", "compress",
    "ui",
)  # fmt: skip
ROAD = VERBS[:-3]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert re.search(rf"Example: stemline {verb} ", capsys.readouterr().out)


@pytest.mark.parametrize("verb", ROAD)
def test_the_printed_settings_are_toml_that_gives_the_same_settings(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "corpus.root=songs", f"store.root={tmp_path}/store", "--print-config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "again.toml").write_text(first)
    assert tomllib.loads(first)["corpus"]["root"] == str(Path("songs").absolute())
    assert main([verb, "--preset", str(tmp_path / "again.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--preset", "smok"], "did you mean 'smoke'"),
        (["run", "ingest.sample_rat=1"], "did you mean 'ingest.sample_rate'"),
        (["run", "ingest.sample_rate=high"], "should be a valid integer"),
        (["run", "ingest.sample_rate=0"], "1 or more would do"),
        (["run", "songs"], "is not an override"),
        (["run", "--presett", "x"], "--preset"),
        (["runn"], "Unknown command"),
        (["separate", "x.wav", "--out", "y"], "--model"),
        (["ui", "store.root=/nowhere/at/all"], "There is no store"),
    ],
)
def test_a_bad_command_is_one_message_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_stack_trace_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--preset", "smok", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "corpus.root=.", "store.root=/proc/x"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_separating_with_a_model_that_does_not_exist_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["separate", "x.wav", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main([*words, f"store.root={tmp_path}"]) == 2
    assert "not found" in capsys.readouterr().err


def test_separate_takes_settings_among_the_songs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["separate", "x.wav", "separate.shifts=2", "--two-stems", "vocals", "--model", "m", "--out", "o"]
    assert main([*words, "--print-config"]) == 0
    settings = tomllib.loads(capsys.readouterr().out)["separate"]
    assert (settings["shifts"], settings["two_stems"]) == (2, "vocals")


@pytest.mark.parametrize(
    ("variable", "path", "verb"), [("PREFECT_API_URL", "/api", "ingest"), ("MLFLOW_TRACKING_URI", "", "run")]
)
def test_a_named_server_that_does_not_answer_is_said_at_once(
    variable: str,
    path: str,
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}{path}"
    monkeypatch.setenv(variable, address)
    assert main([verb, "corpus.root=.", f"store.root={tmp_path}/store"]) == 2
    captured = capsys.readouterr()
    assert variable in captured.err
    assert address in captured.err


def test_nothing_but_json_goes_to_stdout_with_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows import road

    monkeypatch.setattr(road, "run", lambda config, **_: {"answer": 42, "shown": ["words"]})
    assert main(["ingest", "corpus.root=.", f"store.root={tmp_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"answer": 42, "seconds": {}}
