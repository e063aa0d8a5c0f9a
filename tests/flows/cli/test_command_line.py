"""The command `stemline` before any heavy work: help, settings, exit codes and messages."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cyclopts import App

import flows.cli
from flows import config as settings
from flows.__main__ import VERBS as GROUPS
from flows.__main__ import app, main
from flows.config import keep_as_last_run
from tests.architecture.test_rooms import HEAVY
from tests.flows.command import stemline

# What a verb must be given besides settings; with flags that would make it act where it can.
GIVEN = {
    "compare": ["a", "b"], "outliers": ["a"], "lineage": ["a song"], "forget": ["a song"], "rollback": ["--to", "1"],
    "gc": ["--delete"],
    "separate": ["x.wav", "--model", "m", "--out", "o"], "compress": ["m", "--to", "small"], "plan": ["smoke"],
    "bag": ["drums=a", "--to", "new/bag.yaml"], "export": ["m", "--to", "m.onnx"], "deploy": ["--cron", "off"],
    "card": ["models:/m/1"], "datasets diff": ["1", "2"], "datasets find": ["a song"],
}  # fmt: skip

# The test that lets each verb do its work through the command line.
WORK = {
    "run": "e2e/test_road.py::test_a_second_run_redoes_nothing",
    "demo": "e2e/test_road.py::test_a_demo_composes_its_songs_and_says_where_its_model_is_not_good_enough",
    "ingest": "e2e/test_road.py::test_ingest_decodes_the_new_song_and_stops_there",
    "curate": "e2e/test_road.py::test_curate_judges_it_and_stops_there",
    "analyze": "e2e/test_road.py::test_analyze_measures_it_and_stops_there",
    "automix": "e2e/test_road.py::test_automix_plans_and_renders_mixes",
    "train": "e2e/test_road.py::test_train_leaves_a_checkpoint_and_scores_nothing",
    "evaluate": "e2e/test_road.py::test_evaluate_scores_the_held_out_songs_and_registers_nothing",
    "promote": "e2e/test_road.py::test_promote_registers_a_model_of_two_steps_as_candidate_alone_and_a_dry_run_nothing",
    "presets": "flows/cli/planning/test_presets.py::test_every_preset_is_listed_with_its_network_and_what_it_is_for",
    "config": "flows/cli/planning/test_config.py::test_a_setting_is_explained_with_its_value_in_a_preset",
    "inspect": "flows/cli/planning/test_inspect.py::test_json_has_every_file",
    "plan": "flows/cli/planning/test_plan.py::test_a_plan_says_what_fits_and_what_does_not",
    "doctor": "flows/cli/planning/test_plan.py::test_the_doctor_finds_this_machine_fit_and_a_gpu_missing",
    "separate": "e2e/test_road.py::test_separate_writes_the_stems_of_a_song_and_says_which_it_cannot",
    "compare": "e2e/test_road.py::test_compare_says_what_one_gains_over_the_other",
    "listen": "e2e/test_road.py::test_listen_makes_pages_of_both",
    "outliers": "e2e/test_road.py::test_outliers_rank_every_song_of_the_train_split",
    "history": "flows/cli/models/test_history.py::test_what_was_promoted_is_listed_and_rolled_back",
    "lineage": "flows/cli/models/test_lineage.py::test_a_song_tells_who_heard_it",
    "card": "flows/console/test_version_card.py::test_a_card_for_hugging_face_is_read_by_its_library",
    "notify": "flows/console/test_notifications.py::test_an_address_that_is_none_is_refused_without_being_repeated",
    "rollback": "flows/cli/models/test_history.py::test_what_was_promoted_is_listed_and_rolled_back",
    "export": "flows/cli/models/test_export.py::test_a_graph_gives_the_model_s_estimates_and_is_told_by_its_digest",
    "compress": "flows/cli/models/test_compress.py::test_a_compressed_checkpoint_is_smaller_and_nearly_the_same_model",
    "init": "flows/cli/planning/test_init.py::test_a_run_with_the_file_is_one_with_the_preset",
    "bag": "flows/cli/models/test_bag.py::test_each_source_comes_from_the_model_named_for_it",
    "datasets": "flows/cli/store/test_datasets.py::test_datasets_are_listed_for_people_and_for_programs",
    "datasets diff": "flows/cli/store/test_datasets.py::test_two_datasets_are_compared",
    "datasets find": "flows/cli/store/test_datasets.py::test_a_song_is_found_in_its_datasets",
    "forget": "e2e/test_road.py::test_a_song_is_forgotten_by_name_of_those_who_heard_it",
    "gc": "flows/cli/store/test_gc.py::test_without_delete_nothing_goes_and_with_it_only_what_was_listed",
    "ui": "flows/cli/operations/test_ui.py::test_the_pages_answer_until_ctrl_c_and_no_process_is_left_after",
    "deploy": "flows/test_wheel.py::test_what_is_deployed_again_keeps_the_schedules_and_pauses_of_the_server",
    "webhook": "flows/cli/operations/test_webhook.py::test_the_command_hands_a_change_to_prefect_until_ctrl_c",
    "retrain": "e2e/test_road.py::test_a_retraining_trains_with_a_seed_of_its_own_and_once_on_each_occasion",
    "sbom": "flows/cli/operations/test_sbom.py::test_the_command_prints_the_bill_and_nothing_of_ours_in_it",
}


def verbs(within: App = app) -> Iterator[str]:
    """Every verb that the command line has, those below another one too."""
    for name in within:
        if not name.startswith("-"):
            below = [f"{name} {one}" for one in verbs(within[name])]
            yield from [name, *below]


VERBS = tuple(verbs())


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    if verb != "datasets":
        assert re.search(rf"Example: stemline {verb} ", capsys.readouterr().out)


def files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", VERBS)
def test_the_printed_settings_are_toml_that_gives_the_same_settings_and_nothing_is_done(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    (tmp_path / "store").mkdir()
    words, store = [*verb.split(), *GIVEN.get(verb, [])], f"store.root={tmp_path}/store"
    before = files(tmp_path)
    assert main([*words, "corpus.root=songs", "train.steps=7", store, "--print-config"]) == 0
    first = capsys.readouterr().out
    assert files(tmp_path) == before
    settings = tomllib.loads(first)
    assert (settings["corpus"]["root"], settings["train"]["steps"]) == (str(tmp_path / "songs"), 7)
    (tmp_path / "again.toml").write_text(first)
    again = [word for word in words if (verb, word) != ("plan", "smoke")]
    assert main([*again, "--preset", "again.toml", "--print-config"]) == 0
    assert capsys.readouterr().out == first


LAST = ["train.steps=7", "curate.min_presence=0.125"]


@pytest.fixture
def used_store(tmp_path: Path) -> str:
    """The root of a store in which a run with `LAST` over the preset `htdemucs-musdb` was the last, and then moved."""
    before, after = tmp_path / "before", tmp_path / "after"
    keep_as_last_run(settings.load("htdemucs-musdb", [*LAST, f"store.root={before}"]))
    before.rename(after)
    return f"store.root={after}"


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"demo", "presets", "config", "init", "plan", "sbom"}))
def test_each_verb_on_a_store_takes_the_settings_of_its_last_run_and_says_so(verb: str, used_store: str) -> None:
    words = [*verb.split(), *GIVEN.get(verb, []), used_store, "gate.min_songs=9", "--print-config"]
    answer = stemline(*words)
    assert "settings of the last run" in answer.err
    asked_for = settings.load("htdemucs-musdb", [*LAST, used_store, "gate.min_songs=9"])
    assert answer.out == settings.to_toml(asked_for)
    named = stemline(*words, "--preset", "smoke")
    assert (named.out, named.err) == (settings.to_toml(settings.load("smoke", [used_store, "gate.min_songs=9"])), "")


@pytest.mark.parametrize("verb", ["demo", "config", "presets", "init"])
def test_a_verb_that_is_about_presets_takes_no_last_run(verb: str, used_store: str) -> None:
    answer = stemline(verb, used_store, "--print-config")
    assert (tomllib.loads(answer.out)["train"]["steps"] == 7, answer.err) == (False, "")


def test_settings_of_a_last_run_that_cannot_be_read_are_named_with_the_way_out(used_store: str) -> None:
    file = Path(used_store.removeprefix("store.root="), "settings.toml")
    file.write_text("[train]\nstesp = 3\n")
    answer = stemline("history", used_store)
    assert answer.code == 2
    assert "train.steps" in answer.err
    assert f"{file}; --preset NAME takes others" in answer.err


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_refuses_a_preset_that_is_none(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word for word in GIVEN.get(verb, []) if (verb, word) != ("plan", "smoke")]
    assert main([*verb.split(), *given, "--preset", "smok"]) == 2
    assert "did you mean 'smoke'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--preset", "smok"], "did you mean 'smoke'"),
        (["run", "ingest.sample_rat=1"], "did you mean 'ingest.sample_rate'"),
        (["run", "ingest.sample_rate=high"], "should be a valid integer"),
        (["run", "ingest.sample_rate=0"], "ingest.sample_rate must be >= 1, got 0"),
        (["run", "train.learner.max_grad_norm=-1"], "train.learner.max_grad_norm must be >= 0, got -1"),
        (["train", "model.options.transformer_layers=-1"], "model.options.transformer_layers must be >= 0, got -1"),
        (["train", "model.preset=htdemux"], "did you mean 'htdemucs'"),
        (["run", "songs"], "is not an override"),
        (["run", "--presett", "x"], "--preset"),
        (["runn"], "Unknown command"),
        (["separate", "x.wav", "-o", "y"], "--model"),
        (["ui", "store.root=/nowhere/at/all"], "There is no store"),
        (["plan"], "There is no preset ''"),
        (["plan", "smoke", "--preset", "demo"], "'smoke' is not an override"),
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


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_test_that_lets_it_do_its_work(verb: str, repository: Path) -> None:
    file, _, name = WORK[verb].partition("::")
    module = ast.parse((repository / "tests" / file).read_text())
    (test,) = (node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name)
    words = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    assert set(verb.split()) <= words
    assert not {"--help", "--print-config"} & words


@pytest.mark.parametrize(("verb", "name"), [("corpus", "inspect"), ("inventory", "sbom"), ("why", "retrain --explain")])
def test_a_verb_of_before_answers_with_its_name_of_today(
    verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "store.root=/tmp/none"]) == 2
    assert f"`stemline {verb}` is called `stemline {name}` now" in capsys.readouterr().err
    assert name.split()[0] in VERBS


@pytest.mark.slow
def test_no_verb_imports_anything_heavy_before_it_runs_and_help_imports_nothing_of_a_verb() -> None:
    program = f"""
import sys
from flows.__main__ import VERBS, app
assert not [name for name in sys.modules if name.startswith("flows.cli.")]
verbs = [app[verb] for _, verbs in VERBS.values() for verb in verbs]
print(len(verbs), *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == [str(sum(" " not in verb for verb in VERBS))]


def test_the_help_groups_the_verbs_and_each_is_a_file_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    at = [shown.index(f"─ {title} ─") for title in GROUPS]
    assert at == sorted(at)
    assert "Decode the songs of a folder" in shown
    for package, verbs in GROUPS.values():
        folder = Path(flows.cli.__path__[0], package)
        assert {path.stem for path in folder.glob("*.py")} == {"__init__", *verbs}
        assert len(list(folder.glob("*.py"))) <= 12


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


def test_separate_is_asked_as_people_ask_for_stems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short options, a folder of songs, some of the stems; what it wrote is no song the next time."""
    from models.networks import catalog
    from models.weights import checkpoint

    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "model", catalog.build("htdemucs-tiny", segment_s=1.0, sample_rate=8000))
    for name in ("b.wav", "deeper/a.flac"):
        Path("album", name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(Path("album", name), np.random.default_rng(1).normal(0, 0.1, (8000, 2)), 8000)
    Path("album/notes.txt").touch()
    words = ["separate", "album", "-o", "album/stems", "--stem", "vocals", "--stem", "drums", "--json"]
    first = stemline(*words, "-n", "model")
    assert first.code == 0, first.err
    assert [Path(song["song"]).name for song in first.json["songs"]] == ["b.wav", "a.flac"]
    assert sorted(path.name for path in Path("album/stems/a").glob("*.wav")) == ["drums.wav", "vocals.wav"]
    again = stemline(*words, "-m", "model")
    assert [song["reused"] for song in again.json["songs"]] == [True, True]
    Path("empty").mkdir()
    refused = stemline("separate", "empty", "-m", "model")
    assert (refused.code, "no audio file is in this folder" in refused.err) == (2, True)
    nameless = stemline("separate", "", "-m", "model", "-o", "nothing", "--json")
    assert (nameless.code, nameless.json["songs"]) == (2, []), "no name is not the folder it was called in"
    assert not Path("separated").exists()


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
    from flows.cli import session

    monkeypatch.setattr(session, "run_steps", lambda config, **_: {"answer": 42, "console_output": ["words"]})
    assert main(["ingest", "corpus.root=.", f"store.root={tmp_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"answer": 42, "seconds": {}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed", [{"HOME": None}, {"HOME": "/no/such/folder"}, {"TMPDIR": "/no/such/folder"}, {"umask": 0o077}], ids=str
)
def test_a_store_is_read_without_a_home_or_a_folder_for_temporary_files_and_by_the_owner_alone(
    changed: dict[str, Any], tmp_path: Path, repository: Path
) -> None:
    given = {name: value for name, value in {**os.environ, **changed}.items() if isinstance(value, str)}
    done = subprocess.run(
        [sys.executable, "-m", "flows", "history", f"store.root={tmp_path}"],
        cwd=repository, env=given, umask=changed.get("umask", -1), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "No version of stemline was promoted yet." in done.stdout


def test_a_user_without_a_name_and_a_home_is_as_good_as_any(repository: Path, tmp_path: Path) -> None:
    """As in a container that runs under a number of its own: libraries that ask for a home are told one."""
    namespace = ["unshare", "--user", "--map-user=12345"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives nobody a user namespace")
    unknown = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "USERNAME")}
    done = subprocess.run(
        [*namespace, sys.executable, "-m", "flows", "deploy", "--cron", "61 * * * *", f"store.root={tmp_path}"],
        cwd=repository, env=unknown, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("--cron must be five fields"), "Prefect, which was imported for this, asked in vain"


def test_a_log_file_is_added_to_and_has_what_ended_a_command(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    for _ in range(2):
        assert stemline("inspect", "--log-file", str(log), f"corpus.root={tmp_path / 'nowhere'}").code == 2
    lines = log.read_text().splitlines()
    assert (lines[0], len(lines)) == ("before", 3)
    assert "the corpus folder" in lines[-1]
    answer = stemline("inspect", "--log-file", str(tmp_path / "no" / "log.txt"), "corpus.root=x")
    assert (answer.code, "--log-file" in answer.err) == (2, True)


def test_a_log_file_that_takes_no_more_ends_no_command(tmp_path: Path) -> None:
    answer = stemline("inspect", "--log-file", "/dev/full", f"corpus.root={tmp_path / 'nowhere'}")
    assert answer.code == 2
    assert "the corpus folder" in answer.err
    assert "--log-file /dev/full lacks lines: No space left on device\n" in answer.err


def test_bash_completes_verbs_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / "stemline.bash"
    assert stemline("--install-completion", "--shell", "bash", "--output", str(script)).code == 0
    complete = (
        f"source {script}; COMP_WORDS=(stemline sep); COMP_CWORD=1; "
        "$(complete -p stemline | sed -E 's/.*-F ([^ ]+).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    answer = subprocess.run(["bash", "-c", complete], capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["separate"], answer.stderr
