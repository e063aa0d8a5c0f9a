"""The song to listen to, and its scores against its true stems."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio.decoding import decode
from datasets.schema import SOURCES, StemFile
from pipelines.inference import example_song
from pipelines.inference.example_song import SongFiles


def test_the_shipped_song_has_a_mixture_and_four_stems_of_one_length() -> None:
    song = example_song.shipped_song()
    assert tuple(song.references) == SOURCES
    lengths = {decode(file.path, stream=file.stream)[0].shape for files in song.references.values() for file in files}
    assert lengths == {decode(song.mixture.path, stream=song.mixture.stream)[0].shape}


@pytest.fixture
def toy(tmp_path: Path) -> SongFiles:
    rng = np.random.default_rng(0)
    stems = {source: rng.standard_normal((8000, 2)).astype(np.float32) * 0.1 for source in ("drums", "bass")}
    for name, samples_TC in {**stems, "mixture": stems["drums"] + stems["bass"]}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples_TC, 8000, subtype="FLOAT")
    references = {source: (StemFile(path=str(tmp_path / f"{source}.wav")),) for source in stems}
    return SongFiles(title="toy", mixture=StemFile(path=str(tmp_path / "mixture.wav")), references=references)


def test_perfect_estimates_score_far_above_the_mixture_and_the_mixture_scores_as_itself(toy: SongFiles) -> None:
    perfect = {source: files[0].path for source, files in toy.references.items()}
    scores = example_song.score(toy, {"drums": perfect["drums"], "bass": toy.mixture.path})
    drums, bass = scores
    assert drums.nsdr > 60
    assert bass.nsdr == pytest.approx(bass.mixture_nsdr)
    assert bass.mixture_nsdr == pytest.approx(0, abs=0.3)  # two stems of equal energy
    assert drums.mixture_nsdr < (drums.ceiling_nsdr or 0.0) < drums.nsdr
    (alone,) = example_song.score(toy, {"drums": perfect["drums"]})
    assert alone.ceiling_nsdr is None  # a mask needs all that sounds


def test_sources_without_an_estimate_are_left_out(toy: SongFiles) -> None:
    assert example_song.score(toy, {}) == []
