"""One song's profile out of its stems: what `mixing/mixplan.py` needs to know to match it with others."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datasets.analysis.beats import Beats, beats
from datasets.analysis.harmony import chromagram, key, shares
from datasets.analysis.librosa_analysis import beats_and_chroma
from datasets.analysis.vocal_activity import RANGE_DB, singing_spans
from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import mono
from datasets.schema import Profile

DRUMS, VOCALS = "drums", "vocals"
SILENCE_DB = -120.0
# Below, no key is named: of songs for fitting, keys scored 0.46 to 0.77 there (mir_eval), and 0.92 and more above.
MIN_KEY_CONFIDENCE = 0.2


def profile(
    stems_SCT: Samples,
    *,
    track_id: str,
    split: str,
    sources: Sequence[str],
    sample_rate: int,
    singing_range_db: float = RANGE_DB,
    method: Literal["stemline", "librosa"] = "stemline",
) -> Profile:
    """Beats, chroma and tuning by ours or by librosa; singing and loudness from the stems, whatever the method."""
    vocals_CT = stems_SCT[sources.index(VOCALS)] if VOCALS in sources else np.zeros((1, 0), dtype=np.float32)
    analyze = _by_librosa if method == "librosa" else _by_ours
    beat, tones, tuning_cents = analyze(stems_SCT, sources, sample_rate)
    name, certainty = key(tones)
    levels = [round(loudness_db(stem_CT, sample_rate), 3) for stem_CT in stems_SCT]
    return Profile(
        track_id=track_id,
        split=split,
        duration_s=stems_SCT.shape[2] / sample_rate,
        tempo_bpm=beat.tempo_bpm,
        tempo_confidence=beat.confidence,
        phase_confidence=beat.phase_confidence,
        beats_s=beat.beats_s,
        downbeats_s=beat.downbeats_s,
        downbeat_confidence=beat.downbeat_confidence,
        chroma=tones,
        key=name if certainty >= MIN_KEY_CONFIDENCE else "",
        key_confidence=certainty,
        tuning_cents=round(tuning_cents, 2),
        vocals_s=singing_spans(vocals_CT, sample_rate, range_db=singing_range_db),
        loudness_db=dict(zip(sources, levels, strict=True)),
    )


def _by_ours(stems_SCT: Samples, sources: Sequence[str], sample_rate: int) -> tuple[Beats, tuple[float, ...], float]:
    """Beats from the mixture and its parts, chroma and tuning from what is neither drums nor vocals.

    Beats are heard better in the mixture than in the drums alone, where those rest or play around the beat
    (docs/log.md); which of two readings is on the beat is heard better with both parts apart. A song whose only pitched
    stem is the voice has the chroma of its voice.
    """
    pitched_CT = _pitched(stems_SCT, sources)
    parts = (stems_SCT[sources.index(DRUMS)], pitched_CT) if DRUMS in sources else ()
    chroma_ND, tuning_cents = chromagram(pitched_CT, sample_rate)
    if not chroma_ND.any() and VOCALS in sources:
        chroma_ND, tuning_cents = chromagram(stems_SCT[sources.index(VOCALS)], sample_rate)
    pulse = beats(stems_SCT.sum(axis=0), sample_rate, chroma_ND=chroma_ND, parts=parts)
    return pulse, shares(chroma_ND), tuning_cents


def _by_librosa(stems_SCT: Samples, sources: Sequence[str], sample_rate: int) -> tuple[Beats, tuple[float, ...], float]:
    """As the recipe has it, of mono."""
    mono_ST = mono(stems_SCT)
    mixture_T, pitched_T = mono_ST.sum(axis=0), _pitched(mono_ST, sources)
    drums_T = mono_ST[sources.index(DRUMS)] if DRUMS in sources else np.zeros_like(mixture_T)
    return beats_and_chroma(drums_T, pitched_T, mixture_T, sample_rate)


def _pitched(stems: Samples, sources: Sequence[str]) -> Samples:
    """The sum of what is neither drums nor vocals."""
    chosen = [stem for stem, source in zip(stems, sources, strict=True) if source not in (DRUMS, VOCALS)]
    return np.add.reduce(chosen) if chosen else np.zeros_like(stems[0])


def loudness_db(stem_CT: Samples, sample_rate: int) -> float:
    """RMS over the half seconds that sound (within 20 dB of the loudest), in dBFS; -120 for silence."""
    block = max(1, min(sample_rate // 2, stem_CT.shape[1]))
    count = stem_CT.shape[1] // block
    blocks = stem_CT[:, : count * block].reshape(stem_CT.shape[0], count, block)
    power = np.einsum("cnb,cnb->n", blocks, blocks).astype(np.float64) / (stem_CT.shape[0] * block)
    if power.size == 0 or power.max() <= 1e-12:
        return SILENCE_DB
    return float(10.0 * np.log10(power[power >= 0.01 * power.max()].mean()))
