"""Random changes to a batch of stems, before they are summed into mixtures.

Every number drawn depends on (seed, step, row of the global batch) and on nothing else, so a batch is augmented
alike, up to rounding, however many workers share it. What the sound of a stem goes through is in `effects.py`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from ..host_to_device import upload
from ..learner_config import REPITCH_MARGIN, AugmentConfig
from ..rng import generator
from . import effects


def augment(
    sources_BSCT: Tensor, config: AugmentConfig, *, seed: int, step: int, rows: Sequence[int], shift_samples: int
) -> Tensor:
    """Changed stems, in the order of the fields of `config`, `shift_samples` shorter than what came in.

    Where tempo may change they are shorter again: see `AugmentConfig.input_samples`. `rows` are the places of this
    batch's rows in the global batch. Remixing needs whole groups of `config.remix_group` consecutive rows.
    """
    if len(rows) != len(sources_BSCT):
        raise ModelError(f"{len(sources_BSCT)} rows of audio, but {len(rows)} row numbers")
    num_sources, longest = sources_BSCT.shape[1], config.shifted_samples(sources_BSCT.shape[-1])
    num_samples = longest - shift_samples
    if num_samples < 1:
        raise ModelError(f"segments of {sources_BSCT.shape[-1]} samples cannot be shifted by {shift_samples}")
    rng = _RowRandom(seed=seed, step=step, rows=rows)
    if config.repitch_probability:
        sources_BSCT = _repitch(sources_BSCT, config, rng, num_samples=longest)
    draws = [_draw_row(config, num_sources, shift_samples, seed=seed, step=step, row=row) for row in rows]
    sources_BSCT = _shift(sources_BSCT, torch.stack([draw.offset_S for draw in draws]), num_samples)
    if config.flip_channels:
        sources_BSCT = _flip(sources_BSCT, torch.stack([draw.flip_S for draw in draws]))
    sources_BSCT = _colour(sources_BSCT, config, rng)
    batch_generator = generator(seed, step, "batch")
    scaled, remixed = torch.rand(2, generator=batch_generator).tolist()
    if config.flip_sign or scaled < config.scale_probability:
        gains = [draw.sign_S * (draw.gain_S if scaled < config.scale_probability else 1) for draw in draws]
        sources_BSCT = sources_BSCT * _beside(torch.stack(gains), sources_BSCT)[..., None, None]
    if config.mixup_probability:
        sources_BSCT = _mixup(sources_BSCT, config, rng)
    if config.remix_group > 1 and remixed < config.remix_probability:
        sources_BSCT = _remix(sources_BSCT, config.remix_group, seed=seed, step=step, rows=rows)
    return sources_BSCT


class _Draw(NamedTuple):
    """What was drawn for one row, per source."""

    offset_S: Tensor
    flip_S: Tensor
    sign_S: Tensor
    gain_S: Tensor


def _draw_row(config: AugmentConfig, num_sources: int, shift_samples: int, *, seed: int, step: int, row: int) -> _Draw:
    """Everything is drawn, used or not, so that turning one augmentation off leaves the others as they were."""
    rng = generator(seed, step, "row", row)
    offset_S = torch.randint(shift_samples + 1, (num_sources,), generator=rng)
    offset_S = offset_S[:1].expand(num_sources) if config.shift_together else offset_S
    flip_S = torch.rand(num_sources, generator=rng) < 0.5
    negative_S = torch.rand(num_sources, generator=rng) < 0.5
    gain_S = config.scale_min + (config.scale_max - config.scale_min) * torch.rand(num_sources, generator=rng)
    sign_S = torch.where(negative_S & config.flip_sign, -1.0, 1.0)
    return _Draw(offset_S, flip_S, sign_S, gain_S)


def _shift(sources_BSCT: Tensor, offset_BS: Tensor, num_samples: int) -> Tensor:
    if num_samples == sources_BSCT.shape[-1]:
        return sources_BSCT
    device = sources_BSCT.device
    index_BS1T = upload(offset_BS, device)[..., None, None] + torch.arange(num_samples, device=device)
    return sources_BSCT.gather(-1, index_BS1T.expand(*sources_BSCT.shape[:3], num_samples))


def _flip(sources_BSCT: Tensor, flip_BS: Tensor) -> Tensor:
    return torch.where(upload(flip_BS, sources_BSCT.device)[..., None, None], sources_BSCT.flip(2), sources_BSCT)


class _RowRandom(NamedTuple):
    """Numbers for the rows at hand; what one change draws moves no other's numbers."""

    seed: int
    step: int
    rows: Sequence[int]

    def uniform(self, what: str, *shape: int) -> Tensor:
        """Numbers in [0, 1) of shape (rows, *shape)."""
        return torch.stack(
            [torch.rand(*shape, generator=generator(self.seed, self.step, what, row)) for row in self.rows]
        )

    def normal(self, what: str, *shape: int) -> Tensor:
        return torch.stack(
            [torch.randn(*shape, generator=generator(self.seed, self.step, what, row)) for row in self.rows]
        )


def _repitch(sources_BSCT: Tensor, config: AugmentConfig, rng: _RowRandom, *, num_samples: int) -> Tensor:
    """The first `num_samples` of every row, after a margin; of some rows in another tempo and pitch."""
    out_BSCT = sources_BSCT[..., REPITCH_MARGIN : REPITCH_MARGIN + num_samples].clone()
    chosen_B2 = rng.uniform("repitch", 2)
    tempo_B = (config.repitch_tempo * rng.normal("tempo", 1)[:, 0]).clamp(
        -config.repitch_max_tempo, config.repitch_max_tempo
    )
    for row, (chance, pitch) in enumerate(chosen_B2.tolist()):
        if chance < config.repitch_probability:
            semitones = int(pitch * (2 * config.repitch_semitones + 1)) - config.repitch_semitones
            out_BSCT[row] = effects.repitch(
                sources_BSCT[row],
                tempo=1 + tempo_B[row].item(),
                semitones=semitones,
                num_samples=num_samples,
                margin=REPITCH_MARGIN,
            )
    return out_BSCT


def _colour(sources_BSCT: Tensor, config: AugmentConfig, rng: _RowRandom) -> Tensor:
    """Changes to the sound of single stems."""
    num_sources = sources_BSCT.shape[1]

    def some(what: str, probability: float, effect: Callable[..., Tensor], *parameters_BSP: Tensor) -> Tensor:
        chosen_BS = rng.uniform(what, num_sources) < probability
        if not chosen_BS.any():
            return sources_BSCT
        drawn = [_beside(parameter[chosen_BS], sources_BSCT) for parameter in parameters_BSP]
        # As places: with a mask the host would have to wait for the device to count them.
        row_K, source_K = upload(torch.stack(chosen_BS.nonzero(as_tuple=True)), sources_BSCT.device)
        out_BSCT = sources_BSCT.clone()
        out_BSCT[row_K, source_K] = effect(sources_BSCT[row_K, source_K], *drawn)
        return out_BSCT

    if config.eq_probability:
        gain_BSP = config.eq_db * (2 * rng.uniform("eq gain", num_sources, effects.EQ_OCTAVES) - 1)
        sources_BSCT = some("eq", config.eq_probability, effects.equalize, gain_BSP)
    if config.saturate_probability:
        drive_BS = config.saturate_db * rng.uniform("drive", num_sources)
        sources_BSCT = some("saturate", config.saturate_probability, effects.saturate, drive_BS)
    if config.codec_probability:
        names = {"cutoff": effects.CODEC_CUTOFF, "ratio": effects.CODEC_RATIO_DB}
        cutoff_BS, ratio_BS = (
            low + (high - low) * rng.uniform(name, num_sources) for name, (low, high) in names.items()
        )
        sources_BSCT = some("codec", config.codec_probability, effects.degrade, cutoff_BS, ratio_BS)
    if config.width_probability:
        width_BS = config.width_max * rng.uniform("wide", num_sources)
        sources_BSCT = some("width", config.width_probability, effects.widen, width_BS)
    return sources_BSCT


def _mixup(sources_BSCT: Tensor, config: AugmentConfig, rng: _RowRandom) -> Tensor:
    """Some stems with that of the same source of the next row of their group added, at up to its own loudness."""
    num_sources, group = sources_BSCT.shape[1], config.remix_group
    _check_groups(rng.rows, group)
    chosen_BS = rng.uniform("mixup", num_sources) < config.mixup_probability
    gain_BS = _beside(chosen_BS * rng.uniform("mixup gain", num_sources), sources_BSCT)
    following_BSCT = sources_BSCT.reshape(-1, group, *sources_BSCT.shape[1:]).roll(-1, dims=1).flatten(0, 1)
    return sources_BSCT + gain_BS[..., None, None] * following_BSCT


def _remix(sources_BSCT: Tensor, group: int, *, seed: int, step: int, rows: Sequence[int]) -> Tensor:
    """Each source changes places among the rows of its group, by a permutation of its own."""
    num_rows, num_sources = sources_BSCT.shape[:2]
    firsts = _check_groups(rows, group)
    index_BS = torch.empty(num_rows, num_sources, dtype=torch.long)
    for start, first in zip(range(0, num_rows, group), firsts, strict=True):
        rng = generator(seed, step, "group", first)
        order_GS = torch.stack([torch.randperm(group, generator=rng) for _ in range(num_sources)], dim=1)
        index_BS[start : start + group] = start + order_GS
    index_BS = upload(index_BS, sources_BSCT.device)
    return sources_BSCT[index_BS, torch.arange(num_sources, device=sources_BSCT.device)]


def _beside(drawn: Tensor, sources_BSCT: Tensor) -> Tensor:
    """What was drawn on the host, where the stems are and in their precision."""
    return upload(drawn.to(sources_BSCT.dtype), sources_BSCT.device)


def _check_groups(rows: Sequence[int], group: int) -> list[int]:
    """The first row of each group; every group must be there as a whole, or its rows would need another worker's."""
    firsts = list(rows[::group])
    expected = [first + place for first in firsts for place in range(group)]
    if list(rows) != expected or any(first % group for first in firsts):
        raise ModelError(f"remixing in groups of {group} needs whole groups of consecutive rows, got rows {list(rows)}")
    return firsts
