"""One song's profile out of its stems: what `mixplan.py` needs to know to match it with others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.harmony import chroma, key
from datasets.rhythm import MIN_SOUNDING, track_beats
from datasets.schema import Profile

Samples = NDArray[np.float32]

DRUMS, VOCALS = "drums", "vocals"
SILENCE_DB = -120.0


def profile(
    stems_SCT: Samples,
    *,
    track_id: str,
    split: str,
    sources: Sequence[str],
    sample_rate: int,
    min_sounding: float = MIN_SOUNDING,
) -> Profile:
    """Beats from the drums (or the mixture where they rest), chroma from what is neither drums nor vocals.

    A song whose only pitched stem is the voice has the chroma of its voice.
    """
    mono_ST = stems_SCT.mean(axis=1)
    mixture_T = mono_ST.sum(axis=0)
    drums_T = mono_ST[sources.index(DRUMS)] if DRUMS in sources else np.zeros_like(mixture_T)
    pitched = [place for place, source in enumerate(sources) if source not in (DRUMS, VOCALS)]
    harmony_T = mono_ST[pitched].sum(axis=0)
    tones = chroma(harmony_T, sample_rate)
    if not tones and VOCALS in sources:
        tones = chroma(mono_ST[sources.index(VOCALS)], sample_rate)
    name, certainty = key(tones)
    beat = track_beats(drums_T, mixture_T, sample_rate, min_sounding=min_sounding)
    levels = [round(loudness_db(stem_CT, sample_rate), 3) for stem_CT in stems_SCT]
    return Profile(
        track_id=track_id,
        split=split,
        duration_s=stems_SCT.shape[2] / sample_rate,
        tempo_bpm=beat.tempo_bpm,
        tempo_confidence=beat.confidence,
        beats_s=beat.beats_s,
        downbeats_s=beat.downbeats_s,
        chroma=tones,
        key=name,
        key_confidence=certainty,
        loudness_db=dict(zip(sources, levels, strict=True)),
    )


def loudness_db(stem_CT: Samples, sample_rate: int) -> float:
    """RMS over the half seconds that sound (within 20 dB of the loudest), in dBFS; -120 for silence."""
    block = max(1, min(sample_rate // 2, stem_CT.shape[1]))
    usable = stem_CT.shape[1] // block * block
    power = np.square(stem_CT[:, :usable], dtype=np.float64).reshape(stem_CT.shape[0], -1, block).mean(axis=(0, 2))
    if power.size == 0 or power.max() <= 1e-12:
        return SILENCE_DB
    return float(10.0 * np.log10(power[power >= 0.01 * power.max()].mean()))
