"""Which of a training's weights are best: the present ones and their averages, scored on songs that are held out.

Their estimates of a few seconds of the first of these songs are returned too, as an example to listen to. What all this
takes of a training's time can be asked before it is started.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets.seeding import spread
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song
from pipelines.runs.example_estimates import Example

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from datasets.audio.audio_types import Samples
    from models.learning.learner import Learner
    from pipelines.training.train_config import Job, Session, TrainConfig


MAX_ROWS_AT_ONCE = 8  # segments of a song that a GPU separates at once
MAX_SHARE = 0.05  # of a training's time, beyond which `stemline plan` warns
SONG_S = 240.0  # of whole songs: about the mean of MUSDB18's
OVERLAP = 0.25  # of segments
# Of the time that a row takes forwards and backwards: a third of the arithmetic, and 203 of 507 GB of memory traffic in
# a step of HT Demucs in bfloat16, by count.
FORWARD_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """What is scored of one song."""

    song: Song
    start: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSongs:
    """What candidate weights are scored on."""

    excerpts: tuple[Excerpt, ...]
    held_out: bool  # else they were trained on: that tells a good average from a bad one, and no more


def select_songs(job: "Job") -> ValidationSongs:
    """The middle of songs from all over the valid split; of the train split where the valid split is empty."""
    config, keep = job.config, job.keep
    songs = {
        split: {
            song.track_id: song
            for chunks, _ in job.chunks
            for song in read_songs(chunks)
            if song.split == split and (keep is None or song.track_id in keep)
        }
        for split in ("valid", "train")
    }
    split = "valid" if songs["valid"] else "train"
    excerpts = []
    for track_id in spread(songs[split])[: config.valid_songs]:
        song = songs[split][track_id]
        wanted = round(config.valid_s * song.sample_rate) or song.num_samples
        num_samples = min(wanted, song.num_samples)
        excerpts.append(Excerpt(song=song, start=(song.num_samples - num_samples) // 2, num_samples=num_samples))
    return ValidationSongs(excerpts=tuple(excerpts), held_out=split == "valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """How some weights scored."""

    nsdr: float  # dB, mean over songs and sources, by their weights in the loss
    example: Example | None  # of the first song; the first worker's alone


def score_candidates(
    learner: "Learner", excerpts: Sequence[Excerpt], session: "Session", *, example_s: float
) -> dict[str, CandidateScore]:
    """The scores of the present weights, "raw", and of each average, as stored.

    Without the shift trick: the same weights always score the same. Workers share the excerpts, and each is read once,
    while the one before is separated.
    """
    import torch
    import torch.distributed

    from models.host_to_device import upload
    from models.learning.learner import unwrap
    from models.networks.bag import interface

    network = unwrap(learner.model)
    averages = {average.name: average for average in learner.averages if average.count}
    names, sources = ("raw", *averages), interface(network).sources
    totals = torch.zeros(len(names), dtype=torch.float64, device=session.device)
    examples = dict[str, Example]()
    for excerpt, stems in _read_ahead(excerpts[session.rank :: session.world_size], sources):
        stems_SCT = upload(torch.from_numpy(stems), session.device)
        for place, name in enumerate(names):
            with averages[name].swap(network) if name in averages else nullcontext(), learner.quantized():
                score, estimates_SCT = _score(learner, stems_SCT)
            totals[place] += score
            if excerpt is excerpts[0] and example_s:
                examples[name] = _middle(excerpt, stems_SCT, estimates_SCT, sources, example_s)
    if session.world_size > 1:
        torch.distributed.all_reduce(totals)
    return {
        name: CandidateScore(nsdr=total / len(excerpts), example=examples.get(name))
        for name, total in zip(names, totals.tolist(), strict=True)
    }


def _read_ahead(excerpts: Sequence[Excerpt], sources: tuple[str, ...]) -> "Iterator[tuple[Excerpt, Samples]]":
    """Each excerpt with its stems (S, C, T); a thread reads the next one meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="excerpts") as thread:

        def begin(excerpt: Excerpt) -> "Future[Samples]":
            return thread.submit(
                read_song, excerpt.song, sources=sources, start=excerpt.start, num_samples=excerpt.num_samples
            )

        following = begin(excerpts[0]) if excerpts else None
        for place, excerpt in enumerate(excerpts):
            assert following is not None
            stems = following.result()
            following = begin(excerpts[place + 1]) if place + 1 < len(excerpts) else None
            yield excerpt, stems


def _score(learner: "Learner", stems_SCT: "Tensor") -> "tuple[Tensor, Tensor]":
    """The model's score on one excerpt, mean over sources by their weights in the loss, and its estimates (S, C, T)."""
    from models.inference.separate import separate
    from models.learning.learner import unwrap
    from models.learning.losses import weighted_mean
    from models.mixed_precision import DTYPES
    from models.scores.metrics import nsdr

    estimates_SCT = separate(
        unwrap(learner.model),
        stems_SCT.sum(dim=0),
        device=stems_SCT.device,
        dtype=DTYPES[learner.config.precision],
        overlap=OVERLAP,
        batch_size=rows_at_once(learner, stems_SCT.device),
    )
    return weighted_mean(nsdr(stems_SCT, estimates_SCT), learner.config.source_weights), estimates_SCT


def rows_at_once(learner: "Learner", device: "torch.device") -> int:
    """Segments that are separated at once: as many as a GPU trains with, and one on a CPU, which needs no more."""
    return 1 if device.type == "cpu" else min(learner.rows_at_once or MAX_ROWS_AT_ONCE, MAX_ROWS_AT_ONCE)


def _middle(
    excerpt: Excerpt, stems_SCT: "Tensor", estimates_SCT: "Tensor", sources: tuple[str, ...], example_s: float
) -> Example:
    rate = excerpt.song.sample_rate
    num_samples = min(excerpt.num_samples, max(1, round(example_s * rate)))
    piece = slice((excerpt.num_samples - num_samples) // 2, (excerpt.num_samples + num_samples) // 2)
    return Example(
        references_SCT=stems_SCT[..., piece].cpu().numpy(),
        estimates_SCT=estimates_SCT[..., piece].cpu().numpy(),
        sources=sources,
        sample_rate=rate,
    )


def num_candidates(config: "TrainConfig") -> int:
    """How many weights are scored: the present ones and their averages."""
    return 1 + len(config.learner.ema_decays) + len(config.learner.epoch_ema_decays)


def excerpt_s(config: "TrainConfig") -> float:
    """How long an excerpt is, 0 where none is scored; of whole songs, whose lengths are not known yet, the usual."""
    return (config.valid_s or SONG_S) if config.valid_songs else 0.0


def planned_s(config: "TrainConfig", *, segment_s: float, row_step_s: float, song_core_s: float) -> float:
    """Seconds of one validation, on the worker with most of the songs.

    `row_step_s` is what a row takes of a step, `song_core_s` what one core takes to read a second of a song: it reads
    the next excerpt while all candidates separate the present one.
    """
    length_s = excerpt_s(config)
    excerpts = math.ceil(config.valid_songs / max(1, config.num_workers))
    rows = num_candidates(config) * math.ceil(length_s / ((1 - OVERLAP) * segment_s))
    separate_s, read_s = rows * FORWARD_SHARE * row_step_s, length_s * song_core_s
    return excerpts * max(separate_s, read_s) + min(separate_s, read_s)


def steps_between(*, validation_s: float, step_s: float) -> int:
    """The least `train.checkpoint_every` with which validation takes at most `MAX_SHARE` of the time."""
    return math.ceil(validation_s * (1 - MAX_SHARE) / MAX_SHARE / step_s)
