from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.analysis.song_profile import profile
from datasets.errors import InputError
from datasets.mixing.mixplan import MixRules, plan
from datasets.schema import SOURCES, MixPlan, chunks_schema
from datasets.shards.arrow_tables import read_objects, read_rows, verify
from datasets.shards.manifests import read_manifest, read_songs, write_manifest
from datasets.shards.shards import read_song, read_track
from pipelines.lineage import training_recordings
from pipelines.preparation import analyze, automix
from pipelines.preparation.analyze import AnalyzeConfig
from pipelines.preparation.automix import AutomixConfig, AutomixResult
from pipelines.runtime.progress import NullProgress
from tests.pipelines.preparation.test_analyze import SAMPLE_RATE, scores, stored


@pytest.mark.parametrize("changes", [{"mixes_per_track": -1}, {"mixes_per_shard": 0}, {"splits": ("trian",)}])
def test_impossible_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AutomixConfig(**changes)  # type: ignore[arg-type]


def test_songs_of_two_rates_are_refused_with_what_would_do(tmp_path: Path) -> None:
    (song, *_) = read_songs(stored(tmp_path, scores(1)))
    with pytest.raises(InputError, match=r"\(16000, 2\), \(22050, 2\).*one ingest.sample_rate"):
        automix._like_all([song, replace(song, sample_rate=22050)])


def test_a_mix_on_demand_is_the_plan_carried_out(tmp_path: Path) -> None:
    songs = {song.track_id: song for song in read_songs(stored(tmp_path, scores(2)))}
    heard = [
        profile(read_song(song), track_id=name, split="train", sources=SOURCES, sample_rate=SAMPLE_RATE)
        for name, song in songs.items()
    ]
    made = next(made for made in plan(heard, seed=0, mixes_per_track=4, rules=MixRules(), sources=SOURCES,
                                      sample_rate=SAMPLE_RATE) if not made.reason)  # fmt: skip
    stems_SCT = automix.mix_stems(made, songs, SOURCES)
    own = made.parts[0]
    place = SOURCES.index(own.source)
    np.testing.assert_array_equal(stems_SCT[place], read_song(songs[own.track_id])[place])
    assert all(np.abs(stem_CT).max() > 0.01 for stem_CT in stems_SCT)


def mixes(store: Path, result: AutomixResult) -> dict[str, bytes]:
    return {shard.file: (store / shard.file).read_bytes() for shard in read_manifest(result.chunks).shards}


class _Stages(NullProgress):
    def __init__(self) -> None:
        self.summaries: list[str] = []

    def finish(self, summary: str) -> None:
        self.summaries.append(summary)


@pytest.mark.ray
def test_mixes_are_whole_songs_of_the_same_schema_and_rendered_once(ray_local: object, tmp_path: Path) -> None:
    chunks = stored(tmp_path, scores(5), splits=("train", "train", "train", "train", "test"))
    profiles = analyze.run(AnalyzeConfig(), chunks, store=str(tmp_path))
    config = AutomixConfig(mixes_per_track=2, mixes_per_shard=2)
    stages = _Stages()
    result = automix.run(config, chunks, profiles, store=str(tmp_path), progress=stages)
    plans = read_objects(result.plans, MixPlan)
    assert len(plans) == 2 * 4  # test songs make no mixes
    whole = [made for made in plans if not made.reason]
    assert whole
    said = f"{len(whole)} mixes of {len(plans)} plans"
    assert stages.summaries[-1].startswith(f"{said}: {len(whole)} rendered")
    assert result.in_words().startswith(f"{said}, ")
    verify(result.chunks)
    # Whoever learns from the mixes has heard the songs in them.
    audio = {song.track_id: song.audio for song in read_songs(chunks)}
    heard = training_recordings.of_dataset(result.chunks.uri)
    parts = {part.track_id for made in whole for part in made.parts}
    assert {(one.track_id, one.audio) for one in heard.heard} == {(name, audio[name]) for name in parts}
    assert heard.gaps == ()
    assert sorted(song.track_id for song in read_songs(result.chunks)) == sorted(made.mix_id for made in whole)
    for row in read_rows(result.chunks):
        assert list(row) == chunks_schema(SOURCES).names
        assert row["origin"] == "automix"
        assert row["split"] == "train"
        assert row["license"] in {"licence 0", "licence 1", "licence 0 + licence 1"}
    mix = whole[0]
    stems_SCT = read_track(result.chunks, mix.mix_id)
    own = mix.parts[0]
    place = SOURCES.index(own.source)
    original_SCT = read_track(chunks, own.track_id)
    assert stems_SCT.shape == original_SCT.shape
    np.testing.assert_allclose(stems_SCT[place], original_SCT[place], atol=1e-6)
    seconds_SCT = np.square(stems_SCT[:, :, : 7 * SAMPLE_RATE]).reshape(4, 2, 7, SAMPLE_RATE)
    assert (seconds_SCT.mean(axis=(1, 3)) > 1e-5).mean(axis=1).min() > 0.4

    before = mixes(tmp_path, result)
    assert automix.run(config, chunks, profiles, store=str(tmp_path)) == result
    lost = next(iter(before))
    (tmp_path / lost).unlink()
    assert automix.run(config, chunks, profiles, store=str(tmp_path)) == result
    assert mixes(tmp_path, result) == before


@pytest.mark.ray
def test_titles_and_licenses_of_mixes_are_todays_and_render_nothing(ray_local: object, tmp_path: Path) -> None:
    chunks = stored(tmp_path, scores(4))
    profiles = analyze.run(AnalyzeConfig(), chunks, store=str(tmp_path))
    first = automix.run(AutomixConfig(), chunks, profiles, store=str(tmp_path))
    before = mixes(tmp_path, first)
    manifest = read_manifest(chunks)
    today = [replace(song, title=f"new {song.track_id}", license="CC-BY-NC-4.0") for song in manifest.songs]
    relicensed = write_manifest(
        tmp_path, table="chunks", step="ingest", key="today", shards=manifest.shards, songs=today, extra=manifest.extra
    )
    assert relicensed.digest == chunks.digest
    second = automix.run(AutomixConfig(), relicensed, profiles, store=str(tmp_path))
    assert mixes(tmp_path, second) == before
    old, new = (read_songs(result.chunks) for result in (first, second))
    assert [song.audio for song in old] == [song.audio for song in new]
    assert new
    assert {song.license for song in new} == {"CC-BY-NC-4.0"}
    assert all(song.title.startswith("new ") for song in new)
    assert {row["license"] for row in read_rows(second.chunks)} == {"CC-BY-NC-4.0"}
    assert not any("NC" in song.license for song in read_songs(first.chunks))


@pytest.mark.ray
def test_a_corpus_of_one_song_gives_plans_with_reasons_and_no_chunks(ray_local: object, tmp_path: Path) -> None:
    chunks = stored(tmp_path, scores(1))
    profiles = analyze.run(AnalyzeConfig(), chunks, store=str(tmp_path))
    result = automix.run(AutomixConfig(), chunks, profiles, store=str(tmp_path))
    assert result.plans.num_rows == 2
    assert all(made.reason for made in read_objects(result.plans, MixPlan))
    assert result.chunks.num_rows == 0
    assert result.in_words() == "0 mixes of 2 plans, 0 chunks"
    assert list(read_rows(result.chunks)) == []
