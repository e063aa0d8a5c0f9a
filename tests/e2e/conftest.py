"""A store that one command made of songs, once for all tests that ask it."""

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace

import pytest

from datasets.corpus.synthetic import write_corpus
from tests.drills import drill_road as drill
from tests.e2e.walked import Walked


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """A process of its own, with a Ray and a Prefect of its own: it takes a minute.

    As a user may start it: without a home, with a folder for temporary files whose name is odd, and with files that are
    for nobody else.
    """
    folder = tmp_path_factory.mktemp("road")
    songs, store, temporary = folder / "songs", folder / "store", folder / "für jetzt, 100% 'odd'"
    drill.make_songs(songs)
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as environment, ExitStack() as after:
        after.callback(os.umask, os.umask(0o077))
        environment.setenv("HOME", str(next(songs.rglob("*.flac")) / "home"))  # below a file, so nobody can make it
        environment.setenv("TMPDIR", str(temporary))
        answer, _ = drill.finish(store, songs, folder / "first")
    assert {path.name.partition("_")[0] for path in temporary.iterdir()} <= {"torchinductor"}, (
        "something was left there"
    )
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
