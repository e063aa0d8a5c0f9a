"""The work of one measuring task: every song into its file, with the mixture that came with it where there is one."""

import os
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.quality.measures import measure as measure_stems
from datasets.quality.rules.quality_rules import QualityRules
from datasets.schema import StemFile
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song
from datasets.store.atomic_json import read_json
from pipelines.preparation import signal_stats
from tests.pipelines.songs import RATE, SOURCES, write_songs


@pytest.fixture
def song(tmp_path: Path) -> Song:
    return read_songs(write_songs(tmp_path, {"a": "train"}, num_samples=5 * RATE + 7))[0]


def measured(song: Song, folder: Path, *mixture: Path) -> dict[str, float]:
    files = [StemFile(path=str(path)) for path in mixture]
    cache = str(folder / "measures.json")
    work = {"song": asdict(song), "cache": cache, "mixture": [asdict(file) for file in files]}
    done = signal_stats._measure_songs({"sources": SOURCES, "silence_db": -40.0, "songs": [work]})
    assert done == {"num_songs": 1, "unread": {}}
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


def test_mixtures_are_known_by_what_they_hold_and_not_by_place_or_time() -> None:
    file = StemFile(path="mixture.wav", num_bytes=1, changed_ns=1, content="c")
    moved = replace(file, path="elsewhere.wav", changed_ns=2)
    assert signal_stats.contents([moved]) == signal_stats.contents([file])
    others = [replace(file, content="d"), replace(file, stream=1)]
    assert len({signal_stats.contents(files) for files in ([], [file], [file, file], *([one] for one in others))}) == 5


def _run_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tasks run in this process; how many songs each measures is noted."""
    sizes: list[int] = []

    def run_here(work: Any, items: Any) -> Any:
        sizes.extend(len(item["songs"]) for item in items)
        return map(work, items)

    monkeypatch.setattr(signal_stats, "connect", lambda **_: nullcontext())
    monkeypatch.setattr(signal_stats, "map_rows", run_here)
    return sizes


@pytest.mark.parametrize("trouble", ["gone", "changed", "out of reach"])
def test_a_mixture_that_cannot_be_read_for_once_is_not_remembered(
    song: Song, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    path = write_mixture(tmp_path / "mixture.wav", song)
    stamp, whole = path.stat(), path.read_bytes()
    files = {"a": (StemFile(path=str(path), num_bytes=stamp.st_size, changed_ns=stamp.st_mtime_ns),)}
    run = partial(signal_stats.run, QualityRules(), [song], sources=SOURCES, mixtures=files, store=str(tmp_path))
    measured_now = _run_here(monkeypatch)
    if trouble == "changed":
        path.write_bytes(whole + b"more")
    else:
        path.unlink()
        if trouble == "out of reach":
            path.symlink_to(path.name)
    without = run()["a"]
    assert "mixture.wav" in without.unread
    assert "residual_db" not in without.measures
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    for _ in range(2):
        with_mixture = run()["a"]
        assert (with_mixture.unread, with_mixture.broken) == ("", "")
        assert with_mixture.measures["residual_db"] < -60
    assert measured_now == [1, 1]


@pytest.mark.parametrize("fault", ["no audio", "cut", "not finite"])
def test_a_mixture_whose_bytes_are_no_audio_is_remembered_and_said(
    song: Song, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = write_mixture(tmp_path / "mixture.wav", song, gain=np.nan if fault == "not finite" else 1.0)
    if fault != "not finite":
        path.write_bytes(path.read_bytes()[:9999] if fault == "cut" else b"no sound at all" * 99)
    files = {"a": (StemFile(path=str(path), num_bytes=path.stat().st_size, changed_ns=path.stat().st_mtime_ns),)}
    measured_now = _run_here(monkeypatch)
    for _ in range(2):
        found = signal_stats.run(QualityRules(), [song], sources=SOURCES, mixtures=files, store=str(tmp_path))["a"]
        assert (found.unread, "residual_db" in found.measures) == ("", False)
        assert "mixture.wav" in found.broken
        assert {"no audio": "no decoder", "cut": "truncated", "not finite": "NaN"}[fault] in found.broken
    assert measured_now == [1]
