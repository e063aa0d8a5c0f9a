"""Training: it learns, resumes bit for bit, and does not care how many workers share a batch."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.schema import ShardSet
from models.checkpoint import load_model
from models.learner import Learner
from models.recipe import AugmentConfig, LearnerConfig
from pipelines import train, train_loop
from pipelines.progress import Silent
from pipelines.train import LocalSession, ModelConfig, TrainConfig, TrainResult
from tests.pipelines.songs import RATE, SOURCES, write_songs

MODEL = ModelConfig(
    preset="htdemucs-tiny",
    options={"segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1},
)
CONFIG = TrainConfig(
    steps=6,
    batch_size=4,
    checkpoint_every=3,
    log_every=2,
    num_workers=0,
    valid_s=1.0,
    learner=LearnerConfig(
        learning_rate=2e-3, ema_decays=(0.9,), augment=AugmentConfig(shift_s=0.05, remix_group=2), final_fraction=0.1
    ),
)
SONGS = {"a": "train", "b": "train", "c": "valid", "d": "test"}


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), SONGS)


def run(config: TrainConfig, chunks: ShardSet, store: Path, **options: Any) -> TrainResult:
    return train.run(config, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(store), **options)


@pytest.fixture(scope="module")
def undisturbed(chunks: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(CONFIG, chunks, tmp_path_factory.mktemp("store"))


class Listener(Silent):
    def __init__(self) -> None:
        self.started: list[str] = []
        self.advanced = 0.0

    def start(self, name: str, total: float, unit: str) -> None:
        self.started.append(f"{name} {total:g} {unit}")

    def advance(self, amount: float = 1.0) -> None:
        self.advanced += amount


def test_a_run_ends_with_a_model_a_curve_and_a_score(undisturbed: TrainResult) -> None:
    history = train.read_history(undisturbed)
    assert [point["step"] for point in history] == [2, 3, 5, 6]
    assert {"loss", "loss_drums", "loss_bass", "grad_norm", "learning_rate"} <= history[0].keys()
    assert {"valid_nsdr", "valid_nsdr_raw", "valid_nsdr_ema-0.9"} <= history[1].keys()
    assert undisturbed.best_nsdr == max(point.get("valid_nsdr", -np.inf) for point in history)
    assert undisturbed.best_weights in ("raw", "ema-0.9")
    assert undisturbed.steps == 6
    model = load_model(undisturbed.checkpoint)
    assert model(torch.zeros(1, 2, 2000)).shape == (1, 2, 2, 2000)


def test_a_finished_run_is_returned_without_training(chunks: ShardSet, tmp_path: Path) -> None:
    listener = Listener()
    config = replace(CONFIG, steps=2)
    first = run(config, chunks, tmp_path, progress=listener)
    assert listener.started == ["train 2 steps"]
    assert listener.advanced == 2
    assert run(replace(config, num_workers=2, max_failures=0), chunks, tmp_path, progress=listener) == first
    assert len(listener.started) == 1


def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = LocalSession.tell

    def die(self: LocalSession, step: int, text: str) -> None:
        if step == 5:
            raise KeyboardInterrupt
        tell(self, step, text)

    monkeypatch.setattr(LocalSession, "tell", die)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, chunks, tmp_path)
    monkeypatch.undo()
    listener = Listener()
    resumed = run(CONFIG, chunks, tmp_path, progress=listener)
    assert resumed.model_digest == undisturbed.model_digest
    assert train.read_history(resumed) == train.read_history(undisturbed)


def test_a_run_that_was_killed_while_keeping_a_checkpoint_uses_the_one_before(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(source: object, target: object) -> None:
        if "step-000000006" in str(target):
            raise KeyboardInterrupt
        real(source, target)  # type: ignore[arg-type]

    real = train.os.replace
    monkeypatch.setattr(train.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, chunks, tmp_path)
    monkeypatch.undo()
    assert run(CONFIG, chunks, tmp_path).model_digest == undisturbed.model_digest


def test_the_name_of_a_run_tells_what_decides_on_its_weights_and_nothing_else(chunks: ShardSet) -> None:
    def key(config: TrainConfig = CONFIG, model: ModelConfig = MODEL, weight: float = 1.0, keep: Any = None) -> str:
        job = train.Job(config=config, model=model, sources=SOURCES, chunks=((chunks, weight),), keep=keep)
        return train.key_of(job)

    assert key(replace(CONFIG, num_workers=2, prefetch_batches=9, keep_checkpoints=5)) == key()
    others = [
        key(replace(CONFIG, seed=1)),
        key(replace(CONFIG, learner=replace(CONFIG.learner, learning_rate=1e-3))),
        key(model=ModelConfig(preset="htdemucs-tiny")),
        key(weight=2.0),
        key(keep=("a",)),
    ]
    assert len({key(), *others}) == 1 + len(others)


class Share:
    """A worker's place, for looking at its data only."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.device = torch.device("cpu")

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        return model

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield None

    @contextmanager
    def commit(self, step: int, metrics: Mapping[str, Any]) -> Iterator[Path | None]:
        yield None

    def tell(self, step: int, text: str) -> None:
        return


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_workers_share_the_batches_that_one_would_see(chunks: ShardSet, world_size: int, start: int) -> None:
    augment = replace(CONFIG.learner.augment, remix_group=1)
    config = replace(CONFIG, learner=replace(CONFIG.learner, augment=augment))
    job = train.Job(config=config, model=MODEL, sources=SOURCES, chunks=((chunks, 1.0),), keep=None)

    def batches(rank: int, of: int) -> list[torch.Tensor]:
        learner = Learner(train_loop.build_model(job), config.learner, sample_rate=RATE, total_steps=6)
        return [rows for _, rows in train_loop._Run(job, Share(rank, of), learner).batches(start)]

    whole = batches(0, 1)
    shares = [batches(rank, world_size) for rank in range(world_size)]
    assert len(whole) == 6 - start
    for step, expected in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), expected)


def test_without_songs_to_validate_the_first_average_is_the_result(chunks: ShardSet, tmp_path: Path) -> None:
    result = run(replace(CONFIG, steps=2, valid_songs=0), chunks, tmp_path)
    assert (result.best_weights, result.best_nsdr, result.best_step) == ("ema-0.9", None, 2)


def test_songs_that_were_not_kept_are_not_learned_from(chunks: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no song stands in the train split"):
        run(CONFIG, chunks, tmp_path, keep={"c", "d"})


def test_a_loss_that_is_not_finite_stops_with_advice(chunks: ShardSet, tmp_path: Path) -> None:
    config = replace(CONFIG, learner=replace(CONFIG.learner, learning_rate=1e30))
    with pytest.raises(InputError, match=r"diverged.*train\.learner\.learning_rate"):
        run(config, chunks, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5, "num_workers": 2}, "train.batch_size=5 does not divide .* 6 would do"),
        ({"batch_size": 6, "num_workers": 2}, "no whole number of remix groups of 2"),
        ({"steps": 0}, "train.steps=0"),
        ({"valid_s": -1.0}, "train.valid_s"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


def test_a_model_of_another_rate_or_of_other_sources_is_refused(chunks: ShardSet, tmp_path: Path) -> None:
    def attempt(**options: Any) -> None:
        model = ModelConfig(preset=MODEL.preset, options=MODEL.options | options)
        train.run(CONFIG, model, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path))

    with pytest.raises(InputError, match="8000 Hz, the model wants 16000 Hz"):
        attempt(sample_rate=16000)
    with pytest.raises(InputError, match="vocals"):
        attempt(sources=("vocals",))
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        attempt(deptth=2)


def test_settings_can_be_read_without_torch_or_ray() -> None:
    script = "import sys, pipelines.train, pipelines.evaluate; sys.exit(bool({'torch', 'ray'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_workers_learn_what_one_process_does(
    ray_local: Any, chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path
) -> None:
    listener = Listener()
    result = run(replace(CONFIG, num_workers=2), chunks, tmp_path, progress=listener)
    assert result.run_key == undisturbed.run_key
    assert listener.advanced == 6
    for here, there in zip(train.read_history(undisturbed), train.read_history(result), strict=True):
        assert there == pytest.approx(here, rel=1e-3)
    # The result was lost, the checkpoints were not: nothing is trained again.
    (tmp_path / "runs" / result.run_key / "result.json").unlink()
    assert run(replace(CONFIG, num_workers=2), chunks, tmp_path).model_digest == result.model_digest
