"""The smoke preset from songs to a champion, and what follows: real Prefect, Ray, MLflow and torch.

`make drill-road` kills it at every place; `test_ingest.py` and `test_train.py` hold their own steps to that.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datasets.schema import ShardSet
from datasets.shards.manifests import read_manifest, read_songs, settings_of
from datasets.shards.versions import list_versions
from flows import config as door
from flows.cli.store import forget
from flows.retraining import retrain_log
from tests.drills import drill_road as drill

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """The road walked once, left in peace."""

    songs: Path
    store: Path
    answer: Mapping[str, Any]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """Shared by the tests of this file: a walk takes a minute."""
    folder = tmp_path_factory.mktemp("road")
    songs, store = folder / "songs", folder / "store"
    drill.make_songs(songs)
    answer, _ = drill.finish(store, songs, folder / "first")
    return Walked(songs=songs, store=store, answer=answer)


def test_the_road_ends_with_a_champion(walked: Walked) -> None:
    assert walked.answer["model"]["version"]["alias"] == "champion"
    assert {score["source"] for score in walked.answer["presented"]["scores"]} == {"drums", "bass", "other", "vocals"}
    assert (walked.store / "report.html").is_file()
    assert (walked.store / "mlflow.db").is_file()
    manifests = [read_manifest(str(path)) for path in sorted((walked.store / "manifests").glob("*.json"))]
    settings = {manifest.step: settings_of(manifest) for manifest in manifests if manifest.step != "landmarks"}
    assert {*settings} == {"ingest", "verdicts", "curate", "profiles", "plans", "automix", "evaluate"}
    assert all(found["corpus"]["root"] == str(walked.songs) for found in settings.values())
    assert settings["automix"].keys() == {"corpus", "ingest", "curate", "analyze", "automix"}


def test_a_second_run_redoes_nothing(walked: Walked, tmp_path: Path) -> None:
    store, first = walked.store, walked.answer
    before = {path: path.stat().st_mtime_ns for path in store.glob("chunks/*")}
    again, said = drill.finish(store, walked.songs, tmp_path / "second")
    for step in ("ingest", "curate", "analyze", "automix", "train", "evaluate"):
        line = next(line for line in said.splitlines() if line.startswith(f"✓ {step}"))
        assert line.rstrip().endswith("as before"), line
    assert {path: path.stat().st_mtime_ns for path in store.glob("chunks/*")} == before
    assert again["corpus"] == first["corpus"]
    assert again["model"]["trained"] == first["model"]["trained"]


def test_mixes_that_training_would_never_draw_are_not_made(walked: Walked) -> None:
    before = set(walked.store.rglob("*.parquet"))
    answer = drill.ask(walked.store, walked.songs, "automix", "automix_weight=0")
    assert (answer["profiles"], answer["automixes"]) == (None, None)
    assert answer["curated"] == walked.answer["corpus"]["curated"]
    assert set(walked.store.rglob("*.parquet")) == before


def test_a_song_is_forgotten_by_name_of_those_who_heard_it(walked: Walked) -> None:
    kept = read_songs(ShardSet(**walked.answer["corpus"]["curated"]["chunks"]))
    song = next(song for song in kept if song.split == "train")
    answer = drill.ask(walked.store, walked.songs, "forget", song.track_id)
    assert answer["retrain"] == ["models:/stemline/1"]
    assert answer["unknown"] == []
    version = next(version for version in list_versions(walked.store) if version.digest == answer["dataset"])
    left = read_songs(ShardSet(uri=version.manifest, table="chunks", num_rows=0, digest=version.digest))
    assert {one.track_id for one in left} == {one.track_id for one in kept} - {song.track_id}
    assert song.track_id in answer["songs"]
    test = next(song for song in kept if song.split == "test")
    config = door.load("smoke", [f"store.root={walked.store}", f"corpus.root={walked.songs}", *drill.SETTINGS])
    who = forget.versions_trained_with(config, {test.audio})
    assert who.versions
    assert (who.recordings, who.unknown) == ({}, {})  # judging by a song is not learning from it


RETRAINED = """
import json, sys
from flows.deployments import retrain
print("told", json.dumps([retrain(**one) for one in json.load(open(sys.argv[1]))]))
"""


def test_a_retraining_trains_with_a_seed_of_its_own_and_once_on_each_occasion(walked: Walked, tmp_path: Path) -> None:
    settings = [
        *drill.SETTINGS,
        "train.num_workers=0",
        "registry.name=other",
        "gate.min_nsdr=99.0",
        "retrain.min_interval_h=0",
    ]
    # The third differs in what changes no model.
    asked = [{"preset": "smoke", "songs": str(walked.songs), "store": str(walked.store), "overrides": settings}] * 2
    asked.append({**asked[0], "overrides": [*settings, "train.keep_checkpoints=3"]})
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [sys.executable, "-c", RETRAINED, str(tmp_path / "asked.json")], cwd=drill.ROOT, capture_output=True, text=True,
        env={**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, *others = json.loads(done.stdout.rpartition("told ")[2])
    assert first["retrained"]
    assert first["run_key"] != walked.answer["model"]["trained"]["run_key"]
    (kept,) = retrain_log.retrainings(str(walked.store))
    assert (kept.run_key, kept.champion) == (first["run_key"], "")
    assert kept.ended_at
    assert kept.due_at <= kept.began_at
    settings_of_it = tomllib.loads(next((walked.store / "runs" / kept.run_key).glob("*.toml")).read_text())
    assert settings_of_it["train"]["seed"] == kept.seed
    for other in others:
        assert not other["retrained"]
        assert "there is nothing to train" in other["why"]
        assert "though there is no champion yet" in other["why"]
