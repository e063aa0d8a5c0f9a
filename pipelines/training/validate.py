"""Which of a training's weights are best: the present ones and their averages, scored on songs they did not see.

What they make of a few seconds of the first of these songs is handed on, to be listened to.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets.seeding import spread
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song
from pipelines.runs.examples import Example

if TYPE_CHECKING:
    from torch import Tensor

    from models.learning.learner import Learner
    from pipelines.training.train_loop import Job, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is scored of one song."""

    song: Song
    start: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What candidates are scored on."""

    parts: tuple[Part, ...]
    held_out: bool  # else they were trained on: that tells a good average from a bad one, and no more


def material(job: "Job") -> Material:
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
    parts = []
    for track_id in spread(songs[split])[: config.valid_songs]:
        song = songs[split][track_id]
        asked = round(config.valid_s * song.sample_rate) or song.num_samples
        num_samples = min(asked, song.num_samples)
        parts.append(Part(song=song, start=(song.num_samples - num_samples) // 2, num_samples=num_samples))
    return Material(parts=tuple(parts), held_out=split == "valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What was found about some weights."""

    nsdr: float  # dB, mean over songs and sources, by their weights in the loss
    example: Example | None  # of the first song; the first worker's alone


def candidates(learner: "Learner", parts: Sequence[Part], session: "Session", *, example_s: float) -> dict[str, Scored]:
    """What the present weights, "raw", and each average, as stored, make of the songs.

    Without the shift trick: the same weights always score the same.
    """
    from models.learning.learner import unwrap

    network = unwrap(learner.model)
    averages = {average.name: average.swap(network) for average in learner.averages if average.count}
    scores = {}
    for name in ("raw", *averages):
        with averages.get(name, nullcontext()), learner.as_stored():
            scores[name] = _score(learner, parts, session, example_s=example_s)
    return scores


def _score(learner: "Learner", parts: Sequence[Part], session: "Session", *, example_s: float) -> Scored:
    import torch
    import torch.distributed

    from models.inference.separate import layout, separate
    from models.learning.learner import unwrap
    from models.learning.losses import weighted_mean
    from models.scores.metrics import nsdr

    network = unwrap(learner.model)
    total = torch.zeros((), dtype=torch.float64, device=session.device)
    example = None
    for part in parts[session.rank :: session.world_size]:
        stems = read_song(part.song, sources=layout(network).sources, start=part.start, num_samples=part.num_samples)
        stems_SCT = torch.from_numpy(stems)
        estimates_SCT = separate(network, stems_SCT.sum(dim=0), device=session.device)
        total += weighted_mean(nsdr(stems_SCT, estimates_SCT), learner.config.source_weights).to(total)
        if part is parts[0] and example_s:
            example = _middle(part, stems_SCT, estimates_SCT, layout(network).sources, example_s)
    if session.world_size > 1:
        torch.distributed.all_reduce(total)
    return Scored(nsdr=total.item() / len(parts), example=example)


def _middle(
    part: Part, stems_SCT: "Tensor", estimates_SCT: "Tensor", sources: tuple[str, ...], example_s: float
) -> Example:
    rate = part.song.sample_rate
    num_samples = min(part.num_samples, max(1, round(example_s * rate)))
    piece = slice((part.num_samples - num_samples) // 2, (part.num_samples + num_samples) // 2)
    return Example(
        references_SCT=stems_SCT[..., piece].numpy(),
        estimates_SCT=estimates_SCT[..., piece].cpu().numpy(),
        sources=sources,
        sample_rate=rate,
    )
