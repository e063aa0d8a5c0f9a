"""librosa's analysis fills the same profile as ours, and is imported only by who asks for it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from datasets.analysis.harmony import key
from datasets.analysis.song_profile import profile
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.mixing.mixplan import MixRules, plan
from datasets.schema import SOURCES, Profile

RATE = 22050
SCORE = compose(77, "0", 16.0)
CLEAR_BEAT = compose(77, "1", 16.0)  # librosa's phase confidence: 1.00, and 0.84 of SCORE, where 0.82 is enough
Method = Literal["stemline", "librosa"]


def analyzed(stems_SCT: Samples, *, method: Method = "librosa", track_id: str = "song") -> Profile:
    return profile(
        stems_SCT, track_id=track_id, split="train", sources=SOURCES, sample_rate=RATE, method=method
    )  # fmt: skip


@pytest.fixture(scope="module")
def song() -> Samples:
    return perform(SCORE, RATE)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stemline", "librosa"])
def test_either_method_finds_tempo_beats_and_key(song: Samples, method: Method) -> None:
    found = analyzed(song, method=method)
    assert min(abs(found.tempo_bpm / SCORE.tempo_bpm / octave - 1.0) for octave in (0.5, 1.0, 2.0)) < 0.01
    distance = np.abs(np.array(found.beats_s)[:, None] - np.array(SCORE.beats_s)).min(axis=1)
    assert np.median(distance) < 0.03
    assert key(found.chroma)[0] == SCORE.key
    assert found.key == ("" if method == "librosa" else SCORE.key)  # librosa's chroma is less sure of it
    assert sum(found.chroma) == pytest.approx(1.0, abs=1e-4)
    assert found.tempo_confidence > 0.1
    assert found.phase_confidence > 0.8
    assert bool(found.downbeats_s) == (method == "stemline")


@pytest.mark.slow
def test_times_count_from_the_start_of_the_track_and_not_of_the_music(song: Samples) -> None:
    late = np.concatenate([np.zeros((*song.shape[:2], 2 * RATE), dtype=np.float32), song], axis=2)
    beats_s, late_s = np.array(analyzed(song).beats_s), np.array(analyzed(late).beats_s)
    assert np.median(np.abs(late_s[:, None] - 2.0 - beats_s).min(axis=1)) < 0.02


@pytest.mark.slow
def test_without_drums_there_is_no_beat_and_without_tones_no_key(song: Samples) -> None:
    no_drums, drums_alone = song.copy(), np.zeros_like(song)
    no_drums[0] = 0.0
    drums_alone[0] = song[0]
    assert (analyzed(no_drums).tempo_bpm, analyzed(no_drums).beats_s) == (0.0, ())
    assert key(analyzed(no_drums).chroma)[0] == SCORE.key
    assert (analyzed(drums_alone).chroma, analyzed(drums_alone).key) == ((), "")
    assert analyzed(drums_alone).tempo_bpm > 0.0


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0])
def test_silence_and_the_shortest_songs_have_nothing(seconds: float) -> None:
    found = analyzed(np.zeros((4, 2, round(seconds * RATE)), dtype=np.float32))
    assert (found.tempo_bpm, found.beats_s, found.chroma, found.key) == (0.0, (), (), "")


@pytest.mark.slow
def test_mixes_are_planned_from_its_profiles() -> None:
    songs = [
        analyzed(perform(replace(CLEAR_BEAT, tempo_bpm=126.0 + 2 * number), RATE), track_id=f"song {number}")
        for number in range(2)
    ]
    plans = plan(songs, seed=0, mixes_per_track=2, rules=MixRules(), sources=SOURCES)
    assert [made.reason for made in plans] == [""] * 4
    assert {part.track_id for made in plans for part in made.parts} == {
        "song 0",
        "song 1",
    }  # each song lends to the other


@pytest.mark.slow
def test_our_own_analysis_does_not_import_librosa(repository: Path) -> None:
    program = (
        "import sys, numpy as np; from datasets.analysis.song_profile import profile; "
        "noise = np.random.default_rng(0).normal(size=(2, 2, 30000)).astype('float32'); "
        "profile(noise, track_id='x', split='train', sources=('drums', 'bass'), sample_rate=11025); "
        "print('librosa' in sys.modules, 'numba' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.split() == ["False", "False"]
