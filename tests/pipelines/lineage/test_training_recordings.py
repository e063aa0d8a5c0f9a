"""What a version has heard, back to its first weights, under any name, by ear; and what cannot be known is said."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.schema import PLANS, MixPlan, Part, ShardSet
from datasets.shards.arrow_tables import table_of, write_table
from datasets.shards.manifests import read_manifest, write_manifest
from pipelines.lineage import contamination, song_licenses, training_ancestry, training_recordings
from pipelines.lineage.training_recordings import Ancestors, Ancestry
from pipelines.registry import address
from tests.pipelines.lineage.test_contamination import dataset, song, sounds, tune
from tests.pipelines.songs import RATE, write_songs

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    found = {str(seed): sounds(tune(seed)) for seed in range(5)}
    return {**found, "1 louder": sounds(0.4 * tune(1)), "1 faster": sounds(tune(1, speed=1.03))}


def book(store: Path, name: str, tags: Mapping[str, str], *, params: Mapping[str, str] | None = None) -> str:
    """The address of a version that is only in the books."""
    from mlflow.exceptions import MlflowException

    books = client(store)
    with suppress(MlflowException):
        books.create_registered_model(name)
    run = books.create_run("0")
    for key, value in (params or {}).items():
        books.log_param(run.info.run_id, key, value)
    made = books.create_model_version(name, "file:/nowhere", run_id=run.info.run_id, tags=dict(tags))
    return f"models:/{name}/{made.version}"


def client(store: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=address(str(store)), registry_uri=address(str(store)))


@pytest.fixture(scope="module")
def empty_books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    client(folder).search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, heard: dict[str, str], empty_books: Path) -> Path:
    """Three versions, each begun from the one before: base/1 learnt x and was chosen by y, mid/1 learnt z, top/1 w."""
    shutil.copyfile(empty_books, tmp_path / "mlflow.db")
    base = dataset(tmp_path, "base", [("x", "train", "1"), ("y", "valid", "2"), ("kept apart", "test", "3")], heard)
    mid = dataset(tmp_path, "mid", [("z", "train", "0")], heard)
    top = dataset(tmp_path, "top", [("w", "train", "4"), ("x again", "test", "1 faster"), ("y", "test", "2")], heard)
    book(tmp_path, "base", {"dataset_uri": base.uri, "weights_digest": "b", "start_uri": "none"})
    book(
        tmp_path,
        "mid",
        {"dataset_uri": mid.uri, "weights_digest": "m", "start_uri": "models:/base/1", "start_digest": "b"},
    )
    # As it was registered before starts were noted: the setting alone says it.
    book(tmp_path, "top", {"dataset_uri": top.uri, "weights_digest": "t"}, params={"model.init_from": "models:/mid/1"})
    return tmp_path


def ids(found: Ancestry) -> set[str]:
    return {one.track_id for one in found.heard}


def test_a_version_has_heard_what_it_began_from_has_heard(store: Path) -> None:
    ancestors = Ancestors(str(store))
    top = ancestors.of_version("models:/top/1")
    assert (ids(top), top.gaps) == ({"w", "z", "x", "y"}, ())
    assert top.versions == ("models:/top/1", "models:/mid/1", "models:/base/1")
    assert ids(ancestors.of_version("models:/base/1")) == {"x", "y"}


def test_the_gate_sees_what_was_heard_before_by_digest_and_by_ear(store: Path) -> None:
    held_out = ShardSet(uri=str(store / "manifests" / "curate-top.json"), table="chunks", num_rows=0, digest="")
    alone = contamination.find(held_out, [held_out.uri], split="test", min_similarity=0.5)
    assert dict(alone.songs) == {}
    top = Ancestors(str(store)).of_version("models:/top/1")
    found = contamination.find(held_out, [top], split="test", min_similarity=0.5)
    assert (set(found.songs), found.known, found.by_fingerprint) == ({"x again", "y"}, True, True)
    assert found.songs["y"] == contamination.SAME_AUDIO
    assert "(training) x from 0:00" in found.songs["x again"]


def test_every_version_that_heard_a_copy_is_named_under_whatever_name(store: Path, heard: dict[str, str]) -> None:
    copy = dataset(store, "copy", [("bounce", "valid", "1 louder")], heard)
    apart = book(store, "apart", {"dataset_uri": copy.uri})
    who = Ancestors(str(store)).versions_that_learned(Ancestry(), {"1"})
    assert set(who.recordings) == {"models:/base/1", "models:/mid/1", "models:/top/1", apart}
    assert set(who.same) == {"1", "1 louder"}
    assert {one.track_id for one in who.recordings["models:/top/1"]} == {"x"}
    assert {one.track_id for one in who.recordings[apart]} == {"bounce"}
    assert set(Ancestors(str(store)).versions_that_learned(Ancestry(), {"0"}).recordings) == {
        "models:/mid/1",
        "models:/top/1",
    }
    assert dict(Ancestors(str(store)).versions_that_learned(Ancestry(), {"3"}).recordings) == {}


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("/weights/htdemucs.th", "what that file has heard is not known"),
        ("models:/base@champion", "where the alias was then is not known"),
        ("models:/base/9", "which is gone"),
        ("models:/other/1", "which is gone"),
    ],
)
def test_a_start_that_cannot_be_followed_is_not_known(store: Path, start: str, said: str) -> None:
    uri = str(store / "manifests" / "curate-mid.json")
    noted = book(store, "odd", {"dataset_uri": uri, "start_uri": start})
    setting = book(store, "odd", {"dataset_uri": uri}, params={"model.init_from": start})
    later = book(store, "later", {"dataset_uri": uri, "start_uri": noted})
    ancestors = Ancestors(str(store))
    for version in (noted, setting, later):
        found = ancestors.of_version(version)
        assert said in found.gaps[0], version
        assert ids(found) == {"z"}
    who = ancestors.versions_that_learned(Ancestry(), {"1"})
    assert {noted, setting, later} == set(who.unknown)
    assert not {noted, setting, later} & set(
        ancestors.versions_that_learned(Ancestry(), {"0"}).unknown
    )  # these are known to have


def test_a_version_that_was_deleted_or_has_other_weights_now_is_not_known(store: Path) -> None:
    uri = str(store / "manifests" / "curate-mid.json")
    other = book(store, "odd", {"dataset_uri": uri, "start_uri": "models:/base/1", "start_digest": "others"})
    assert "whose weights were others then" in Ancestors(str(store)).of_version(other).gaps[0]
    client(store).delete_model_version("base", "1")
    gaps = Ancestors(str(store)).of_version("models:/top/1").gaps
    assert gaps == ("models:/mid/1 began from models:/base/1, which is gone",)


def test_a_dataset_that_is_gone_or_was_never_told_is_not_known_and_one_that_moved_is(store: Path) -> None:
    never = book(store, "never", {"checkpoint_digest": "c"})
    moved = book(store, "moved", {"dataset_uri": "/an/older/place/manifests/curate-base.json"})
    assert "not recorded" in Ancestors(str(store)).of_version(never).gaps[0]
    assert Ancestors(str(store)).of_version(moved).gaps == ()
    (store / "manifests" / "curate-base.json").unlink()
    assert "curate-base.json is gone" in Ancestors(str(store)).of_version(moved).gaps[0]
    assert Ancestors(str(store)).of_version("models:/top/1").gaps


def test_who_learnt_from_mixes_has_heard_what_they_were_made_of(store: Path, heard: dict[str, str]) -> None:
    songs = [("q", "train", "1 louder"), ("r", "train", "0"), ("never mixed", "train", "4")]
    dataset(store, "source", songs, heard)
    parts = [{"track_id": name, "audio": audio, "split": "train"} for name, _, audio in songs[:2]]
    mixes = [song("q ~ mix 0", "train", "mixed")]
    extra = {"made_from": "curate-source", "ingredients": parts}
    noted = write_manifest(store, table="chunks", step="automix", key="n", shards=[], songs=mixes, extra=extra)
    told = write_manifest(store, table="chunks", step="automix", key="t", shards=[], songs=mixes)
    plan = MixPlan(
        mix_id="q ~ mix 0", seed=0, split="train", tempo_bpm=120.0, key="", beat_error_ms=0.0, key_distance=0.0,
        reason="",
        parts=tuple(
            Part(track_id=name, source="bass", stretch=1.0, semitones=0, shift_samples=0, gain_db=0.0) for name in "qr"
        ),
    )  # fmt: skip
    assert "what the mixes of" in training_recordings.of_dataset(told.uri).gaps[0]
    write_table(store, "plans", table_of([plan], PLANS), key="p")
    for uri in (noted.uri, told.uri):
        found = training_recordings.of_dataset(uri)
        assert (ids(found), found.gaps) == ({"q", "r"}, ())
    version = book(store, "mixed", {"dataset_uri": noted.uri})
    both = book(store, "mixed", {"dataset_uri": str(store / "manifests" / "curate-mid.json"), "automix_uri": noted.uri})
    assert {version, both} <= set(Ancestors(str(store)).versions_that_learned(Ancestry(), {"1"}).recordings)


def test_versions_whose_songs_cannot_be_listened_to_are_named(store: Path, heard: dict[str, str]) -> None:
    deaf = book(store, "deaf", {"dataset_uri": dataset(store, "deaf", [("old", "train", "1 louder")], None).uri})
    who = Ancestors(str(store)).versions_that_learned(Ancestry(), {"1"})
    assert (who.by_digest, deaf in who.recordings) == ((deaf,), False)
    assert Ancestors(str(store)).versions_that_learned(Ancestry(), {"1 louder"}).recordings.keys() == {deaf}


def test_what_was_not_kept_is_heard_out_of_the_shards_up_to_a_limit_and_kept(tmp_path: Path) -> None:
    chunks = write_songs(tmp_path, dict.fromkeys("abc", "train"), num_samples=2 * RATE)
    found = training_recordings.of_dataset(chunks.uri)
    audio = {one.audio for one in found.heard}

    def known(limit_s: float) -> set[str]:
        return set(training_recordings.sounds(found, audio, tables=str(tmp_path), limit_s=limit_s))

    assert known(0.0) == set()
    some = known(3.0)  # the second of the songs of 2 s begins within it
    assert len(some) == 2
    assert known(0.0) == some
    assert known(1.0) == audio


def test_a_training_notes_its_start_as_a_version_when_it_begins(store: Path, tmp_path: Path) -> None:
    books = client(store)
    books.set_model_version_tag("mid", "1", "checkpoint_digest", "c")
    books.set_registered_model_alias("mid", "champion", "1")
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    uris = ["manifests/curate-top.json", "manifests/automix-n.json"]
    training_ancestry.write(folder, start="models:/mid@champion", datasets=uris, store=str(store))
    book(store, "mid", {"checkpoint_digest": "d", "weights_digest": "later"})
    books.set_registered_model_alias("mid", "champion", "2")
    training_ancestry.write(folder, start="models:/mid@champion", datasets=uris, store=str(store))
    assert training_ancestry.tags(folder, start="models:/mid@champion", datasets=uris, store=str(store)) == {
        "start_uri": "models:/mid/1", "start_digest": "m", "automix_uri": uris[1],
    }  # fmt: skip
    fresh = training_ancestry.tags(tmp_path, start="models:/mid@champion", datasets=uris[:1], store=str(store))
    assert fresh == {"start_uri": "models:/mid/2", "start_digest": "later"}
    assert training_ancestry.tags(tmp_path, start="", datasets=uris[:1], store=str(store)) == {"start_uri": "none"}
    began = Ancestors(str(store)).of_ref(str(folder / "model"), store=str(store))
    assert "models:/base/1" in began.versions
    # What somebody puts beside it is not what was trained there.
    (gap,) = Ancestors(str(store)).of_ref(str(folder / "another"), store=str(store)).gaps
    assert "what it has heard is not known" in gap


def test_licences_of_a_models_songs_are_those_of_all_its_datasets_without_songs_kept_for_tests(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, {"a": "train", "b": "valid", "c": "test", "d": "train"})
    stated = {"a": "CC0-1.0", "b": "CC-BY-NC-4.0", "c": "MIT", "d": ""}
    manifest = read_manifest(songs)
    members = [replace(song, license=stated[song.track_id]) for song in manifest.songs]
    curated = write_manifest(tmp_path, table="chunks", step="curate", key="k", shards=manifest.shards, songs=members)
    parts = [
        {"track_id": song.track_id, "audio": song.audio, "split": "train"} for song in members if song.track_id == "a"
    ]
    mixes = write_manifest(
        tmp_path, table="chunks", step="automix", key="k", shards=manifest.shards, songs=members[:1],
        extra={"ingredients": parts, "made_from": "curate-k"},
    )  # fmt: skip
    ancestry = training_recordings.of_dataset(curated.uri) | training_recordings.of_dataset(mixes.uri)
    licenses = song_licenses.of_ancestry(ancestry)
    assert {name: group.num_songs for name, group in licenses.songs.items()} == {
        "CC-BY-NC-4.0": 1, "CC0-1.0": 1, "unknown": 1,
    }  # fmt: skip
    assert licenses.hours == pytest.approx(3 * 3 / 3600)
    assert (licenses.non_commercial, licenses.not_known, licenses.commercial_use) == (1, 1, "forbidden")
    assert song_licenses.of_songs(members).songs["MIT"].num_songs == 1
    mix = next(one for one in ancestry.recordings if one.dataset == mixes.uri)
    assert mix.license == "CC0-1.0"
