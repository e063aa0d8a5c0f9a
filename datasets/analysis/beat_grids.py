"""Readings of a rhythm: grids of beats at its likeliest tempi, and what speaks for each; `beats.py` chooses.

The road: onset envelopes (`onsets.py`), their periodicity (autocorrelation, summed over multiples of the beat, under
a broad prior over tempi), for each likely period the best chain of onsets (dynamic programming after Ellis, "Beat
Tracking by Dynamic Programming", 2007) with steps that hardly bend, and then a straightened, sub-frame grid: each beat
moves to where its neighbours and the onsets around it agree. Plain numpy: no compiler runs on first use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from datasets.analysis.onsets import FRAMES_PER_S, Onsets, strength_at, widened

Array = NDArray[np.float64]

MIN_BPM, MAX_BPM = 40.0, 220.0
PRIOR_BPM = 112.0
MULTIPLES = ((0.5, 0.5), (1, 1.0), (2, 1.0), (4, 1.0), (8, 0.5))  # of the beat, and the weight of each
RATIOS = (0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0)  # of the best period, looked at beside it
# With 100 the chain slipped from the beat to the off-beat within a few bars wherever a fill was busy; with this
# a song may wander by about 5 % from its tempo.
TIGHTNESS = 1000.0
SPREAD = 1.25  # between a step and the period at most
SLIP_BEATS = 16  # that tell the tempo of a song in which the chain slips
ON_LINE = 0.1  # of a beat, by which beats at one tempo may differ from it
SLIPPED, FOLLOWED = 0.1, 0.85  # least shares of the beats that lie halfway between those of one tempo, and of these two

# What speaks for a grid, as `_evidence` lists it: onsets of all, low and high sounds at places in the beat, in twelfths
# (two triplets count together), then the autocorrelation at two and four beats, and the octaves above `PRIOR_BPM` and
# their square; then onsets of drums and of pitched stems on the beat and halfway to the next. The weights are a linear
# model's, fitted by a softmax over each excerpt's grids (tests.benchmarks.remix_fit).
KINDS = ("all", "low", "high")
PLACES = (0, 1, 2, 3, (4, 8), 5, 6, 7, 9, 10, 11)
REPEATS = (2, 4)
NUM_PARTS, HALVES = 2, (0, 6)
# fmt: off
WEIGHTS = np.array([
    0.52, 0.05, -0.29, -0.44, -0.31, -0.25, 0.0, 0.05, 0.14, -0.04, 0.27,
    0.78, 1.12, 0.13, 0.39, -0.84, -0.65, -0.49, -0.02, 0.2, 0.46, -0.16,
    1.31, 0.95, -0.35, 0.04, -0.27, -0.7, -0.4, 0.09, -0.23, -0.26, -0.59,
    0.84, 1.05, 0.74, -0.7,
    0.3, 0.1, 0.15, -0.07, 0.36, -0.06,
    0.3, 0.1, 0.46, -0.37, 0.38, -0.06,
])
# fmt: on
# How far each may be off: its standard error in that fit.
# fmt: off
WEIGHT_ERRORS = np.array([
    0.54, 0.49, 0.49, 0.48, 0.51, 0.45, 0.48, 0.46, 0.49, 0.48, 0.47,
    1.02, 0.88, 0.89, 0.89, 1.11, 0.79, 0.96, 0.85, 0.91, 0.87, 0.74,
    1.09, 0.89, 0.86, 0.82, 1.09, 0.89, 1.0, 0.86, 0.91, 0.91, 0.85,
    1.58, 1.44, 0.92, 1.17,
    0.87, 0.74, 0.95, 0.85, 0.98, 0.87,
    0.84, 0.76, 1.69, 1.51, 1.6, 1.34,
])
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One reading of the music: where its beats are, in frames, and what speaks for it."""

    grid: Array
    evidence: Array
    confidence: float

    @property
    def merit(self) -> float:
        return float(self.evidence @ WEIGHTS)


def hypotheses(onsets: Onsets, parts: Sequence[Onsets | None] = ()) -> Iterator[Hypothesis]:
    """Beat grids at the likeliest periods and at simple ratios of the best, on the onsets and half a beat off them.

    What speaks for a grid is heard in the signal, and in its `parts`, drums and pitched, where there are some. Of grids
    faster than `PRIOR_BPM` also either half: a chain of its own at half the tempo may slip where these do not.
    """
    envelope_N = onsets.all_N + 0.5 * onsets.low_N
    total = envelope_N.shape[0]
    longest = min(int(8 * 60.0 / MIN_BPM * FRAMES_PER_S) + 2, total * 2 // 3)
    smooth_N = np.convolve(envelope_N, np.hanning(9) / np.hanning(9).sum(), mode="same")
    correlation = _autocorrelation(smooth_N - smooth_N.mean(), longest)
    if correlation[0] <= 0.0:
        return
    correlation /= correlation[0]
    near, *near_parts = [_widened(heard) for heard in (onsets, *(parts or (None,) * NUM_PARTS))]
    for period in _periods(correlation):
        chain = _chain(envelope_N, period)
        if chain.size < 3:
            continue
        grid = _fill(_straighten(onsets.all_N, chain, period), total)
        step = float(np.median(np.diff(grid)))
        confidence = float(np.clip(_repetition(correlation, np.array([step]), ((1, 1.0), (2, 1.0)))[0], 0.0, 1.0))
        grid = _without_slips(grid, total)
        readings = [grid, grid + 0.5 * step]
        if step < 60.0 / PRIOR_BPM * FRAMES_PER_S:
            readings += [grid[::2], grid[1::2]]
        for reading in readings:
            reading = reading[reading < total - 1]
            if reading.size >= 3:
                evidence = np.concatenate([_evidence(near, reading, correlation), _evidence_of(near_parts, reading)])
                yield Hypothesis(grid=reading, evidence=evidence, confidence=confidence)


def _periods(correlation: Array) -> list[float]:
    """Up to a dozen candidate periods in frames, at least 1 % apart."""
    lags = np.arange(60.0 / MAX_BPM * FRAMES_PER_S, 60.0 / MIN_BPM * FRAMES_PER_S, 0.25)
    lags = lags[lags < correlation.size - 1]
    if lags.size < 5:
        return []
    octaves = np.log2(60.0 * FRAMES_PER_S / lags / PRIOR_BPM)
    strength = np.maximum(0.0, _repetition(correlation, lags, MULTIPLES)) * np.exp(-0.5 * np.square(octaves))
    around = sliding_window_view(np.pad(strength, 2), 5).max(axis=1)
    peaks = np.nonzero((strength == around) & (strength > 0.0))[0]
    peaks = peaks[np.argsort(-strength[peaks], kind="stable")][:6]
    if peaks.size == 0:
        return []
    best = float(lags[peaks[0]])
    related = [best * ratio for ratio in RATIOS if lags[0] <= best * ratio <= lags[-1]]
    apart: list[float] = []
    for period in sorted([*map(float, lags[peaks]), *related]):
        if not apart or period > 1.01 * apart[-1]:
            apart.append(period)
    return apart


def _repetition(correlation: Array, lags: Array, multiples: Sequence[tuple[float, float]]) -> Array:
    """Weighted mean of the autocorrelation at multiples of each lag, as far as the track is long enough."""
    total, weights = np.zeros_like(lags), np.zeros_like(lags)
    for multiple, weight in multiples:
        reachable = lags * multiple < correlation.size - 1
        total += weight * reachable * np.interp(lags * multiple, np.arange(correlation.size), correlation)
        weights += weight * reachable
    return np.asarray(total / np.maximum(weights, 1e-9))


def _widened(onsets: Onsets | None) -> list[Array]:
    """One envelope for each of `KINDS`; none of nothing."""
    return [] if onsets is None else [widened(envelope_N) for envelope_N in (onsets.all_N, onsets.low_N, onsets.high_N)]


def _evidence_of(parts: Sequence[list[Array]], grid: Array) -> Array:
    """How much each part sounds on the beat and halfway to the next, the last of `WEIGHTS`; 0 of those not there."""
    found = np.zeros((NUM_PARTS, len(KINDS), len(HALVES)))
    for place, near in enumerate(parts):
        for kind, near_N in enumerate(near):
            found[place, kind] = _shares(near_N, grid)[list(HALVES)]
    return found.ravel()


def _shares(near_N: Array, grid: Array) -> Array:
    """Onsets in twelfths of the beat, as log ratios to their mean: neither level nor density matters."""
    twelfths = grid[:-1] + np.arange(12)[:, None] / 12 * np.diff(grid)
    level = strength_at(near_N, twelfths).mean(axis=1)
    return np.asarray(np.log((level + 0.1) / (level.mean() + 0.1)))


def _evidence(near: Sequence[Array], grid: Array, correlation: Array) -> Array:
    """How much a grid looks like the beat of the whole signal, one number for each of the first `WEIGHTS`."""
    step = np.array([np.median(np.diff(grid))])
    found: list[float] = []
    for near_N in near:
        share = _shares(near_N, grid)
        found += [float(np.mean(share[list(place) if isinstance(place, tuple) else place])) for place in PLACES]
    found += [float(_repetition(correlation, step, ((multiple, 1.0),))[0]) for multiple in REPEATS]
    octaves = float(np.log2(60.0 * FRAMES_PER_S / step[0] / PRIOR_BPM))
    return np.array([*found, octaves, octaves**2])


# librosa.autocorrelate takes as long and is not divided by the number of products; its tempogram takes 3.9 s a song.
def _autocorrelation(signal_N: Array, longest: int) -> Array:
    """Unbiased autocorrelation at lags 0 to `longest`."""
    size = 1 << (signal_N.shape[0] + longest).bit_length()
    power = np.square(np.abs(np.fft.rfft(signal_N, size)))
    count = signal_N.shape[0] - np.arange(longest + 1)
    return np.asarray(np.fft.irfft(power)[: longest + 1] / np.maximum(count, 1))


# -- grids ----------------------------------------------------------------------------------------------------


def _chain(envelope_N: Array, period: float) -> NDArray[np.int64]:
    """Frames of the best chain of onsets whose steps stay near `period`.

    A predecessor lies at least most of a period back, so that many frames are decided at once.
    """
    from scipy.ndimage import gaussian_filter1d

    deviation = max(period / 32.0, 0.5)
    smooth_N = gaussian_filter1d(envelope_N, deviation, mode="constant") * deviation * np.sqrt(2 * np.pi)
    nearest, farthest = max(1, int(period / SPREAD)), int(period * SPREAD) + 1
    lags = np.arange(nearest, farthest + 1)
    penalty = -TIGHTNESS * np.square(np.log(lags / period))
    total = smooth_N.shape[0]
    score_N = np.concatenate([np.zeros(farthest), smooth_N])
    before_N = np.full(total, -1, dtype=np.int64)
    for start in range(0, total, nearest):
        block = np.arange(start, min(start + nearest, total))
        options = score_N[block[:, None] + farthest - lags] + penalty
        choice = options.argmax(axis=1)
        score_N[block + farthest] += options[np.arange(block.size), choice]
        before_N[block] = block - lags[choice]
    tail = max(0, total - int(period))
    chain = [tail + int(np.argmax(score_N[farthest + tail :]))]
    while before_N[chain[-1]] >= 0:
        chain.append(int(before_N[chain[-1]]))
    return np.array(chain[::-1], dtype=np.int64)


def _straighten(envelope_N: Array, chain: NDArray[np.int64], period: float) -> Array:
    """Beats in fractional frames: a line through the onsets near the 17 beats around each, weighted by strength.

    The line is fitted three times, at last without onsets more than 30 ms off it, and bends by at most 10 %.
    """
    reach = max(2, int(0.05 * FRAMES_PER_S))
    offsets = np.arange(-reach, reach + 1)
    near = np.pad(envelope_N, reach)[chain[:, None] + offsets + reach] * np.exp(-2.0 * np.square(offsets / reach))
    strength = near.sum(axis=1) + 1e-6
    onset = chain + (near * offsets).sum(axis=1) / strength
    strength = np.minimum(strength, np.percentile(strength, 75) + 1e-6)
    steps = np.arange(-8, 9)
    around = np.arange(chain.size)[:, None] + steps
    inside = (around >= 0) & (around < chain.size)
    around = np.clip(around, 0, chain.size - 1)
    times, full = onset[around], strength[around] * inside
    weight = full
    for _ in range(3):
        mass = weight.sum(axis=1)
        center, level = (weight * steps).sum(axis=1) / mass, (weight * times).sum(axis=1) / mass
        lean = steps - center[:, None]
        spread = (weight * np.square(lean)).sum(axis=1)
        slope = np.where(spread > 0.0, (weight * lean * times).sum(axis=1) / np.maximum(spread, 1e-9), period)
        slope = np.clip(slope, 0.9 * period, 1.1 * period)
        value = level - slope * center
        close = inside & (np.abs(times - value[:, None] - slope[:, None] * steps) <= 0.03 * FRAMES_PER_S)
        weight = np.where(close.sum(axis=1, keepdims=True) >= 2, full * close, weight)
    return np.maximum.accumulate(value + 1e-3 * np.arange(value.size))


def _without_slips(grid: Array, total: int) -> Array:
    """The grid at one tempo throughout where it slips by half a beat and goes on at the same tempo; else as it is."""
    if grid.size < 2 * SLIP_BEATS:
        return grid
    lines = [_line(grid, first) for first in range(0, grid.size - SLIP_BEATS + 1, SLIP_BEATS // 2)]
    step, start = max(lines, key=lambda line: int((np.abs(_off(grid, *line)) < ON_LINE).sum()))
    off = np.abs(_off(grid, step, start))
    followed, halfway = float(np.mean(off < ON_LINE)), float(np.mean(off > 0.5 - ON_LINE))
    if halfway < SLIPPED or followed + halfway < FOLLOWED:
        return grid
    return np.asarray(start % step + step * np.arange(int((total - start % step) / step) + 1))


def _line(grid: Array, first: int) -> tuple[float, float]:
    """Step and start of the line through a few beats, and then through all beats that follow it."""
    step, start = _regression(np.arange(float(SLIP_BEATS)), grid[first : first + SLIP_BEATS])
    for _ in range(2):
        follows = np.abs(_off(grid, step, start)) < ON_LINE
        if follows.sum() < SLIP_BEATS // 2:
            break
        step, start = _regression(np.round((grid[follows] - start) / step), grid[follows])
    return step, start


def _regression(places: Array, beats: Array) -> tuple[float, float]:
    """Step and start; np.polyfit takes ten times as long over a few beats."""
    centred = places - places.mean()
    step = float(centred @ beats) / float(centred @ centred)
    return step, float(beats.mean()) - step * float(places.mean())


def _off(grid: Array, step: float, start: float) -> Array:
    """How far each beat is from the nearest of the line's, in beats."""
    places = (grid - start) / step
    return np.asarray(places - np.round(places))


def _fill(grid: Array, total: int) -> Array:
    """The grid continued at its own pace to both ends of the track."""
    ahead, behind = float(np.median(np.diff(grid[:9]))), float(np.median(np.diff(grid[-9:])))
    first = np.arange(grid[0] - ahead, 0.0, -ahead)[::-1] if ahead > 0.0 else np.empty(0)
    last = np.arange(grid[-1] + behind, total, behind) if behind > 0.0 else np.empty(0)
    return np.concatenate([first, grid, last])
