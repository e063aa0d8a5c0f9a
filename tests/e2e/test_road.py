"""The smoke preset from songs to a champion, twice, and with kills between: real Prefect, Ray, MLflow and torch."""

import io
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from tests.e2e import drill_road as drill

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


def test_the_road_ends_with_a_champion_and_a_second_run_redoes_nothing(tmp_path: Path) -> None:
    songs, store = tmp_path / "songs", tmp_path / "store"
    drill.make_songs(songs)
    first, said = drill.finish(store, songs, tmp_path / "first")
    assert first["model"]["version"]["alias"] == "champion"  # type: ignore[index]
    assert {score["source"] for score in first["presented"]["scores"]} == {"drums", "bass", "other", "vocals"}  # type: ignore[index]
    assert (store / "report.html").is_file()
    assert (store / "mlflow.db").is_file()
    manifests = sorted((store / "manifests").glob("*.json"))
    settings = [tomllib.loads(path.with_suffix(".toml").read_text()) for path in manifests if _is_step(path)]
    assert settings
    assert all(found["corpus"]["root"] == str(songs) for found in settings)

    before = {path: path.stat().st_mtime_ns for path in store.glob("chunks/*")}
    again, said = drill.finish(store, songs, tmp_path / "second")
    for step in ("ingest", "curate", "analyze", "automix", "train", "evaluate"):
        line = next(line for line in said.splitlines() if line.startswith(f"✓ {step}"))
        assert line.rstrip().endswith("as before"), line
    assert {path: path.stat().st_mtime_ns for path in store.glob("chunks/*")} == before
    assert again["corpus"] == first["corpus"]
    assert again["model"]["trained"] == first["model"]["trained"]  # type: ignore[index]


def _is_step(path: Path) -> bool:
    return path.with_suffix(".toml").is_file()


def test_killed_twice_and_run_again_the_shards_and_weights_are_the_same(tmp_path: Path) -> None:
    places = [place for place in drill.PLACES if place.name in ("ingest", "train, after a checkpoint")]
    assert drill.drill(places, tmp_path, Console(file=io.StringIO())) == {}
