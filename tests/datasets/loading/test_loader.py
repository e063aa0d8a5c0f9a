"""Batches come in order, whoever decodes them; waiting for them is counted; faults end a run and do not hang it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.loading import loader
from datasets.loading.loader import Loader, LoaderConfig
from datasets.loading.segment_sampler import SegmentIndex
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


class Rows:
    """Stands for `read_row` and the clock: a row takes a tenth of a second by a clock that nothing else moves."""

    def __init__(self, *, at_once: int, ahead: bool) -> None:
        self.ahead = ahead  # rows after the first batch's are read when the test says so
        self.now_s, self.done, self.waits = 0.0, 0, 0
        self.allowed = threading.Semaphore(0)  # rows that may be read
        self._together, self._news = threading.Barrier(at_once, timeout=300), threading.Condition()

    def read(self, *arguments: Any, **settings: Any) -> int:
        assert self.allowed.acquire(timeout=300)
        self._together.wait()
        with self._news:
            self.now_s, self.done = self.now_s + 0.1, self.done + 1
            self._news.notify_all()
        return 0

    def wait_for(self, done: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.done >= done, timeout=300), f"only {self.done} rows were read"

    def perf_counter(self) -> float:
        """Asked when the consumer begins to wait, and when it has its batch: that is read in between."""
        now_s, self.waits = self.now_s, self.waits + 1
        if self.waits == 1 or (self.waits % 2 and not self.ahead):
            self.allowed.release(len(NUMBERS[0]))
        return now_s


@pytest.mark.parametrize(
    ("threads", "ahead", "stalled_s"),
    [
        (1, False, 0.9),  # each of the three batches after the first is waited for, row by row
        (3, False, 0.9),  # as where its rows are read at once, which `Rows` insists on
        (3, True, 0.0),  # learning from a batch takes longer than reading one: all are there when they are asked for
    ],
)
def test_what_the_consumer_waits_for_is_counted(
    index: SegmentIndex, monkeypatch: pytest.MonkeyPatch, threads: int, ahead: bool, stalled_s: float
) -> None:
    rows = Rows(at_once=threads, ahead=ahead)
    monkeypatch.setattr(loader, "read_row", rows.read)
    monkeypatch.setattr(loader, "time", rows)
    made = _loader(index, threads=threads, prefetch_batches=2 * ahead)
    first_s, wanted = -1.0, 0
    for numbers, _ in zip(NUMBERS, made.batches(NUMBERS), strict=True):
        first_s, wanted = max(first_s, 0.0) or made.stalled_s, wanted + len(numbers)
        if ahead:
            rows.allowed.release(len(numbers))
        rows.wait_for(min(wanted + ahead * len(numbers), sum(map(len, NUMBERS))))
    assert first_s == pytest.approx(0.3)
    assert made.stalled_s - first_s == pytest.approx(stalled_s)


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


def test_a_loader_has_more_threads_where_they_wait_for_an_object_store(index: SegmentIndex) -> None:
    songs = tuple(replace(song, path=f"s3://bucket/{song.track_id}.parquet") for song in index.songs)
    far = replace(index, songs=songs)
    assert _loader(index, threads=3).threads == 3
    assert _loader(far, threads=3).threads == 12
    assert _loader(far, LoaderConfig(threads=2), threads=3).threads == 2
