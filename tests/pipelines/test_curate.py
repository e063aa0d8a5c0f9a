"""The right songs are dropped for the right reasons, and what is kept can be trained and tested on."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets import shards
from datasets.dice import dice
from datasets.errors import InputError
from datasets.schema import SOURCES, Verdict
from datasets.synthetic import write_corpus
from pipelines import curate, ingest
from pipelines.curate import CurateConfig, CurateResult
from pipelines.ingest import CorpusConfig, IngestConfig, IngestResult

RATE = 8000
pytestmark = pytest.mark.ray


def _song(root: Path, name: str, *, silent: tuple[str, ...] = (), gain: float = 0.1) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    noise = dice(0, name).standard_normal((4, 2, 4 * RATE + 15))
    for source, stem_CT in zip(SOURCES, noise, strict=True):
        smooth_CT = np.apply_along_axis(lambda row: np.convolve(row, np.ones(16) / 4, "valid"), 1, stem_CT)
        level = 0.0 if source in silent else gain
        soundfile.write(folder / f"{source}.wav", np.clip(smooth_CT.T * level, -1, 1), RATE, subtype="FLOAT")
    return folder


def _ingest(root: Path, store: Path, *, sample_rate: int = RATE, **corpus: Any) -> IngestResult:
    settings = IngestConfig(sample_rate=sample_rate, shard_mb=1)
    return ingest.run(CorpusConfig(root=str(root), **corpus), settings, store=str(store))


def _curate(ingested: IngestResult, store: Path, config: CurateConfig | None = None, **options: Any) -> CurateResult:
    return curate.run(config or CurateConfig(), ingested, store=str(store), **options)


def _verdicts(result: CurateResult) -> dict[str, Verdict]:
    return {verdict.title: verdict for verdict in shards.read_objects(result.verdicts, Verdict)}


def test_each_song_is_kept_or_dropped_for_its_reason(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABCDEF":
        _song(root, f"Song {letter}")
    _song(root, "Silent", silent=("vocals",))
    _song(root, "Clipped", gain=2.0)
    shutil.copytree(root / "Song C", root / "Song C again")
    (_song(root, "Broken") / "drums.wav").write_bytes(b"")
    ingested = _ingest(root, store)
    result = _curate(ingested, store, require=("train", "valid", "test"))
    verdicts = _verdicts(result)
    assert {title: verdict.reason for title, verdict in verdicts.items() if not verdict.keep} == {
        "Broken": "empty_file",
        "Clipped": "clipped",
        "Silent": "silent_source",
        "Song C again": "duplicate",
    }
    assert verdicts["Song C again"].detail == "the same audio as Song C"
    assert "vocals in 0%" in verdicts["Silent"].detail
    assert verdicts["Song A"].measures["bass_presence"] == 1.0
    assert result.kept == tuple(f"Song {letter}" for letter in "ABCDEF")
    assert {song.track_id for song in shards.read_songs(result.chunks)} == set(result.kept)
    dropped = {"empty_file": 1, "clipped": 1, "silent_source": 1, "duplicate": 1}
    assert (result.summary["songs"], result.summary["kept"], result.summary["dropped"]) == (10, 6, dropped)
    assert sum(result.summary["splits"].values()) == 6


def test_finished_verdicts_are_found_and_new_thresholds_measure_nothing_again(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"Song {letter}")
    _song(root, "Silent", silent=("vocals",))
    ingested = _ingest(root, store)
    result = _curate(ingested, store)

    def no_work(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(curate, "map_rows", no_work)
    monkeypatch.setattr(curate, "connect", no_work)
    assert _curate(ingested, store) == result
    lenient = _curate(ingested, store, CurateConfig(min_presence=0))
    assert set(lenient.kept) == {*result.kept, "Silent"}
    assert lenient.chunks.digest != result.chunks.digest
    Path(shards.read_manifest(result.verdicts).store, shards.read_manifest(result.verdicts).shards[0].file).unlink()
    assert _curate(ingested, store) == result


def test_when_every_song_breaks_a_rule_the_message_names_rule_count_and_override(
    ray_local: Any, tmp_path: Path
) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"Song {letter}", silent=("vocals", "bass") if letter == "A" else ("vocals",))
    with pytest.raises(InputError) as caught:
        _curate(_ingest(root, store), store)
    for words in (
        "0 of 3 songs",
        "silent_source (a source sounds in too few seconds): 3 songs, such as 'Song A'",
        'corpus.sources=["drums","bass","other"] leaves out vocals',
        "curate.min_presence=0",
    ):
        assert words in str(caught.value)
    without_vocals = _curate(_ingest(root, store, sources=("drums", "bass", "other")), store)
    assert without_vocals.kept == ("Song B", "Song C")


def test_a_drawn_split_that_came_out_empty_is_dealt_again(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    names = [f"Song {letter}" for letter in "ABCDEF"]
    for name in names:
        _song(tmp_path / "probe", name)
    sides = {song.title: song.split for song in shards.read_songs(_ingest(tmp_path / "probe", store).chunks)}
    for name in names:
        _song(root, name, silent=("bass",) if sides[name] == "test" else ())
    result = _curate(_ingest(root, store), store, require=("train", "test"))
    assert len(result.kept) == 5
    assert {song.split for song in shards.read_songs(result.chunks)} == {"train", "valid", "test"}
    verdicts = _verdicts(result)
    assert {song.title: song.split for song in shards.read_songs(result.chunks)} == {
        title: verdict.split for title, verdict in verdicts.items() if verdict.keep
    }


def test_a_split_that_folders_state_is_not_refilled(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"train/Song {letter}")
    _song(root, "test/Song T", silent=("bass",))
    ingested = _ingest(root, store)
    assert _curate(ingested, store).summary["splits"]["test"] == 0
    with pytest.raises(InputError, match="none is left to test on"):
        _curate(ingested, store, require=("train", "test"))


def test_planted_defects_are_dropped_for_the_planted_reasons(ray_local: Any, tmp_path: Path) -> None:
    truth = write_corpus(tmp_path / "c", num_songs=6, seed=0, duration_s=6.0, sample_rate=RATE)
    result = _curate(_ingest(tmp_path / "c", tmp_path / "s"), tmp_path / "s")
    reasons = {title: verdict.reason for title, verdict in _verdicts(result).items()}
    assert reasons == {song.title: song.reason for song in truth.songs}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "sources", "kept"),
    [
        ("cc0_album", SOURCES, 4),
        ("cc0_album", ("drums", "other", "vocals"), 7),
        ("lmms_demos", ("drums", "bass", "other"), 6),
        ("musdb_stem_mp4", SOURCES, 2),
        ("real_small", ("drums", "bass", "other"), 2),
        ("rendered_stems", SOURCES, 9),
    ],
)
def test_shared_sets_give_songs_to_train_and_to_test_on(
    ray_local: Any, tmp_path: Path, shared_data: Path, corpus: str, sources: tuple[str, ...], kept: int
) -> None:
    ingested = _ingest(shared_data / corpus, tmp_path, sample_rate=44100, sources=sources)
    result = _curate(ingested, tmp_path, require=("train", "test"))
    assert ingested.rejected == ()
    assert len(result.kept) == kept, _verdicts(result)
