"""Batches come in order, whoever decodes them; waiting for them is counted; faults end a run and do not hang it."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.loading import loader
from datasets.loading.loader import Loader, LoaderConfig
from datasets.loading.segments import SegmentIndex
from tests.datasets.toy_store import SOURCES, batch, store

NUMBERS = [range(step * 5, step * 5 + 3) for step in range(4)]


@pytest.fixture
def index(tmp_path: Path) -> SegmentIndex:
    address = store(tmp_path, {"a": ("train", 9000), "b": ("train", 3000)}, bits=16)
    return SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")


def _loader(index: SegmentIndex, config: LoaderConfig | None = None, **options: Any) -> Loader:
    return Loader(index, config or LoaderConfig(), seed=2, num_samples=1200, **options)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("prefetch_batches", [0, 1, 9])
@pytest.mark.parametrize("cache_form", ["", "flac", "pcm"])
def test_batches_are_the_rows_of_their_numbers(
    index: SegmentIndex, threads: int, prefetch_batches: int, cache_form: str, tmp_path: Path
) -> None:
    config = LoaderConfig(cache=str(tmp_path / "c"), cache_form=cache_form) if cache_form else LoaderConfig()
    made = _loader(index, config, threads=threads, prefetch_batches=prefetch_batches, remix_all=0.3)
    got = list(made.batches(NUMBERS))
    assert len(got) == len(NUMBERS)
    for sources_BSCT, numbers in zip(got, NUMBERS, strict=True):
        expected_BSCT = batch(index, numbers, seed=2, num_samples=1200, remix_all=0.3)
        np.testing.assert_array_equal(sources_BSCT, expected_BSCT)
    assert made.num_bytes > 0


def test_what_the_consumer_waits_for_is_counted(index: SegmentIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, at_once, most, done = threading.Lock(), 0, 0, 0

    def slow(*arguments: Any, **settings: Any) -> int:
        nonlocal at_once, most, done
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.1)
        with lock:
            at_once, done = at_once - 1, done + 1
        return 0

    monkeypatch.setattr(loader, "read_row", slow)

    def stalled_s(*, ready: int, **options: Any) -> float:
        """How long the batches after the first were waited for, each asked for when `ready` more rows are there."""
        nonlocal most, done
        batches, most, done = _loader(index, **options), 0, 0
        wanted, first_s = 0, 0.0
        for numbers, _ in zip(NUMBERS, batches.batches(NUMBERS), strict=True):
            first_s = first_s or batches.stalled_s
            wanted += len(numbers)
            while done < min(wanted + ready, sum(map(len, NUMBERS))):
                time.sleep(0.01)
        return batches.stalled_s - first_s

    # Sleeping takes as long on a busy machine, or longer, never less.
    one = stalled_s(ready=0, threads=1, prefetch_batches=0)
    assert one >= 0.9
    assert most == 1
    assert stalled_s(ready=0, threads=3, prefetch_batches=0) >= 0.3
    assert most > 1
    # Learning from a batch takes longer than reading one: all but the first are there when they are asked for.
    assert stalled_s(ready=3, threads=3, prefetch_batches=2) < 0.5 * one


def test_no_more_is_read_ahead_than_was_asked_for(index: SegmentIndex) -> None:
    taken = []
    batches = _loader(index, prefetch_batches=2).batches(taken.append(k) or NUMBERS[k] for k in range(4))  # type: ignore[func-returns-value]
    next(batches)
    assert taken == [0, 1, 2]
    batches.close()  # type: ignore[attr-defined]


def test_a_fault_in_a_thread_is_raised_where_its_batch_is_due(index: SegmentIndex, tmp_path: Path) -> None:
    path = tmp_path / "chunks" / "k.parquet"
    data = path.read_bytes()
    batches = _loader(index, threads=2, prefetch_batches=0).batches(NUMBERS)
    next(batches)
    path.write_bytes(data[:1000])
    with pytest.raises(InputError, match=r"k\.parquet cannot be read"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": -1}, r"train\.loader\.threads must be >= 0, got -1"),
        ({"cache_gb": -0.5}, r"train\.loader\.cache_gb must be >= 0, got -0\.5"),
        ({"cache": "s3://bucket/rows"}, r"must be a folder of this machine"),
        ({"cache_form": "mp3"}, r"cache_form must be one of flac, pcm, got 'mp3'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoaderConfig(**settings)
