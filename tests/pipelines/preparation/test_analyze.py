from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.corpus.synthetic import Composition, compose, perform
from datasets.errors import InputError
from datasets.schema import SOURCES, Profile, ShardSet
from datasets.shards.arrow_tables import read_objects
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import write_manifest
from datasets.shards.shards import write_shard
from pipelines.preparation import analyze
from pipelines.preparation.analyze import AnalyzeConfig

SAMPLE_RATE = 16000


def scores(count: int) -> list[Composition]:
    """Songs of nearly one tempo and one key, so that they match."""
    return [
        replace(compose(5, str(number), 8.0), tempo_bpm=118.0 + number, tonic=number % 3) for number in range(count)
    ]


def stored(store: Path, songs: Sequence[Composition], *, splits: Sequence[str] = ("train",)) -> ShardSet:
    """A chunk table of these songs, two to a shard."""
    shards = []
    for start in range(0, len(songs), 2):
        rows: list[dict[str, Any]] = []
        for number, song in enumerate(songs[start : start + 2], start=start):
            header = SongHeader(
                track_id=f"songs/{song.song_id}",
                title=f"Song {song.song_id}",
                split=splits[number % len(splits)],
                license=f"licence {number % 2}",
                origin="corpus",
                sample_rate=SAMPLE_RATE,
            )
            rows += song_rows(perform(song, SAMPLE_RATE), header, sources=SOURCES)
        shards.append(write_shard(store, f"songs-{start}", rows, sources=SOURCES))
    return write_manifest(store, table="chunks", step="ingest", key="test", shards=shards)


def test_a_range_of_nothing_is_refused() -> None:
    with pytest.raises(InputError):
        AnalyzeConfig(singing_range_db=0.0)


def test_a_method_that_is_not_known_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match=r"analyze.method must be one of 'stemline', 'librosa', got 'essentia'"):
        AnalyzeConfig(method="essentia")  # type: ignore[arg-type]


@pytest.mark.ray
def test_songs_are_heard_once(ray_local: object, tmp_path: Path) -> None:
    songs = scores(3)
    chunks = stored(tmp_path, songs)
    made = analyze.run(AnalyzeConfig(), chunks, store=str(tmp_path))
    profiles = read_objects(made, Profile)
    assert [profile.track_id for profile in profiles] == [f"songs/{song.song_id}" for song in songs]
    for profile, song in zip(profiles, songs, strict=True):
        ratio = profile.tempo_bpm / song.tempo_bpm
        assert min(abs(ratio / octave - 1.0) for octave in (0.5, 1.0, 2.0)) < 0.02
        assert set(profile.loudness_db) == set(SOURCES)
        assert np.sum(profile.chroma) == pytest.approx(1.0, abs=1e-3)
        assert all(0.0 <= start < stop <= profile.duration_s for start, stop in profile.vocals_s)
        assert abs(profile.tuning_cents) < 20.0

    kept = analyze.run(AnalyzeConfig(), chunks, kept=[profiles[0].track_id], store=str(tmp_path))
    assert read_objects(kept, Profile) == profiles[:1]

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "profiles").iterdir()}
    assert analyze.run(AnalyzeConfig(), chunks, store=str(tmp_path)) == made
    Path(made.uri).unlink()  # as if killed before the end: the cache answers
    assert analyze.run(AnalyzeConfig(), chunks, store=str(tmp_path)) == made
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "profiles").iterdir()} == before

    by_librosa = analyze.run(AnalyzeConfig(method="librosa"), chunks, kept=[profiles[0].track_id], store=str(tmp_path))
    assert by_librosa.digest != kept.digest  # another method is another result, and is not taken from the cache
    (other,) = read_objects(by_librosa, Profile)
    assert (other.track_id, other.downbeats_s, other.loudness_db) == (
        profiles[0].track_id,
        (),
        profiles[0].loudness_db,
    )
    assert other.beats_s
    assert other.beats_s != profiles[0].beats_s
