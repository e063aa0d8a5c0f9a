"""Songs that candidates are scored on come from all over a split, whatever their folders are called."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.inference.separate import separate
from models.learner_config import LearnerConfig
from models.learning.learner import Learner
from models.networks.catalog import build
from models.scores.metrics import nsdr
from pipelines.training import validate
from pipelines.training.train_config import TrainConfig
from tests.pipelines.songs import RATE, SOURCES, write_songs


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


def test_each_song_is_read_once_for_all_weights_and_workers_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = write_songs(tmp_path, dict.fromkeys("abc", "valid"), num_samples=900)
    excerpts = _selected(chunks, count=3).excerpts
    torch.manual_seed(0)
    network = build("demucs-v2-tiny", sources=SOURCES, sample_rate=RATE, segment_s=0.1, depth=2)
    learner = Learner(network, LearnerConfig(ema_decays=(0.5,), precision="bfloat16"), sample_rate=RATE)
    learner.averages[0].update(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)  # so that the average is another model
    reads, dtypes = [], []

    def separated(*args: Any, dtype: torch.dtype, **options: Any) -> torch.Tensor:
        dtypes.append(dtype)
        return separate(*args, dtype=dtype, **options)

    def read(song: Any, **options: Any) -> Any:
        reads.append(song.track_id)
        return read_song(song, **options)

    read_song = validate.read_song
    monkeypatch.setattr(validate, "read_song", read)
    monkeypatch.setattr("models.inference.separate.separate", separated)

    def scores(rank: int, world_size: int) -> dict[str, validate.CandidateScore]:
        session: Any = SimpleNamespace(rank=rank, world_size=world_size, device=torch.device("cpu"))
        return validate.score_candidates(learner, excerpts, session, example_s=0.005)

    alone = scores(0, 1)
    assert reads == [excerpt.song.track_id for excerpt in excerpts]
    assert dtypes == 6 * [torch.bfloat16]  # that of the training
    for name, expected in (("raw", None), ("ema-0.5", learner.averages[0])):
        with expected.swap(network) if expected else nullcontext():
            stems = [
                torch.from_numpy(read_song(excerpt.song, start=excerpt.start, num_samples=excerpt.num_samples))
                for excerpt in excerpts
            ]
            values = [
                float(nsdr(stem, separate(network, stem.sum(dim=0), dtype=torch.bfloat16)).mean()) for stem in stems
            ]
        assert alone[name].nsdr == pytest.approx(sum(values) / 3)
        assert alone[name].example is not None
    assert alone["raw"].nsdr != alone["ema-0.5"].nsdr
    monkeypatch.setattr("torch.distributed.all_reduce", lambda totals: None)
    shares = [scores(rank, 2) for rank in range(2)]
    assert shares[0]["raw"].nsdr + shares[1]["raw"].nsdr == pytest.approx(alone["raw"].nsdr)
    assert shares[1]["raw"].example is None


def test_what_validation_takes_is_counted_by_rows_songs_and_reading() -> None:
    config = TrainConfig(valid_songs=5, valid_s=60.0, num_workers=2, learner=LearnerConfig(ema_decays=(0.9,)))
    options = {"segment_s": 8.0, "row_step_s": 0.5, "song_core_s": 0.01}
    # Three songs for the first worker, each 10 segments by 2 sets of weights at 0.2 s, the first read before: 0.6 s.
    assert validate.planned_s(config, **options) == pytest.approx(3 * 10 * 2 * 0.2 + 0.6)
    slow = options | {"song_core_s": 1.0}
    assert validate.planned_s(config, **slow) == pytest.approx(3 * 60 + 10 * 2 * 0.2)
    assert validate.steps_between(validation_s=10.0, step_s=1.0) == 190


def test_a_gpu_separates_as_many_segments_at_once_as_it_trains_with_and_a_cpu_one() -> None:
    def learner(rows_at_once: int) -> Any:
        return SimpleNamespace(rows_at_once=rows_at_once)

    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [validate.rows_at_once(learner(rows), gpu) for rows in (0, 1, 4, 32)] == [8, 1, 4, 8]
    assert validate.rows_at_once(learner(0), cpu) == 1
