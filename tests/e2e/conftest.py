"""A store that one command made of songs, once for all tests that ask it."""

import shutil
from dataclasses import replace

import pytest

from datasets.corpus.synthetic import write_corpus
from tests.drills import drill_road as drill
from tests.e2e.walked import Walked


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """A process of its own, as a user starts it, with a Ray and a Prefect of its own: it takes a minute."""
    folder = tmp_path_factory.mktemp("road")
    songs, store = folder / "songs", folder / "store"
    drill.make_songs(songs)
    answer, _ = drill.finish(store, songs, folder / "first")
    manifests = tuple(sorted((store / "manifests").glob("*.json")))
    return Walked(songs=songs, store=store, answer=answer, manifests=manifests)


@pytest.fixture(scope="session")
def grown(walked: Walked, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """The same store, whose folder of songs has one more."""
    songs = tmp_path_factory.mktemp("grown") / "songs"
    shutil.copytree(walked.songs, songs)
    write_corpus(songs.parent / "new", num_songs=1, seed=5, duration_s=4.0, defects=False, splits={"train": 1})
    (new,) = (songs.parent / "new" / "train").iterdir()
    new.rename(songs / "train" / "Ada - One More")
    return replace(walked, songs=songs)
