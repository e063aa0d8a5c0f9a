"""Augmentation: each change does what it says, and nothing depends on how a batch is split among workers."""

import pytest
import torch
from torch import Tensor

from models.augment import augment
from models.errors import ModelError
from models.recipe import AugmentConfig

NONE = AugmentConfig(
    shift_s=0.0, flip_channels=False, flip_sign=False, scale_probability=0.0, remix_probability=0.0, remix_group=1
)


def with_only(**changes: float | bool) -> AugmentConfig:
    fields = {name: getattr(NONE, name) for name in NONE.__dataclass_fields__}
    return AugmentConfig(**(fields | changes))  # type: ignore[arg-type]


def batch(num_rows: int = 8, num_samples: int = 40) -> Tensor:
    return torch.randn(num_rows, 3, 2, num_samples, generator=torch.Generator().manual_seed(0))


def run(sources_BSCT: Tensor, config: AugmentConfig, *, step: int = 0, first: int = 0, shift: int = 0) -> Tensor:
    rows = range(first, first + len(sources_BSCT))
    return augment(sources_BSCT, config, seed=1, step=step, rows=rows, shift_samples=shift)


def test_with_everything_off_nothing_changes() -> None:
    assert torch.equal(run(batch(), NONE), batch())


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_does_not_change_the_batch(workers: int) -> None:
    config = AugmentConfig(remix_group=2)
    whole = run(batch(), config, step=7, shift=9)
    share = 8 // workers
    parts = [run(batch()[first : first + share], config, step=7, first=first, shift=9) for first in range(0, 8, share)]
    assert torch.equal(torch.cat(parts), whole)


def test_steps_differ_and_repeat() -> None:
    config = AugmentConfig()
    assert torch.equal(run(batch(), config, step=3), run(batch(), config, step=3))
    assert not torch.equal(run(batch(), config, step=3), run(batch(), config, step=4))


def test_shift_starts_each_stem_at_a_place_of_its_own() -> None:
    ramp = torch.arange(40.0).expand(8, 3, 2, 40)
    shifted = run(ramp, NONE, shift=9)
    assert shifted.shape == (8, 3, 2, 31)
    starts_BSC = shifted[..., 0]
    assert torch.equal(shifted - starts_BSC[..., None], torch.arange(31.0).expand_as(shifted))
    assert torch.equal(starts_BSC[..., 0], starts_BSC[..., 1])
    assert {0.0, 9.0} <= set(starts_BSC.flatten().tolist()) <= set(map(float, range(10)))


def test_flips_swap_channels_and_signs_of_about_half_of_the_stems() -> None:
    before = batch(64)
    channels = run(before, with_only(flip_channels=True))
    swapped = (channels == before.flip(2)).flatten(2).all(-1)
    kept = (channels == before).flatten(2).all(-1)
    assert (swapped ^ kept).all()
    assert 0.35 < swapped.float().mean() < 0.65
    signs = run(before, with_only(flip_sign=True)) / before
    assert 0.35 < (signs < 0).float().mean() < 0.65
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))


def test_scale_keeps_to_its_range_and_its_probability() -> None:
    config = with_only(scale_probability=0.5)
    gains = torch.stack([(run(batch(), config, step=step) / batch())[:, :, 0, 0] for step in range(40)])
    scaled = (gains - 1).abs().flatten(1).max(dim=1).values > 1e-3
    assert 0.25 < scaled.float().mean() < 0.75
    assert gains.min() >= 0.25 - 1e-5
    assert gains.max() <= 1.25 + 1e-5


def test_remix_exchanges_stems_inside_their_group_only() -> None:
    before = batch()
    mixed = run(before, with_only(remix_probability=1.0, remix_group=4))
    for source in range(3):
        for group in (slice(0, 4), slice(4, 8)):
            old = sorted(before[group, source, 0, 0].tolist())
            assert sorted(mixed[group, source, 0, 0].tolist()) == old
    assert not torch.equal(mixed, before)


def test_remixing_a_batch_of_one_changes_nothing() -> None:
    assert torch.equal(run(batch(1), with_only(remix_probability=1.0)), batch(1))


def test_turning_one_change_off_leaves_the_others_as_they_were() -> None:
    both = run(batch(), with_only(flip_sign=True, flip_channels=True))
    signs = run(batch(), with_only(flip_sign=True))
    assert torch.equal(both.sum(dim=2).sign(), signs.sum(dim=2).sign())


def test_what_cannot_be_augmented_is_refused() -> None:
    with pytest.raises(ModelError, match="whole groups of consecutive rows"):
        run(batch(2), with_only(remix_probability=1.0, remix_group=4))
    with pytest.raises(ModelError, match="cannot be shifted by 40"):
        run(batch(), NONE, shift=40)
    with pytest.raises(ModelError, match="row numbers"):
        augment(batch(), NONE, seed=0, step=0, rows=[1], shift_samples=0)
    with pytest.raises(ModelError, match="scale_min"):
        AugmentConfig(scale_min=0.0)
