"""What `stemline plan` and `stemline doctor` show, and with which exit code."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from flows.__main__ import main
from flows.cli.planning import doctor
from pipelines.runtime import preflight
from pipelines.runtime.preflight import Finding


@pytest.mark.slow
def test_a_plan_says_what_fits_and_what_does_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["plan", "smoke", "--gpu", "l4", f"store.root={tmp_path / 'store'}"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["fits"] is True
    assert told["plan"]["parameters"] == 477_440
    assert told["songs"] is None
    assert main([*command, "--memory-gib", "1.1", "model.options.segment_s=7.8", "train.batch_size=64"]) == 2
    shown = capsys.readouterr().out
    assert re.search(r"does not fit into 1 GiB;\s+try .+", shown)
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.slow
def test_a_plan_says_what_binds_and_which_setting_ends_that(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["plan", "htdemucs-one-gpu", "--gpu", "h100", f"store.root={tmp_path / 'store'}"]
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Computing binds, not the loader." in shown
    assert "0.2 % of the time: every 2000 steps 16 songs, 30 s of each, by 3 sets of weights" in shown
    assert "Validation takes more" not in shown
    assert main([*command, "train.cpus_per_worker=1", "train.checkpoint_every=20"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "The loader binds: with train.cpus_per_worker=3 it would take 19 h" in shown
    assert "44 h" in shown  # as one core decodes
    assert "0.34 s to compute" in shown
    assert "Validation takes more than 5 % of the time: use train.checkpoint_every=32, or less train.valid_s." in shown


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["plan", "smoke", "--gpu", "abacus"], "h100, h200"),
        (["plan", "smoke", "--mfu", "2"], "--mfu must be in [0, 1]"),
        (["plan", "smok"], "did you mean 'smoke'"),
    ],
)
def test_a_plan_of_nothing_known_is_refused(capsys: pytest.CaptureFixture[str], command: list[str], words: str) -> None:
    assert main(command) == 2
    assert words in capsys.readouterr().err


def test_the_doctor_finds_this_machine_fit_and_a_gpu_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    store = f"store.root={tmp_path / 'store'}"
    assert main(["doctor", store, "train.use_gpu=true", "--json"]) == 2
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["findings"]}
    assert found["GPUs"]["state"] == "fault"
    assert "train.use_gpu=false" in found["GPUs"]["mend"]
    assert {item["state"] for name, item in found.items() if name != "GPUs"} <= {"ok", "warning"}
    assert not (tmp_path / "store").exists()


def test_the_doctor_names_a_store_and_a_server_out_of_reach(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (tmp_path / "file").touch()
    assert main(["doctor", f"store.root={tmp_path / 'file' / 'store'}", "--json"]) in (0, 2)
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["findings"]}
    assert found["MLflow"]["state"] == "fault"
    assert "MLFLOW_TRACKING_URI" in found["MLflow"]["mend"]
    assert found["store"]["state"] == "fault"


def test_the_doctor_tells_of_a_folder_of_somebodys(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    needs = preflight.Needs(store=str(tmp_path), data=str(tmp_path), num_workers=0, use_gpu=False)
    assert preflight._store(needs).state != "fault"
    (tmp_path / "runs" / "notes.txt").touch()
    found = preflight._store(needs)
    assert found.state == "fault"
    assert "runs/ in it" in found.seen


def test_the_doctor_tells_when_every_process_compiles_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = preflight.Needs(store=str(tmp_path), data=str(tmp_path), num_workers=0, use_gpu=False)
    monkeypatch.setattr("sys.pycache_prefix", str(tmp_path))
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    assert next(preflight.check(needs)).state == "ok"
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    found = next(preflight.check(needs))
    assert (found.name, found.state) == ("python", "warning")
    assert "unset PYTHONDONTWRITEBYTECODE" in found.mend


def test_the_doctor_tells_of_a_cpu_that_has_no_bfloat16_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = preflight.Needs(store=str(tmp_path), data=str(tmp_path), num_workers=0, use_gpu=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for has_units in (True, False):
        monkeypatch.setattr("models.mixed_precision.cpu_computes_bfloat16", lambda has_units=has_units: has_units)
        finding = preflight._gpus(needs)
        assert finding.state == "ok"
        assert ("computes precision bfloat16 in float32" in finding.seen) is not has_units


def test_faults_are_marked_and_each_has_its_way_out_in_eighty_columns() -> None:
    found = [
        Finding(name="store", state="ok", seen="there"),
        Finding(name="GPUs", state="fault", seen="none " * 30, mend="install a driver " * 8),
    ]
    console = Console(file=io.StringIO(), width=80)
    for part in doctor.console_output(found):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "✗" in text
    assert text.count("install a driver") >= 7
    assert all(len(line) <= 80 for line in text.splitlines())
