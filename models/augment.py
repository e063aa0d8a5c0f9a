"""Random changes to a batch of stems, before they are summed into mixtures.

Every number drawn depends on (seed, step, row of the global batch) and on nothing else, so a batch is augmented
alike however many workers share it.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import ModelError
from .recipe import AugmentConfig


def augment(
    sources_BSCT: Tensor, config: AugmentConfig, *, seed: int, step: int, rows: Sequence[int], shift_samples: int
) -> Tensor:
    """Shifted, flipped, scaled and remixed stems, `shift_samples` shorter than what came in; a new tensor.

    `rows` are the places of this batch's rows in the global batch. Remixing needs whole groups of
    `config.remix_group` consecutive rows.
    """
    if len(rows) != len(sources_BSCT):
        raise ModelError(f"{len(sources_BSCT)} rows of audio, but {len(rows)} row numbers")
    num_sources, num_samples = sources_BSCT.shape[1], sources_BSCT.shape[-1] - shift_samples
    if num_samples < 1:
        raise ModelError(f"segments of {sources_BSCT.shape[-1]} samples cannot be shifted by {shift_samples}")
    draws = [_draw_row(config, num_sources, shift_samples, seed=seed, step=step, row=row) for row in rows]
    sources_BSCT = _shift(sources_BSCT, torch.stack([draw.offset_S for draw in draws]), num_samples)
    sources_BSCT = _flip(sources_BSCT, torch.stack([draw.flip_S for draw in draws]))
    batch_generator = generator(seed, step, "batch")
    scaled, remixed = torch.rand(2, generator=batch_generator).tolist()
    gain_BS = torch.stack([draw.sign_S * (draw.gain_S if scaled < config.scale_probability else 1) for draw in draws])
    sources_BSCT = sources_BSCT * gain_BS.to(sources_BSCT)[..., None, None]
    if config.remix_group > 1 and remixed < config.remix_probability:
        sources_BSCT = _remix(sources_BSCT, config.remix_group, seed=seed, step=step, rows=rows)
    return sources_BSCT


def generator(*parts: int | str) -> torch.Generator:
    """A generator seeded by all the parts together; neighbouring integers give unrelated streams."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class _Draw(NamedTuple):
    """What was drawn for one row, per source."""

    offset_S: Tensor
    flip_S: Tensor
    sign_S: Tensor
    gain_S: Tensor


def _draw_row(config: AugmentConfig, num_sources: int, shift_samples: int, *, seed: int, step: int, row: int) -> _Draw:
    """Everything is drawn, used or not, so that turning one augmentation off leaves the others as they were."""
    dice = generator(seed, step, "row", row)
    offset_S = torch.randint(shift_samples + 1, (num_sources,), generator=dice)
    flip_S = torch.rand(num_sources, generator=dice) < 0.5
    negative_S = torch.rand(num_sources, generator=dice) < 0.5
    gain_S = config.scale_min + (config.scale_max - config.scale_min) * torch.rand(num_sources, generator=dice)
    sign_S = torch.where(negative_S & config.flip_sign, -1.0, 1.0)
    return _Draw(offset_S, flip_S & config.flip_channels, sign_S, gain_S)


def _shift(sources_BSCT: Tensor, offset_BS: Tensor, num_samples: int) -> Tensor:
    if num_samples == sources_BSCT.shape[-1]:
        return sources_BSCT
    index_BS1T = offset_BS[..., None, None] + torch.arange(num_samples)
    index_BSCT = index_BS1T.to(sources_BSCT.device).expand(*sources_BSCT.shape[:3], num_samples)
    return sources_BSCT.gather(-1, index_BSCT)


def _flip(sources_BSCT: Tensor, flip_BS: Tensor) -> Tensor:
    return torch.where(flip_BS.to(sources_BSCT.device)[..., None, None], sources_BSCT.flip(2), sources_BSCT)


def _remix(sources_BSCT: Tensor, group: int, *, seed: int, step: int, rows: Sequence[int]) -> Tensor:
    """Each source changes places among the rows of its group, by a permutation of its own."""
    num_rows, num_sources = sources_BSCT.shape[:2]
    firsts = list(rows[::group])
    expected = [first + place for first in firsts for place in range(group)]
    if list(rows) != expected or any(first % group for first in firsts):
        raise ModelError(f"remixing in groups of {group} needs whole groups of consecutive rows, got rows {list(rows)}")
    index_BS = torch.empty(num_rows, num_sources, dtype=torch.long)
    for start, first in zip(range(0, num_rows, group), firsts, strict=True):
        dice = generator(seed, step, "group", first)
        order_GS = torch.stack([torch.randperm(group, generator=dice) for _ in range(num_sources)], dim=1)
        index_BS[start : start + group] = start + order_GS
    index_BS = index_BS.to(sources_BSCT.device)
    return sources_BSCT[index_BS, torch.arange(num_sources, device=sources_BSCT.device)]
