"""The report's examples of augmentation: one excerpt unchanged, and after each effect at its strongest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from datasets.audio.audio_types import Samples
from datasets.audio.resampling import resample
from datasets.schema import ShardSet
from datasets.seeding import spread
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song
from models.learner_config import REPITCH_MARGIN, AugmentConfig
from pipelines.report.audio_players import PAGE_RATE, Clip, band_levels, player
from pipelines.report.html_page import render

if TYPE_CHECKING:
    from torch import Tensor

OFF = "off in this run"


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationExample:
    """The mixture of an excerpt after one effect, at `PAGE_RATE`."""

    name: str
    in_this_run: str  # whether this run applies it, and how often
    samples_CT: Samples


def examples(
    chunks: ShardSet, config: AugmentConfig, *, sources: Sequence[str], seconds: float
) -> tuple[AugmentationExample, ...]:
    """An excerpt from the middle of a song of the train split; none without songs or seconds."""
    train_songs = {song.track_id: song for song in read_songs(chunks) if song.split == "train"}
    if not train_songs or seconds <= 0:
        return ()
    songs = [train_songs[track_id] for track_id in spread(train_songs)[:2]]
    import torch

    rate = songs[0].sample_rate
    num_samples = min(round(seconds * rate), songs[0].num_samples)
    rows = [_excerpt(song, sources, num_samples, config) for song in (songs[0], songs[-1])]
    sources_BSCT = torch.from_numpy(np.stack(rows))
    examples = _effects(sources_BSCT, config, num_samples=num_samples)
    return tuple(
        AugmentationExample(
            name=name,
            in_this_run=in_this_run,
            samples_CT=resample(stems_SCT.sum(dim=0).numpy(), source_rate=rate, target_rate=PAGE_RATE),
        )
        for name, in_this_run, stems_SCT in examples
    )


def _excerpt(song: Song, sources: Sequence[str], num_samples: int, config: AugmentConfig) -> Samples:
    """Long enough for the fastest tempo, silence added where the song is too short."""
    longest = round(num_samples * (1 + config.repitch_max_tempo)) + 2 * REPITCH_MARGIN
    start = max(0, (song.num_samples - longest) // 2)
    read_SCT = read_song(song, sources=sources, start=start, num_samples=longest)
    excerpt_SCT = np.zeros((*read_SCT.shape[:2], longest), np.float32)
    excerpt_SCT[:, :, : read_SCT.shape[2]] = read_SCT
    return excerpt_SCT


def _effects(sources_BSCT: "Tensor", config: AugmentConfig, *, num_samples: int) -> "list[tuple[str, str, Tensor]]":
    """Name, use in this run, and stems of each effect."""
    import torch

    from models.learning import effects
    from models.rng import generator

    plain_BSCT = sources_BSCT[..., REPITCH_MARGIN : REPITCH_MARGIN + num_samples]
    stems_SCT, others_SCT = plain_BSCT
    size = len(stems_SCT)
    gain_db_SP = torch.rand(size, effects.EQ_OCTAVES, generator=generator("report")) * 2 - 1
    faster_SCT = effects.repitch(
        sources_BSCT[0],
        tempo=1 + config.repitch_max_tempo,
        semitones=config.repitch_semitones,
        num_samples=num_samples,
        margin=REPITCH_MARGIN,
    )
    worst = [torch.full((size,), least) for least in (effects.CODEC_CUTOFF[0], effects.CODEC_RATIO_DB[0])]
    return [
        ("As it is", "", stems_SCT),
        ("Tempo and pitch", _how_often(config.repitch_probability), faster_SCT),
        ("Equalizer", _how_often(config.eq_probability), effects.equalize(stems_SCT, config.eq_db * gain_db_SP)),
        (
            "Saturation",
            _how_often(config.saturate_probability),
            effects.saturate(stems_SCT, torch.full((size,), config.saturate_db)),
        ),
        ("Codec", _how_often(config.codec_probability), effects.degrade(stems_SCT, *worst)),
        (
            "Stereo width",
            _how_often(config.width_probability),
            effects.widen(stems_SCT, torch.full((size,), config.width_max)),
        ),
        ("Mixup of two songs", _how_often(config.mixup_probability), stems_SCT + others_SCT),
    ]


def _how_often(probability: float) -> str:
    return f"in this run with probability {probability:g}" if probability else OFF


def augmentation_section(examples: Sequence[AugmentationExample]) -> Markup:
    """A player for each effect."""
    if not examples:
        return Markup()
    peak = np.float32(max(1.0, *(float(np.abs(example.samples_CT).max(initial=0.0)) for example in examples)))
    clips = [Clip(source="mixture", kind=example.name, samples_CT=example.samples_CT / peak) for example in examples]
    loudest_db = max(-60.0, float(band_levels(clips[0].samples_CT).max()))
    level = max(1e-3, *(float(np.abs(clip.samples_CT).max(initial=0.0)) for clip in clips))
    players = [
        player(clip, "an excerpt", loudest_db=loudest_db, peak=level, whole=False, preload="none") for clip in clips
    ]
    drawn = [(player, example.in_this_run) for player, example in zip(players, examples, strict=True)]
    return render(
        "report/augmentation.html.j2",
        examples=[item for item in drawn if item[1] != OFF],
        off=[item for item in drawn if item[1] == OFF],
    )
