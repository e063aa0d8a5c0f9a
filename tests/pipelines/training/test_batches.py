"""What feeds training: the same songs from a disk and from an object store, asked for once and faults mended."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch

from datasets.errors import InputError
from datasets.loading.loader import LoaderConfig
from datasets.loading.shard_layout import layout_of
from datasets.schema import ShardSet
from datasets.store import scratch, storage
from datasets.store.object_store import opened
from models.learner_config import AugmentConfig, LearnerConfig
from pipelines.runs import remote_checkpoints
from pipelines.runs.run_place import RunPlace
from pipelines.training import train, train_result
from pipelines.training.batches import Feed, open_index
from pipelines.training.train_config import Job, ModelConfig, TrainConfig
from tests.pipelines.songs import RATE, SOURCES, write_songs
from tests.s3 import BUCKET, ObjectStore, object_store

SONGS = {"a": "train", "b": "train", "c": "train", "d": "valid"}
MODEL = ModelConfig(
    preset="htdemucs-tiny",
    options={"segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1},
)
CONFIG = TrainConfig(
    steps=2, batch_size=4, checkpoint_every=2, log_every=1, num_workers=1, valid_s=0.5, max_failures=0,
    learner=LearnerConfig(ema_decays=(0.9,), augment=AugmentConfig(shift_s=0.05, remix_group=2)),
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), SONGS)


@pytest.fixture(scope="module")
def there(server: ObjectStore) -> ShardSet:
    return write_songs(f"s3://{BUCKET}/data", SONGS)  # type: ignore[arg-type]


def _job(chunks: ShardSet, **changes: Any) -> Job:
    config = replace(CONFIG, **changes)
    return Job(config=config, model=MODEL, sources=SOURCES, chunks=((chunks, 1.0),), keep=None)


def _feed(job: Job) -> Feed:
    return Feed(job, sources=SOURCES, num_samples=RATE, rows=range(job.config.batch_size), start=0)


def _asked_for_rows(server: ObjectStore) -> int:
    return sum(method == "GET" and ".parquet" in path for method, path, _ in server.requests)


def test_an_object_store_is_asked_twice_for_each_crop_and_with_a_cache_once_for_each_row(
    server: ObjectStore, here: ShardSet, there: ShardSet, tmp_path: Path
) -> None:
    expected = [batch for _, batch in _feed(_job(here, steps=3))]
    cached = LoaderConfig(threads=3, cache=str(tmp_path), cache_form="pcm")
    asked = {}
    for name, loader in (("plain", LoaderConfig(threads=3)), ("cache", cached), ("cache again", cached)):
        layout_of.cache_clear()
        opened.cache_clear()
        feed = _feed(_job(there, steps=3, loader=loader))
        before = _asked_for_rows(server)
        server.failing = 0.05
        got = [batch for _, batch in feed]
        server.failing = 0.0
        asked[name] = _asked_for_rows(server) - before
        assert all(batch.equal(other) for batch, other in zip(got, expected, strict=True))
    assert feed.loader.num_bytes == 0
    # 12 crops, each of one row and asked for twice, where its frames are and then these, which lie close together here;
    # or 6 rows. Every twentieth request fails and is made again; an object's length takes one more.
    assert 24 <= asked["plain"] <= 36
    assert 6 <= asked["cache"] <= 12
    assert asked["cache again"] == 0


def test_what_cannot_be_fed_is_refused_before_any_worker_starts(here: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longest song has 3"):
        open_index(_job(here), SOURCES, num_samples=5 * RATE)
    model = replace(MODEL, options=MODEL.options | {"segment_s": 4.0})
    with pytest.raises(InputError, match=r"longest song has 3\.00 s .* takes 4\.05 s"):
        train.run(CONFIG, model, [(here, 1.0)], sources=SOURCES, store=str(tmp_path))
    with pytest.raises(InputError, match=r"train\.silence_weight must be in \[0, 1\], got 2"):
        replace(CONFIG, silence_weight=2)


def test_an_object_store_that_stays_away_is_named(server: ObjectStore, there: ShardSet) -> None:
    layout_of.cache_clear()
    feed = _feed(_job(there))
    server.refuse_after = 0
    with pytest.raises(InputError, match=r"songs-k\.parquet.*AWS_ACCESS_KEY_ID"):
        list(feed)
    server.refuse_after = None


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_learn_in_s3_what_a_process_learns_on_a_disk_and_go_on_on_another_machine(
    ray_local: Any,
    server: ObjectStore,
    here: ShardSet,
    there: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.train

    def with_store(self: ray.train.RunConfig) -> None:
        self.worker_runtime_env = environment
        as_ever(self)

    # Workers of a Ray that is started for a command inherit its environment; this Ray is older than the server.
    environment = {"env_vars": {name: value for name, value in os.environ.items() if name.startswith("AWS_")}}
    as_ever = ray.train.RunConfig.__post_init__
    monkeypatch.setattr(ray.train.RunConfig, "__post_init__", with_store)
    client = pyarrow.fs.S3FileSystem(
        endpoint_override=server.url,
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
    )
    monkeypatch.setattr(storage, "filesystem", lambda address: (client, address.removeprefix("s3://")))
    config, store = replace(CONFIG, steps=4), f"s3://{BUCKET}/store"
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "first"))
    server.failing = 0.05
    far = train.run(config, MODEL, [(there, 1.0)], sources=SOURCES, store=store)
    server.failing = 0.0
    near = train.run(
        replace(config, num_workers=0), MODEL, [(here, 1.0)], sources=SOURCES, store=str(tmp_path / "near")
    )
    assert far.run_key == near.run_key
    assert train_result.read_history(far) == train_result.read_history(near)
    assert far.model_digest == near.model_digest
    # As where the machine was lost after its first checkpoint: two workers of another one fetch that once, for both.
    address = RunPlace(store=store, name=far.run_key).address
    storage.remove(f"{address}/result.json")
    remote_checkpoints.forget(address, "step-000000004")
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "second"))
    server.requests.clear()
    resumed = train.run(replace(config, num_workers=2), MODEL, [(there, 1.0)], sources=SOURCES, store=store)
    for expected, point in zip(train_result.read_history(near), train_result.read_history(resumed), strict=True):
        assert point == pytest.approx(expected, rel=1e-3)
    state = "step-000000002-[0-9a-f]{8}/current/learner"
    opened = [path for method, path, _ in server.requests if method == "GET" and re.search(state, path)]
    assert len(set(opened)) == len(opened) == 1
    assert not list((tmp_path / "first").rglob("step-*"))


@pytest.mark.parametrize("normalize", ["track", "none"])
def test_training_hears_songs_at_the_level_that_the_network_asks_for(
    here: ShardSet, tmp_path: Path, normalize: str
) -> None:
    from pipelines.training.train_loop import _Loop

    class Alone:
        rank, world_size, device, folder = 0, 1, torch.device("cpu"), tmp_path
        place = RunPlace(store=str(tmp_path), name="run")

        def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
            return model

    job = _job(here)
    job = replace(job, model=replace(MODEL, options={**MODEL.options, "normalize": normalize}))
    run = _Loop(job, Alone())  # type: ignore[arg-type]
    assert not run.learner.normalizes  # a second time
    _, batch_BSCT = next(iter(run._open_feed()))
    at_unit = Feed(job, sources=SOURCES, num_samples=batch_BSCT.shape[-1], rows=run.rows, start=0, normalize=True)
    as_stored = Feed(job, sources=SOURCES, num_samples=batch_BSCT.shape[-1], rows=run.rows, start=0)
    expected = at_unit if normalize == "track" else as_stored
    assert torch.equal(batch_BSCT, next(iter(expected))[1])
    assert not torch.equal(next(iter(at_unit))[1], next(iter(as_stored))[1])
