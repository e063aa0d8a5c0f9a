"""Curve and examples in MLflow: while they grow, once for each step over restarts, late where the server was away."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.audio.decoding import decode
from datasets.errors import InputError
from models.learning.learner import Learner
from pipelines import registry
from pipelines.registry import RegistryConfig
from pipelines.registry.live_metrics import MARK, MetricsForwarder
from pipelines.runs import example_estimates, run_folder
from pipelines.runs.run_place import RunPlace
from pipelines.runtime.progress import NullProgress
from pipelines.training import train, train_result
from pipelines.training.divergence_recovery import RecoveryConfig
from tests.pipelines.songs import SOURCES, write_songs
from tests.pipelines.training.test_train import CONFIG as TRAINING
from tests.pipelines.training.test_train import MODEL

CONFIG = RegistryConfig()


def learn(folder: Path, *, to: int, checkpoint: int, first: int = 1, of: float = 1.0) -> None:
    """What a training leaves: a point at each step from `first` on, and a checkpoint."""
    for step in range(first, to + 1):
        run_folder.Lines(folder / run_folder.HISTORY).append(
            {"step": step, "loss": of / step, "loss_drums": 2.0 / step}
        )
        run_folder.Lines(folder / run_folder.SPEED).append({"step": step, "workers": 2, "rows_per_s": 10.0 + step})
    (folder / run_folder.checkpoint_name(checkpoint)).mkdir(exist_ok=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "runs" / "key"
    made.mkdir(parents=True)
    return made


def heard(folder: Path, step: int) -> None:
    """An example as a validation leaves it: 10 ms of a loud and a soft stem."""
    stems_SCT = np.stack([np.full((2, 80), level, dtype=np.float32) for level in (0.9, 0.3)])
    example = example_estimates.Example(
        references_SCT=stems_SCT, estimates_SCT=stems_SCT / 2, sources=("drums", "bass"), sample_rate=8000
    )
    example_estimates.write(folder, step, example)


def files(pump: MetricsForwarder) -> set[str]:
    """The examples that MLflow has."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=pump.uri)
    (run,) = client.search_runs([client.get_experiment_by_name(CONFIG.experiment).experiment_id])
    folders = client.list_artifacts(run.info.run_id, example_estimates.FOLDER)
    return {
        file.path.removeprefix("examples/")
        for folder in folders
        for file in client.list_artifacts(run.info.run_id, folder.path)
    }


def curve(pump: MetricsForwarder, name: str) -> list[tuple[int, float]]:
    """Every value that MLflow has, in the order of its steps."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=pump.uri)
    runs = client.search_runs([client.get_experiment_by_name(CONFIG.experiment).experiment_id])
    assert len(runs) == 1  # over all restarts
    return sorted((point.step, point.value) for point in client.get_metric_history(runs[0].info.run_id, name))


def test_points_come_with_their_checkpoint_and_every_step_once_over_restarts(folder: Path, tmp_path: Path) -> None:
    pump = MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=folder.name))
    learn(folder, to=6, checkpoint=4)
    assert pump.send() == 4
    assert pump.send() == 0
    # Killed, and on another machine with other sums: steps 5 and 6 come again, and are told as they were in the end.
    run_folder.Lines(folder / run_folder.HISTORY).keep(lambda point: point["step"] <= 4)
    learn(folder, first=5, to=8, checkpoint=8, of=1.5)
    again = MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=folder.name))
    assert again.send() == 4
    steps, losses = zip(*curve(again, "train/loss"), strict=True)
    assert steps == tuple(range(1, 9))
    assert losses == pytest.approx([(1.0 if step <= 4 else 1.5) / step for step in steps])
    assert curve(again, "speed/rows_per_s") == [(step, 10.0 + step) for step in range(1, 9)]
    # Killed between a delivery and its mark: the same points once more add nothing.
    (folder / MARK).unlink()
    assert again.send() == 8
    assert len(curve(again, "train/loss")) == 8
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_server_that_is_away_is_told_later_and_nothing_is_lost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=folder.name))
    there: Any = pump.uri
    pump.uri = "http://127.0.0.1:9"
    learn(folder, to=4, checkpoint=4)
    heard(folder, 4)
    with pump.running():  # a training that ends while the server is away ends well
        learn(folder, first=5, to=6, checkpoint=6)
        heard(folder, 6)
    assert "does not answer" in pump.complaint
    assert not (folder / MARK).exists()
    pump.uri = there
    pump.try_to_send()
    assert not pump.complaint
    assert [step for step, _ in curve(pump, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / MARK).read_text())["step"] == 6
    of_a_step = {f"step-00000000{step}/{source}.flac" for step in (4, 6) for source in ("drums", "bass")}
    assert files(pump) == of_a_step | {f"reference/{what}.flac" for what in ("mixture", "drums", "bass")}


def test_an_example_comes_with_its_checkpoint_and_none_is_sent_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=folder.name))
    learn(folder, to=4, checkpoint=4)
    heard(folder, 4)
    heard(folder, 6)  # its checkpoint is still being written
    pump.send()
    assert {name.split("/")[0] for name in files(pump)} == {"reference", "step-000000004"}
    monkeypatch.setattr(pump._client, "log_artifacts", lambda *_: pytest.fail("sent again"))
    pump.send()
    mixture_CT, rate = decode(folder / "examples" / "reference" / "mixture.flac")
    drums_CT, _ = decode(folder / "examples" / "step-000000004" / "drums.flac")
    assert rate == 8000
    assert np.abs(mixture_CT).max() == pytest.approx(1, abs=1e-3)  # made quieter, all alike
    assert np.abs(drums_CT).max() == pytest.approx(0.45 / 1.2, abs=1e-3)
    example_estimates.forget_after(folder, 4)
    assert list(example_estimates.steps(folder)) == [0, 4]
    assert not example_estimates.due(folder, 4)
    assert example_estimates.due(folder, 5)


def test_another_server_gets_all_of_it(folder: Path, tmp_path: Path) -> None:
    learn(folder, to=2, checkpoint=2)
    (folder / MARK).write_text(json.dumps({"address": "http://elsewhere", "run_id": "x", "step": 2}))
    assert MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=folder.name)).delivered() == -1
    assert registry.address(str(tmp_path)).startswith("sqlite:///")


def test_a_training_tells_its_curve_and_registering_it_tells_nothing_twice(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    chunks = write_songs(tmp_path / "songs", {"a": "train", "b": "train", "c": "valid"})
    result = train.run(TRAINING, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path), live=CONFIG)
    pump = MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=result.run_key))
    assert pump.delivered() == result.steps
    history = train_result.read_history(result)
    client = MlflowClient(tracking_uri=pump.uri)
    run_id = registry.open_run(client, CONFIG, result.run_key, store=str(tmp_path))
    candidate = registry.Candidate(
        run_key=result.run_key, checkpoint=result.checkpoint, dataset=chunks, config={}, history=history
    )
    registry.run_logging.log_run(client, run_id, candidate)
    assert curve(pump, "train/loss") == [(point["step"], point["loss"]) for point in history]
    assert curve(pump, "train/valid_nsdr") == [
        (point["step"], point["valid_nsdr"]) for point in history if "valid_nsdr" in point
    ]
    names = client.get_run(run_id).data.metrics.keys()
    assert names >= {f"train/{name}" for name in ("loss_drums", "loss_bass", "grad_norm", "learning_rate")}
    for name in ("stall", "rows_per_s", "memory_gib"):
        assert len(curve(pump, f"speed/{name}")) == len(history)
    assert curve(pump, "speed/memory_gib")[0][1] > 0.1
    bests = list(example_estimates.steps(Path(result.history).parent).values())
    assert {name.split("/")[0] for name in files(pump)} == {path.name for path in bests}
    assert len(bests) > 1


def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with each line of a file that is read."""
    seen: list[Any] = []
    real = json.loads

    def counted(text: Any, **options: Any) -> Any:
        seen.append(text)
        return real(text, **options)

    monkeypatch.setattr(run_folder.json, "loads", counted)
    return seen


def test_a_look_at_a_long_training_reads_what_is_new(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(folder, to=3000, checkpoint=2990)
    with (folder / run_folder.HISTORY).open("a") as file:
        file.write('{"step": 3001, "lo')  # being written
    pump = MetricsForwarder(CONFIG, RunPlace(store=str(tmp_path), name=folder.name))
    pump._mark("run", step=2990, examples=-1)
    seen = parsed(monkeypatch)
    assert pump.send() == 0  # nothing is certain beyond the checkpoint
    first = len(seen)
    assert first < 60  # of 6000
    for _ in range(5):
        assert pump.send() == 0
    assert len(seen) - first < 20  # the mark, each time
    with (folder / run_folder.HISTORY).open("a") as file:
        file.write('ss": 0.25}\n')
    (folder / run_folder.checkpoint_name(3001)).mkdir()
    sent: list[tuple[int, str, float]] = []
    monkeypatch.setattr(pump, "_open", lambda: ("run", 0))
    monkeypatch.setattr(pump, "_log", lambda run_id, rows, time_ms: sent.extend(rows))
    assert pump.send() == 11
    assert (3001, "train/loss", 0.25) in sent
    assert {step for step, _, _ in sent} == set(range(2991, 3002))
    assert not any(pump.curve._waiting.values())


@pytest.mark.parametrize("seed", range(8))
def test_a_tail_tells_what_the_whole_file_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Appended to, cut short in a line, taken back, and begun again by another process, at any place of the blocks."""
    monkeypatch.setattr(run_folder.Tail, "_BLOCK", 37)
    rng = np.random.default_rng(seed)
    path, heard, step, done = tmp_path / "rows.jsonl", dict[int, float](), 0, 0
    lines, tail = run_folder.Lines(path), run_folder.Tail(path)
    for _ in range(60):
        match rng.integers(5):
            case 0 | 1:
                for _ in range(rng.integers(1, 6)):
                    step += 1
                    lines.append({"step": step, "value": float(rng.random())})
            case 2:
                back = int(rng.integers(done, step + 1))
                lines.keep(lambda row, back=back: row["step"] <= back)
                step = back
            case 3:
                tail, heard = run_folder.Tail(path), {}
            case 4:
                done = int(rng.integers(done, step + 1))  # delivered so far
        anew, rows = tail.look(done)
        heard = {} if anew else heard
        heard |= {row["step"]: row["value"] for row in rows}
        truth = {row["step"]: row["value"] for row in lines.read() if row["step"] > done}
        assert {at: value for at, value in heard.items() if at > done} == truth


def closed(store: Path) -> Any:
    """The one MLflow run of a store."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=registry.address(str(store)))
    (run,) = client.search_runs([client.get_experiment_by_name("stemline").experiment_id])
    return run


def test_a_training_that_diverged_or_was_stopped_is_closed_so_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = write_songs(tmp_path / "songs", {"a": "train", "b": "train", "c": "valid"})

    def learn_on() -> train_result.TrainResult:
        return train.run(TRAINING, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path), live=CONFIG)

    losses = Learner._losses
    for error, status, said in (
        (None, "FAILED", "training diverged at step"),
        (KeyboardInterrupt, "KILLED", "by hand"),
    ):

        def broken(self: Learner, sources_BSCT: Any, step: int, error: Any = error) -> Any:
            if error is not None:
                raise error
            return losses(self, sources_BSCT, step) * float("nan")

        with monkeypatch.context() as patch:
            patch.setattr(Learner, "_losses", broken)
            with pytest.raises((InputError, KeyboardInterrupt)):
                learn_on()
        run = closed(tmp_path)
        assert run.info.status == status
        assert said in run.data.tags["ended"]
    result = learn_on()
    run = closed(tmp_path)
    assert run.info.status == "FINISHED"
    assert not {"ended", "stopped"} & run.data.tags.keys()
    assert result.stopped == ""


@pytest.mark.parametrize("live", [CONFIG, None])
def test_a_training_that_stopped_early_says_so(tmp_path: Path, live: RegistryConfig | None) -> None:
    """At its end, or in the next command where MLflow was not told then."""
    chunks = write_songs(tmp_path / "songs", {"a": "train", "b": "train", "c": "valid"})
    # Far too fast: no score is better than the first.
    recipe = replace(TRAINING.learner, learning_rate=0.5, min_lr_ratio=1.0)
    recovery = RecoveryConfig(plateau_checkpoints=1, diverge_factor=0)
    config = replace(TRAINING, steps=60, checkpoint_every=2, recovery=recovery, learner=recipe)

    class Said(NullProgress):
        summary = ""

        def finish(self, summary: str) -> None:
            self.summary = summary

    said = Said()
    result = train.run(config, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path), live=live, progress=said)
    assert result.steps < 60
    assert "no better score in 1 checkpoints" in result.stopped
    assert f"stopped early: {result.stopped}" in said.summary

    def told() -> tuple[str, str]:
        run = closed(tmp_path)
        return run.info.status, run.data.tags["stopped"]

    if live is not None:
        assert told() == ("FINISHED", result.stopped)
    again = train.run(config, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path), live=CONFIG)
    assert again == result
    assert told() == ("FINISHED", result.stopped)
