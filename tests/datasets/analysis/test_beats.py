import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from datasets.analysis.beat_grids import WEIGHTS, Hypothesis, _without_slips, hypotheses
from datasets.analysis.beats import NO_BEATS, Beats, _Rivals, beats, onsets_of_parts
from datasets.analysis.onsets import FRAMES_PER_S, onset_envelopes
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform

SAMPLE_RATE = 16000


def hits_at(times_s: NDArray[np.float64], *, seconds: float, low_every: int = 4) -> Samples:
    """A hit at each time, a low one on the first of so many."""
    rng = np.random.default_rng(1)
    signal_T = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    t = np.arange(round(0.08 * SAMPLE_RATE)) / SAMPLE_RATE
    low_T = np.exp(-t / 0.03) * np.sin(2 * np.pi * 70.0 * t) * 0.9
    high_T = np.exp(-t / 0.02) * rng.standard_normal(t.size) * 0.2
    for index, time in enumerate(times_s):
        start = round(time * SAMPLE_RATE)
        room = signal_T[start : start + t.size]
        room += (low_T if index % low_every == 0 else high_T)[: room.size].astype(np.float32)
    return signal_T


def click_track(tempo_bpm: float, *, seconds: float = 12.0, first_s: float = 0.3) -> Samples:
    return hits_at(np.arange(first_s, seconds - 0.1, 60.0 / tempo_bpm), seconds=seconds)


def octave_fair(reference: NDArray[np.float64], estimate: NDArray[np.float64]) -> float:
    """F-measure at 70 ms against the reference at its own tempo, at double, and at half with either phase."""
    from mir_eval.beat import f_measure

    double = np.interp(np.arange(0, reference.size - 0.5, 0.5), np.arange(reference.size), reference)
    versions = (reference, double, reference[::2], reference[1::2])
    return float(max(f_measure(version, estimate) for version in versions))


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
    late = np.array(beats(np.concatenate([np.zeros(2000, np.float32), signal_T]), SAMPLE_RATE).beats_s)
    late -= 2000 / SAMPLE_RATE
    middle = first[(first > 1.0) & (first < 11.0)]
    assert np.median([np.abs(late - time).min() for time in middle]) < 0.002


def test_a_band_that_drifts_by_five_percent_is_followed() -> None:
    steps_s = 0.5 * (1.0 + 0.05 * np.sin(np.arange(60) / 10.0))
    times_s = 0.3 + np.concatenate([[0.0], np.cumsum(steps_s)])
    found = beats(hits_at(times_s, seconds=31.0), SAMPLE_RATE)
    assert octave_fair(times_s, np.array(found.beats_s)) > 0.95


def test_rubato_is_less_certain_than_a_steady_beat() -> None:
    rng = np.random.default_rng(4)
    free_s = 0.3 + np.cumsum(0.5 * np.exp(0.35 * rng.standard_normal(36)))
    found = beats(hits_at(free_s, seconds=20.0, low_every=1), SAMPLE_RATE)
    steady = beats(click_track(120.0, seconds=20.0), SAMPLE_RATE)
    assert found.confidence < 0.5 * steady.confidence
    assert_sane(found, 20.0)


def assert_sane(found: Beats, seconds: float) -> None:
    """What every caller may rely on, however strange the music."""
    assert all(0.0 <= time < seconds for time in found.beats_s)
    assert bool(np.all(np.diff(found.beats_s) > 0.0))
    assert set(found.downbeats_s) <= set(found.beats_s)
    assert 0.0 <= found.confidence <= 1.0
    assert 0.0 <= found.downbeat_confidence <= 1.0
    assert found.tempo_bpm == 0.0 or 38.0 <= found.tempo_bpm <= 225.0


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0, 10.0])
def test_silence_has_no_beats(seconds: float) -> None:
    assert beats(np.zeros(round(seconds * SAMPLE_RATE), np.float32), SAMPLE_RATE) == NO_BEATS


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0])
def test_short_songs_give_an_answer(seconds: float) -> None:
    assert_sane(beats(click_track(120.0, seconds=seconds), SAMPLE_RATE), seconds)


def test_a_steady_tone_and_noise_are_less_certain_than_drums() -> None:
    t = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    tone = beats(np.sin(2 * np.pi * 220.0 * t).astype(np.float32), SAMPLE_RATE)
    noise = beats(np.random.default_rng(0).standard_normal(t.size).astype(np.float32) * 0.1, SAMPLE_RATE)
    drums = beats(click_track(120.0, seconds=10.0), SAMPLE_RATE)
    assert drums.confidence > 2.0 * max(tone.confidence, noise.confidence)
    for found in (tone, noise):
        assert_sane(found, 10.0)


def test_beats_do_not_depend_on_the_level() -> None:
    signal_T = click_track(120.0)
    assert beats(signal_T * 0.05, SAMPLE_RATE).beats_s == pytest.approx(beats(signal_T, SAMPLE_RATE).beats_s, abs=0.002)


@pytest.mark.parametrize("tempo_bpm", [20.0, 300.0])
def test_tempi_beyond_reach_are_named_at_a_simple_ratio(tempo_bpm: float) -> None:
    found = beats(click_track(tempo_bpm, seconds=20.0), SAMPLE_RATE)
    assert_sane(found, 20.0)
    turns = np.log2(found.tempo_bpm / tempo_bpm)
    assert min(abs(turns - np.log2(ratio)) for ratio in (1 / 4, 1 / 3, 1 / 2, 2 / 3, 2, 3, 4, 5, 6, 8, 10)) < 0.02


def test_seven_eighths_is_a_beat_without_a_sure_bar() -> None:
    times_s = np.arange(0.3, 20.0, 0.25)
    found = beats(hits_at(times_s, seconds=20.2, low_every=7), SAMPLE_RATE)
    assert_sane(found, 20.2)
    assert found.downbeats_s == ()


def test_beats_of_toy_songs_are_found() -> None:
    scores = []
    for number in range(6):
        song = compose(21, str(number), 12.0)
        mixture_T = perform(song, 22050).sum(axis=0).mean(axis=0)
        found = beats(mixture_T, 22050)
        scores.append(octave_fair(np.array(song.beats_s), np.array(found.beats_s)))
    assert np.mean(scores) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("songs", "least"), [("rendered_stems", 0.94), ("rendered_beatkey", 0.96)])
def test_beats_of_rendered_songs_are_found(shared_data: Path, songs: str, least: float) -> None:
    scores, tempo_right = [], []
    for folder in sorted((shared_data / songs / "train").iterdir()):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        if not truth.get("check", {}).get("beats_confident", True):
            continue
        mixture, sample_rate = soundfile.read(next(folder.glob("mixture.*")), dtype="float32")
        found = beats(mixture.mean(axis=1), sample_rate)
        scores.append(octave_fair(np.array(truth["beats_s"]), np.array(found.beats_s)))
        ratio = found.tempo_bpm / truth["tempo_bpm"]
        tempo_right.append(min(abs(ratio / factor - 1.0) for factor in (1, 2, 3, 1 / 2, 1 / 3)) <= 0.04)
    assert np.mean(scores) >= least
    assert np.mean(tempo_right) >= 0.95


def test_a_pulse_that_might_as_well_lie_between_the_beats_is_not_sure_where_it_is() -> None:
    """Equal clicks on and between the beats, but for their pitch; then the same with every second one left out."""
    rate, rng = 16000, np.random.default_rng(0)
    click_T = rng.normal(size=400).astype(np.float32) * np.exp(-np.arange(400) / 60).astype(np.float32)
    both_T, single_T = np.zeros(20 * rate, np.float32), np.zeros(20 * rate, np.float32)
    for number in range(38):
        at = int((0.3 + number * 0.5) * rate)
        both_T[at : at + 400] += click_T
        both_T[at + rate // 4 : at + rate // 4 + 400] += 0.9 * click_T
        single_T[at : at + 400] += click_T
    doubtful, sure = beats(both_T, rate), beats(single_T, rate)
    assert sure.phase_confidence > 0.95
    assert doubtful.phase_confidence < sure.phase_confidence
    assert beats(np.zeros(rate * 3, np.float32), rate).phase_confidence == 0.0


def test_the_same_music_is_surer_the_longer_it_is_heard() -> None:
    sure = []
    for number in range(4):
        mixture_CT = perform(compose(1003, str(number), 30.0), SAMPLE_RATE).sum(axis=0)
        heard = [beats(mixture_CT[:, : seconds * SAMPLE_RATE], SAMPLE_RATE) for seconds in (6, 12, 30)]
        sure.append([found.phase_confidence for found in heard])
    short, middle, long = np.mean(sure, axis=0)
    assert short < middle < long


@pytest.mark.parametrize("tempo", [1.0, 1.5, 3.0])
def test_any_reading_that_disagrees_counts_against_the_best_and_any_that_agrees_for_it(tempo: float) -> None:
    """At the same tempo it lies half a beat off."""
    grids = {"best": (20.0, 100.0), "faster": (20.0, 50.0), "other": (70.0, 100.0 / tempo)}
    best, faster, other = (
        Hypothesis(grid=np.arange(first, 6000.0, step), evidence=np.zeros(WEIGHTS.size), confidence=0.5)
        for first, step in grids.values()
    )
    readings = ([best], [best, other], [best, other, faster])
    alone, against, helped = (_Rivals.of(best, heard).confidence(best.grid) for heard in readings)
    assert against < helped < alone
    assert against == pytest.approx(0.5)  # even odds
    assert alone > 0.99


def test_a_margin_counts_less_where_the_readings_are_less_alike() -> None:
    """The same log odds of two readings half a beat apart, with more and more evidence that cancels out."""
    best, other = (np.arange(first, 6000.0, 100.0) for first in (20.0, 70.0))
    nothing = Hypothesis(grid=other, evidence=np.zeros(WEIGHTS.size), confidence=0.5)
    alike = 3.0 * WEIGHTS / (WEIGHTS @ WEIGHTS)
    across = np.where(np.arange(WEIGHTS.size) % 2, 1.0, -1.0)
    across -= (across @ WEIGHTS) * WEIGHTS / (WEIGHTS @ WEIGHTS)
    sure = [
        _Rivals.of(reading, [reading, nothing]).confidence(best)
        for evidence in (alike, alike + across, alike + 3.0 * across)
        for reading in (Hypothesis(grid=best, evidence=evidence, confidence=0.5),)
    ]
    assert sure[0] > sure[1] > sure[2] > 0.5


def test_a_grid_that_slips_by_half_a_beat_is_straightened_and_one_that_changes_its_tempo_is_not() -> None:
    steady = np.arange(40.0, 8000.0, 100.0)
    slipped = np.concatenate([steady[:45], steady[48:] - 50.0])
    mended = _without_slips(slipped, 8000)
    assert np.abs((mended - 40.0) / 100.0 - np.round((mended - 40.0) / 100.0)).max() < 1e-6
    assert mended.size in (79, 80)
    faster = np.concatenate([steady[:40], steady[40] + np.arange(40) * 93.0])
    assert _without_slips(faster, 8000) is faster
    assert _without_slips(steady, 8000) is not None
    assert np.allclose(_without_slips(steady, 8000), steady)


def test_beats_whose_tempo_wanders_are_in_doubt() -> None:
    steady = np.arange(20.0, 6000.0, 100.0)
    drifting = steady + 2.0 * np.cumsum(np.linspace(-1.0, 1.0, steady.size))  # 4 % from end to end
    sure, unsure = (
        _Rivals.of(best, [best]).confidence(best.grid)
        for best in (
            Hypothesis(grid=grid, evidence=np.zeros(WEIGHTS.size), confidence=0.5) for grid in (steady, drifting)
        )
    )
    assert sure > 0.99
    assert unsure == 0.5


def test_each_part_says_by_itself_what_is_on_the_beat_however_loud_the_other_is() -> None:
    seconds, step_s = 16.0, 0.5
    drums_T = 0.05 * hits_at(np.arange(0.4, seconds - 0.2, step_s), seconds=seconds, low_every=2)
    bass_T = hits_at(np.arange(0.4 + step_s / 2, seconds - 0.2, step_s), seconds=seconds, low_every=1)
    onsets = onset_envelopes(drums_T + bass_T, SAMPLE_RATE)

    def evidence(*parts: Samples) -> NDArray[np.float64]:
        """Of drums and pitched stems, all, low and high sounds, on the beats of the drums and halfway."""
        for one in hypotheses(onsets, onsets_of_parts(parts, SAMPLE_RATE)):
            places = (one.grid / FRAMES_PER_S - 0.4) / step_s
            if abs(np.median(np.diff(places)) - 1.0) < 0.02 and np.median(np.abs(places - np.round(places))) < 0.2:
                return one.evidence[-12:].reshape(2, 3, 2)
        raise AssertionError("no reading is on the drums")

    drums, pitched = evidence(drums_T, bass_T)
    assert (drums[:, 0] > drums[:, 1]).all()
    assert (pitched[:2, 0] < pitched[:2, 1]).all()
    assert np.abs(evidence(drums_T, 0 * bass_T)[1]).max() == np.abs(evidence()).max() == 0.0


def test_beats_are_less_sure_where_every_second_one_may_be_between_two() -> None:
    """Alternating clicks, of which either kind may be the beat: alike, and one kind much weaker than the other."""
    signal = {weak: np.zeros(20 * SAMPLE_RATE, np.float32) for weak in (1.0, 0.2)}
    click_T = hits_at(np.array([0.0]), seconds=0.08)
    for weak, samples_T in signal.items():
        for number in range(75):
            at = round((0.3 + 0.26 * number) * SAMPLE_RATE)
            samples_T[at : at + click_T.size] += click_T * (weak if number % 2 else 1.0)
    alike, clear = (beats(samples_T, SAMPLE_RATE) for samples_T in signal.values())
    assert alike.phase_confidence < 0.8 < clear.phase_confidence
