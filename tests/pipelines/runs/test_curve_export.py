"""TensorBoard's files and W&B's hold each step of a run once, over restarts, and nothing ends a training."""

import json
import logging
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from datasets.errors import InputError
from pipelines.runs import curve_export, run_folder
from pipelines.runs.curve_export import CurveExport, TensorBoardWriter, exports
from pipelines.runs.run_place import RunPlace
from pipelines.training import train as train_step
from pipelines.training.train_config import Job, ModelConfig, TrainConfig

SETTINGS = {"train.steps": 8, "model.preset": "htdemucs-tiny"}


@pytest.fixture
def place(tmp_path: Path) -> RunPlace:
    place = RunPlace(store=str(tmp_path / "store"), name="key")
    place.folder.mkdir(parents=True)
    return place


def train(place: RunPlace, steps: range, *, checkpoint: int) -> None:
    lines = run_folder.Lines(place.folder / run_folder.HISTORY)
    for step in steps:
        lines.append({"step": step, "loss": 1 / (step + 1), "loss_drums": 0.5})
    (place.folder / run_folder.checkpoint_name(checkpoint)).mkdir(exist_ok=True)


def events(folder: Path) -> Iterator[Event]:
    """What TensorBoard reads: records of length, checksum, event and checksum, the oldest file first."""
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """As TensorBoard shows them: those of later steps than a new file begins with are dropped."""
    kept: list[tuple[int, str, float]] = []
    for event in events(folder):
        if event.HasField("session_log"):
            kept = [row for row in kept if row[0] < event.step]
        kept += [
            (event.step, value.tag, value.simple_value) for value in event.summary.value if value.tag != "settings"
        ]
    return [row for row in kept if "text_summary" not in row[1]]


def test_tensorboard_has_each_step_once_when_its_checkpoint_is_there(place: RunPlace, tmp_path: Path) -> None:
    (export,) = exports(place, SETTINGS, tensorboard=str(tmp_path / "tb"), wandb="")
    train(place, range(1, 4), checkpoint=2)
    assert export.send() == 2
    assert export.send() == 0
    rows = scalars(tmp_path / "tb" / "key")
    assert [row[:2] for row in rows] == [(step, f"train/{name}") for step in (1, 2) for name in ("loss", "loss_drums")]
    assert rows[2][2] == pytest.approx(1 / 3)
    (text,) = (
        value for event in events(tmp_path / "tb" / "key") for value in event.summary.value if "text" in value.tag
    )
    assert b"| model.preset | htdemucs-tiny |" in text.tensor.string_val[0]
    # Killed before the mark was written: the next start hands the steps on again, and TensorBoard shows them once.
    (place.folder / "tensorboard.json").unlink()
    (again,) = exports(place, SETTINGS, tensorboard=str(tmp_path / "tb"), wandb="")
    again._done = lambda: 1  # type: ignore[method-assign]
    train(place, range(4, 5), checkpoint=4)
    with again.running():
        pass
    assert [row[0] for row in scalars(tmp_path / "tb" / "key")] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert json.loads((place.folder / "tensorboard.json").read_text())["step"] == 4
    (elsewhere,) = exports(place, SETTINGS, tensorboard=str(tmp_path / "other"), wandb="")
    assert elsewhere.send() == 4


def stored_records(content: bytes) -> Iterator[bytes]:
    """What `wandb sync` reads: LevelDB's log format, in blocks of 32 KiB, after seven bytes of W&B's own."""
    place, record = 7, b""
    while place < len(content):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_weights_and_biases_has_curve_and_settings(place: RunPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    curve_export.check("", "lab", store="store")
    train(place, range(1, 4), checkpoint=3)
    (export,) = exports(place, SETTINGS, tensorboard="", wandb="lab")
    with export.running():
        pass
    assert export.complaint == ""
    until, records = time.monotonic() + 60, list[Any]()
    while not any(record.WhichOneof("record_type") == "exit" for record in records):  # W&B's own process writes
        assert time.monotonic() < until, records
        paths = (place.folder / "wandb").glob("offline-run-*-key/run-key.wandb")
        records = [Record.FromString(content) for path in paths for content in stored_records(path.read_bytes())]
        time.sleep(0.1)
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["train/loss"] for row in rows] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert [row["_step"] for row in rows] == [1, 2, 3]
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.project, run.run_id) == ("lab", "key")
    assert {item.key: json.loads(item.value_json) for item in run.config.update if item.key in SETTINGS} == SETTINGS


def test_what_takes_no_points_is_logged_once_and_ends_no_training(
    place: RunPlace, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(step: int) -> Any:
        raise OSError("no space left")

    train(place, range(1, 3), checkpoint=2)
    export = CurveExport(place, "wandb", "lab", broken)
    with caplog.at_level(logging.WARNING):
        export._try(export.send)
        with export.running():
            pass
    assert [record.message for record in caplog.records] == [
        "wandb takes no points now, training goes on: no space left"
    ]
    assert not (place.folder / "wandb.json").exists()


def test_a_point_that_was_not_kept_is_shown_once_and_each_failure_logged(
    place: RunPlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_full = [True]

    class OnADisk(TensorBoardWriter):
        def flush(self) -> None:
            if is_full:
                raise OSError("no space left")
            super().flush()

    folder = tmp_path / "tb"
    export = CurveExport(place, "tensorboard", "tb", lambda step: OnADisk(folder, SETTINGS, first_step=step))
    with caplog.at_level(logging.WARNING):
        train(place, range(1, 4), checkpoint=3)
        export._try(export.send)
        is_full.clear()
        export._try(export.send)
        train(place, range(4, 6), checkpoint=5)
        is_full.append(True)
        export._try(export.send)
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["no space left"] * 2
    is_full.clear()
    assert export.send() == 2
    assert [row[0] for row in scalars(folder)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_an_end_that_is_not_taken_in_time_is_logged(
    place: RunPlace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_export, "_LAST_S", 0.05)
    answered = threading.Event()

    def slow(step: int) -> Any:
        answered.wait(60)
        raise OSError("no answer")

    train(place, range(1, 3), checkpoint=2)
    with caplog.at_level(logging.WARNING), CurveExport(place, "wandb", "lab", slow).running():
        pass
    answered.set()
    assert caplog.records[0].message == "wandb did not take the rest of the curve within 0.05 s"


def test_the_machine_that_starts_a_training_needs_library_and_account(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(config=TrainConfig(wandb="lab"), model=ModelConfig(), sources=(), chunks=(), keep=None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="wandb is not installed where the training starts"):
        train_step._check(job)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=lambda prompt: False))
    with pytest.raises(InputError, match="there is no account; set WANDB_API_KEY"):
        train_step._check(job)


def test_a_missing_library_account_or_folder_is_named_early(monkeypatch: pytest.MonkeyPatch) -> None:
    curve_export.check("", "", store="store")
    with pytest.raises(InputError, match=r"train\.tensorboard must be a folder of this machine, got s3://a/b"):
        curve_export.check("s3://a/b", "", store="store")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "wandb", None)
        with pytest.raises(InputError, match=r"needs the package wandb.*pip install 'stemline\[wandb\]'"):
            curve_export.check("", "lab", store="store")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InputError, match=r"offline keeps .* with s3://a/b that is removed .* set WANDB_MODE=online"):
        curve_export.check("", "lab", store="s3://a/b")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    nobody = SimpleNamespace(login=lambda prompt: False, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", nobody)
    with pytest.raises(InputError, match="there is no account; set WANDB_API_KEY, or WANDB_MODE=offline"):
        curve_export.check("", "lab", store="store")
