"""Training: it learns, resumes bit for bit, and does not care how many workers share a batch."""

import errno
import math
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as checkpoint_layer

from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from models.errors import ModelError
from models.learner_config import AugmentConfig, LearnerConfig
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.loading import load_model
from pipelines.runs import run_folder
from pipelines.runtime.progress import NullProgress
from pipelines.training import train, train_loop, train_result, workers
from pipelines.training.batches import Feed
from pipelines.training.train_config import ModelConfig, TrainConfig
from pipelines.training.train_result import TrainResult
from pipelines.training.workers import LocalSession
from tests.pipelines.songs import RATE, SOURCES, stems, write_songs

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
        learning_rate=2e-3, ema_decays=(0.9,), augment=AugmentConfig(shift_s=0.05, remix_group=2), min_lr_ratio=0.1
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


class Listener(NullProgress):
    def __init__(self) -> None:
        self.started: list[str] = []
        self.advanced = 0.0

    def start(self, name: str, total: float, unit: str) -> None:
        self.started.append(f"{name} {total:g} {unit}")

    def advance(self, amount: float = 1.0) -> None:
        self.advanced += amount


def test_a_run_ends_with_a_model_a_curve_and_a_score(undisturbed: TrainResult) -> None:
    history = train_result.read_history(undisturbed)
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


def run_until_killed(at_step: int, chunks: ShardSet, store: Path, **options: Any) -> None:
    """Ends the training as a signal would, when it tells of a step, before it has kept what belongs to it."""

    def die(self: LocalSession, step: int, text: str) -> None:
        if step == at_step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalSession, "report_progress", die)
        with pytest.raises(KeyboardInterrupt):
            run(CONFIG, chunks, store, **options)


@pytest.mark.parametrize("at_step", [2, 5, 6])
def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, at_step: int
) -> None:
    run_until_killed(at_step, chunks, tmp_path)
    resumed = run(CONFIG, chunks, tmp_path)
    assert resumed.model_digest == undisturbed.model_digest
    assert train_result.read_history(resumed) == train_result.read_history(undisturbed)
    assert examples_of(resumed) == examples_of(undisturbed)
    assert {"examples/reference/mixture.flac", "examples/step-000000003/drums.flac"} <= examples_of(resumed).keys()


def examples_of(result: TrainResult) -> dict[str, bytes]:
    """What there is to be listened to, by name."""
    folder = Path(result.history).parent
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("examples/*/*")}


def test_a_run_that_was_killed_while_keeping_a_checkpoint_uses_the_one_before(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(source: object, target: object) -> None:
        if "step-000000006" in str(target):
            raise KeyboardInterrupt
        real(source, target)  # type: ignore[arg-type]

    real = run_folder.os.replace
    monkeypatch.setattr(run_folder.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, chunks, tmp_path)
    monkeypatch.undo()
    assert run(CONFIG, chunks, tmp_path).model_digest == undisturbed.model_digest


@pytest.mark.parametrize("victim", ["current/weights.safetensors", "current/learner.pt", "best/config.json"])
def test_a_truncated_checkpoint_is_set_aside_and_the_one_before_it_used(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, victim: str
) -> None:
    folder = tmp_path / "runs" / undisturbed.run_key
    shutil.copytree(Path(undisturbed.checkpoint).parent, folder)
    (folder / "result.json").unlink()
    file = folder / "step-000000006" / victim
    file.write_bytes(file.read_bytes()[:-9])
    with (folder / run_folder.HISTORY).open("a") as history:
        history.write('{"step": 6, "loss": 0.')
    resumed = run(CONFIG, chunks, tmp_path)
    assert resumed.model_digest == undisturbed.model_digest
    assert train_result.read_history(resumed) == train_result.read_history(undisturbed)
    assert (folder / "damaged-step-000000006").is_dir()
    assert len(resumed.interventions) == 1
    assert resumed.interventions[0].startswith("step 3: passed over a damaged checkpoint: step-000000006: ")


def test_a_full_disk_at_a_checkpoint_says_what_would_do_and_the_run_goes_on_once_there_is_room(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(InputError, match=r"the disk of .* is full.*store\.root=DIR"):
        run(CONFIG, chunks, tmp_path)
    monkeypatch.undo()
    assert run(CONFIG, chunks, tmp_path).model_digest == undisturbed.model_digest


class Wrecked(nn.Module):
    """A network whose gradient is not finite at some of its passes."""

    def __init__(self, network: nn.Module, passes: set[int]) -> None:
        super().__init__()
        self.network, self.passes, self.count = network, passes, 0

    def forward(self, mixture_BCT: torch.Tensor) -> torch.Tensor:
        self.count += 1
        estimates_BSCT: torch.Tensor = self.network(mixture_BCT)
        return estimates_BSCT * (math.nan if self.count - 1 in self.passes else 1)


def wreck(patch: pytest.MonkeyPatch, passes: set[int]) -> None:
    """Count passes over the whole training, also over rollbacks."""
    counter = Wrecked(nn.Identity(), passes)

    def prepare(self: LocalSession, network: nn.Module) -> nn.Module:
        network.register_forward_hook(lambda module, given, out: counter(out) if module.training else out)
        return network

    patch.setattr(LocalSession, "prepare", prepare)


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wreck(monkeypatch, {1})
    reported: list[float] = []
    monkeypatch.setattr(
        workers.LocalSession,
        "report_metrics",
        lambda self, metrics: reported.extend(value for name, value in metrics.items() if name == "skipped"),
    )
    result = run(CONFIG, chunks, tmp_path)
    history = train_result.read_history(result)
    assert [point.get("skipped") for point in history] == [1, None, None, None]
    assert reported[0] == 1.0
    assert reported[-1] == 0.0, "an alert on skipped steps ends"
    assert all(math.isfinite(value) for point in history for value in point.values())
    assert result.steps == 6
    assert result.model_digest != undisturbed.model_digest


def test_too_many_skipped_steps_take_it_back_to_the_checkpoint_with_a_lower_rate(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wreck(monkeypatch, {3, 4})
    config = replace(CONFIG, recovery=replace(CONFIG.recovery, max_skipped=1))
    result = run(config, chunks, tmp_path)
    assert result.interventions == ("step 5: rollback: 2 steps in a row had no finite gradient",)
    before, after = train_result.read_history(undisturbed), train_result.read_history(result)
    assert after[:2] == before[:2]
    assert [point["step"] for point in after] == [2, 3, 5, 6]
    assert [point["learning_rate"] for point in after[2:]] == [point["learning_rate"] / 2 for point in before[2:]]


def test_a_killed_run_remembers_that_it_was_taken_back(
    chunks: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, recovery=replace(CONFIG.recovery, max_skipped=1))
    wreck(monkeypatch, {3, 4})
    expected = run(config, chunks, tmp_path / "whole")
    wreck(monkeypatch, {3, 4})
    step = train_loop._Loop._after_step

    def die(self: train_loop._Loop, metrics: Any) -> Any:
        if self.rollbacks and self.step == 4:
            raise KeyboardInterrupt
        return step(self, metrics)

    monkeypatch.setattr(train_loop._Loop, "_after_step", die)
    with pytest.raises(KeyboardInterrupt):
        run(config, chunks, tmp_path / "killed")
    monkeypatch.undo()
    resumed = run(config, chunks, tmp_path / "killed")
    assert resumed.model_digest == expected.model_digest
    assert train_result.read_history(resumed) == train_result.read_history(expected)


def test_a_plateau_ends_the_training_where_asked(chunks: ShardSet, tmp_path: Path) -> None:
    # After an immense step nothing gets better, and the score falls short of the first.
    config = replace(
        CONFIG, checkpoint_every=1, steps=12, log_every=1, valid_s=0.5,
        recovery=replace(CONFIG.recovery, plateau_checkpoints=2, diverge_factor=0.0),
        learner=replace(CONFIG.learner, learning_rate=0.5, ema_decays=()),
    )  # fmt: skip
    result = run(config, chunks, tmp_path)
    assert result.steps < 12
    assert [point["step"] for point in train_result.read_history(result)][-1] == result.steps
    assert result.best_step <= result.steps - 2


def test_parts_of_a_batch_learn_what_the_whole_does(chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path) -> None:
    result = run(replace(CONFIG, micro_batch=1), chunks, tmp_path)
    assert result.run_key == undisturbed.run_key
    for here, there in zip(train_result.read_history(undisturbed), train_result.read_history(result), strict=True):
        assert there == pytest.approx(here, rel=1e-3)


def test_uneven_shares_cover_the_batch_in_whole_groups() -> None:
    config = replace(CONFIG, batch_size=14, num_workers=0)
    for world_size in (1, 2, 3, 4):
        shares = [config.rows_of(rank, world_size) for rank in range(world_size)]
        assert [row for share in shares for row in share] == list(range(14))
        assert all(len(share) % 2 == 0 for share in shares)
    assert sorted(len(config.rows_of(rank, 3)) for rank in range(3)) == [4, 4, 6]


def test_rows_that_are_mixed_up_stay_with_one_worker() -> None:
    augment = AugmentConfig(remix_probability=0.0, mixup_probability=0.5, remix_group=4)
    config = TrainConfig(batch_size=8, num_workers=2, learner=LearnerConfig(augment=augment))
    assert [config.rows_of(rank, 2) for rank in range(2)] == [range(4), range(4, 8)]
    with pytest.raises(InputError, match="num_workers=1"):
        replace(config, num_workers=4, batch_size=4)


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

    def prepare(self, model: nn.Module) -> nn.Module:
        return model

    def report_progress(self, step: int, text: str) -> None:
        return


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_workers_share_the_batches_that_one_would_see(chunks: ShardSet, world_size: int, start: int) -> None:
    augment = replace(CONFIG.learner.augment, remix_group=1)
    config = replace(CONFIG, learner=replace(CONFIG.learner, augment=augment))
    job = train.Job(config=config, model=MODEL, sources=SOURCES, chunks=((chunks, 1.0),), keep=None)

    def batches(rank: int, of: int) -> list[torch.Tensor]:
        feed = Feed(job, sources=SOURCES, num_samples=2400, rows=config.rows_of(rank, of), start=start)
        return [rows for _, rows in feed]

    whole = batches(0, 1)
    shares = [batches(rank, world_size) for rank in range(world_size)]
    assert len(whole) == 6 - start
    for step, expected in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), expected)


def test_without_validation_the_last_weights_are_the_result(chunks: ShardSet, tmp_path: Path) -> None:
    result = run(replace(CONFIG, steps=2, valid_songs=0), chunks, tmp_path)
    assert (result.best_weights, result.best_nsdr, result.best_step) == ("raw", None, 2)


def test_with_nobody_held_out_averages_are_chosen_by_what_was_learned_and_no_score_is_claimed(
    chunks: ShardSet, tmp_path: Path
) -> None:
    result = run(CONFIG, chunks, tmp_path, keep={"a", "b"})
    last = train_result.read_history(result)[-1]
    scores = {name: last[f"train_nsdr_{name}"] for name in ("raw", "ema-0.9")}
    assert result.best_weights == max(scores, key=lambda name: scores[name])
    assert (result.best_nsdr, result.best_step) == (None, 6)
    assert not any(name.startswith("valid") for name in last)


def test_songs_that_were_not_kept_are_not_learned_from(chunks: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the train split is empty"):
        run(CONFIG, chunks, tmp_path, keep={"c", "d"})


def test_a_loss_that_is_not_finite_stops_with_advice(chunks: ShardSet, tmp_path: Path) -> None:
    config = replace(CONFIG, learner=replace(CONFIG.learner, learning_rate=1e30))
    with pytest.raises(InputError, match=r"diverged.*train\.learner\.learning_rate"):
        run(config, chunks, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, "train.batch_size must be divisible by 2, .* got 5; use 6"),
        ({"batch_size": 2, "num_workers": 2}, "train.batch_size must be >= 4, 2 rows for each of train.num_workers=2"),
        ({"num_workers": 1, "min_workers": 2}, r"train\.min_workers must be <= train\.num_workers \(1\), got 2"),
        ({"steps": 0}, r"train\.steps must be >= 1, got 0"),
        ({"valid_s": -1.0}, "train.valid_s"),
        ({"elastic_check_s": 0.0}, r"train\.elastic_check_s must be > 0, got 0\.0"),
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


def test_weights_of_another_network_to_begin_with_are_refused(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path
) -> None:
    model = ModelConfig(preset=MODEL.preset, options=MODEL.options | {"channels": 8}, init_from=undisturbed.checkpoint)
    with pytest.raises(ModelError, match=r"channels 4 where the training has 8; set model\.options\.channels=4"):
        train.run(CONFIG, model, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path))


def test_held_out_songs_at_another_rate_and_other_channels_are_refused(chunks: ShardSet, tmp_path: Path) -> None:
    rows: list[Any] = []
    for name, split, rate in (("a", "train", RATE), ("v", "valid", 2 * RATE)):
        header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=rate)
        rows += song_rows(stems(name, 3 * RATE), header, sources=SOURCES, chunk_s=2)
    shard = shards.write_shard(tmp_path, "mixed", rows, sources=SOURCES)
    mixed = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="mixed", shards=[shard])
    with pytest.raises(InputError, match=r"cannot be mixed: \[8000, 16000\] Hz"):
        train.run(CONFIG, MODEL, [(mixed, 1.0)], sources=SOURCES, store=str(tmp_path))
    mono = replace(MODEL, options=MODEL.options | {"audio_channels": 1})
    with pytest.raises(InputError, match="the songs have 2 channels, the model wants 1"):
        train.run(CONFIG, mono, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path))


def test_weights_of_another_rate_or_other_sources_to_begin_with_are_refused(chunks: ShardSet, tmp_path: Path) -> None:
    for changes, words in (
        ({"sample_rate": 2 * RATE}, f"sample_rate {2 * RATE} where the training has {RATE}"),
        ({"sources": ("drums", "vocals")}, "separates drums, vocals, the training's sources are drums, bass"),
    ):
        given = build(MODEL.preset, **({"sources": SOURCES, "sample_rate": RATE} | MODEL.options | changes))
        folder = checkpoint.save(tmp_path / "start", given)
        model = replace(MODEL, init_from=str(folder))
        with pytest.raises(ModelError, match=words):
            train.run(CONFIG, model, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path))
        assert not list((tmp_path / "runs").glob("*/step-*"))


def test_settings_can_be_read_without_torch_or_ray() -> None:
    ours = "pipelines.training.train, pipelines.evaluation.evaluate"
    script = f"import sys, {ours}; sys.exit(bool({{'torch', 'ray'}} & {{*sys.modules}}))"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_workers_learn_what_one_process_does(
    ray_local: Any, chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path
) -> None:
    listener = Listener()
    result = run(replace(CONFIG, num_workers=2), chunks, tmp_path, progress=listener)
    assert result.run_key == undisturbed.run_key
    assert listener.advanced == 6
    for here, there in zip(train_result.read_history(undisturbed), train_result.read_history(result), strict=True):
        assert there == pytest.approx(here, rel=1e-3)
    # The result was lost, the checkpoints were not: nothing is trained again.
    (tmp_path / "runs" / result.run_key / "result.json").unlink()
    assert run(replace(CONFIG, num_workers=2), chunks, tmp_path).model_digest == result.model_digest


def test_what_the_user_has_to_mend_is_not_tried_again_by_ray_and_a_lost_worker_is() -> None:
    policy = workers._no_second_try()
    policy.after_exception(None, {1: RuntimeError("connection closed by peer")})
    with pytest.raises(InputError, match="shard x is damaged"):
        policy.after_exception(None, {0: RuntimeError("gloo"), 1: InputError("shard x is damaged")})


@pytest.mark.ray
def test_what_a_worker_shows_stands_on_the_page_that_prometheus_reads(ray_local: Any) -> None:
    @ray_local.remote(num_cpus=0)
    class Worker:
        def show(self) -> None:
            workers.export_metrics("abc", {"loss": 0.25, "loss_lead vocals": 0.5})

    worker = Worker.remote()
    ray_local.get(worker.show.remote())
    (node,) = ray_local.nodes()
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    own: list[str] = []
    until = time.monotonic() + 300  # workers hand over what they have every ten seconds
    while len(own) < 2 and time.monotonic() < until:
        time.sleep(0.5)
        with urllib.request.urlopen(page) as answer:
            lines = answer.read().decode().splitlines()
        own = [line for line in lines if line.startswith("ray_stemline_training") and 'run="abc"' in line]
    ray_local.kill(worker)
    values = {line.split("{")[0]: float(line.split()[-1]) for line in own}
    assert values == {"ray_stemline_training_loss": 0.25, "ray_stemline_training_loss_lead_vocals": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpus_per_worker": 3}, r"train\.cpus_per_worker must be <= 2 with 2 workers on the 4 cores .*, got 3"),
        ({"num_workers": 5}, r"train\.num_workers must be <= 4, the cores of this machine, got 5"),
    ],
)
def test_more_cores_than_this_machine_has_are_refused_and_a_cluster_may_grow(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    machine = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0})
    config = replace(CONFIG, num_workers=2, batch_size=16)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    workers._check_cores(replace(config, cpus_per_worker=2), machine)
    with pytest.raises(InputError, match=message):
        workers._check_cores(replace(config, **changes), machine)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    workers._check_cores(replace(config, **changes), machine)


def test_speed_counts_no_validation(chunks: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.training import loss_curve, train_loop, validate

    real, late_s = validate.score_candidates, 0.0

    def slow(*arguments: Any, **options: Any) -> Any:
        nonlocal late_s
        late_s += 3000.0
        return real(*arguments, **options)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_s)
    for module in (loss_curve, train_loop):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(validate, "score_candidates", slow)
    result = run(replace(CONFIG, steps=8, checkpoint_every=4, log_every=1), chunks, tmp_path)
    rows = run_folder.Lines(Path(result.history).with_name(run_folder.SPEED)).read()
    speeds = {row["step"]: row["rows_per_s"] for row in rows}
    assert speeds[5] > CONFIG.batch_size / 3000.0  # the first point after the validation at step 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compile": "fast"}, "train.compile must be one of off, on, reduce-overhead"),
        ({"tf32": "yes"}, "train.tf32 must be one of off, convolutions, on"),
        ({"compile": "on", "activation_checkpointing": True}, "needs train.compile=off"),
    ],
)
def test_what_speeds_a_gpu_up_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


def test_what_speeds_a_gpu_up_reaches_the_training(
    chunks: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Any] = []

    def ahead(batches: Any, device: torch.device) -> Any:
        reached.append(device)
        return batches

    monkeypatch.setattr("models.mixed_precision.set_tf32", reached.append)
    monkeypatch.setattr("models.host_to_device.uploaded_ahead", ahead)
    # The compiler itself takes half a minute; `test_compiled_forward.py` has it.
    monkeypatch.setattr("models.learning.learner.compile_in_place", lambda _, mode, *__: reached.append(mode) or "")
    run(replace(CONFIG, steps=1, valid_songs=0, tf32="on", compile="reduce-overhead"), chunks, tmp_path)
    assert reached == ["on", torch.device("cpu"), "reduce-overhead"]


def test_activations_computed_again_train_the_same_weights_under_the_same_name(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers: list[Any] = []

    def counted(function: Any, *args: Any, **options: Any) -> Any:
        layers.append(function)
        return checkpoint_layer(function, *args, **options)

    monkeypatch.setattr("models.learning.activation_checkpointing.checkpoint", counted)
    result = run(replace(CONFIG, activation_checkpointing=True), chunks, tmp_path)
    assert len(layers) >= 8 * CONFIG.steps
    assert result.model_digest == undisturbed.model_digest
    assert Path(result.history).parent.name == Path(undisturbed.history).parent.name


def test_a_gpu_without_enough_memory_is_answered_with_the_rows_that_fit(
    chunks: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    monkeypatch.setattr("models.learning.learner.Learner.step", full)
    with pytest.raises(InputError, match=r"step 1 ran out .* Tried to allocate 2.00 GiB.\); use train.micro_batch=2"):
        run(CONFIG, chunks, tmp_path)
    with pytest.raises(InputError, match="segment_s"):
        run(replace(CONFIG, micro_batch=1), chunks, tmp_path)
