"""Songs that candidates are scored on come from all over a split, whatever their folders are called."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipelines.training import validate
from tests.pipelines.songs import RATE, write_songs


def _selected(chunks: Any, *, count: int, keep: Any = None) -> validate.ValidationSongs:
    config = SimpleNamespace(valid_songs=count, valid_s=0.01)
    return validate.select_songs(SimpleNamespace(config=config, keep=keep, chunks=[(chunks, 1.0)]))  # type: ignore[arg-type]


def test_validation_songs_are_not_the_first_of_the_alphabet(tmp_path: Path) -> None:
    names = [f"{folder}/{number:02d}" for folder in ("a set", "second", "the third") for number in range(12)]
    chunks = write_songs(tmp_path, dict.fromkeys(names, "valid") | {"a train song": "train"}, num_samples=400)
    chosen = _selected(chunks, count=9)
    assert chosen.held_out
    folders = Counter(excerpt.song.track_id.split("/")[0] for excerpt in chosen.excerpts)
    assert len(folders) == 3
    assert max(folders.values()) <= 6
    assert {(excerpt.start, excerpt.num_samples) for excerpt in chosen.excerpts} == {
        ((400 - RATE // 100) // 2, RATE // 100)
    }
    # Another song is at most one of them, and pushes one out.
    more = write_songs(tmp_path / "more", dict.fromkeys([*names, "another/one"], "valid"), num_samples=400)
    before, after = (
        {excerpt.song.track_id for excerpt in found.excerpts} for found in (chosen, _selected(more, count=9))
    )
    assert len(before - after) <= 1
    assert after - before <= {"another/one"}


def test_where_the_valid_split_is_empty_train_songs_are_scored_and_it_is_said(tmp_path: Path) -> None:
    chunks = write_songs(tmp_path, {"a": "train", "b": "train", "c": "test"}, num_samples=400)
    chosen = _selected(chunks, count=5, keep={"b", "c"})
    assert not chosen.held_out
    assert [excerpt.song.track_id for excerpt in chosen.excerpts] == ["b"]


def test_a_gpu_separates_as_many_segments_at_once_as_it_trains_with_and_a_cpu_one() -> None:
    def learner(rows_at_once: int) -> Any:
        return SimpleNamespace(rows_at_once=rows_at_once)

    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [validate.rows_at_once(learner(rows), gpu) for rows in (0, 1, 4, 32)] == [8, 1, 4, 8]
    assert validate.rows_at_once(learner(0), cpu) == 1
