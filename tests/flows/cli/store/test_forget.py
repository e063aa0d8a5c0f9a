"""A forgotten recording comes back under no name: not from its copy, not from a later run, not from its shards."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.corpus.removed_songs import read_removed_songs
from datasets.errors import InputError
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from datasets.shards.manifests import read_songs
from flows.build_corpus import Corpus
from flows.cli.models import lineage
from flows.cli.store import forget
from flows.config import RunConfig, load
from flows.console.progress_display import current
from pipelines.preparation import curate, ingest
from pipelines.registry import run_logging
from tests.pipelines.lineage.test_training_recordings import book, client

RATE = 8000
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def write_song(root: Path, name: str, *, like: str = "", gain: float = 0.1) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    noise = row_rng(0, like or name).standard_normal((4, 2, 4 * RATE + 15))
    for source, stem_CT in zip(SOURCES, noise, strict=True):
        smooth_CT = np.apply_along_axis(lambda row: np.convolve(row, np.ones(16) / 4, "valid"), 1, stem_CT)
        soundfile.write(folder / f"{source}.wav", smooth_CT.T * gain, RATE, subtype="FLOAT")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A corpus with a song and a master of it that curation drops; no Prefect, and no command around it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "songs"
    for name in ("train/Artist - Song", "train/B", "train/C", "test/T"):
        write_song(root, name)
    write_song(root, "train/Vault master 2", like="train/Artist - Song", gain=0.07)

    @contextmanager
    def bare(*_: Any, **__: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(forget, "prepared", bare)
    monkeypatch.setattr("flows.build_corpus.build_corpus", build)
    return load("smoke", [f"corpus.root={root}", f"store.root={tmp_path / 'store'}", f"ingest.sample_rate={RATE}"])


def build(config: RunConfig, *, until: str = "curate") -> Corpus:
    ingested = ingest.run(config.corpus, config.ingest, store=config.store.tables)
    return Corpus(ingested=ingested, curated=curate.run(config.curate, ingested, store=config.store.tables))


def ids(corpus: Corpus) -> set[str]:
    return {song.track_id for song in read_songs(corpus.songs)}


def evaluation_of(song: str, store: Path, *, model: str) -> str:
    """The run of an evaluation of version 1 of a model whose table names a song."""
    books = client(store)
    scored = books.create_experiment(f"scored {model}", artifact_location=str(store / "mlartifacts"))
    run = books.create_run(scored).info.run_id
    run_logging._log_songs(books, run, [{"track_id": f"train/{song}", "song": song}])
    tag = json.dumps({"run_id": run, "at": "2026", "protocol": "", "scores_digest": ""})
    books.set_model_version_tag(model, "1", f"{run_logging.EVALUATION}k", tag)
    return str(run)


OTHERS = {"train/B", "train/C", "test/T"}
BOTH = {"train/Artist - Song", "train/Vault master 2"}


def test_the_copy_goes_as_well_in_every_later_run_and_who_heard_either_is_named(
    ray_local: Any, config: RunConfig, tmp_path: Path
) -> None:
    before = build(config)
    assert ids(before) == {*OTHERS, "train/Artist - Song"}
    Path(config.store.root).mkdir(exist_ok=True)
    version = book(Path(config.store.root), "other-name", {"dataset_uri": before.songs.uri})
    # The one that curation had dropped is asked for: its copy is what the version learnt from.
    told = forget.run(config, "Vault master 2", screen=current())
    assert set(told["songs"]) == BOTH
    assert (told["retrain"], told["unknown"], told["erased"]) == ([version], [], [])
    assert any("chunks/" in place and "Artist - Song" in place for place in told["still_in"])
    after = build(config)
    assert after.songs.digest == told["dataset"]
    assert ids(after) == OTHERS
    assert {one.track_id: one.reason for one in after.ingested.rejected} == dict.fromkeys(BOTH, "forgotten")
    # Another master comes in later, under a name of its own, and is known by ear.
    root = Path(config.corpus.root)
    write_song(root, "train/Found in the attic", like="train/Artist - Song", gain=0.05)
    later = build(config)
    assert ids(later) == OTHERS
    assert {one.track_id for one in later.ingested.rejected} == {*BOTH, "train/Found in the attic"}
    # So does another deployment, with other settings: nothing of this is in a run's settings.
    other = load("smoke", [
        f"corpus.root={root}", f"store.root={config.store.root}", "ingest.sample_rate=4000", "curate.min_similarity=2",
    ])  # fmt: skip
    assert ids(build(other)) == OTHERS
    heard = lineage.of_song(config, "Artist - Song")["heard"]
    assert heard == {version: ["train/Artist - Song (train)"]}


def test_erased_its_audio_is_in_no_file_of_the_store_and_it_is_forgotten_still(
    ray_local: Any, config: RunConfig, tmp_path: Path
) -> None:
    before = build(config)
    Path(config.store.root).mkdir(exist_ok=True)
    tags = {"dataset_uri": before.songs.uri, "checkpoint_digest": "c"}
    version = book(Path(config.store.root), "stemline", tags)
    book(Path(config.store.root), "stemline", {})  # of somebody else
    vocals = book(Path(config.store.root), "vocals", {"dataset_uri": "", "checkpoint_digest": "d"})
    evaluated = {
        uri: evaluation_of("Artist - Song", Path(config.store.root), model=model)
        for model, uri in (("stemline", version), ("vocals", vocals))
    }
    audio = {song.audio for song in read_songs(before.ingested.chunks) if song.track_id in BOTH}
    store = Path(config.store.root)
    for name in (
        "report.html",
        "listening/Artist - Song.html",
        "listening/T.html",
        "separated/Artist - Song/bass.flac",
        "runs/older/examples/001/bass.flac",
    ):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text(f"about {Path(name).stem}" if "report" not in name else "<h1>Vault master 2</h1>")
    told = forget.run(config, "Artist - Song", erase=True, screen=current())
    assert told["erased"]
    # What is not ours to rewrite is named.
    assert {str(Path(place.split(" (seconds")[0]).relative_to(store)) for place in told["still_in"]} == {
        "report.html", "listening/Artist - Song.html", "separated/Artist - Song", "runs/older/examples",
    }  # fmt: skip
    assert told["titled_in"] == [
        f"songs.json of run {run} in MLflow, an evaluation of {uri}" for uri, run in evaluated.items()
    ]
    assert set(read_removed_songs(config.store.tables).names) == audio
    # The dataset that was trained on stays readable, and the version's ancestry known.
    assert {song.track_id for song in read_songs(before.songs)} == OTHERS
    again = forget.run(config, "Artist - Song", erase=True, screen=current())
    assert (again["retrain"], again["erased"], again["dataset"]) == ([version], [], told["dataset"])
    assert lineage.of_song(config, "Vault master 2")["heard"] == {version: ["train/Artist - Song (train)"]}
    assert ids(build(config)) == OTHERS


def test_the_canary_songs_forget_it_too(ray_local: Any, config: RunConfig, tmp_path: Path) -> None:
    root, canary = tmp_path / "canary songs", Path(config.store.root) / "canary"
    write_song(root, "train/Canary master", like="train/Artist - Song", gain=0.06)
    write_song(root, "train/Another")
    apart = replace(
        config, corpus=replace(config.corpus, root=str(root)), store=replace(config.store, root=str(canary), data="")
    )
    build(config)
    assert ids(build(apart)) == {"train/Canary master", "train/Another"}
    told = forget.run(config, "train/Artist - Song", erase=True, screen=current())
    assert set(told["songs"]) == {*BOTH, "train/Canary master"}
    assert (told["still_in"], ids(build(apart))) == ([], {"train/Another"})
    assert any(str(canary / "chunks") in file for file in told["erased"])


def test_a_name_that_fits_several_songs_or_none_is_refused(ray_local: Any, config: RunConfig) -> None:
    build(config)
    with pytest.raises(InputError, match=r"'train/' may be .*give the id of one"):
        forget.run(config, "train/", screen=current())
    with pytest.raises(InputError, match="has a song called"):
        forget.run(config, "nobody's", screen=current())
    assert not read_removed_songs(config.store.tables)
