"""The work of one measuring task: every song into its file, with the mixture that came with it where there is one."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.quality import measure as measure_stems
from datasets.schema import StemFile
from datasets.shards import Song, read_json, read_song, read_songs
from pipelines import measure
from tests.pipelines.songs import RATE, SOURCES, write_songs


@pytest.fixture
def song(tmp_path: Path) -> Song:
    return read_songs(write_songs(tmp_path, {"a": "train"}, num_samples=5 * RATE + 7))[0]


def measured(song: Song, folder: Path, *mixture: Path) -> dict[str, float]:
    files = [StemFile(path=str(path)) for path in mixture]
    cache = str(folder / "measures.json")
    work = {"song": asdict(song), "cache": cache, "mixture": [asdict(file) for file in files]}
    done = measure._measure_songs({"sources": SOURCES, "silence_db": -40.0, "songs": [work]})
    assert done == {"num_songs": 1}
    row: dict[str, Any] = read_json(cache) or {}
    return dict(row["measures"])


def write_mixture(path: Path, song: Song, *, num_samples: int | None = None, gain: float = 1.0) -> Path:
    summed_CT = read_song(song, sources=SOURCES).sum(axis=0)[:, :num_samples] * gain
    soundfile.write(path, summed_CT.T, RATE, subtype="FLOAT")
    return path


def test_a_stored_song_measures_as_its_stems_do(song: Song, tmp_path: Path) -> None:
    expected = measure_stems(read_song(song, sources=SOURCES), sources=SOURCES, sample_rate=RATE)
    assert measured(song, tmp_path) == pytest.approx(expected, nan_ok=True)


def test_a_mixture_that_came_with_the_stems_is_held_against_their_sum(song: Song, tmp_path: Path) -> None:
    whole = measured(song, tmp_path, write_mixture(tmp_path / "mixture.wav", song))
    assert whole["residual_db"] < -60
    halves = [write_mixture(tmp_path / f"{number}.wav", song, gain=0.5) for number in range(2)]
    assert measured(song, tmp_path, *halves)["residual_db"] < -60
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "other.wav", rng.standard_normal((5 * RATE, 2)) * 0.1, RATE, subtype="FLOAT")
    assert measured(song, tmp_path, tmp_path / "other.wav")["residual_db"] > -6


@pytest.mark.parametrize("num_samples", [2 * RATE, RATE // 2])
def test_a_mixture_that_ends_early_counts_as_silent_there(song: Song, tmp_path: Path, num_samples: int) -> None:
    short = measured(song, tmp_path, write_mixture(tmp_path / "mixture.wav", song, num_samples=num_samples))
    assert short["residual_db"] > -20


def test_a_mixture_that_cannot_be_read_leaves_the_other_measures(song: Song, tmp_path: Path) -> None:
    (tmp_path / "mixture.wav").write_bytes(b"no audio at all")
    assert measured(song, tmp_path, tmp_path / "mixture.wav") == measured(song, tmp_path)


def test_the_state_of_a_file_follows_its_size_and_time_of_change() -> None:
    file = StemFile(path="mixture.wav", num_bytes=1, changed_ns=1)
    others = [replace(file, num_bytes=2), replace(file, changed_ns=2), replace(file, stream=1)]
    assert len({tuple(measure.state_of([one])) for one in [file, *others]}) == 4
