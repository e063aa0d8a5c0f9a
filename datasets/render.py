"""Carries out a mix plan: stems in, aligned stems out.

Time-stretching and transposition are done by Signalsmith Stretch (MIT), which works in float, compensates its
own delay and, seeded, gives the same bytes every time. A stem that is neither stretched nor transposed comes
through untouched.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.schema import MixPlan, Part

Samples = NDArray[np.float32]
Load = Callable[[str, str], Samples]  # (track id, source) -> samples_CT

MARGIN_S = 1.0  # around the needed stretch of a stem, so that the stretcher's windows see real music
FADE_S = 0.01  # where a stem is cut, so that it does not click
STRETCH_SEED = 1


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
    bent_CT = stretch(stem_CT[:, start:stop], part.stretch, sample_rate, semitones=part.semitones)
    at = part.shift_samples + round(start * part.stretch)
    begin, end = max(0, at), min(num_samples, at + bent_CT.shape[1])
    if begin < end:
        placed_CT[:, begin:end] = bent_CT[:, begin - at : end - at] * np.float32(10.0 ** (part.gain_db / 20.0))
        _fade(placed_CT[:, begin:end], sample_rate, into=begin > at, out_of=end < at + bent_CT.shape[1])
    return placed_CT


def stretch(samples_CT: Samples, factor: float, sample_rate: int, *, semitones: float = 0.0) -> Samples:
    """`factor` times as long, with the pitch moved by `semitones`; time t goes to `factor * t`, without delay."""
    length = round(samples_CT.shape[1] * factor)
    if factor == 1.0 and semitones == 0.0:
        return samples_CT
    if length == 0 or not samples_CT.any():
        return np.zeros((samples_CT.shape[0], length), dtype=np.float32)
    from python_stretch import Signalsmith

    stretcher = Signalsmith.Stretch(STRETCH_SEED)
    stretcher.preset(samples_CT.shape[0], float(sample_rate))
    stretcher.setTimeFactor(1.0 / factor)  # theirs is a speed
    stretcher.setTransposeSemitones(semitones)
    bent_CT = np.asarray(stretcher.process(np.ascontiguousarray(samples_CT, dtype=np.float32)))
    fitted_CT = np.zeros((samples_CT.shape[0], length), dtype=np.float32)
    kept = min(length, bent_CT.shape[1])
    fitted_CT[:, :kept] = bent_CT[:, :kept]
    return fitted_CT


def _fade(samples_CT: Samples, sample_rate: int, *, into: bool, out_of: bool) -> None:
    length = min(samples_CT.shape[1], round(FADE_S * sample_rate))
    ramp_T = np.linspace(0.0, 1.0, length, dtype=np.float32)
    if into:
        samples_CT[:, :length] *= ramp_T
    if out_of:
        samples_CT[:, samples_CT.shape[1] - length :] *= ramp_T[::-1]
