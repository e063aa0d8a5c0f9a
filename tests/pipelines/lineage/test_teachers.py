"""A version that learned from estimates has heard what the model that made them has heard."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.corpus.layouts.separated_stems import NOT_RECORDED, Teacher, as_extra
from datasets.schema import ShardSet
from datasets.shards.manifests import read_manifest, write_manifest
from pipelines.evaluation.gate.rules import license_rule
from pipelines.lineage import contamination, song_licenses
from pipelines.lineage.training_recordings import Ancestors, Ancestry
from tests.pipelines.lineage.test_contamination import dataset, sounds, tune
from tests.pipelines.lineage.test_training_recordings import book, client

pytestmark = pytest.mark.slow
BIG, OTHER = "b" * 64, "0" * 64
TEACHER = Teacher(weights=(BIG,), name="models:/big/1", licenses={"CC-BY-NC-4.0": 2}, complete=True)


@pytest.fixture(scope="module")
def empty_books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    client(folder).search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def books(tmp_path: Path, empty_books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_books, tmp_path / "mlflow.db")


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    return {**{str(seed): sounds(tune(seed)) for seed in range(5)}, "1 estimated": sounds(0.9 * tune(1))}


def taught(
    store: Path,
    key: str,
    songs: list[tuple[str, str, str]],
    heard: dict[str, str],
    *,
    teachers: Mapping[str, Teacher],
    license: str = "CC0-1.0",
    step: str = "curate",
    extra: Mapping[str, object] | None = None,
) -> ShardSet:
    """A dataset under one licence, stems of some of whose songs are estimates."""
    made = read_manifest(dataset(store, f"{key}-plain", songs, heard))
    licensed = [replace(song, license=license) for song in made.songs]
    return write_manifest(
        store, table="chunks", step=step, key=key, shards=[], songs=licensed,
        extra={**made.extra, **as_extra(teachers), **(extra or {})},
    )  # fmt: skip


def big(store: Path, heard: dict[str, str]) -> str:
    """A teacher that was trained on x and chosen by y, both non-commercial."""
    songs = [("x", "train", "1"), ("y", "valid", "2"), ("z", "test", "3")]
    data = taught(store, "big", songs, heard, teachers={}, license="CC-BY-NC-4.0")
    return book(store, "big", {"dataset_uri": data.uri, "weights_digest": BIG, "start_uri": "none"})


def student(store: Path, heard: dict[str, str], teacher: Teacher, *, split: str = "train") -> str:
    data = taught(store, "small", [("a", split, "0"), ("own", "train", "4")], heard, teachers={"a": teacher})
    return book(store, "small", {"dataset_uri": data.uri, "weights_digest": "s", "start_uri": "none"})


def found_of(store: Path, heard: dict[str, str], teacher: Teacher, *, split: str = "train") -> Ancestry:
    version = student(store, heard, teacher, split=split)
    return Ancestors(str(store)).of_version(version)


def ids(found: Ancestry) -> set[str]:
    return {recording.track_id for recording in found.heard}


def test_a_student_has_heard_what_its_teacher_has_heard(tmp_path: Path, heard: dict[str, str]) -> None:
    teacher = big(tmp_path, heard)
    version = student(tmp_path, heard, TEACHER)
    found = Ancestors(str(tmp_path)).of_version(version)
    assert (ids(found), found.gaps) == ({"a", "own", "x", "y"}, ())
    assert (found.versions, found.taught_by) == ((version,), (teacher,))
    licenses = song_licenses.of_ancestry(found)
    assert {name: group.num_songs for name, group in licenses.songs.items()} == {"CC-BY-NC-4.0": 2, "CC0-1.0": 2}
    assert (license_rule(licenses).met, licenses.commercial_use) == (False, "forbidden")
    who = Ancestors(str(tmp_path)).versions_that_learned(Ancestry(), {"1"})
    assert set(who.recordings) == {teacher, version}


def test_weights_decide_who_a_teacher_was_not_its_name(tmp_path: Path, heard: dict[str, str]) -> None:
    teacher = big(tmp_path, heard)
    for name in ("", "models:/big/9", "model"):
        found = found_of(tmp_path, heard, replace(TEACHER, name=name))
        assert found.taught_by == (teacher,)
    # Another store has a version of that name, which is not the teacher.
    found = found_of(tmp_path, heard, replace(TEACHER, weights=(OTHER,)))
    assert (ids(found), found.taught_by) == ({"a", "own"}, ())


def test_a_song_that_is_only_tested_with_teaches_nothing(tmp_path: Path, heard: dict[str, str]) -> None:
    big(tmp_path, heard)
    found = found_of(tmp_path, heard, TEACHER, split="test")
    assert (ids(found), found.taught_by, found.gaps) == ({"own"}, (), ())


def test_of_a_teacher_that_is_not_registered_what_was_noted_counts(tmp_path: Path, heard: dict[str, str]) -> None:
    found = found_of(tmp_path, heard, TEACHER)
    (gap,) = found.gaps
    assert gap == (
        "the stems of 1 song it learned from were estimated by models:/big/1, which is not registered here: what that "
        "has heard is not known"
    )
    noted = song_licenses.of_ancestry(found)
    assert ({name: group.num_songs for name, group in noted.songs.items()}, noted.gaps) == (
        {"CC-BY-NC-4.0": 2, "CC0-1.0": 2}, (),
    )  # fmt: skip
    assert "2 of 4 songs forbid commercial use" in license_rule(noted).message
    free = replace(TEACHER, licenses={"MIT": 3})
    assert license_rule(song_licenses.of_ancestry(found_of(tmp_path, heard, free))).met
    # The recordings are another question: who learned from one is not known.
    assert set(Ancestors(str(tmp_path)).versions_that_learned(Ancestry(), {"1"}).unknown)
    for less in (replace(free, complete=False), replace(free, licenses={}, complete=False), NOT_RECORDED):
        licenses = song_licenses.of_ancestry(found_of(tmp_path, heard, less))
        assert (license_rule(licenses).met, licenses.commercial_use) == (False, "not known")
    assert "estimated by a model that was not recorded: what that has heard" in licenses.summary


def test_of_a_bag_every_member_counts_and_one_that_is_unknown_is_a_gap(tmp_path: Path, heard: dict[str, str]) -> None:
    teacher = big(tmp_path, heard)
    bag = Teacher(weights=(BIG, OTHER), name="bag.yaml")
    found = found_of(tmp_path, heard, bag)
    assert (found.taught_by, ids(found)) == ((teacher,), {"a", "own", "x", "y"})
    assert len(found.gaps) == len(song_licenses.of_ancestry(found).gaps) == 1


def test_teachers_of_teachers_and_of_what_they_began_from_are_followed(tmp_path: Path, heard: dict[str, str]) -> None:
    teacher = big(tmp_path, heard)
    middle = taught(tmp_path, "middle", [("m", "train", "3")], heard, teachers={"m": TEACHER})
    base = book(tmp_path, "middle", {"dataset_uri": middle.uri, "weights_digest": "c" * 64, "start_uri": "none"})
    tuned = book(tmp_path, "tuned", {"dataset_uri": middle.uri, "weights_digest": "d" * 64, "start_uri": base})
    found = found_of(tmp_path, heard, Teacher(weights=("d" * 64,)))
    assert found.taught_by == (tuned, base, teacher)
    assert (ids(found), found.gaps) == ({"a", "own", "m", "x", "y"}, ())


def test_teachers_that_name_each_other_end(tmp_path: Path, heard: dict[str, str]) -> None:
    itself = taught(tmp_path, "loop", [("a", "train", "0")], heard, teachers={"a": TEACHER})
    version = book(tmp_path, "big", {"dataset_uri": itself.uri, "weights_digest": BIG, "start_uri": "none"})
    found = Ancestors(str(tmp_path)).of_version(version)
    assert (ids(found), found.taught_by) == ({"a"}, (version,))


def test_automixes_of_estimates_teach_as_well(tmp_path: Path, heard: dict[str, str]) -> None:
    teacher = big(tmp_path, heard)
    songs = taught(tmp_path, "small", [("a", "train", "0")], heard, teachers={"a": TEACHER})
    parts = [{"track_id": "a", "audio": "0", "split": "train"}]
    mixes = taught(
        tmp_path, "mixes", [("mix", "train", "4")], heard, teachers={"a": TEACHER}, step="automix",
        extra={"ingredients": parts, "made_from": "curate-small"},
    )  # fmt: skip
    version = book(tmp_path, "mixed", {"dataset_uri": mixes.uri, "start_uri": "none"})
    assert Ancestors(str(tmp_path)).of_version(version).taught_by == (teacher,)
    Path(songs.uri).unlink()
    assert Ancestors(str(tmp_path)).of_version(version).taught_by == (teacher,)


def test_estimates_of_a_song_that_the_teacher_learned_from_are_no_test(tmp_path: Path, heard: dict[str, str]) -> None:
    teacher = big(tmp_path, heard)
    songs = [("a", "train", "0"), ("x estimated", "test", "1 estimated"), ("z estimated", "test", "3")]
    held_out = taught(tmp_path, "now", songs, heard, teachers={name: TEACHER for name, _, _ in songs})
    ancestors = Ancestors(str(tmp_path))
    for models in ([ancestors.of_training([held_out.uri], {"start_uri": "none"}, of="the candidate")],
                   [ancestors.of_version(teacher)]):  # fmt: skip
        found = contamination.find(held_out, models, split="test", min_similarity=0.5)
        assert (set(found.songs), found.known) == ({"x estimated"}, True)
        assert "(training) x from 0:00" in found.songs["x estimated"]
