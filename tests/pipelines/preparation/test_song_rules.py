"""What one song's verdict says: what could not be judged is told, and is no pass."""

from typing import Any

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.quality.measures import StemStatistics
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from datasets.shards.manifests import Song
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.signal_stats import SongStats
from pipelines.preparation.song_rules import JudgedSong, judged
from tests.datasets import corruptions

RATE = 32000


def _judged(stems_SCT: Samples, mixture_CT: Samples | None = None, **rules: Any) -> JudgedSong:
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT, mixture_CT)
    stats = SongStats(
        measures=meter.measures(), moments=meter.worst(), signature=meter.signature(),
        stem_signatures=meter.stem_signatures(),
    )  # fmt: skip
    song = Song(
        track_id="a", title="a", split="train", sample_rate=RATE, channels=2, num_samples=stems_SCT.shape[2],
        chunk_samples=RATE, first_row=0, num_chunks=1, path="",
    )  # fmt: skip
    return judged(song, stats, CurateConfig(min_presence=0, **rules), SOURCES)


def _sound(seconds: float) -> Samples:
    """Plucked notes in every stem."""
    rng, length = row_rng(8, "song"), round(seconds * RATE)
    time_T = np.arange(length) / RATE
    hertz_ST = np.repeat(rng.uniform(200, 2000, (4, round(4 * seconds) + 1)), RATE // 4, axis=1)[:, :length]
    stems_ST = 0.2 * np.sin(2 * np.pi * np.cumsum(hertz_ST, axis=1) / RATE) * np.exp(-6 * (time_T % 0.25))
    return np.repeat(stems_ST[:, None], 2, axis=1).astype(np.float32)


def test_a_song_that_is_too_short_for_a_rule_says_so() -> None:
    brief = _judged(_sound(0.4), _sound(0.4).sum(axis=0)).remark
    assert "too short to be compared with the mixture" in brief
    assert "too short to judge the names of: drums, bass, other, vocals" in brief
    assert "too short to be recognized as a copy, which takes 8 landmarks" in brief
    stems_SCT = _sound(12.0)
    assert _judged(stems_SCT).remark == ""
    stems_SCT[1, :, 5 * RATE :] = 0
    assert _judged(stems_SCT).remark == "too short to judge hum, which takes 8 s of sound: bass"
    stems_SCT[1] = 0  # a silent stem is not short
    assert _judged(stems_SCT).remark == ""


def test_a_clipped_stem_is_not_called_flattened_as_well() -> None:
    stems_SCT = _sound(12.0)
    planted_CT = corruptions.clip(stems_SCT[2:3], row_rng(5, "clip"), share=0.05).stems_SCT[0]
    planted_CT[:, 6 * RATE :] *= 0.99  # at one level throughout it might be a synthesizer
    for limit, reason, remarked in ((0.0001, "clipped", False), (1.0, "", True)):
        item = _judged(np.stack([*stems_SCT[:2], planted_CT, stems_SCT[3]]), max_clipped=limit)
        assert item.reason == reason
        assert ("flattened" in item.remark) == remarked


def test_what_is_odd_about_a_stem_is_told_of_a_kept_song_until_it_is_a_rule() -> None:
    stems_SCT = _sound(3.0)
    stems_SCT[[0, 2], 1] = 0.5 * np.roll(stems_SCT[[0, 2], 1], 40, axis=-1)
    item = _judged(stems_SCT)
    assert "vocals: mono, while drums and other are in stereo" in item.remark
    assert item.reason != "mono"
    strict = _judged(stems_SCT, drop_for=("mono",), max_label_odds=1000.0)
    assert (strict.reason, strict.detail[:12]) == ("mono", "vocals: mono")
    assert strict.detail.endswith("allowed by curate.drop_for=[]")
    assert "mono" not in strict.remark
