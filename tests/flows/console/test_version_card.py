"""A version's page says what registry and datasets hold; names of songs and licences are text and nothing else."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from datasets.errors import InputError
from datasets.schema import Score
from datasets.shards.manifests import read_manifest, write_manifest
from flows.config import load
from flows.console import version_card
from pipelines import registry
from pipelines.evaluation.score_tables import song_table
from pipelines.lineage.song_licenses import SongLicenses
from pipelines.registry import ModelVersion
from pipelines.report.model_card import ModelCard
from tests.flows.command import stemline
from tests.pipelines.registry.test_registration import CONFIG, client, make_candidate
from tests.pipelines.songs import write_songs

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=alert(1)> [a](http://x.test) | \x1b[31m=cmd()"


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def score(song: str, source: str, nsdr: float | None, *, floor: float = 0.0, leakage_db: float | None = None) -> Score:
    return Score(
        track_id=f"test/{song}", title=song, source=source, protocol="test, first 60 s", nsdr=nsdr, sdr=None,
        mixture_nsdr=None if nsdr is None else floor, mixture_sdr=None, leakage_db=leakage_db, duration_s=3.0,
    )  # fmt: skip


SCORES = [
    score("A", "drums", 6.0), score("A", "bass", 2.0), score("B", "drums", 8.0), score("B", "bass", 4.0),
    score(HOSTILE, "drums", -3.0), score(HOSTILE, "bass", None, leakage_db=-12.0), score("C", "drums", 50.0),
    *(score(song, "vocals", None) for song in "AB"),
]  # fmt: skip


def test_a_table_of_songs_has_the_worst_first_and_gives_back_means_bounds_and_failures() -> None:
    rows = song_table.rows_of(SCORES)
    assert [row["song"] for row in rows] == [HOSTILE, "A", "B", "C"]
    assert (rows[1]["nsdr"], rows[1]["improvement"], rows[1]["nsdr/bass"]) == (4.0, 4.0, 2.0)
    drums, bass = song_table.per_source(rows[:3])
    assert (drums.source, drums.num_songs, drums.nsdr) == ("drums", 3, pytest.approx(11 / 3))
    assert drums.low < drums.nsdr < drums.high
    assert (bass.num_songs, bass.nsdr, bass.mixture_nsdr) == (2, 3.0, 0.0)
    assert math.isinf(song_table.per_source(rows[:1])[0].low)  # one song says nothing of others
    assert song_table.silent_sources(rows) == ("vocals",)
    (leak,) = song_table.loudest_leaks(rows)
    assert (leak.source, leak.song, leak.leakage_db) == ("bass", HOSTILE, -12.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that learned from three songs, one of them under a licence of a hostile name, and was refused."""
    folder = tmp_path_factory.mktemp("store")
    written = write_songs(folder, {"a": "train", "b": "train", "c": "valid", "d": "test"})
    stated = {"a": "CC0-1.0", "b": f"CC-BY-NC-4.0 {HOSTILE}", "c": "unknown", "d": "MIT"}
    manifest = read_manifest(written)
    songs = [replace(song, license=stated[song.track_id]) for song in manifest.songs]
    dataset = write_manifest(folder, table="chunks", step="curate", key="k", shards=manifest.shards, songs=songs)
    candidate = make_candidate(folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        version = registry.register(
            CONFIG,
            replace(
                candidate,
                songs=song_table.rows_of(SCORES),
                lineage={
                    **candidate.lineage,
                    "dataset_uri": dataset.uri,
                    "start_uri": "none",
                    "protocol": "test, first 60 s",
                },
            ),
            store=str(folder),
        )  # fmt: skip
        check = {"rule": "min_nsdr", "met": False, "message": f"It fails on {HOSTILE}"}
        decision = {"promote": False, "reason": check["message"], "checks": [check], "left_out": ["test/C"]}
        registry.promote(version, decision, store=str(folder))
    return folder


def of_store(store: Path) -> tuple[ModelCard, ModelVersion]:
    config = load("smoke", [f"store.root={store}"])
    version = registry.lineage("models:/stemline/1", store=str(store)).version
    return version_card.card(config, version.uri), version


def test_a_card_has_songs_by_licence_scores_with_intervals_the_verdict_and_failures(store: Path) -> None:
    card, version = of_store(store)
    assert (card.splits, card.licenses.commercial_use) == ({"train": 2, "valid": 1, "test": 1}, "forbidden")
    assert (card.num_songs, card.left_out, card.below_mixture) == (3, 1, 1)
    assert [song.title for song in card.worst] == [HOSTILE]
    config = load("smoke", [f"store.root={store}"])
    version_card.describe_version(config, version)
    text = client(str(store)).get_model_version("stemline", "1").description
    for line in (
        "Separates songs into drums, bass, other and vocals at 8 kHz.",
        "**Gate:** refused. It fails on ",
        "Trained on 2 songs, and selected by 1 song for validation.",
        "**Non-commercial:** the licences of 1 song forbid commercial use.",
        "The licence of 1 song is not known.",
        "| bass | 2 | 3.00 | ",
        "Left out: 1 song that it, or the champion, learned from.",
        "- In 1 of 3 songs the unprocessed mixture scores higher.",
        "- vocals sounds in none of the scored songs: nothing is known of it.",
        "- It leaks where bass is silent, -12.0 dB relative to the mixture",
        "Made from commit 0123abc",
    ):
        assert line in text
    assert text.count("It fails on") == 1  # the reason is one of the rules
    assert "<img" not in text
    assert "[a](http" not in text
    assert "\x1b" not in text


def test_what_is_not_known_of_its_songs_is_no_row_of_their_table(store: Path) -> None:
    card, _ = of_store(store)
    text = version_card.markdown(replace(card, licenses=SongLicenses(gaps=("one", "two"))))
    assert "| all | 0 | 0.00 |\n\nNot known: one.\n\nNot known: two." in text


def test_a_card_for_hugging_face_is_read_by_its_library(store: Path) -> None:
    import huggingface_hub

    answer = stemline(
        "card", "models:/stemline/1", "--format", "hf", f"store.root={store}", "registry.license=cc-by-4.0"
    )
    assert answer.code == 0, answer.err
    read = huggingface_hub.ModelCard(answer.out, ignore_metadata_errors=False)
    assert (read.data.license, read.data.library_name, read.data.pipeline_tag) == (
        "cc-by-4.0", "stemline", "audio-to-audio",
    )  # fmt: skip
    results = {result.metric_name: result.metric_value for result in read.data.eval_results or ()}
    assert results["nSDR, bass (dB)"] == 3.0
    assert read.text.startswith("\n# stemline, version 1\n") or read.text.startswith("# stemline, version 1\n")
    front = yaml.safe_load(answer.out.split("---\n")[1])
    assert front["tags"][2:] == ["drums", "bass", "other", "vocals"]
    assert "\x1b" not in answer.out


def test_what_has_no_card_is_an_input_error(store: Path) -> None:
    answer = stemline("card", str(store / "checkpoint"), f"store.root={store}")
    assert (answer.code, "only registered versions have a card" in answer.err) == (2, True)
    with pytest.raises(InputError, match=r"registry\.license='CC BY': use the name of a licence as on Hugging Face"):
        replace(CONFIG, license="CC BY")
