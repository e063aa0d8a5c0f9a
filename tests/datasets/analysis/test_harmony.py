import numpy as np
import pytest

from datasets.analysis.harmony import MODES, PITCHES, chroma, chromagram, key, semitone_distance
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform

SAMPLE_RATE = 22050
# Tonic, fourth, fifth, tonic: chords that leave one key only.
CADENCES = {
    "major": ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)),
    "minor": ((0, 3, 7), (5, 8, 12), (7, 11, 14), (0, 3, 7)),
}


def chords(tonic: int, mode: str, *, cents: float = 0.0) -> Samples:
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    bars = []
    for chord in CADENCES[mode]:
        bar_T = np.zeros(t.size)
        for tone in (chord[0] - 12, *chord):
            hertz = 261.6256 * 2.0 ** ((tonic + tone + cents / 100.0) / 12.0)
            bar_T += sum(np.sin(2 * np.pi * hertz * harmonic * t) / harmonic**1.5 for harmonic in range(1, 6))
        bars.append(bar_T * np.exp(-t))
    return (0.05 * np.concatenate(bars)).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tonic", range(12))
def test_the_key_of_a_cadence_is_heard(tonic: int, mode: str) -> None:
    name, confidence = key(chroma(chords(tonic, mode), SAMPLE_RATE))
    assert name == f"{PITCHES[tonic]} {mode}"
    assert 0.0 < confidence <= 1.0


def test_a_tone_is_in_its_class() -> None:
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    shares = chroma((0.3 * np.sin(2 * np.pi * 440.0 * t)).astype(np.float32), SAMPLE_RATE)
    assert PITCHES[int(np.argmax(shares))] == "A"
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)


def test_most_of_a_rich_tone_is_in_its_own_class() -> None:
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    rich_T = sum(np.sin(2 * np.pi * 110.0 * number * t) / number**0.5 for number in range(1, 11))
    shares = chroma((0.05 * rich_T).astype(np.float32), SAMPLE_RATE)
    fifth, third = (shares[PITCHES.index(name)] for name in ("E", "C#"))
    assert shares[PITCHES.index("A")] > 0.6
    assert fifth + third < 0.3  # of the peaks alone they are 0.35, and the tone 0.55


@pytest.mark.parametrize("cents", [-40.0, -20.0, 0.0, 15.0, 45.0])
def test_tuning_is_found_and_does_not_move_the_key(cents: float) -> None:
    signal_T = chords(7, "major", cents=cents)
    assert chromagram(signal_T, SAMPLE_RATE)[1] == pytest.approx(cents, abs=5.0)
    assert key(chroma(signal_T, SAMPLE_RATE))[0] == "G major"


@pytest.mark.parametrize("shift", [-5, -3, -1, 0, 2, 3])
def test_a_transposed_song_is_found_that_many_semitones_away(shift: int) -> None:
    lower, upper = chroma(chords(5, "minor"), SAMPLE_RATE), chroma(chords(5 + shift, "minor"), SAMPLE_RATE)
    found, distance = semitone_distance(upper, lower, 6)
    assert found == shift
    assert distance < 0.2


def test_the_shift_stays_within_its_limit() -> None:
    far, near = chroma(chords(6, "major"), SAMPLE_RATE), chroma(chords(0, "major"), SAMPLE_RATE)
    shift, distance = semitone_distance(far, near, 3)
    assert abs(shift) <= 3
    assert distance > semitone_distance(far, near, 6)[1]


def test_the_smallest_of_equal_shifts_wins() -> None:
    flat = (1.0 / 12.0,) * 12
    assert semitone_distance(flat, flat, 3) == (0, 0.0)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 2.0])
def test_silence_has_neither_chroma_nor_key(seconds: float) -> None:
    assert chroma(np.zeros(round(seconds * SAMPLE_RATE), np.float32), SAMPLE_RATE) == ()
    assert key(()) == ("", 0.0)
    assert semitone_distance((), (1.0,) + (0.0,) * 11, 3) == (0, 0.0)


def test_a_song_shorter_than_the_window_has_chroma() -> None:
    assert len(chroma(chords(0, "major")[: SAMPLE_RATE // 4], SAMPLE_RATE)) == 12


def test_noise_is_less_certain_than_chords() -> None:
    noise_T = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE).astype(np.float32) * 0.1
    assert key(chroma(noise_T, SAMPLE_RATE))[1] < 0.5 * key(chroma(chords(0, "major"), SAMPLE_RATE))[1]


def test_keys_of_toy_songs_are_mostly_right_or_close() -> None:
    """Fifths and relatives share most of their tones, so they earn part of the score (MIREX weights).

    Toy songs loop four chords, which leaves the tonic to taste more than music with a melody of its own does.
    """
    from mir_eval.key import weighted_score

    scores = []
    for number in range(12):
        song = compose(22, str(number), 10.0)
        stems_SCT = perform(song, SAMPLE_RATE // 2)
        pitched_T = stems_SCT[1:3].sum(axis=0).mean(axis=0)
        scores.append(weighted_score(song.key, key(chroma(pitched_T, SAMPLE_RATE // 2))[0]))
    assert np.mean(scores) >= 0.6


@pytest.mark.parametrize("number", [4, 5, 9])
def test_drums_and_singing_do_not_hide_the_key(number: int) -> None:
    """What is short or glides is wide in the spectrum, and counts less than what holds."""
    song = compose(500 + number, "t", 20.0)
    assert key(chroma(perform(song, SAMPLE_RATE).sum(axis=0), SAMPLE_RATE))[0] == song.key
