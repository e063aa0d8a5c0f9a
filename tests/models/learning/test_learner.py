"""One optimization step: it learns, resumes bit for bit, and knows its learning rate."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig, SpectralPenaltyConfig
from models.learning import losses
from models.learning.learner import Learner, learning_rate
from models.learning.losses import kept
from models.networks.catalog import build
from models.scores.metrics import nsdr

PLAIN = AugmentConfig(
    shift_s=0.0, flip_channels=False, flip_sign=False, scale_probability=0.0, remix_probability=0.0, remix_group=1
)
CONFIG = LearnerConfig(learning_rate=3e-3, ema_decays=(0.9,), augment=PLAIN)


class Gains(nn.Module):
    """Every source is the mixture times a learnt gain."""

    def __init__(self, num_sources: int = 2) -> None:
        super().__init__()
        self.gain_S = nn.Parameter(torch.zeros(num_sources))

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        return self.gain_S[:, None, None] * mixture_BCT[:, None]


def sources(num_rows: int = 2, num_samples: int = 800, num_sources: int = 2) -> Tensor:
    shape = (num_rows, num_sources, 2, num_samples)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_tiny_ht_demucs_overfits_one_segment() -> None:
    torch.manual_seed(0)
    model = build("htdemucs-tiny", sources=("drums", "bass"), sample_rate=8000, segment_s=0.25, nfft=512, depth=2)
    time_T = torch.arange(2000) / 8000
    low = torch.sin(2 * torch.pi * 110 * time_T)
    high = torch.sin(2 * torch.pi * 1500 * time_T) * (time_T % 0.1 < 0.05)
    sources_BSCT = torch.stack([high, low])[None, :, None].expand(1, 2, 2, 2000)
    learner = Learner(model, LearnerConfig(learning_rate=5e-3, ema_decays=(), augment=PLAIN), sample_rate=8000)
    curve = [float(learner.step(sources_BSCT, step=step).loss) for step in range(60)]
    assert curve[-1] < 0.15 * curve[0]
    with torch.no_grad():
        estimates_SCT = model.eval()(sources_BSCT.sum(dim=1))[0]
    assert nsdr(sources_BSCT[0], estimates_SCT).min() > 12


def test_metrics_tell_the_loss_of_every_source_and_the_gradient() -> None:
    metrics = Learner(Gains(), replace(CONFIG, source_weights=(1.0, 0.0))).step(sources(), step=0)
    expected_S = sources().abs().mean(dim=(0, 2, 3))
    torch.testing.assert_close(metrics.per_source, expected_S)
    torch.testing.assert_close(metrics.loss, expected_S[0])
    assert metrics.grad_norm > 0
    assert metrics.learning_rate == 3e-3


def test_a_resumed_learner_equals_one_that_never_stopped() -> None:
    config = replace(CONFIG, augment=AugmentConfig(shift_s=0.01, remix_group=2), max_grad_norm=1.0)

    def make() -> Learner:
        return Learner(Gains(), config, sample_rate=8000, seed=3)

    whole = make()
    expected = [whole.step(sources(), step=step).loss for step in range(6)]
    first = make()
    given = [first.step(sources(), step=step).loss for step in range(3)]
    second = make()
    second.model.load_state_dict(first.model.state_dict())
    second.load_state(first.state())
    given += [second.step(sources(), step=step).loss for step in range(3, 6)]
    assert torch.equal(torch.stack(given), torch.stack(expected))
    assert torch.equal(whole.averages[0].average["gain_S"], second.averages[0].average["gain_S"])
    with pytest.raises(ModelError, match="1 averages, expected 2"):
        Learner(Gains(), replace(CONFIG, ema_decays=(0.9, 0.99))).load_state(first.state())


def test_clipping_bounds_the_step_but_reports_the_norm_before() -> None:
    free, bound = (Learner(Gains(), replace(CONFIG, max_grad_norm=norm)) for norm in (0.0, 1e-3))
    norms = [learner.step(sources(), step=0).grad_norm for learner in (free, bound)]
    torch.testing.assert_close(norms[0], norms[1])
    gradient = bound.model.gain_S.grad
    assert isinstance(gradient, Tensor)
    assert gradient.norm() <= 1e-3 * 1.01


def test_bfloat16_learns_too() -> None:
    learner = Learner(Gains(), replace(CONFIG, precision="bfloat16", learning_rate=0.05))
    curve = [float(learner.step(sources(), step=step).loss) for step in range(20)]
    assert curve[-1] < curve[0]
    assert next(learner.model.parameters()).dtype == torch.float32


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    config = LearnerConfig(learning_rate=1.0, warmup_steps=4, min_lr_ratio=0.1)
    rates = [learning_rate(config, step=step, total_steps=20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(LearnerConfig(), step=10**6, total_steps=0) == 3e-4
    with pytest.raises(ModelError, match="total_steps"):
        Learner(Gains(), config)


def test_weight_decay_is_decoupled() -> None:
    assert isinstance(Learner(Gains(), replace(CONFIG, weight_decay=0.05)).optimizers["optimizer"], torch.optim.AdamW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"precision": "float8"}, "float32, bfloat16"),
        ({"ema_decays": (1.0,)}, "ema_decays"),
        ({"source_weights": (0.0, 0.0)}, "source_weights"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio"),
        ({"trim_loss_drop": 0.01}, "trim_loss_drop"),
        ({"epoch_ema_decays": (0.9,), "epoch_steps": 1}, "epoch_steps"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LearnerConfig(**changes)  # type: ignore[arg-type]


def test_a_loss_or_an_optimizer_that_nobody_has_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"train\.learner\.optimizer: no optimizer 'sgd'; there are: adam, muon"):
        Learner(Gains(), replace(CONFIG, optimizer="sgd"))
    with pytest.raises(ModelError, match=r"train\.learner\.loss: no loss 'l2'; did you mean 'l1'"):
        Learner(Gains(), replace(CONFIG, loss="l2"))


def test_a_batch_in_parts_gives_the_gradient_of_the_whole() -> None:
    whole, parts = (Learner(Gains(), CONFIG, rows_at_once=rows) for rows in (0, 3))
    seen = [learner.step(sources(num_rows=7), step=0) for learner in (whole, parts)]
    torch.testing.assert_close(seen[1].per_source, seen[0].per_source)
    torch.testing.assert_close(seen[1].grad_norm, seen[0].grad_norm)


def test_shares_of_workers_add_up_to_the_gradient_of_the_batch() -> None:
    whole = Learner(Gains(), CONFIG).step(sources(num_rows=6), step=0)
    gradients = []
    for rows, share in ((range(4), 4 / 3), (range(4, 6), 2 / 3)):
        worker = Learner(Gains(), CONFIG)
        worker.step(sources(num_rows=6)[rows.start : rows.stop], step=0, rows=rows, share=share)
        gradients.append(worker.model.gain_S.grad)
    torch.testing.assert_close(torch.stack(gradients).mean(dim=0).norm(), whole.grad_norm)  # type: ignore[arg-type]


def test_a_step_without_a_finite_gradient_changes_nothing() -> None:
    learner = Learner(Gains(), CONFIG)
    learner.step(sources(), step=0)
    before = [learner.model.gain_S.detach().clone(), learner.averages[0].average["gain_S"].clone()]
    broken = sources()
    broken[0, 0, 0, 0] = torch.nan
    seen = learner.step(broken, step=1)
    assert seen.skipped
    assert torch.equal(learner.model.gain_S, before[0])
    assert torch.equal(learner.averages[0].average["gain_S"], before[1])
    assert not learner.step(sources(), step=2).skipped


def test_an_average_over_epochs_takes_in_the_weights_at_their_ends() -> None:
    learner = Learner(Gains(), replace(CONFIG, ema_decays=(), epoch_ema_decays=(0.5,), epoch_steps=2))
    ends = []
    for step in range(4):
        learner.step(sources(), step=step)
        ends += [learner.model.gain_S.detach().clone()] if step % 2 else []
    assert learner.averages[0].name == "ema-0.5-epoch"
    torch.testing.assert_close(learner.averages[0].average["gain_S"], (0.5 * ends[0] + ends[1]) / 1.5)


class Filters(nn.Module):
    """A short filter per source."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 2, 33, padding=16, bias=False)
        nn.init.zeros_(self.filters.weight)

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        batch, channels, samples = mixture_BCT.shape
        estimates: Tensor = self.filters(mixture_BCT.reshape(batch * channels, 1, samples))
        return estimates.view(batch, channels, 2, samples).transpose(1, 2)


def tones_and_hiss(step: int, *, swapped: int) -> Tensor:
    """Eight rows of a low and a high source; in `swapped` of them the names are exchanged."""
    dice = torch.Generator().manual_seed(step)
    low, high = torch.randn(2, 8, 1, 600, generator=dice)
    for _ in range(2):
        low = torch.nn.functional.avg_pool1d(low, 15, stride=1, padding=7)
    high = high - torch.nn.functional.avg_pool1d(high, 5, stride=1, padding=2)
    sources_BSCT = torch.stack([5 * low, high], dim=1)
    for row in torch.randperm(8, generator=dice)[:swapped].tolist():
        sources_BSCT[row] = sources_BSCT[row].flip(0)
    return sources_BSCT


def test_leaving_out_the_highest_losses_helps_where_names_were_exchanged() -> None:
    def clean_loss(drop: float, swapped: int) -> float:
        config = replace(CONFIG, learning_rate=0.01, ema_decays=(), trim_loss_drop=drop, trim_loss_after=40)
        learner = Learner(Filters(), config)
        for step in range(120):
            learner.step(tones_and_hiss(step, swapped=swapped), step=step)
        with torch.no_grad():
            clean = tones_and_hiss(10**6, swapped=0)
            return float((learner.model(clean.sum(dim=1)) - clean).abs().mean())

    never, plain, robust = clean_loss(0.0, 0), clean_loss(0.0, 3), clean_loss(0.375, 3)
    assert plain > 1.15 * never
    assert robust < never + 0.3 * (plain - never)


def test_the_highest_losses_of_each_source_are_left_out_of_every_group() -> None:
    loss_BS = torch.tensor([[1.0, 9.0], [2.0, 8.0], [3.0, 1.0], [4.0, 2.0]])
    assert (kept(loss_BS, 0.25, 4) * 3).round().tolist() == [[4, 0], [4, 4], [4, 4], [0, 4]]
    assert kept(loss_BS, 0.5, 2).tolist() == [[2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [0.0, 0.0]]
    with pytest.raises(ModelError, match="4 rows are no whole number of robust groups of 3"):
        kept(loss_BS, 0.34, 3)


def test_an_epochs_average_takes_the_weights_even_if_the_last_step_was_skipped() -> None:
    config = replace(CONFIG, ema_decays=(0.5,), epoch_ema_decays=(0.5,), epoch_steps=3)
    learner = Learner(Gains(), config)
    for step in range(6):
        batch = sources()
        if step in (2, 4):
            batch[0, 0, 0, 0] = torch.nan
        assert learner.step(batch, step=step).skipped == (step in (2, 4))
    every_step, every_epoch = learner.averages
    assert every_step.count == pytest.approx(1 + 0.5 * (1 + 0.5 * (1 + 0.5)))  # of four steps
    assert every_epoch.count == 1.5
    assert not torch.equal(every_epoch.average["gain_S"], torch.zeros(2))


def test_the_penalty_is_on_the_weights_and_not_on_the_noise_of_quantisation(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build("hdemucs-tiny", sources=("a", "b"), sample_rate=8000, segment_s=0.5)
    singular, quantize = SpectralPenaltyConfig(penalty=1.0, min_mib=0.01), QuantizeConfig(penalty=1e-3)
    learner = Learner(model, replace(CONFIG, spectral_penalty=singular, quantize=quantize), sample_rate=8000)
    assert learner.widths is not None
    with torch.no_grad():
        learner.widths.logits_G.fill_(-6.0)  # widths of two bits: noise as large as the weights
    seen = []
    penalty_of = losses.singular_penalty

    def noted(*args: Any, **options: Any) -> Tensor:
        seen.append(penalty_of(*args, **options))
        return seen[-1]

    monkeypatch.setattr(losses, "singular_penalty", noted)
    for step in range(2):
        clean = penalty_of(model, singular, seed=0, step=step).item()
        learner.step(0.1 * torch.randn(2, 2, 2, 4000, generator=torch.Generator().manual_seed(step)), step=step)
        assert seen[step].item() == pytest.approx(clean, rel=1e-6)


def test_the_penalty_counts_once_however_the_batch_is_split() -> None:
    def gradients(rows_at_once: int, penalty: float) -> Tensor:
        torch.manual_seed(0)
        model = build("demucs-v2-tiny", sources=("a", "b"), sample_rate=8000, segment_s=0.5, depth=3)
        config = replace(CONFIG, spectral_penalty=SpectralPenaltyConfig(penalty=penalty, min_mib=0.001))
        Learner(model, config, sample_rate=8000, rows_at_once=rows_at_once).step(sources(4, 4000), step=0)
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    whole, parts = (gradients(rows, 0.1) - gradients(rows, 0.0) for rows in (0, 1))
    assert whole.norm() > 0
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)
