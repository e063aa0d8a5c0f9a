"""Carries out a mix plan: stems in, aligned stems out.

Time-stretching and transposition are done by Signalsmith Stretch (MIT), which works in float, compensates its
own delay and, seeded, gives the same bytes every time. Any such method works on windows of a tenth of a second and
spreads what is shorter, so the hits of drums are then put back as they were played: see `keep_hits`. A stem that is
neither stretched nor transposed comes through untouched.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import soxr
from numpy.typing import NDArray

from datasets.analysis.song_profile import DRUMS
from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import mono
from datasets.schema import MixPlan, Part

Load = Callable[[str, str], Samples]  # (track id, source) -> samples_CT

# Raise it when the same plan and stems give other samples (CONTRIBUTING.md)
VERSION = 1

MARGIN_S = 1.0  # around the needed stretch of a stem, so that the stretcher's windows see real music
FADE_S = 0.01  # where a stem is cut, so that it does not click
STRETCH_SEED = 1
# Around each hit of the drums the sound of the original stands, at the speed of the original.
BEFORE_HIT_S, AFTER_HIT_S = 0.045, 0.06  # the first is how far the stretcher smears a hit into what precedes it
CROSSFADE_S = 0.004
HIT_RISE = 4.0  # growth of the energy, above 1 kHz or in all, from one moment to the next, that makes a hit
MIN_GAP_S = 0.03  # between hits


def render(plan: MixPlan, load: Load, sample_rate: int, *, sources: Sequence[str]) -> Samples:
    """Stems_SCT of the mix, as long as the stem of its first part, which is the reference's own.

    Parts stay in float: a stem may exceed full scale, and whoever stores it must leave room. A source
    without a part is silent.
    """
    assert plan.parts, plan.reason
    first = plan.parts[0]
    opening_CT = load(first.track_id, first.source)
    channels, num_samples = opening_CT.shape
    stems_SCT = np.zeros((len(sources), channels, num_samples), dtype=np.float32)
    for part in plan.parts:
        stem_CT = opening_CT if part is first else load(part.track_id, part.source)
        stems_SCT[sources.index(part.source)] += place(stem_CT, part, sample_rate, num_samples=num_samples)
    return stems_SCT


def place(stem_CT: Samples, part: Part, sample_rate: int, *, num_samples: int) -> Samples:
    """The part as it sounds in the mix, (C, num_samples): cut, stretched, transposed, shifted and levelled."""
    margin = round(MARGIN_S * sample_rate)
    start = max(0, math.floor(-part.shift_samples / part.stretch) - margin)
    stop = min(stem_CT.shape[1], math.ceil((num_samples - part.shift_samples) / part.stretch) + margin)
    placed_CT = np.zeros((stem_CT.shape[0], num_samples), dtype=np.float32)
    if start >= stop:
        return placed_CT
    taken_CT = stem_CT[:, start:stop]
    semitones = part.semitones + part.cents / 100.0
    bent_CT = stretch(taken_CT, part.stretch, sample_rate, semitones=semitones)
    if part.source == DRUMS and part.stretch != 1.0 and not semitones:
        keep_hits(bent_CT, taken_CT, part.stretch, sample_rate)
    at = part.shift_samples + round(start * part.stretch)
    begin, end = max(0, at), min(num_samples, at + bent_CT.shape[1])
    if begin < end:
        placed_CT[:, begin:end] = bent_CT[:, begin - at : end - at] * np.float32(10.0 ** (part.gain_db / 20.0))
        _fade(placed_CT[:, begin:end], sample_rate, into=begin > at, out_of=end < at + bent_CT.shape[1])
    return placed_CT


def stretch(samples_CT: Samples, factor: float, sample_rate: int, *, semitones: float = 0.0) -> Samples:
    """`factor` times as long, with the pitch moved by `semitones`; time t goes to `factor * t`, without delay.

    Pitch is moved by resampling, and what that does to the length is left to the stretcher: asked to transpose, it
    misses low tones by a third of a semitone.
    """
    length = round(samples_CT.shape[1] * factor)
    if factor == 1.0 and semitones == 0.0:
        return samples_CT
    if length == 0 or not samples_CT.any():
        return np.zeros((samples_CT.shape[0], length), dtype=np.float32)
    from python_stretch import Signalsmith

    ratio = 2.0 ** (semitones / 12.0)
    bent_CT = np.ascontiguousarray(samples_CT, dtype=np.float32)
    if factor * ratio != 1.0:
        stretcher = Signalsmith.Stretch(STRETCH_SEED)
        stretcher.preset(samples_CT.shape[0], float(sample_rate))
        stretcher.setTimeFactor(1.0 / (factor * ratio))  # theirs is a speed
        bent_CT = np.asarray(stretcher.process(bent_CT))
    if semitones:
        bent_CT = soxr.resample(bent_CT.T, sample_rate * ratio, sample_rate).T
    fitted_CT = np.zeros((samples_CT.shape[0], length), dtype=np.float32)
    kept = min(length, bent_CT.shape[1])
    fitted_CT[:, :kept] = bent_CT[:, :kept]
    return fitted_CT


def keep_hits(bent_CT: Samples, original_CT: Samples, factor: float, sample_rate: int) -> None:
    """Put the hits of the original into its stretched copy, in place, each where the stretch has moved it to.

    Where hits lie closer together than the pieces are long, each gets its share of the time between them.
    """
    hits = find_hits(original_CT, sample_rate)
    if not hits.size:
        return
    before, after, fade = (round(length_s * sample_rate) for length_s in (BEFORE_HIT_S, AFTER_HIT_S, CROSSFADE_S))
    ramp_T = np.sin(0.5 * np.pi * (np.arange(fade, dtype=np.float32) + 0.5) / fade)  # two sounds out of phase: power
    moved = np.round(hits * factor).astype(np.int64)
    gaps = np.minimum(np.diff(hits), np.diff(moved)) // 2
    ahead = np.minimum(before, np.concatenate([[min(hits[0], moved[0])], gaps]))
    ends = np.concatenate([moved[1:] - ahead[1:] + fade, [bent_CT.shape[1]]])
    for hit, place, first, last in zip(hits, moved, moved - ahead, np.minimum(ends, moved + after), strict=True):
        last = min(last, bent_CT.shape[1], place - hit + original_CT.shape[1])
        if last - first < 2 * fade:
            continue
        piece_CT = original_CT[:, first - place + hit : last - place + hit].copy()
        piece_CT[:, :fade] = piece_CT[:, :fade] * ramp_T + bent_CT[:, first : first + fade] * ramp_T[::-1]
        piece_CT[:, -fade:] = piece_CT[:, -fade:] * ramp_T[::-1] + bent_CT[:, last - fade : last] * ramp_T
        bent_CT[:, first:last] = piece_CT


def find_hits(samples_CT: Samples, sample_rate: int) -> NDArray[np.int64]:
    """Samples at which something is struck, to about a millisecond, in order and `MIN_GAP_S` apart."""
    hop = max(1, round(0.001 * sample_rate))
    usable = samples_CT.shape[1] // hop * hop
    mono_T = mono(samples_CT[:, :usable])
    edges_T = np.diff(mono_T, prepend=mono_T[:1])  # treble counts: a hat beside a kick that still sounds
    both = np.stack([np.square(part).reshape(-1, hop).mean(axis=1) for part in (mono_T, edges_T)])
    floor = 1e-4 * both.max(axis=1, keepdims=True) + 1e-12
    reach = 8  # milliseconds on each side
    padded = np.pad(both + floor, ((0, 0), (reach, reach)), mode="edge")
    sums = np.cumsum(padded, axis=1, dtype=np.float64)  # after loud music float32 would not see the floor any more
    sums = np.pad(sums, ((0, 0), (1, 0)))
    past, coming = sums[:, reach:-reach] - sums[:, : -2 * reach], sums[:, 2 * reach :] - sums[:, reach:-reach]
    rise = (coming / past).max(axis=0)[: both.shape[1]]
    gap = round(MIN_GAP_S * 1000)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(rise, gap // 2), 2 * (gap // 2) + 1).max(axis=1)
    return np.nonzero((rise >= HIT_RISE) & (rise == around))[0] * hop


def _fade(samples_CT: Samples, sample_rate: int, *, into: bool, out_of: bool) -> None:
    length = min(samples_CT.shape[1], round(FADE_S * sample_rate))
    ramp_T = np.linspace(0.0, 1.0, length, dtype=np.float32)
    if into:
        samples_CT[:, :length] *= ramp_T
    if out_of:
        samples_CT[:, samples_CT.shape[1] - length :] *= ramp_T[::-1]
