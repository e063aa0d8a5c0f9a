"""Beat grid, downbeats and tempo of one track, from its drums or, where those rest, from its mixture.

The road: an onset envelope (rise of a log-mel spectrum every 5 ms), its periodicity (autocorrelation, summed
over multiples of the beat, under a broad prior over tempi), the best chain of onsets at that period (dynamic
programming after Ellis, "Beat Tracking by Dynamic Programming", 2007), and then a straightened, sub-frame
grid: each beat moves to where its neighbours and the onsets around it agree. Plain numpy: no compiler runs on
first use. Half and double tempo are left to the caller, who knows what it wants to match.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from datasets.harmony import ANALYSIS_RATE as HARMONY_RATE
from datasets.harmony import HOP as HARMONY_HOP
from datasets.harmony import chromagram

Array = NDArray[np.float64]
Samples = NDArray[np.float32]

ANALYSIS_RATE = 16000
HOP = 80  # 5 ms
WINDOW = 512  # 32 ms
FRAMES_PER_S = ANALYSIS_RATE / HOP
NUM_BANDS = 40
LOW_WEIGHT = 0.5  # of kicks beside all onsets
MULTIPLES = ((0.5, 0.5), (1, 1.0), (2, 1.0), (4, 1.0), (8, 0.5))  # of the beat, and the weight of each
CHROMA_PER_S = HARMONY_RATE / HARMONY_HOP
BEATS_PER_BAR = 4
MIN_BAR_CERTAINTY = 0.15  # with less, no downbeat is named
# An onset that grows within one frame lifts the envelope most about this long before its first sample, because
# the window is centered and the spectrum is on a log scale. Measured on clicks; see the test.
ONSET_DELAY_S = 0.008
MIN_BPM, MAX_BPM = 40.0, 220.0
PRIOR_BPM = 112.0
FASTEST_BPM = 165.0  # above, the beat is named at half the tempo
TIGHTNESS = 100.0
MIN_SOUNDING = 0.5  # share of seconds in which drums must sound to be trusted with the beat
SILENCE_DB = -60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """Times in seconds from the start of the track. Without any pulse: tempo 0 and no beats."""

    tempo_bpm: float
    confidence: float  # 0 to 1
    beats_s: tuple[float, ...]
    downbeats_s: tuple[float, ...]  # empty when no beat of the bar stands out
    downbeat_confidence: float  # 0 to 1


NO_BEATS = Beats(tempo_bpm=0.0, confidence=0.0, beats_s=(), downbeats_s=(), downbeat_confidence=0.0)


def track_beats(drums_T: Samples, mixture_T: Samples, sample_rate: int, *, min_sounding: float = MIN_SOUNDING) -> Beats:
    """The beats of a track: from the drums, or from the mixture when the drums rest too often or have no pulse."""
    if sounding_share(drums_T, sample_rate) >= max(min_sounding, 1e-9):
        found = beats(drums_T, sample_rate, harmony_T=mixture_T)
        if found.confidence >= 0.2:
            return found
        other = beats(mixture_T, sample_rate)
        return other if other.confidence > found.confidence else found
    return beats(mixture_T, sample_rate)


def sounding_share(signal_T: Samples, sample_rate: int) -> float:
    """Share of whole seconds within 40 dB of the loudest one; 0 for silence and for less than a second."""
    usable = signal_T.shape[-1] // sample_rate * sample_rate
    power = np.square(signal_T[:usable], dtype=np.float64).reshape(-1, sample_rate).mean(axis=1)
    if power.size == 0 or power.max() <= 10.0 ** (SILENCE_DB / 10.0):
        return 0.0
    return float(np.mean(power >= 1e-4 * power.max()))


def beats(signal_T: Samples, sample_rate: int, *, harmony_T: Samples | None = None) -> Beats:
    """Beats of a mono signal of any sample rate; `NO_BEATS` for silence, and for less than a second.

    `harmony_T`, by default the signal itself, is where chords are heard to change, which tells bars apart.
    """
    if signal_T.size < sample_rate or not np.any(np.abs(signal_T) > 10.0 ** (SILENCE_DB / 20.0)):
        return NO_BEATS
    onsets = onset_envelopes(signal_T, sample_rate)
    best = max(_hypotheses(onsets), key=lambda found: found.merit, default=None)
    if best is None:
        return NO_BEATS
    chords_T = signal_T if harmony_T is None else harmony_T
    grid = _slow_down(best.grid, onsets)
    downbeats, certainty = _downbeats(onsets, grid, _chord_changes(chords_T, sample_rate, grid))
    times_s = grid / FRAMES_PER_S + ONSET_DELAY_S
    inside = (times_s >= 0.0) & (times_s < signal_T.size / sample_rate)
    barred = inside & downbeats & (certainty >= MIN_BAR_CERTAINTY)
    return Beats(
        tempo_bpm=round(60.0 * FRAMES_PER_S / _mean_period(grid), 4),
        confidence=round(best.confidence, 4),
        beats_s=tuple(round(float(time), 5) for time in times_s[inside]),
        downbeats_s=tuple(round(float(time), 5) for time in times_s[barred]),
        downbeat_confidence=round(certainty, 4),
    )


def _mean_period(grid: Array) -> float:
    """Frames per beat of a steady grid by regression; of one that drifts, the median step."""
    steps = np.arange(grid.size)
    slope, start = np.polyfit(steps, grid, 1)
    steady = float(np.median(np.abs(grid - start - slope * steps))) < 0.01 * FRAMES_PER_S
    return float(slope) if steady else float(np.median(np.diff(grid)))


# -- the envelope ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Onsets:
    """How much the sound grows in each 5 ms frame, all (N,) and in units of their own deviation."""

    all_N: Array  # rise of the log-mel spectrum: every instrument counts alike
    low_N: Array  # rise of the energy below 160 Hz: the kick drum
    high_N: Array  # rise of the energy above 250 Hz: the snare drum


def onset_envelopes(signal_T: Samples, sample_rate: int) -> Onsets:
    mono_T = soxr.resample(np.asarray(signal_T, dtype=np.float32), sample_rate, ANALYSIS_RATE)
    mel_NF, energy_N2 = (np.concatenate(parts) for parts in zip(*_spectra(mono_T), strict=True))
    level = float(np.percentile(mel_NF, 99)) + 1e-12
    log_NF = np.log1p(1000.0 * mel_NF / level)
    rise_NF = np.zeros_like(log_NF)
    # Two frames apart, against the louder of the neighbouring bands: vibrato and glides do not count as onsets
    # (Böck and Widmer, "Maximum filter vibrato suppression", DAFx 2013).
    before_NF = log_NF[:-2]
    widest_NF = before_NF.copy()
    widest_NF[:, 1:] = np.maximum(widest_NF[:, 1:], before_NF[:, :-1])
    widest_NF[:, :-1] = np.maximum(widest_NF[:, :-1], before_NF[:, 1:])
    rise_NF[1:-1] = np.maximum(0.0, log_NF[2:] - widest_NF)
    amplitude_N2 = np.sqrt(energy_N2)
    growth_N2 = np.zeros_like(amplitude_N2)
    growth_N2[4:] = np.maximum(0.0, amplitude_N2[4:] - amplitude_N2[:-4])
    low_N, high_N = np.sqrt(growth_N2).T
    return Onsets(all_N=_contrast(rise_NF.mean(axis=1)), low_N=_contrast(low_N), high_N=_contrast(high_N))


def _spectra(mono_T: Samples) -> Iterator[tuple[Array, Array]]:
    """Mel magnitudes (N, bands), and energies below 160 Hz and above 250 Hz (N, 2), block by block."""
    padded_T = np.pad(mono_T, WINDOW // 2)
    frames_NT = sliding_window_view(padded_T, WINDOW)[::HOP]
    window_T = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    bank_FD = _mel_bank()
    for start in range(0, frames_NT.shape[0], 4096):  # bounded memory for hour-long tracks
        magnitude_NF = np.abs(np.fft.rfft(frames_NT[start : start + 4096] * window_T, axis=1))
        power_NF = np.square(magnitude_NF)
        yield magnitude_NF @ bank_FD, np.stack([power_NF[:, 1:5].sum(axis=1), power_NF[:, 8:].sum(axis=1)], axis=1)


@lru_cache(maxsize=1)
def _mel_bank() -> Array:
    """Triangles of unit sum, evenly spaced on O'Shaughnessy's mel scale between 30 Hz and 7.6 kHz."""
    low_mel, high_mel = (2595.0 * float(np.log10(1.0 + hertz / 700.0)) for hertz in (30.0, 7600.0))
    edges_mel = np.linspace(low_mel, high_mel, NUM_BANDS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.arange(WINDOW // 2 + 1) * ANALYSIS_RATE / WINDOW
    width_hz = np.maximum(np.diff(edges_hz), ANALYSIS_RATE / WINDOW)
    rising = (bins_hz[:, None] - edges_hz[:-2]) / width_hz[:-1]
    falling = (edges_hz[2:] - bins_hz[:, None]) / width_hz[1:]
    bank_FD = np.maximum(0.0, np.minimum(np.minimum(rising, falling), 1.0))
    return np.asarray(bank_FD / (bank_FD.sum(axis=0) + 1e-12))


def _contrast(envelope_N: Array) -> Array:
    """The envelope above its mean over the half second around, in units of its own deviation."""
    width = int(0.5 * FRAMES_PER_S) | 1
    local_N = np.convolve(np.pad(envelope_N, width // 2, mode="edge"), np.full(width, 1.0 / width), mode="valid")
    above_N = np.maximum(0.0, envelope_N - local_N)
    deviation = float(above_N.std())
    return above_N / deviation if deviation > 0.0 else above_N


# -- hypotheses -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One reading of the music: where its beats are, in frames, and how good that looks."""

    grid: Array
    merit: float
    confidence: float


def _hypotheses(onsets: Onsets) -> Iterator[Hypothesis]:
    """Beat grids at the likeliest periods and at simple ratios of the best, on the onsets and half a beat off them."""
    envelope_N = onsets.all_N + LOW_WEIGHT * onsets.low_N
    longest = min(int(8 * 60.0 / MIN_BPM * FRAMES_PER_S) + 2, envelope_N.shape[0] * 2 // 3)
    smooth_N = np.convolve(envelope_N, np.hanning(9) / np.hanning(9).sum(), mode="same")
    correlation = _autocorrelation(smooth_N - smooth_N.mean(), longest)
    if correlation[0] <= 0.0:
        return
    correlation /= correlation[0]
    for period in _periods(correlation):
        chain = _chain(envelope_N, period)
        if chain.size < 3:
            continue
        grid = _fill(_straighten(onsets.all_N, chain, period), envelope_N.shape[0])
        step = float(np.median(np.diff(grid)))
        confidence = float(np.clip(_repetition(correlation, np.array([step]), ((1, 1.0), (2, 1.0)))[0], 0.0, 1.0))
        for offset in (0.0, 0.5 * step):
            moved = grid + offset
            merit = _merit(onsets, moved[moved < envelope_N.shape[0] - 1], correlation)
            yield Hypothesis(grid=moved, merit=merit, confidence=confidence)


def _periods(correlation: Array) -> list[float]:
    """Up to a dozen candidate periods in frames."""
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
    related = [best * ratio for ratio in (0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0) if lags[0] <= best * ratio <= lags[-1]]
    return sorted({round(float(period), 1) for period in [*lags[peaks], *related]})


def _repetition(correlation: Array, lags: Array, multiples: Sequence[tuple[float, float]]) -> Array:
    """Weighted mean of the autocorrelation at multiples of each lag, as far as the track is long enough."""
    total, weights = np.zeros_like(lags), np.zeros_like(lags)
    for multiple, weight in multiples:
        reachable = lags * multiple < correlation.size - 1
        total += weight * reachable * np.interp(lags * multiple, np.arange(correlation.size), correlation)
        weights += weight * reachable
    return np.asarray(total / np.maximum(weights, 1e-9))


def _merit(onsets: Onsets, grid: Array, correlation: Array) -> float:
    """How much a grid looks like the beat, in no unit.

    Onsets, and kicks above all, stand on the beat; fewer stand between two beats, and hardly any on thirds of
    a beat, where those of a grid lie that took a dotted note for the beat. The weights were fitted to 70 excerpts
    with known beats, by a softmax over each excerpt's hypotheses, and rounded.
    """
    if grid.size < 3:
        return -np.inf
    step = float(np.median(np.diff(grid)))
    places = [grid[:-1] + part * np.diff(grid) for part in np.arange(12) / 12]
    every = np.array([_strength_at(onsets.all_N, place).mean() for place in places])
    kicks = np.array([_strength_at(onsets.low_N, place).mean() for place in places])
    on, kick_on = (np.log((values + 0.1) / (values.mean() + 0.1)) for values in (every, kicks))
    thirds = np.log((0.5 * (every[4] + every[8]) + 0.1) / (every.mean() + 0.1))
    repetition = [_repetition(correlation, np.array([step]), ((multiple, 1.0),))[0] for multiple in (2, 4)]
    octaves = np.log2(60.0 * FRAMES_PER_S / step / PRIOR_BPM)
    merit = 2.5 * on[0] - 1.9 * on[6] - 3.0 * thirds + 0.9 * kick_on[0] - 0.8 * kick_on[6]
    return float(merit + 1.4 * repetition[0] + 2.2 * repetition[1] - 2.0 * octaves**2)


def _autocorrelation(signal_N: Array, longest: int) -> Array:
    """Unbiased autocorrelation at lags 0 to `longest`."""
    size = 1 << (signal_N.shape[0] + longest).bit_length()
    power = np.square(np.abs(np.fft.rfft(signal_N, size)))
    count = signal_N.shape[0] - np.arange(longest + 1)
    return np.asarray(np.fft.irfft(power)[: longest + 1] / np.maximum(count, 1))


# -- beats ----------------------------------------------------------------------------------------------------


def _chain(envelope_N: Array, period: float) -> NDArray[np.int64]:
    """Frames of the best chain of onsets whose steps stay near `period`.

    A predecessor lies at least half a period back, so half a period of frames is decided at once.
    """
    smooth_N = np.convolve(envelope_N, _gaussian(period / 32.0), mode="same")
    nearest, farthest = max(1, int(period / 2)), int(2 * period)
    lags = np.arange(nearest, farthest + 1)
    penalty = -TIGHTNESS * np.square(np.log(lags / period))
    total = smooth_N.shape[0]
    score_N = np.concatenate([np.full(farthest, -np.inf), smooth_N])
    score_N[:farthest] = 0.0
    before_N = np.full(total, -1, dtype=np.int64)
    for start in range(0, total, nearest):
        block = np.arange(start, min(start + nearest, total))
        past = block[:, None] + farthest - lags
        options = score_N[past] + penalty
        choice = options.argmax(axis=1)
        score_N[block + farthest] = smooth_N[block] + options[np.arange(block.size), choice]
        before_N[block] = block - lags[choice]
    last = total - int(period) + int(np.argmax(score_N[farthest + total - int(period) :]))
    chain = [last]
    while before_N[chain[-1]] >= 0:
        chain.append(int(before_N[chain[-1]]))
    return np.array(chain[::-1], dtype=np.int64)


def _gaussian(deviation: float) -> Array:
    reach = max(1, round(4 * deviation))
    return np.asarray(np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / max(deviation, 0.5))))


def _straighten(envelope_N: Array, chain: NDArray[np.int64], period: float) -> Array:
    """Beats in fractional frames: a line through the onsets near the 17 beats around each, weighted by strength."""
    reach = max(2, int(0.05 * FRAMES_PER_S))
    padded_N = np.pad(envelope_N, reach)
    around = padded_N[chain[:, None] + np.arange(2 * reach + 1)]
    near = around * _gaussian_window(reach, reach / 2.0)
    weight = near.sum(axis=1) + 1e-6
    onset = chain + (near * np.arange(-reach, reach + 1)).sum(axis=1) / weight
    weight = np.minimum(weight, np.percentile(weight, 75) + 1e-6)
    grid = np.empty(chain.shape[0])
    for index in range(chain.shape[0]):
        span = slice(max(0, index - 8), index + 9)
        steps = np.arange(chain.shape[0])[span] - index
        grid[index] = _intercept(steps, onset[span], weight[span], period)
    return grid


def _gaussian_window(reach: int, deviation: float) -> Array:
    return np.asarray(np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / deviation)))


def _intercept(steps: NDArray[np.int64], times: Array, weight: Array, period: float) -> float:
    """Value at step 0 of a weighted line through the times, refitted without those more than 30 ms off it."""
    keep = np.ones(times.shape[0], dtype=bool)
    value = slope = 0.0
    for _ in range(3):
        mass = weight[keep].sum()
        center, level = (weight * steps)[keep].sum() / mass, (weight * times)[keep].sum() / mass
        spread = (weight * np.square(steps - center))[keep].sum()
        slope = (weight * (steps - center) * times)[keep].sum() / spread if spread > 0.0 else period
        value = level - slope * center
        close = np.abs(times - value - slope * steps) <= 0.03 * FRAMES_PER_S
        if close.sum() < 2:
            break
        keep = close
    return float(value)


def _fill(grid: Array, total: int) -> Array:
    """The grid continued at its own pace to both ends of the track."""
    ahead = float(np.median(np.diff(grid[:9]))) if grid.size > 1 else 0.0
    behind = float(np.median(np.diff(grid[-9:]))) if grid.size > 1 else 0.0
    first = np.arange(grid[0] - ahead, 0.0, -ahead)[::-1] if ahead > 0.0 else np.empty(0)
    last = np.arange(grid[-1] + behind, total, behind) if behind > 0.0 else np.empty(0)
    return np.concatenate([first, grid, last])


# -- bars -----------------------------------------------------------------------------------------------------


def _downbeats(onsets: Onsets, grid: Array, changes: Array) -> tuple[NDArray[np.bool_], float]:
    """Which beats begin a bar of four, and how clearly (0 to 1).

    Bars begin where chords change and where the kick is; the snare is on two and four.
    """
    if grid.size < 2 * BEATS_PER_BAR:
        return np.zeros(grid.size, dtype=bool), 0.0
    kick, snare = _strength_at(onsets.low_N, grid), _strength_at(onsets.high_N, grid)
    kick, snare, changes = (values / (values.mean() + 1e-9) for values in (kick, snare, changes))
    place = np.arange(grid.size) % BEATS_PER_BAR
    means = np.array([[values[place == phase].mean() for phase in range(4)] for values in (kick, snare, changes)])
    kicks, snares, chords = (np.stack([np.roll(row, -phase) for phase in range(4)]) for row in means)
    back = (
        kicks[:, 0]
        + kicks[:, 2]
        - kicks[:, 1]
        - kicks[:, 3]
        + snares[:, 1]
        + snares[:, 3]
        - snares[:, 0]
        - snares[:, 2]
    )
    scores = 0.5 * back + 0.3 * (kicks[:, 0] - kicks[:, 2]) + 2.0 * chords[:, 0]
    best, second = np.sort(scores)[::-1][:2]
    return place == int(np.argmax(scores)), float(np.clip(best - second, 0.0, 1.0))


def _chord_changes(signal_T: Samples, sample_rate: int, grid: Array) -> Array:
    """How different the tones of the two beats after each beat are from those of the two before, 0 to 2."""
    chroma_ND, _ = chromagram(signal_T, sample_rate)
    if chroma_ND.shape[0] == 0 or grid.size < 2:
        return np.zeros(grid.size)
    sums_ND = np.concatenate([np.zeros((1, 12)), np.cumsum(chroma_ND, axis=0)])
    step = float(np.median(np.diff(grid)))

    def share(first: Array) -> Array:
        edges = np.clip(np.stack([first, first + 2 * step]) / FRAMES_PER_S * CHROMA_PER_S, 0, chroma_ND.shape[0])
        low, high = np.round(edges).astype(np.int64)
        total_ND = sums_ND[high] - sums_ND[low]
        return np.asarray(total_ND / (total_ND.sum(axis=1, keepdims=True) + 1e-9))

    return np.asarray(np.abs(share(grid) - share(grid - 2 * step)).sum(axis=1))


def _slow_down(grid: Array, onsets: Onsets) -> Array:
    """Every other beat of a grid that few would clap along to, the half with more kick; other grids as they are."""
    if 60.0 * FRAMES_PER_S / float(np.median(np.diff(grid))) <= FASTEST_BPM or grid.size < 6:
        return grid
    halves = (grid[::2], grid[1::2])
    return max(halves, key=lambda half: float(_strength_at(onsets.low_N, half).mean()))


def _strength_at(envelope_N: Array, grid: Array) -> Array:
    """The largest envelope within 30 ms of each beat, capped so that one crash does not decide the bar."""
    reach = int(0.03 * FRAMES_PER_S)
    padded_N = np.pad(envelope_N, reach)
    centers = np.clip(np.round(grid).astype(np.int64), 0, envelope_N.shape[0] - 1)
    strength = padded_N[centers[:, None] + np.arange(2 * reach + 1)].max(axis=1)
    return np.asarray(np.minimum(strength, np.percentile(strength, 90)))
