"""At which level a network hears: the `normalize` of its config, obeyed by training (`learner.py`) and use alike.

"track": mixtures come with mean 0 and deviation 1 of the mono mix of their whole track, as in all published models;
the estimates are scaled back. "none": they come as they are. Hybrid networks standardize their input once more
inside, for any level; Demucs v2 does not, and fails at a level it was not trained on.
"""

import numbers
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ModelError

Normalization = Literal["track", "none"]
SILENCE = 1e-5  # deviation below which a row of training is left as it is: -100 dBFS
# The mono mix of what is in antiphase says nothing of its level; then this share of the deviation of all channels
# counts. With left and right unrelated the mono mix has 0.71 of it, so ordinary stereo never gets there.
WIDE_SHARE = 0.5


def normalization(model: nn.Module) -> Normalization:
    """That of a model's config; "track" where a config knows none, since all had it, "none" without a config."""
    config = getattr(model, "config", None)
    value: Normalization = "none" if config is None else getattr(config, "normalize", "track")
    return value


def track_statistics(blocks: Iterable[Tensor]) -> tuple[float, float]:
    """Mean and unbiased standard deviation of a track's mono downmix, from its blocks (C, T) in order.

    Of tracks whose channels cancel each other, at least half the deviation of all channels.
    """
    count, mean, squares, wide_squares = 0, 0.0, 0.0, 0.0
    for block_CT in blocks:
        block_CT = finite(block_CT).double()
        mono_T = block_CT.mean(dim=0)
        if not (added := len(mono_T)):
            continue
        block_mean = mono_T.mean().item()
        delta = block_mean - mean
        # Chan et al.'s merge: sums of squares of whole songs would lose digits.
        between = delta**2 * count * added / (count + added)
        squares += (mono_T - block_mean).square().sum().item() + between
        wide_squares += (block_CT - block_mean).square().sum().item() / len(block_CT) + between
        mean += delta * added / (count + added)
        count += added
    if count < 2:
        return mean, 0.0
    return mean, max(squares, WIDE_SHARE**2 * wide_squares) ** 0.5 / (count - 1) ** 0.5


def check_statistics(mean: float, std: float) -> None:
    """ModelError unless a track can have these; a deviation of 0 is that of silence."""
    given: dict[str, Any] = {"mean": mean, "std": std}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real | Tensor):
            raise ModelError(f"{name} must be a number, got {value!r}")
    if not all(abs(value) <= torch.finfo(torch.float32).max for value in (mean, std)):
        raise ModelError(f"mean and std must be finite, got mean={mean} and std={std}")
    if std < 0:
        raise ModelError(f"std must be >= 0, got {std}")


def unit_level(sources_BSCT: Tensor) -> Tensor:
    """Each row of stems divided by the deviation of its mixture, measured as in `track_statistics`."""
    mixture_BCT = sources_BSCT.sum(dim=1)
    mono_BT = mixture_BCT.mean(dim=1)
    mean_B1 = mono_BT.mean(dim=-1, keepdim=True)
    power_B = (mono_BT - mean_B1).square().mean(dim=-1)
    wide_B = (mixture_BCT - mean_B1[:, None]).square().mean(dim=(1, 2))
    level_B = torch.maximum(power_B, WIDE_SHARE**2 * wide_B).sqrt()
    return sources_BSCT / torch.where(level_B > SILENCE, level_B, 1)[:, None, None, None]


def finite(samples: Tensor) -> Tensor:
    """Samples that are not finite as silence."""
    return torch.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
