"""Drums of many kinds: kits between acoustic and electronic, more pieces, rooms and drive, hands that are not exact."""

import numpy as np
from numpy.typing import NDArray

from datasets.corpus.synthetic.composition import Composition, step_times
from datasets.corpus.synthetic.drums import HATS, KICKS, SNARES
from datasets.corpus.synthetic.studio import bandpass, colour, drive, reverberate
from datasets.corpus.synthetic.synthesis import add, highpass, pan

Hit = tuple[str, int, float]  # piece of the kit, sixteenth-note step, velocity


def play_varied_drums(
    score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    kit = _kit(rng, sample_rate)
    width = rng.uniform(0.1, 1.0)
    places = {name: width * rng.uniform(-0.7, 0.7) for name in kit} | {"kick": 0.0, "snare": rng.uniform(-0.1, 0.1)}
    levels = {name: 10.0 ** (rng.normal(0.0, 3.0) / 20.0) for name in kit}
    step_s, num_bars = step_times(score)
    pattern = _pattern(rng)
    late_s = rng.uniform(0.0, 0.006)
    swing_s = step_s * rng.choice((0.0, 0.0, 0.15, 0.3))
    tracks = {name: np.zeros(num_samples) for name in kit}
    for bar in range(num_bars):
        for name, step, velocity in _bar(bar, pattern, rng):
            start_s = score.first_beat_s + (16 * bar + step) * step_s + swing_s * (step % 2)
            start = max(0, round((start_s + abs(rng.normal(0.0, late_s))) * sample_rate))
            add(tracks[name], start, kit[name] * levels[name] * velocity * rng.uniform(0.7, 1.0))
    dry_CT = np.asarray(sum(pan(track_T, places[name]) for name, track_T in tracks.items()))
    dry_CT = reverberate(dry_CT, rng, sample_rate, wet=rng.uniform(0.05, 0.5), decay_s=rng.uniform(0.15, 0.9))
    return colour(drive(dry_CT, rng.uniform(-6.0, 12.0)), rng, sample_rate, spread_db=3.0)


def _pattern(rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    cymbal = str(rng.choice(("hat", "hat", "hat", "ride", "shaker")))
    pattern = {
        "kick": KICKS[rng.integers(len(KICKS))],
        str(rng.choice(("snare", "snare", "clap"))): SNARES[rng.integers(len(SNARES))],
        cymbal: HATS[rng.integers(len(HATS))],
    }
    extras: dict[str, tuple[tuple[int, ...], ...]] = {
        "open": ((2, 10), (14,), (2, 6, 10, 14)),
        "ghost": ((7, 9), (3, 7, 11, 15), (10, 15)),
        "shaker": (tuple(range(16)), (2, 6, 10, 14)),
        "tom": ((10, 14), (3, 11)),
    }
    for name, choices in extras.items():
        if name not in pattern and rng.random() < 0.35:
            pattern[name] = choices[rng.integers(len(choices))]
    return pattern


def _bar(bar: int, pattern: dict[str, tuple[int, ...]], rng: np.random.Generator) -> list[Hit]:
    fill = bar % 4 == 3 and rng.random() < 0.6
    hits = [
        (name, step, 1.0 if step % 4 == 0 else 0.7)
        for name, steps in pattern.items()
        for step in steps
        if not (fill and step >= 12)
    ]
    hits += [(str(rng.choice(("snare", "tom", "tom"))), step, 0.8) for step in (12, 13, 14, 15)] if fill else []
    return hits + ([("crash", 0, 0.8)] if bar % 4 == 0 and rng.random() < 0.6 else [])


def _kit(rng: np.random.Generator, sample_rate: int) -> dict[str, NDArray[np.float64]]:
    """One-shot sounds, each of a length, pitch and brightness of its own."""
    kick_T = _drum(rng, sample_rate, low_hz=rng.uniform(38.0, 75.0), decay_s=rng.uniform(0.06, 0.3), noise=0.1)
    snare_T = _drum(rng, sample_rate, low_hz=rng.uniform(140.0, 260.0), decay_s=rng.uniform(0.03, 0.12), noise=1.0)
    tom_T = _drum(rng, sample_rate, low_hz=rng.uniform(75.0, 160.0), decay_s=rng.uniform(0.12, 0.3), noise=0.15)
    closed_s = rng.uniform(0.015, 0.06)
    burst_s = np.arange(round(0.3 * sample_rate)) / sample_rate
    clap_T = np.exp(-burst_s / rng.uniform(0.05, 0.12)) + 2.0 * (burst_s < 0.03) * np.exp(-(burst_s % 0.01) / 0.003)
    clap_T = clap_T * bandpass(rng.standard_normal(burst_s.size), 700.0, rng.uniform(2500.0, 6000.0), sample_rate)
    shaker_T = np.sin(np.pi * np.minimum(1.0, burst_s / rng.uniform(0.05, 0.12)))
    shaker_T = shaker_T * highpass(rng.standard_normal(burst_s.size), 4500.0, sample_rate)
    return {
        "kick": 1.3 * kick_T,
        "snare": 0.9 * snare_T,
        "ghost": 0.25 * snare_T,
        "tom": 0.8 * tom_T,
        "clap": 0.5 * clap_T,
        "shaker": 0.2 * shaker_T,
        "hat": 0.5 * _metal(rng, sample_rate, decay_s=closed_s),
        "open": 0.4 * _metal(rng, sample_rate, decay_s=rng.uniform(0.1, 0.3)),
        "ride": 0.35 * _metal(rng, sample_rate, decay_s=rng.uniform(0.2, 0.5)),
        "crash": 0.5 * _metal(rng, sample_rate, decay_s=rng.uniform(0.3, 0.8)),
    }


def _drum(
    rng: np.random.Generator, sample_rate: int, *, low_hz: float, decay_s: float, noise: float
) -> NDArray[np.float64]:
    """A head whose pitch falls, its second mode, a click, and snares of noise."""
    t = np.arange(round(5 * decay_s * sample_rate)) / sample_rate
    sweep_hz = low_hz * (1.0 + rng.uniform(0.2, 3.0) * np.exp(-t / rng.uniform(0.008, 0.04)))
    phase_T = 2 * np.pi * np.cumsum(sweep_hz) / sample_rate
    head_T = np.sin(phase_T) + rng.uniform(0.0, 0.5) * np.sin(rng.uniform(1.5, 2.2) * phase_T) * np.exp(-t / 0.05)
    rattle_T = bandpass(rng.standard_normal(t.size), rng.uniform(400.0, 2000.0), rng.uniform(5e3, 15e3), sample_rate)
    click_T = rng.uniform(0.1, 0.8) * rng.standard_normal(t.size) * np.exp(-t / rng.uniform(0.001, 0.004))
    rattle_T = noise * rng.uniform(0.5, 1.3) * rattle_T * np.exp(-t / (decay_s * rng.uniform(0.7, 2.0)))
    return np.asarray(rng.uniform(0.5, 1.0) * head_T * np.exp(-t / decay_s) + rattle_T + click_T)


def _metal(rng: np.random.Generator, sample_rate: int, *, decay_s: float) -> NDArray[np.float64]:
    """Square waves whose frequencies share nothing, and noise, high-passed."""
    t = np.arange(round(4 * decay_s * sample_rate)) / sample_rate
    ratios = np.sort(rng.uniform(1.0, 5.0, size=6))
    ring_T = np.sign(np.sin(2 * np.pi * rng.uniform(250.0, 600.0) * ratios[:, None] * t)).sum(axis=0) / 3.0
    sound_T = rng.uniform(0.0, 1.0) * ring_T + rng.uniform(0.4, 1.0) * rng.standard_normal(t.size)
    return np.asarray(highpass(sound_T, rng.uniform(2500.0, 8000.0), sample_rate) * np.exp(-t / decay_s))
