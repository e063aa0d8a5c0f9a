"""Augmentation: each change does what it says, and nothing depends on how a batch is split among workers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.errors import ModelError
from models.learner_config import AugmentConfig
from models.learning import effects
from models.learning.augment import augment

NONE = AugmentConfig(
    shift_s=0.0, flip_channels=False, flip_sign=False, scale_probability=0.0, remix_probability=0.0, remix_group=1
)


def with_only(**changes: float | bool) -> AugmentConfig:
    return replace(NONE, **changes)  # type: ignore[arg-type]


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
    assert not torch.equal(starts_BSC[..., 0], starts_BSC[:, :1, 0].expand(8, 3))  # stems of a row differ


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


def test_stems_change_places_in_groups_of_any_size() -> None:
    before = batch(9)
    mixed = run(before, with_only(remix_probability=1.0, remix_group=3), step=1)
    for start in (0, 3, 6):
        old, new = (values[start : start + 3, :, 0, 0].sort(dim=0).values for values in (before, mixed))
        assert torch.equal(old, new)
    assert not torch.equal(mixed, before)


def test_remixing_a_batch_of_one_changes_nothing() -> None:
    assert torch.equal(run(batch(1), with_only(remix_probability=1.0)), batch(1))


def test_turning_one_change_off_leaves_the_others_as_they_were() -> None:
    both = run(batch(), with_only(flip_sign=True, flip_channels=True))
    signs = run(batch(), with_only(flip_sign=True))
    assert torch.equal(both.sum(dim=2).sign(), signs.sum(dim=2).sign())


NEW = ("repitch_probability", "eq_probability", "saturate_probability", "codec_probability", "width_probability")


def test_all_that_demucs_does_not_do_is_off_by_default() -> None:
    config = AugmentConfig()
    assert {getattr(config, name) for name in (*NEW, "mixup_probability", "remix_all")} == {0.0}


@pytest.mark.parametrize("name", [*NEW, "mixup_probability"])
def test_each_change_is_seeded_and_the_same_for_every_number_of_workers(name: str) -> None:
    config = with_only(**{name: 0.5, "remix_group": 2})
    before = batch(4, 12000)
    whole = run(before, config, step=3)
    parts = [run(before[first : first + 2], config, step=3, first=first) for first in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)  # transforms of fewer rows round otherwise
    changed = (whole != before[..., : whole.shape[-1]]).flatten(2).any(-1)
    if name == "repitch_probability":
        changed = (whole != before[..., 2048 : 2048 + whole.shape[-1]]).flatten(1).any(-1)
    assert 0 < changed.sum() < changed.numel()
    assert not torch.equal(run(before, config, step=4), whole)


@pytest.mark.parametrize("tempo", [0.0, 0.12, 0.3])
@pytest.mark.parametrize("segment", [1, 999, 343980])
def test_excerpts_are_read_as_long_as_segments_need_them(segment: int, tempo: float) -> None:
    config = AugmentConfig(repitch_probability=0.2, repitch_max_tempo=tempo, repitch_tempo=0.0)
    read = config.input_samples(segment, 44100)
    assert config.shifted_samples(read) == segment + 44100
    assert AugmentConfig().input_samples(segment, 44100) == segment + 44100


def test_a_repitched_batch_is_as_long_as_the_segment() -> None:
    config = with_only(repitch_probability=1.0, shift_s=0.01)
    read = config.input_samples(5000, 44100)
    mixed = run(batch(2, read), config, shift=441)
    assert mixed.shape[-1] == 5000


@pytest.mark.parametrize(("group", "others"), [(2, (1, 0, 3, 2, 5, 4)), (3, (1, 2, 0, 4, 5, 3))])
def test_mixup_adds_a_quieter_stem_of_the_same_source_from_the_same_group(group: int, others: tuple[int, ...]) -> None:
    before = torch.zeros(6, 3, 2, 8)
    before[torch.arange(6), :, :, torch.arange(6)] = 1.0  # each row sounds at a moment of its own
    after = run(before, with_only(mixup_probability=1.0, remix_group=group))
    for row, other in enumerate(others):
        assert torch.equal(after[row, ..., row], before[row, ..., row])
        assert (after[row, ..., other] > 0).all()
        assert (after[row, ..., other] < 1).all()
    assert after.sum() < 2 * before.sum()


def test_what_cannot_be_augmented_is_refused() -> None:
    with pytest.raises(ModelError, match="whole groups of consecutive rows"):
        run(batch(2), with_only(remix_probability=1.0, remix_group=4))
    for rows in ([1, 2], [0, 2], [1, 0]):
        for name in ("remix_probability", "mixup_probability"):
            config = with_only(**{name: 1.0, "remix_group": 2})
            with pytest.raises(ModelError, match="whole groups of consecutive rows"):
                augment(batch(2), config, seed=0, step=0, rows=rows, shift_samples=0)
    with pytest.raises(ModelError, match="cannot be shifted by 40"):
        run(batch(), NONE, shift=40)
    with pytest.raises(ModelError, match="row numbers"):
        augment(batch(), NONE, seed=0, step=0, rows=[1], shift_samples=0)
    with pytest.raises(ModelError, match="cannot be shifted"):
        run(batch(), with_only(repitch_probability=1.0))
    with pytest.raises(ModelError, match="scale_min"):
        AugmentConfig(scale_min=0.0)
    with pytest.raises(ModelError, match="remix_group must be >= 2"):
        AugmentConfig(mixup_probability=0.5, remix_group=1)
    with pytest.raises(ModelError, match="semitones"):
        AugmentConfig(repitch_semitones=12)


def test_together_the_stems_of_a_row_start_at_one_place_and_rows_at_their_own() -> None:
    ramp = torch.arange(40.0).expand(8, 3, 2, 40)
    starts_BS = run(ramp, with_only(shift_together=True), shift=9)[..., 0, 0]
    assert torch.equal(starts_BS, starts_BS[:, :1].expand(8, 3))
    assert len(set(starts_BS[:, 0].tolist())) > 2


@pytest.mark.parametrize(
    ("effect", "function", "ranges"),
    [
        ("eq", "equalize", [(-6.0, 6.0)]),
        ("saturate", "saturate", [(0.0, 12.0)]),
        ("codec", "degrade", [effects.CODEC_CUTOFF, effects.CODEC_RATIO_DB]),
        ("width", "widen", [(0.0, 1.5)]),
    ],
)
def test_an_effect_is_as_weak_and_as_strong_as_was_declared(
    monkeypatch: pytest.MonkeyPatch, effect: str, function: str, ranges: list[tuple[float, float]]
) -> None:
    drawn: list[Tensor] = []

    def listen(stems_KCT: Tensor, *strengths: Tensor) -> Tensor:
        drawn.append(torch.stack([strength.reshape(len(stems_KCT), -1)[:, 0] for strength in strengths]))
        return stems_KCT

    monkeypatch.setattr(effects, function, listen)
    for step in range(20):
        run(batch(), with_only(**{f"{effect}_probability": 1.0}), step=step)
    for values, (low, high) in zip(torch.cat(drawn, dim=1), ranges, strict=True):
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high


def test_tempo_and_pitch_are_drawn_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, int]] = []

    def listen(sources_SCT: Tensor, *, tempo: float, semitones: int, num_samples: int, margin: int) -> Tensor:
        assert margin == 2048
        drawn.append((tempo, semitones))
        return sources_SCT[..., margin : margin + num_samples]

    monkeypatch.setattr(effects, "repitch", listen)
    config = with_only(repitch_probability=0.5, repitch_semitones=3, repitch_tempo=0.05, repitch_max_tempo=0.06)
    before = batch(400, config.input_samples(4, 1))
    run(before, config)
    assert 150 < len(drawn) < 250
    assert {semitones for _, semitones in drawn} == set(range(-3, 4))
    assert all(15 < sum(semitones == one for _, semitones in drawn) < 50 for one in range(-3, 4))
    changes = torch.tensor([tempo - 1 for tempo, _ in drawn])
    assert changes.min().item() == pytest.approx(-0.06)
    assert changes.max().item() == pytest.approx(0.06)
    assert 0.15 < (changes.abs() > 0.0599).float().mean() < 0.31  # beyond 1.2 standard deviations lie 23 %
    drawn.clear()
    assert torch.equal(run(before, replace(config, repitch_probability=1e-9)), before[..., 2048:2052])
    assert not drawn


def test_gains_reach_their_limits_and_a_batch_is_changed_as_a_whole() -> None:
    config = with_only(scale_probability=0.5, remix_probability=0.5, remix_group=4)
    gains = torch.stack([(run(batch(), with_only(scale_probability=1.0), step=step) / batch()) for step in range(20)])
    assert 0.25 <= gains.min() + 1e-5 < 0.3
    assert 1.2 < gains.max() - 1e-5 <= 1.25
    changed = [(run(batch(), replace(config, scale_probability=0.0), step=step) != batch()).any() for step in range(60)]
    assert 15 < sum(map(bool, changed)) < 45  # of 60 batches half are remixed


@pytest.mark.parametrize("left", [1, 2, 3, 8])
def test_as_many_samples_are_left_as_the_shift_does_not_take(left: int) -> None:
    """Of 40, in 8 rows of 3 sources and 2 channels."""
    assert run(batch(), NONE, shift=40 - left).shape[-1] == left


@pytest.mark.parametrize("effect", ["eq", "saturate", "codec", "width"])
def test_an_effect_that_falls_on_no_stem_is_not_computed(monkeypatch: pytest.MonkeyPatch, effect: str) -> None:
    def refuse(*arguments: Tensor) -> Tensor:
        raise AssertionError("there is nothing to compute")

    for name in ("equalize", "saturate", "degrade", "widen"):
        monkeypatch.setattr(effects, name, refuse)
    assert torch.equal(run(batch(), with_only(**{f"{effect}_probability": 1e-9})), batch())
