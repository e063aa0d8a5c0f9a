"""A network is used at the level it was trained at: the `normalize` of its config, wherever it runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.inference.separate import input_statistics, separate, separate_stream
from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig, SpectralPenaltyConfig
from models.learning import losses
from models.learning.learner import Learner
from models.networks.bag import Bag
from models.networks.catalog import FAMILIES, PRESETS, build, from_config, to_config
from models.networks.input_normalization import track_statistics, unit_level
from models.scores.metrics import nsdr
from models.weights import checkpoint
from models.weights.demucs import demucs_options
from models.weights.loading import load_model

RATE = 8000
PLAIN = AugmentConfig(
    shift_s=0.0, flip_channels=False, flip_sign=False, scale_probability=0.0, remix_probability=0.0, remix_group=1
)
CONFIG = LearnerConfig(learning_rate=2e-3, ema_decays=(), augment=PLAIN)


def tiny_v2(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    options = {"sources": ("low", "high"), "sample_rate": RATE, "segment_s": 0.5, "channels": 8, "depth": 3}
    return build("demucs-v2-tiny", **(options | changes))


def song(seed: int, *, level: float, num_samples: int = 4000) -> Tensor:
    """Two stems (S, C, T), a sine and bright noise, whose mixture has this deviation."""
    generator = torch.Generator().manual_seed(seed)
    time_T = torch.arange(num_samples) / RATE
    low_T = torch.sin(2 * math.pi * (80 + 80 * torch.rand(1, generator=generator)) * time_T)
    noise_T = torch.randn(num_samples, generator=generator)
    high_T = noise_T - nn.functional.avg_pool1d(noise_T[None, None], 9, 1, 4)[0, 0]
    stems_SCT = torch.stack([low_T / low_T.std(), high_T / high_T.std()])[:, None].expand(2, 2, num_samples)
    return stems_SCT * level / stems_SCT.sum(dim=0).mean(dim=0).std()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize(("normalize", "level"), [("track", 0.03), ("track", 2.0), ("none", 0.3)])
def test_a_network_without_norms_inside_is_used_as_it_was_trained(normalize: str, level: float) -> None:
    model = tiny_v2(normalize=normalize)
    learner = Learner(model, CONFIG, sample_rate=RATE)
    for step in range(150):
        learner.step(torch.stack([song(1000 * step + row, level=level) for row in range(4)]), step=step)
    scores = []
    for factor in (1.0, 1 / level if normalize == "none" else 1.0):  # as used, and then at another level on purpose
        songs = [song(10**6 + seed, level=level * factor) for seed in range(4)]
        scores.append(sum(nsdr(stems, separate(model, stems.sum(dim=0))).mean().item() for stems in songs) / 4)
    assert scores[0] > 8
    assert normalize == "track" or scores[1] < scores[0] - 1  # "none" is no normalization at all


@pytest.mark.parametrize("level", [1e-3, 0.13, 4.0])
def test_a_step_is_the_same_at_any_level(level: float) -> None:
    def step(level: float) -> tuple[Tensor, Tensor]:
        learner = Learner(tiny_v2(), CONFIG, sample_rate=RATE)
        metrics = learner.step(torch.stack([song(row, level=level) for row in range(2)]), step=0)
        return metrics.loss, metrics.grad_norm

    torch.testing.assert_close(step(level), step(1.0), rtol=1e-4, atol=1e-6)


def test_rows_that_come_normalized_and_networks_that_want_their_level_are_left_alone() -> None:
    batch_BSCT = torch.stack([song(row, level=0.1) for row in range(2)])
    seen: list[Tensor] = []
    for options, normalized in (({}, False), ({}, True), ({"normalize": "none"}, False)):
        model = tiny_v2(**options)
        model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        Learner(model, CONFIG, sample_rate=RATE, normalized=normalized).step(batch_BSCT, step=0)
    assert seen[0].mean(dim=1).std(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    assert all(torch.equal(mixture_BCT, batch_BSCT.sum(dim=1)) for mixture_BCT in seen[1:])


@pytest.mark.parametrize("level", [0.02, 0.13, 1.0])
def test_penalties_keep_their_strength_beside_the_loss(level: float) -> None:
    def gradients(config: LearnerConfig, level: float) -> Tensor:
        model = tiny_v2()
        learner = Learner(model, config, sample_rate=RATE)
        learner.step(torch.stack([song(row, level=level) for row in range(2)]), step=0)
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    plain = gradients(CONFIG, level)
    penalty = SpectralPenaltyConfig(penalty=1e-2, min_mib=0.001)
    added = gradients(replace(CONFIG, spectral_penalty=penalty), level) - plain
    model = tiny_v2()
    (penalty.penalty * losses.singular_penalty(model, penalty, seed=0, step=0)).backward()
    alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert added.norm() == pytest.approx(nn.utils.get_total_norm(alone).item(), rel=0.05)
    torch.testing.assert_close(plain, gradients(CONFIG, 1.0), rtol=1e-3, atol=1e-5)


def test_the_size_of_widths_weighs_the_same_at_any_level() -> None:
    def logits(level: float) -> Tensor:
        config = replace(CONFIG, quantize=QuantizeConfig(penalty=1e-3, min_mib=0.001, learning_rate=0.1))
        learner = Learner(tiny_v2(), config, sample_rate=RATE)
        for step in range(2):
            learner.step(torch.stack([song(row, level=level) for row in range(2)]), step=step)
        assert learner.widths is not None
        return learner.widths.logits_G.detach()

    torch.testing.assert_close(logits(0.05), logits(1.0), rtol=1e-2, atol=1e-2)


def test_statistics_of_ordinary_stereo_are_those_of_the_mono_mix() -> None:
    middle, side = noise(1, 5000), 0.9 * noise(1, 5000, seed=1)
    mixture_CT = torch.cat([middle + side, middle - side]) + 0.1
    mean, std = track_statistics(mixture_CT.split(777, dim=-1))
    mono_T = mixture_CT.double().mean(dim=0)
    assert (mean, std) == pytest.approx((mono_T.mean().item(), mono_T.std().item()))


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_in_antiphase_has_a_level(seed: int) -> None:
    left = 0.1 * noise(1, 5000, seed=seed)
    mixture_CT = torch.cat([left, -left])
    _, std = track_statistics(mixture_CT.split(999, dim=-1))
    assert std == pytest.approx(0.05, rel=0.05)
    level = unit_level(mixture_CT[None, None]).std()
    assert level == pytest.approx(2, rel=0.05)


def test_silence_is_no_level() -> None:
    rows_BSCT = torch.zeros(2, 2, 2, 100)
    rows_BSCT[1] = 1e-7
    assert torch.equal(unit_level(rows_BSCT), rows_BSCT)


@pytest.mark.parametrize("preset", ["htdemucs-tiny", "hdemucs-tiny", "demucs-v3-tiny", "demucs-v2-tiny"])
def test_antiphase_stays_finite_in_float16(preset: str) -> None:
    torch.manual_seed(0)
    model = build(preset, sources=("a", "b"), sample_rate=RATE, segment_s=0.5).eval()
    left = 0.1 * noise(1, 6000)
    mixture_CT = torch.cat([left, -left])
    exact, half = (separate(model, mixture_CT, dtype=dtype) for dtype in (torch.float32, torch.float16))
    assert half.isfinite().all()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": 0.1}, "both mean and std"),
        ({"std": 0.1}, "both mean and std"),
        ({"mean": math.nan, "std": 1.0}, "must be finite"),
        ({"mean": 0.0, "std": math.inf}, "must be finite"),
        ({"mean": 0.0, "std": -0.1}, "std must be >= 0, got -0.1"),
        ({"mean": "a", "std": 1.0}, "mean must be a number, got 'a'"),
        ({"mean": 0.0, "std": True}, "std must be a number, got True"),
        ({"mean": 0.0, "std": 10**400}, "must be finite"),
    ],
)
def test_statistics_that_no_track_has_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        separate(tiny_v2(), noise(2, 4000), **given)
    if len(given) == 2:
        with pytest.raises(ModelError, match=message):
            list(separate_stream(tiny_v2(), [noise(2, 4000)], **given))


def test_given_statistics_are_used_and_those_of_silence_are_some() -> None:
    model, mixture_CT = tiny_v2().eval(), 0.1 * noise(2, 6000)
    mean, std = track_statistics([mixture_CT])
    expected = separate(model, mixture_CT)
    torch.testing.assert_close(separate(model, mixture_CT, mean=mean, std=std), expected)
    assert (separate(model, mixture_CT, mean=mean, std=4 * std) - expected).abs().max() > 1e-4
    assert separate(model, torch.zeros(2, 6000), mean=0.0, std=0.0).isfinite().all()


@pytest.mark.parametrize("normalize", ["track", "none"])
def test_a_stream_obeys_the_config_as_a_track_in_memory_does(normalize: str) -> None:
    model, mixture_CT = tiny_v2(normalize=normalize).eval(), 0.1 * noise(2, 9000) + 0.02
    for one in (model, Bag([model, model])):
        mean, std = input_statistics(one, mixture_CT.split(1000, dim=-1))
        assert ((mean, std) == (0.0, 1.0)) == (normalize == "none")
        blocks = separate_stream(one, mixture_CT.split(1000, dim=-1), mean=mean, std=std)
        torch.testing.assert_close(torch.cat(list(blocks), dim=-1), separate(one, mixture_CT), atol=1e-5, rtol=1e-4)


def test_a_bag_refuses_members_that_hear_at_different_levels() -> None:
    with pytest.raises(ModelError, match="normalization"):
        Bag([tiny_v2(), tiny_v2(normalize="none")])


def test_the_normalization_is_saved_and_a_checkpoint_from_before_it_sounds_as_it_did(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new", tiny_v2(normalize="none"))
    stored = json.loads((tmp_path / "new" / "config.json").read_text())["model"]
    assert stored["normalize"] == "none"
    assert load_model(tmp_path / "new").config.normalize == "none"  # type: ignore[union-attr]
    for family in (name for name in FAMILIES if "demucs" in name):  # those of that time
        config = to_config(build(next(name for name in PRESETS if name.startswith(family) and "tiny" in name)))
        del config["normalize"]
        assert from_config(config).config.normalize == "track"  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="normalize must be one of 'track', 'none', got 'loud'"):
        tiny_v2(normalize="loud")


def test_published_packages_hear_whole_tracks_at_unit_level() -> None:
    for name in ("demucs.model.Demucs", "demucs.demucs.Demucs", "demucs.hdemucs.HDemucs", "demucs.htdemucs.HTDemucs"):
        config = demucs_options.to_our_config(demucs_options.ClassName(name), (["a", "b"],), {}, origin="x")
        assert config["normalize"] == "track"
