"""The stems of a song on paper: each source played, set in a room, and levelled."""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic.composition import Composition
from datasets.corpus.synthetic.drums import play_drums
from datasets.corpus.synthetic.pitched import play_bass, play_other
from datasets.corpus.synthetic.voice import sing
from datasets.schema import SOURCES

LEVELS_DB = {"drums": -19.0, "bass": -20.0, "other": -21.0, "vocals": -19.0}
PEAK = 0.89


def perform(score: Composition, sample_rate: int) -> Samples:
    """The song's stems, float32 of shape (4, 2, T), below full scale both alone and summed."""
    num_samples = round(score.duration_s * sample_rate)
    players = {"drums": play_drums, "bass": play_bass, "other": play_other, "vocals": sing}
    stems_SCT: NDArray[np.float64] = np.zeros((len(SOURCES), 2, num_samples))
    for index, source in enumerate(SOURCES):
        rng = score.rng(source)
        dry_CT = players[source](score, rng, num_samples, sample_rate)
        stem_CT = _room(dry_CT, rng, sample_rate, wet=0.08 if source == "bass" else 0.25)
        level_db = LEVELS_DB[source] + rng.uniform(-1.5, 1.5)
        stems_SCT[index] = stem_CT * (10.0 ** (level_db / 20.0) / _sounding_rms(stem_CT, sample_rate))
    fade = min(num_samples, round(0.01 * sample_rate))
    stems_SCT[:, :, num_samples - fade :] *= np.linspace(1.0, 0.0, fade)
    peak = max(float(np.abs(stems_SCT).max()), float(np.abs(stems_SCT.sum(axis=0)).max()))
    return (stems_SCT * min(1.0, PEAK / peak)).astype(np.float32)


def _sounding_rms(stem_CT: NDArray[np.float64], sample_rate: int) -> float:
    """RMS over the half seconds that sound, so that a source which rests is not made louder for it."""
    block = max(1, sample_rate // 2)
    usable = stem_CT.shape[1] // block * block
    power = np.square(stem_CT[:, :usable]).reshape(stem_CT.shape[0], -1, block).mean(axis=(0, 2))
    return float(np.sqrt(power[power >= 0.01 * power.max()].mean())) + 1e-12


def _room(
    dry_CT: NDArray[np.float64], rng: np.random.Generator, sample_rate: int, *, wet: float
) -> NDArray[np.float64]:
    """A few early reflections, different left and right: space at the price of a dozen additions."""
    wet_CT = dry_CT.copy()
    for channel in range(2):
        for delay_s in np.sort(rng.uniform(0.004, 0.06, size=6)):
            delay = int(delay_s * sample_rate)
            gain = wet * np.exp(-delay_s / 0.03) * rng.choice((-1.0, 1.0))
            wet_CT[channel, delay:] += gain * dry_CT[1 - channel, : dry_CT.shape[1] - delay]
    return wet_CT
