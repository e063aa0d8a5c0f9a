import json
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from datasets.rhythm import NO_BEATS, beats, sounding_share, track_beats
from datasets.synthetic import compose, perform

SAMPLE_RATE = 16000
Samples = NDArray[np.float32]


def click_track(tempo_bpm: float, *, seconds: float = 12.0, first_s: float = 0.3, jitter_s: float = 0.0) -> Samples:
    """Hits on every beat, a low one on the first of four."""
    rng = np.random.default_rng(1)
    signal_T = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    t = np.arange(round(0.08 * SAMPLE_RATE)) / SAMPLE_RATE
    low_T = np.exp(-t / 0.03) * np.sin(2 * np.pi * 70.0 * t) * 0.9
    high_T = np.exp(-t / 0.02) * rng.standard_normal(t.size) * 0.2
    for index, time in enumerate(np.arange(first_s, seconds - 0.1, 60.0 / tempo_bpm)):
        start = round((time + jitter_s * rng.standard_normal()) * SAMPLE_RATE)
        signal_T[start : start + t.size] += (low_T if index % 4 == 0 else high_T).astype(np.float32)
    return signal_T


@pytest.mark.parametrize("tempo_bpm", [72.0, 90.0, 117.3, 128.0, 150.0])
def test_a_click_track_has_the_tempo_it_was_made_with(tempo_bpm: float) -> None:
    found = beats(click_track(tempo_bpm), SAMPLE_RATE)
    ratio = found.tempo_bpm / tempo_bpm
    assert min(abs(ratio / octave - 1.0) for octave in (0.5, 1.0, 2.0)) < 0.002
    assert found.confidence > 0.2


@pytest.mark.parametrize("tempo_bpm", [90.0, 117.3, 128.0])
def test_beats_are_within_ten_milliseconds_of_the_clicks(tempo_bpm: float) -> None:
    found = np.array(beats(click_track(tempo_bpm, first_s=0.41), SAMPLE_RATE).beats_s)
    clicks = np.arange(0.41, 11.9, 60.0 / tempo_bpm)
    errors_s = [np.abs(found - click).min() for click in clicks]
    assert np.median(errors_s) < 0.010


def test_shifting_the_music_shifts_the_beats() -> None:
    signal_T = click_track(110.0)
    first = np.array(beats(signal_T, SAMPLE_RATE).beats_s)
    late = (
        np.array(beats(np.concatenate([np.zeros(2000, np.float32), signal_T]), SAMPLE_RATE).beats_s)
        - 2000 / SAMPLE_RATE
    )
    middle = first[(first > 1.0) & (first < 11.0)]
    assert np.median([np.abs(late - time).min() for time in middle]) < 0.002


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0, 10.0])
def test_silence_has_no_beats(seconds: float) -> None:
    assert beats(np.zeros(round(seconds * SAMPLE_RATE), np.float32), SAMPLE_RATE) == NO_BEATS


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0])
def test_short_songs_give_an_answer(seconds: float) -> None:
    found = beats(click_track(120.0, seconds=seconds), SAMPLE_RATE)
    assert all(0.0 <= time < seconds for time in found.beats_s)


def test_a_steady_tone_and_noise_are_less_certain_than_drums() -> None:
    t = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    tone = beats(np.sin(2 * np.pi * 220.0 * t).astype(np.float32), SAMPLE_RATE)
    noise = beats(np.random.default_rng(0).standard_normal(t.size).astype(np.float32) * 0.1, SAMPLE_RATE)
    drums = beats(click_track(120.0, seconds=10.0), SAMPLE_RATE)
    assert drums.confidence > 2.0 * max(tone.confidence, noise.confidence)


def test_the_mixture_is_heard_where_drums_rest() -> None:
    mixture_T = click_track(100.0)
    drums_T = np.zeros_like(mixture_T)
    assert sounding_share(drums_T, SAMPLE_RATE) == 0.0
    assert track_beats(drums_T, mixture_T, SAMPLE_RATE) == beats(mixture_T, SAMPLE_RATE)


def test_beats_do_not_depend_on_the_level() -> None:
    signal_T = click_track(120.0)
    assert beats(signal_T * 0.05, SAMPLE_RATE).beats_s == pytest.approx(beats(signal_T, SAMPLE_RATE).beats_s, abs=0.002)


@pytest.mark.parametrize("tempo_bpm", [20.0, 300.0])
def test_tempi_beyond_reach_are_named_an_octave_nearer(tempo_bpm: float) -> None:
    found = beats(click_track(tempo_bpm, seconds=20.0), SAMPLE_RATE)
    assert 38.0 <= found.tempo_bpm <= 225.0


def octave_fair(reference: NDArray[np.float64], estimate: NDArray[np.float64]) -> float:
    """F-measure at 70 ms against the reference at its own tempo, at double, and at half with either phase."""
    double = np.interp(np.arange(0, reference.size - 0.5, 0.5), np.arange(reference.size), reference)
    versions = (reference, double, reference[::2], reference[1::2])
    return float(max(mir_eval.beat.f_measure(version, estimate) for version in versions))


def test_beats_of_toy_songs_are_found() -> None:
    scores = []
    for number in range(6):
        song = compose(21, str(number), 12.0)
        stems_SCT = perform(song, 22050)
        found = track_beats(stems_SCT[0].mean(axis=0), stems_SCT.sum(axis=0).mean(axis=0), 22050)
        scores.append(octave_fair(np.array(song.beats_s), np.array(found.beats_s)))
    assert np.mean(scores) > 0.95


@pytest.mark.slow
def test_beats_of_rendered_songs_with_drums_are_found(shared_data: Path) -> None:
    scores, tempo_right = [], []
    for folder in sorted((shared_data / "rendered_stems" / "train").iterdir()):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        drums, sample_rate = soundfile.read(folder / "drums.flac", dtype="float32")
        mixture, _ = soundfile.read(folder / "mixture.flac", dtype="float32")
        found = track_beats(drums.mean(axis=1), mixture.mean(axis=1), sample_rate)
        scores.append(octave_fair(np.array(truth["beats_s"]), np.array(found.beats_s)))
        ratio = found.tempo_bpm / truth["tempo_bpm"]
        tempo_right.append(min(abs(ratio / factor - 1.0) for factor in (1, 2, 3, 1 / 2, 1 / 3)) <= 0.04)
    assert np.mean(scores) > 0.9
    assert np.mean(tempo_right) >= 0.95
