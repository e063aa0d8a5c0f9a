import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.analysis import downbeats
from datasets.analysis.beats import beats
from datasets.analysis.downbeats import find_bars
from datasets.analysis.harmony import FRAMES_PER_S as CHROMA_PER_S
from datasets.analysis.onsets import FRAMES_PER_S, Onsets
from datasets.corpus.synthetic import compose, perform

SAMPLE_RATE = 22050
Array = NDArray[np.float64]


def song_in(
    metre: int, *, first_beat: int = 0, bars: int = 12, step_s: float = 0.5
) -> tuple[NDArray[np.float32], Array]:
    """A chord per bar, a low drum on its first beat and high ones on the others; and where the bars begin.

    `first_beat` is where in the bar the music starts.
    """
    rng = np.random.default_rng(2)
    t = np.arange(round(step_s * SAMPLE_RATE)) / SAMPLE_RATE
    chords = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16)]
    beats_T, first_s = [np.zeros(4410)], []
    for number in range(first_beat, metre * bars):
        bar, place = divmod(number, metre)
        if place == 0:
            first_s.append(0.2 + (number - first_beat) * step_s)
        tones = sum(np.sin(2 * np.pi * 220.0 * 2.0 ** (tone / 12.0) * t) for tone in chords[bar % 4])
        low = np.sin(2 * np.pi * 60.0 * t) * np.exp(-t / 0.06)
        high = rng.standard_normal(t.size) * np.exp(-t / 0.02)
        beats_T.append(0.05 * tones * np.exp(-t / 0.4) + (0.6 * low if place == 0 else 0.15 * high))
    return np.concatenate(beats_T).astype(np.float32), np.array(first_s)


@pytest.mark.parametrize("metre", [3, 4])
@pytest.mark.parametrize("first_beat", [0, 1, 2])
def test_bars_of_three_and_four_are_told_apart_wherever_the_music_starts(metre: int, first_beat: int) -> None:
    signal_T, first_s = song_in(metre, first_beat=first_beat)
    found = beats(signal_T, SAMPLE_RATE)
    assert found.downbeat_confidence > 0.3
    assert np.median(np.diff(found.downbeats_s)) == pytest.approx(metre * 0.5, abs=0.02)
    near = [np.abs(np.array(found.downbeats_s) - time).min() < 0.05 for time in first_s]
    assert np.mean(near) > 0.9


def test_beats_that_are_all_alike_have_no_bars() -> None:
    grid = np.arange(20.0, 4000.0, 0.5 * FRAMES_PER_S)
    alike_N = np.zeros(4100)
    alike_N[np.round(grid).astype(int)] = 1.0
    bars = find_bars(Onsets(all_N=alike_N, low_N=alike_N, high_N=alike_N), grid, np.ones((120, 12)))
    assert not bars.first_N.any()
    assert bars.certainty < 0.25


def test_bars_are_surer_of_longer_and_of_slower_music() -> None:
    certainty = {
        (bars, step_s): beats(song_in(4, bars=bars, step_s=step_s)[0], SAMPLE_RATE).downbeat_confidence
        for bars, step_s in ((4, 0.55), (12, 0.55), (12, 0.42))
    }
    assert certainty[4, 0.55] < certainty[12, 0.55]
    assert certainty[12, 0.42] < certainty[12, 0.55]


def test_bars_are_no_surer_than_their_beats_nor_where_every_second_beat_may_be_none() -> None:
    grid = np.arange(20.0, 4000.0, 0.5 * FRAMES_PER_S)
    all_N, low_N, high_N = np.zeros((3, 4100))
    for envelope_N, places in ((all_N, grid), (low_N, grid[::4]), (high_N, grid[2::4])):
        envelope_N[np.round(places).astype(int)] = 1.0
    onsets, chroma_ND = Onsets(all_N=all_N, low_N=low_N, high_N=high_N), np.ones((120, 12))
    plain = find_bars(onsets, grid, chroma_ND).certainty
    assert plain > 0.3
    assert find_bars(onsets, grid, chroma_ND, at_most=0.2).certainty == 0.2
    sure = [find_bars(onsets, grid, chroma_ND, halves=(odds, odds)).certainty for odds in (0.0, 0.1, 1.0)]
    assert sure[0] > sure[1] > sure[2]


@pytest.mark.parametrize(("bpm", "named"), [(158.0, True), (162.0, False)])
def test_a_grid_so_fast_that_its_bars_may_be_half_bars_names_none(
    bpm: float, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chords change, a low drum sounds on one and a high one on two and four."""
    monkeypatch.setattr(downbeats, "BAR_CHANCE", np.array([8.0, 0.0, 0.0]))  # sure at any tempo but for the limit
    step = 60.0 / bpm * FRAMES_PER_S
    grid = np.arange(20.0, 8000.0, step)
    all_N, low_N, high_N = np.zeros((3, 8100))
    for envelope_N, places in ((all_N, grid), (low_N, grid[::4]), (high_N, grid[1::2])):
        envelope_N[np.round(places).astype(int)] = 1.0
    chroma_ND = np.zeros((240, 12))
    bars = (np.arange(240) / CHROMA_PER_S * FRAMES_PER_S - grid[0]) // (4 * step)
    chroma_ND[np.arange(240), (5 * bars % 12).astype(int)] = 1.0
    found = find_bars(Onsets(all_N=all_N, low_N=low_N, high_N=high_N), grid, chroma_ND)
    assert (found.certainty > 0.8) == named
    assert found.certainty == 0.5 or named
    assert found.first_N.any() == named


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_few_beats_have_no_bars(count: int) -> None:
    grid = 100.0 * np.arange(count)
    nothing_N = np.zeros(1000)
    bars = find_bars(Onsets(all_N=nothing_N, low_N=nothing_N, high_N=nothing_N), grid, np.zeros((0, 12)))
    assert bars.first_N.shape == (count,)
    assert not bars.first_N.any()


def test_downbeats_of_toy_songs_are_found() -> None:
    right = []
    for number in range(4):
        song = compose(31, str(number), 14.0)
        stems_SCT = perform(song, SAMPLE_RATE)
        found = beats(stems_SCT.sum(axis=0).mean(axis=0), SAMPLE_RATE)
        true_s = np.array(song.downbeats_s)
        # One is heard twice as fast as it is: its bars would be half bars, and it names none
        if found.downbeats_s:
            right.append(np.mean([np.abs(true_s - time).min() < 0.07 for time in found.downbeats_s]))
    assert len(right) >= 3
    assert np.mean(right) > 0.95


@pytest.mark.parametrize("number", [4, 11])
def test_bars_of_a_slow_song_begin_on_its_beats_even_if_it_is_heard_twice_as_fast(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snare is on the third beat of what is heard, which would rather have it on the second."""
    monkeypatch.setattr(downbeats, "MIN_CERTAINTY", 0.0)  # it is not sure enough to be named
    song = compose(77, str(number), 14.0)
    found = beats(perform(song, SAMPLE_RATE).sum(axis=0).mean(axis=0), SAMPLE_RATE)
    near = [np.abs(np.array(song.beats_s) - time).min() < 0.07 for time in found.downbeats_s]
    assert np.mean(near) > 0.9
    assert found.phase_confidence > 0.8


def test_bars_begin_on_the_half_of_a_fast_grid_that_is_the_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low drum on every fourth place and a high one two places later; then the odd places are said to be beats."""
    monkeypatch.setattr(downbeats, "MIN_CERTAINTY", 0.0)
    grid = np.arange(20.0, 4000.0, 0.25 * FRAMES_PER_S)
    all_N, low_N, high_N = np.zeros((3, 4100))
    for envelope_N, places in ((all_N, grid), (low_N, grid[::4]), (high_N, grid[2::4])):
        envelope_N[np.round(places).astype(int)] = 1.0
    onsets, chroma_ND = Onsets(all_N=all_N, low_N=low_N, high_N=high_N), np.ones((120, 12))
    plain, halved = (find_bars(onsets, grid, chroma_ND, halves=odds) for odds in ((0.0, 0.0), (0.0, 1.0)))
    assert set(np.nonzero(plain.first_N)[0] % 2) == {0}
    assert set(np.nonzero(halved.first_N)[0] % 2) == {1}
    assert halved.certainty < plain.certainty
