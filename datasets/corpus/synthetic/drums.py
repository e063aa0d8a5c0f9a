"""The drums: a kit of one-shot sounds, and patterns of a bar."""

import numpy as np
from numpy.typing import NDArray

from datasets.corpus.synthetic.composition import Composition, step_times
from datasets.corpus.synthetic.synthesis import add, highpass, pan, soften

# Sixteenth-note steps of one bar.
KICKS = ((0, 4, 8, 12), (0, 8), (0, 6, 8), (0, 8, 10), (0, 3, 8, 11))
SNARES = ((4, 12), (4, 12, 15), (4, 10, 12))
HATS = ((0, 2, 4, 6, 8, 10, 12, 14), tuple(range(16)), (2, 6, 10, 14), (0, 4, 8, 12))


def play_drums(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    kit = _drum_kit(rng, sample_rate)
    places = {"kick": 0.0, "snare": 0.05, "hat": rng.uniform(0.2, 0.5), "crash": -0.4}
    step_s, num_bars = step_times(score)
    kick = KICKS[rng.integers(len(KICKS))]
    snare = SNARES[rng.integers(len(SNARES))]
    hat = HATS[rng.integers(len(HATS))]
    tracks = {name: np.zeros(num_samples) for name in kit}
    for bar in range(num_bars):
        fill = bar % 4 == 3
        hits = [("kick", step, 1.0) for step in kick]
        hits += [("snare", step, 0.9 if step in (4, 12) else 0.5) for step in snare]
        hits += [("hat", step, 0.6 if step % 4 == 0 else 0.4) for step in hat if not (fill and step >= 12)]
        hits += [("snare", step, 0.6) for step in (13, 14, 15)] if fill else []
        hits += [("crash", 0, 0.7)] if bar % 4 == 0 else []
        for name, step, velocity in hits:
            start = round((score.first_beat_s + (16 * bar + step) * step_s) * sample_rate)
            add(tracks[name], start, kit[name] * velocity * rng.uniform(0.85, 1.0))
    return np.asarray(sum(pan(track_T, places[name]) for name, track_T in tracks.items()))


def _drum_kit(rng: np.random.Generator, sample_rate: int) -> dict[str, NDArray[np.float64]]:
    """One-shot sounds: a swept sine, a tuned burst of noise, and two lengths of metallic noise."""
    t = np.arange(round(0.3 * sample_rate)) / sample_rate
    low_hz = rng.uniform(42.0, 60.0)
    sweep_hz = low_hz + rng.uniform(90.0, 220.0) * np.exp(-t / rng.uniform(0.015, 0.035))
    kick_T = np.sin(2 * np.pi * np.cumsum(sweep_hz) / sample_rate) * np.exp(-t / rng.uniform(0.07, 0.13))
    kick_T += 0.3 * rng.standard_normal(t.shape) * np.exp(-t / 0.002)
    tone_hz = rng.uniform(160.0, 230.0)
    tone_T = np.sin(2 * np.pi * tone_hz * t) + 0.5 * np.sin(2 * np.pi * 1.83 * tone_hz * t)
    noise_T = highpass(rng.standard_normal(t.shape), rng.uniform(300.0, 700.0), sample_rate)
    noise_T = 2.2 * soften(noise_T, rng.uniform(1000.0, 2500.0), sample_rate)
    snare_T = 0.6 * tone_T * np.exp(-t / 0.05) + 0.8 * noise_T * np.exp(-t / rng.uniform(0.05, 0.1))
    long_t = np.arange(round(0.8 * sample_rate)) / sample_rate
    metal_T = highpass(rng.standard_normal(long_t.shape), rng.uniform(3500.0, 7000.0), sample_rate)
    metal_T = 2.0 * soften(metal_T, rng.uniform(3000.0, 6000.0), sample_rate)
    hat_T = 0.55 * metal_T * np.exp(-long_t / rng.uniform(0.02, 0.05))
    wash_T = soften(highpass(rng.standard_normal(long_t.shape), 1500.0, sample_rate), 3000.0, sample_rate)
    crash_T = 0.8 * wash_T * np.exp(-long_t / 0.25)
    return {"kick": 1.3 * kick_T, "snare": snare_T, "hat": hat_T, "crash": crash_T}
