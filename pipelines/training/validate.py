"""Which of a training's weights are best: the present ones and their averages, scored on songs that are held out.

Their estimates of a few seconds of the first of these songs are returned too, as an example to listen to.
"""

from collections.abc import Sequence
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

    from models.learning.learner import Learner
    from pipelines.training.train_config import Job, Session


MAX_ROWS_AT_ONCE = 8  # segments of a song that a GPU separates at once


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

    Without the shift trick: the same weights always score the same.
    """
    from models.learning.learner import unwrap

    network = unwrap(learner.model)
    averages = {average.name: average.swap(network) for average in learner.averages if average.count}
    scores = {}
    for name in ("raw", *averages):
        with averages.get(name, nullcontext()), learner.quantized():
            scores[name] = _score(learner, excerpts, session, example_s=example_s)
    return scores


def _score(learner: "Learner", excerpts: Sequence[Excerpt], session: "Session", *, example_s: float) -> CandidateScore:
    import torch
    import torch.distributed

    from models.inference.separate import separate
    from models.learning.learner import unwrap
    from models.learning.losses import weighted_mean
    from models.mixed_precision import DTYPES
    from models.networks.bag import interface
    from models.scores.metrics import nsdr

    network = unwrap(learner.model)
    total = torch.zeros((), dtype=torch.float64, device=session.device)
    example = None
    for excerpt in excerpts[session.rank :: session.world_size]:
        stems = read_song(
            excerpt.song, sources=interface(network).sources, start=excerpt.start, num_samples=excerpt.num_samples
        )
        stems_SCT = torch.from_numpy(stems)
        estimates_SCT = separate(
            network,
            stems_SCT.sum(dim=0),
            device=session.device,
            dtype=DTYPES[learner.config.precision],
            batch_size=rows_at_once(learner, session.device),
        )
        total += weighted_mean(nsdr(stems_SCT, estimates_SCT), learner.config.source_weights).to(total)
        if excerpt is excerpts[0] and example_s:
            example = _middle(excerpt, stems_SCT, estimates_SCT, interface(network).sources, example_s)
    if session.world_size > 1:
        torch.distributed.all_reduce(total)
    return CandidateScore(nsdr=total.item() / len(excerpts), example=example)


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
        references_SCT=stems_SCT[..., piece].numpy(),
        estimates_SCT=estimates_SCT[..., piece].cpu().numpy(),
        sources=sources,
        sample_rate=rate,
    )
