"""The smoke preset from songs to a champion, and what every verb that needs songs or a model makes of its store.

Real Prefect, Ray, MLflow and torch. Its folder of songs has one more for the verbs of the steps, so that each has
something to do and little of it.

`make drill-road` kills the run at every place; `test_ingest.py` and `test_train.py` hold their own steps to that.
"""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.schema import SOURCES, MixPlan, Profile, ShardSet
from datasets.shards.arrow_tables import read_objects
from datasets.shards.dataset_versions import list_versions
from datasets.shards.manifests import read_manifest, read_songs, settings_of
from flows import config as door
from flows.cli.pipeline import demo
from flows.cli.store import forget
from flows.retraining import retrain_log
from models.weights.checkpoint import read_config
from pipelines.evaluation.score_tables import score_outliers
from tests.docs import notebook
from tests.drills import drill_road as drill
from tests.e2e.walked import Walked
from tests.flows.command import as_before, stemline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("ray_local", "prefect_server"),
]

NEW = "train/Ada - One More"
# Of a name of its own: versions of the walked road stay as they are. In one process: two workers are test_road.py's.
OWN = (
    "registry.name=grown", "train.num_workers=0", "train.steps=2", "train.checkpoint_every=2",
)  # fmt: skip
CHAMPION = "models:/stemline@champion"


def ids(told: Any) -> set[str]:
    return {song.track_id for song in read_songs(ShardSet(**told))}


def test_ingest_decodes_the_new_song_and_stops_there(grown: Walked) -> None:
    told = grown.asked("ingest")
    (song,) = (song for song in read_songs(ShardSet(**told["ingested"]["chunks"])) if song.track_id == NEW)
    assert song.num_samples / song.sample_rate == pytest.approx(4.0, abs=0.1)
    assert (told["curated"], told["profiles"], told["automixes"]) == (None, None, None)


def test_curate_judges_it_and_stops_there(grown: Walked) -> None:
    told = grown.asked("curate")
    assert NEW in ids(told["curated"]["chunks"])
    assert "Ada - One More" in Path(told["curated"]["page"]).read_text()
    assert (told["profiles"], told["automixes"]) == (None, None)


def test_analyze_measures_it_and_stops_there(grown: Walked) -> None:
    told = grown.asked("analyze")
    profiles = read_objects(ShardSet(**told["profiles"]), Profile)
    assert {one.track_id for one in profiles} == ids(told["curated"]["chunks"])
    assert any(30 < one.tempo_bpm < 300 for one in profiles)
    assert told["automixes"] is None


def test_automix_plans_and_renders_mixes(grown: Walked) -> None:
    told = grown.asked("automix")
    plans = read_objects(ShardSet(**told["automixes"]["plans"]), MixPlan)
    assert plans
    assert ids(told["automixes"]["chunks"]) <= {plan.mix_id for plan in plans}


def test_train_leaves_a_checkpoint_and_scores_nothing(grown: Walked) -> None:
    told = grown.asked("train", *OWN)
    assert (told["trained"]["steps"], told["candidate"], told["version"]) == (2, None, None)
    assert read_config(told["trained"]["checkpoint"])["weights_sha256"] == told["trained"]["model_digest"]


def test_evaluate_scores_the_held_out_songs_and_registers_nothing(grown: Walked) -> None:
    told = grown.asked("evaluate", *OWN)
    assert {track_id.partition("/")[0] for track_id in told["candidate"]["summary"]["songs"]} == {"test"}
    assert told["candidate"]["summary"]["sources"].keys() == set(SOURCES)
    assert (told["champion"], told["decision"], told["version"]) == (None, None, None)


def test_promote_registers_a_model_of_two_steps_as_candidate_alone_and_a_dry_run_nothing(grown: Walked) -> None:
    grown.asked("evaluate", *OWN)
    dry = grown.asked("promote", "--dry-run", *OWN, "registry.name=dry")
    assert (dry["decision"]["promote"], dry["version"]) == (False, None)
    assert "no better than silence" in dry["decision"]["reason"].lower()
    assert stemline("history", *grown.settings, "registry.name=dry", "--json").json["promotions"] == []
    answer = stemline("promote", *grown.settings, *OWN)
    assert answer.code == 0, answer.err[-3000:]
    assert "grown/1 is registered as candidate, not promoted: no better than silence" in " ".join(answer.out.split())
    assert stemline("history", *grown.settings, *OWN, "--json").json["promotions"] == []


@pytest.fixture(scope="module")
def rival(walked: Walked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The champion in three bits: nearly as it is, and not quite."""
    small = tmp_path_factory.mktemp("rival") / "small"
    told = walked.asked("compress", CHAMPION, "--bits", "3", "--to", str(small))
    assert told["bytes_after"] < told["bytes_before"]
    return small


def test_compare_says_what_one_gains_over_the_other(walked: Walked, rival: Path) -> None:
    told = walked.asked("compare", CHAMPION, str(rival))
    back = walked.asked("compare", str(rival), CHAMPION)
    assert told["gain"]["mean"] == pytest.approx(-back["gain"]["mean"])
    assert told["gain"]["mean"] != 0
    assert {track_id.partition("/")[0] for track_id in told["songs"]} == {"test"}


def test_the_notebook_of_the_documentation_gives_what_is_stored_in_it(walked: Walked) -> None:
    door.keep_as_last_run(door.load("smoke", walked.settings))  # other tests have run other settings in it since
    with as_before():
        given = list(notebook.run(str(walked.store)))
    assert given == [notebook.stored(cell) for cell in notebook.cells()]
    assert len(given) > 8


def test_listen_makes_pages_of_both(walked: Walked, rival: Path, tmp_path: Path) -> None:
    words = ("listen", "--model", str(rival), "--against", CHAMPION, "--out", str(tmp_path / "pages"))
    told = walked.asked(*words, "listen.songs=1", "listen.seconds=2")
    (song,) = told["songs"]
    pages = sorted(path.name for path in Path(told["page"]).parent.glob("*.html"))
    assert len(pages) == 2
    (page,) = (name for name in pages if name != "index.html")
    assert page == f"{song.replace('/', ' ')}.html"
    # The true stems and both models' estimates of each.
    assert Path(told["page"]).with_name(page).read_text().count('<script type="audio/flac"') == 3 * len(SOURCES)


def test_outliers_rank_every_song_of_the_train_split(walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = stemline("outliers", CHAMPION, *walked.settings)
    assert refused.code == 2
    message = " ".join(refused.err.split())
    assert "the train split has 4 songs; to tell which of them stand out it needs at least 12" in message
    monkeypatch.setattr(score_outliers, "MIN_SONGS", 4)
    ranked = walked.asked("outliers", CHAMPION)["songs"]
    songs = {song.track_id for song in read_songs(ShardSet(**walked.answer["corpus"]["curated"]["chunks"]))}
    assert {song["track_id"] for song in ranked} == {track_id for track_id in songs if track_id.startswith("train/")}
    deviations = [song["deviation"] for song in ranked]
    assert deviations == sorted(deviations)
    assert {song["source"] for song in ranked} <= {*SOURCES}


def test_separate_writes_the_stems_of_a_song_and_says_which_it_cannot(walked: Walked, tmp_path: Path) -> None:
    mixture = np.random.default_rng(0).standard_normal((16_000, 2)) * 0.1
    soundfile.write(tmp_path / "song.wav", mixture, 44_100, subtype="FLOAT")
    (tmp_path / "words.wav").write_text("no audio")
    songs = [str(tmp_path / name) for name in ("song.wav", "words.wav")]
    words = ("--model", CHAMPION, "--out", str(tmp_path / "stems"), f"store.root={walked.store}", "--json")
    answer = stemline("separate", *songs, *words)
    assert answer.code == 2
    (failed,) = answer.json["failed"]
    assert failed["song"] == songs[1]
    (made,) = answer.json["songs"]
    stems = {source: soundfile.read(path)[0] for source, path in made["files"].items()}
    assert stems.keys() == set(SOURCES)
    assert {stem.shape for stem in stems.values()} == {mixture.shape}


def test_a_demo_composes_its_songs_and_says_where_its_model_is_not_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "NUM_SONGS", 4)
    monkeypatch.setattr(demo, "SONG_S", 4.0)
    small = ("train.steps=2", "train.checkpoint_every=2", "train.num_workers=0", "automix_weight=0")
    answer = stemline("demo", f"store.root={tmp_path / 'store'}", *small, "--json")
    assert answer.code in (0, 1), answer.err[-3000:]
    nsdr = answer.json["model"]["candidate"]["summary"]["overall"]["nsdr"]
    good = answer.json["gain_db"] >= demo.MIN_GAIN_DB and nsdr > 0
    assert (answer.code, "The demo failed" in answer.err) == (int(not good), not good)
    assert answer.json["presented"]["scores"]
    assert len(list((tmp_path / "store" / "demo-songs").glob("*/*"))) > 4


# --- the run itself, again, and after it ---


def test_the_road_ends_with_a_champion(walked: Walked) -> None:
    assert walked.answer["model"]["version"]["alias"] == "champion"
    assert {score["source"] for score in walked.answer["presented"]["scores"]} == {"drums", "bass", "other", "vocals"}
    assert (walked.store / "report.html").is_file()
    assert (walked.store / "mlflow.db").is_file()
    card = walked.asked("card", CHAMPION)
    assert {name: group["num_songs"] for name, group in card["licenses"]["songs"].items()} == {"unknown": 5}
    assert "reports/stemline/1/report.html" in card["files"]["paths"]
    assert any(path.startswith("examples/") for path in card["files"]["paths"])
    assert [score["source"] for score in card["scores"]] == card["tags"]["sources"].split(", ")
    assert card["decision"]["promote"]
    manifests = [read_manifest(str(path)) for path in walked.manifests]
    settings = {manifest.step: settings_of(manifest) for manifest in manifests if manifest.step != "landmarks"}
    assert {*settings} == {"ingest", "verdicts", "curate", "profiles", "plans", "automix", "evaluate"}
    assert all(found["corpus"]["root"] == str(walked.songs) for found in settings.values())
    assert settings["automix"].keys() == {"corpus", "ingest", "curate", "analyze", "automix"}


def test_a_second_run_redoes_nothing(walked: Walked) -> None:
    store, first = walked.store, walked.answer
    before = {path: path.stat().st_mtime_ns for path in store.glob("chunks/*")}
    door.keep_as_last_run(door.load("smoke", walked.settings))  # other tests have run other settings in it since
    again = stemline("run", f"store.root={store}", "--json")
    for step in ("ingest", "curate", "analyze", "automix", "train", "evaluate"):
        line = next(line for line in again.err.splitlines() if line.startswith(f"✓ {step}"))
        assert line.rstrip().endswith("as before"), line
    assert {path: path.stat().st_mtime_ns for path in store.glob("chunks/*")} == before
    assert again.json["corpus"] == first["corpus"]
    assert again.json["model"]["trained"] == first["model"]["trained"]


def test_mixes_that_training_would_never_draw_are_not_made(walked: Walked) -> None:
    before = set(walked.store.rglob("*.parquet"))
    answer = walked.asked("automix", "automix_weight=0")
    assert (answer["profiles"], answer["automixes"]) == (None, None)
    assert answer["curated"] == walked.answer["corpus"]["curated"]
    assert set(walked.store.rglob("*.parquet")) == before


def test_a_song_is_forgotten_by_name_of_those_who_heard_it(walked: Walked) -> None:
    kept = read_songs(ShardSet(**walked.answer["corpus"]["curated"]["chunks"]))
    song = next(song for song in kept if song.split == "train")
    answer = walked.asked("forget", song.track_id)
    assert "models:/stemline/1" in answer["retrain"]
    assert set(answer["retrain"]) <= {f"models:/{name}/1" for name in ("stemline", "grown", "other")}
    assert answer["unknown"] == []
    version = next(version for version in list_versions(walked.store) if version.digest == answer["dataset"])
    left = read_songs(ShardSet(uri=version.manifest, table="chunks", num_rows=0, digest=version.digest))
    assert {one.track_id for one in left} == {one.track_id for one in kept} - {song.track_id}
    assert song.track_id in answer["songs"]
    test = next(song for song in kept if song.split == "test")
    config = door.load("smoke", walked.settings)
    who = forget.versions_trained_with(config, {test.audio})
    assert who.versions
    assert (who.recordings, who.unknown) == ({}, {})  # judging by a song is not learning from it


def test_a_retraining_trains_with_a_seed_of_its_own_and_once_on_each_occasion(walked: Walked) -> None:
    from flows.deployments import retrain

    settings = [
        *drill.SETTINGS,
        "train.num_workers=0",
        "registry.name=other",
        "gate.min_nsdr=99.0",
        "retrain.min_interval_h=0",
    ]
    # The second differs in what changes no model.
    form: Any = {"preset": "smoke", "songs": str(walked.songs), "store": str(walked.store)}
    first = retrain(**form, overrides=settings)
    assert first["retrained"]
    assert first["run_key"] != walked.answer["model"]["trained"]["run_key"]
    (kept,) = retrain_log.read_log(str(walked.store)).retrainings
    assert (kept.run_key, kept.champion) == (first["run_key"], "")
    assert (kept.status, kept.gpu_hours) == ("done", 0.0)
    assert kept.began_at <= kept.ended_at
    assert kept.due_at <= kept.began_at
    settings_of_it = tomllib.loads(next((walked.store / "runs" / kept.run_key).glob("*.toml")).read_text())
    assert settings_of_it["train"]["seed"] == kept.seed
    for other in (
        retrain(**form, overrides=[*settings, "train.keep_checkpoints=3"]),
        walked.asked("retrain", *settings),
    ):
        assert not other["retrained"]
        assert "there is nothing to train" in other["why"]
        assert "though there is no champion yet" in other["why"]
