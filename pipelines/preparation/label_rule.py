"""What a model hears in every stem of a song alone: the label rule of the HT Demucs paper (Rouard et al. 2023).

Stem i of a song is the model's whole input. P[i, j] is the share of the seconds in which stem i sounds where the
model's output j is at most 10 dB quieter than the stem itself. A song whose labels are right has P[i, i] > 70 % and
P[i, j] < 30 %. Plain functions on one song; `label_check.py` runs them over many.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples, to_channels
from datasets.audio.resampling import resample_blocks
from datasets.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Decibels = NDArray[np.float32]
Shares = NDArray[np.float64]

_FLOOR_DB = -120.0
_OVERLAP = 0.1  # of segments; a second's level needs no smoother joints, and 0.25 would cost a fifth more


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Mean powers per whole second n in dBFS; a song shorter than a second counts as one."""

    own_NS: Decibels  # of stem s
    heard_NSS: Decibels  # of the model's output j (last axis) for stem i alone


def levels_of(
    model: "nn.Module",
    read: Callable[[str], Iterator[Samples]],
    *,
    sources: Sequence[str],
    sample_rate: int,
    batch_size: int = 1,
    device: str = "cpu",
) -> Levels:
    """What the model makes of each stem of a song, per second and in the order of `sources`.

    `read` gives a stem (C, T) in blocks, at `sample_rate`. It is asked twice for each, for the statistics and for
    the network, so memory does not grow with the song.
    """
    import torch

    from models.inference.separate import input_statistics, separate_stream
    from models.networks.bag import interface

    shape = interface(model)
    order = [shape.sources.index(source) for source in sources]

    def stem(source: str) -> Iterator[Samples]:
        blocks = (to_channels(block_CT, shape.audio_channels) for block_CT in read(source))
        return resample_blocks(blocks, source_rate=sample_rate, target_rate=shape.sample_rate)

    own, output_levels = [], []
    for source in sources:
        whole, outputs = _Seconds(shape.sample_rate), _Seconds(shape.sample_rate)
        mean, std = input_statistics(model, (torch.from_numpy(whole.add(block_CT)) for block_CT in stem(source)))
        for estimates_SCT in separate_stream(
            model,
            map(torch.from_numpy, stem(source)),
            mean=mean,
            std=std,
            overlap=_OVERLAP,
            batch_size=batch_size,
            device=device,
        ):
            outputs.add(estimates_SCT.cpu().numpy()[order])
        own.append(whole.levels()[:, 0])
        output_levels.append(outputs.levels())
    levels = Levels(own_NS=np.stack(own, axis=1), heard_NSS=np.stack(output_levels, axis=1))
    if not np.isfinite(levels.heard_NSS).all():
        raise InputError("the model's estimates hold NaN or infinite samples; set curate.model to another checkpoint")
    return levels


class _Seconds:
    """Mean powers per second of audio that comes in blocks of any length."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.rest: Samples | None = None
        self.powers: list[NDArray[np.float64]] = []

    def add(self, block: Samples) -> Samples:
        """Hear a block of (C, T) or (S, C, T), and hand it on."""
        joined = block if self.rest is None else np.concatenate([self.rest, block], axis=-1)
        whole = joined.shape[-1] // self.sample_rate
        cut = whole * self.sample_rate
        seconds = joined[..., :cut].reshape(*joined.shape[:-1], whole, self.sample_rate)
        self.powers += list(_power(np.moveaxis(seconds, -2, 0)))
        self.rest = joined[..., cut:].copy()
        return block

    def levels(self) -> Decibels:
        """dBFS of whole seconds, shape (N, S); what is shorter than one counts as one."""
        powers = self.powers or ([] if self.rest is None or not self.rest.size else list(_power(self.rest[None])))
        return (10 * np.log10(np.maximum(np.stack(powers), 10 ** (_FLOOR_DB / 10)))).astype(np.float32)


def _power(seconds_NSCT: Samples) -> NDArray[np.float64]:
    """Mean squares over channels and samples, (N, S) of (N, S, C, T), (N, 1) of (N, C, T)."""
    power: NDArray[np.float64] = np.square(seconds_NSCT, dtype=np.float64).mean(axis=(-2, -1))
    return power if seconds_NSCT.ndim == 4 else power[:, None]


def matrix(levels: Levels, *, silence_db: float, heard_db: float) -> Shares:
    """P[i, j], shares from 0 to 1; a row of NaN where stem i never sounds."""
    present_NS = levels.own_NS > silence_db
    heard_NSS = (levels.heard_NSS - levels.own_NS[:, :, None] > heard_db) & present_NS[:, :, None]
    with np.errstate(invalid="ignore"):
        shares_SS: Shares = heard_NSS.sum(axis=0) / present_NS.sum(axis=0)[:, None]
    return shares_SS


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A stem that the model does not hear as what it is called, or hears as something else too."""

    source: str  # what the stem is called
    predicted_as: str  # what the model hears most, other than that
    self_share: float  # share of its seconds heard as what it is called
    other_share: float  # share of its seconds heard as `predicted_as`


def confusions(shares_SS: Shares, *, sources: Sequence[str], min_own: float, max_foreign: float) -> list[Confusion]:
    """The stems that break the rule; those that never sound break none."""
    confused = []
    for index, source in enumerate(sources):
        own, others = float(shares_SS[index, index]), np.delete(shares_SS[index], index)
        other_share = float(others.max(initial=0.0))
        if np.isnan(own) or (own > min_own and other_share < max_foreign):
            continue
        predicted_as = [name for name in sources if name != source][int(others.argmax())] if len(others) else ""
        confused.append(Confusion(source=source, predicted_as=predicted_as, self_share=own, other_share=other_share))
    return confused


def in_words(confusions: Sequence[Confusion], *, max_foreign: float) -> str:
    """The confusions as a sentence; two that point at each other are called swapped."""
    phrases = []
    clear = {
        confusion.source: confusion.predicted_as
        for confusion in confusions
        if confusion.other_share >= max_foreign and confusion.other_share > confusion.self_share
    }
    swapped = sorted({tuple(sorted((a, b))) for a, b in clear.items() if clear.get(b) == a})
    phrases += [f"{first} and {second} look swapped" for first, second in swapped]
    for confusion in confusions:
        if confusion.other_share >= max_foreign:
            own = f", as {confusion.source} in {confusion.self_share:.0%}"
            phrases.append(
                f"the stem called {confusion.source} is heard as {confusion.predicted_as} in "
                f"{confusion.other_share:.0%} of seconds{own}"
            )
        else:
            phrases.append(
                f"the stem called {confusion.source} is heard as {confusion.source} in only "
                f"{confusion.self_share:.0%} of seconds"
            )
    return "; ".join(phrases)


def worst_second(levels: Levels, *, index: int, predicted_as: int, silence_db: float) -> int:
    """The second in which stem `index` sounds and the model hears most of another source in it."""
    own_N, heard_N = levels.own_NS[:, index], levels.heard_NSS[:, index]
    excess_N = heard_N[:, predicted_as] - heard_N[:, index]
    return int(np.where(own_N > silence_db, excess_N, -np.inf).argmax())
