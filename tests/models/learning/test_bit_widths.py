"""Learnt widths: what they learn, and that what is scored is what is stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig, SpectralPenaltyConfig
from models.learning.augment import augment
from models.learning.bit_widths import BitWidths
from models.learning.learner import Learner, unwrap
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.bit_packing import MIB, packed_bytes
from models.weights.loading import load_model
from models.weights.model_identity import describe

PLAIN = AugmentConfig(shift_s=0.0, scale_probability=0.0, remix_probability=0.0, remix_group=1)
SMALL = {"sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1}
QUANTIZE = QuantizeConfig(penalty=0.1, min_mib=0.0005, learning_rate=0.05)
CONFIG = LearnerConfig(learning_rate=2e-3, ema_decays=(0.9,), augment=PLAIN, quantize=QUANTIZE)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    torch.manual_seed(0)
    return build("htdemucs-tiny", **SMALL)


def batch(step: int) -> Tensor:
    return 0.1 * torch.randn(2, 4, 2, 2000, generator=dice(step))


def test_the_same_weights_make_the_same_bytes_and_a_loaded_model_makes_them_again(tmp_path: Path) -> None:
    model, widths = small(), BitWidths(small(), QUANTIZE)
    with torch.no_grad():
        widths.logits_G.normal_(std=2.0, generator=dice())
    first = checkpoint.save(tmp_path / "a", model, packing=widths.packing())
    again = checkpoint.save(tmp_path / "b", load_model(first), packing=checkpoint.load_packing(first))
    assert describe(first).digest == describe(again).digest
    assert checkpoint.load_packing(checkpoint.save(tmp_path / "c", model)) is None


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(ModelError, match=r"quantize\.min_mib must be at most .* got 9 MiB"):
        BitWidths(small(), replace(QUANTIZE, min_mib=9.0))


class Matrix(nn.Module):
    """Every source is the mixture times one entry of a matrix; most entries do nothing."""

    def __init__(self, num_rows: int = 64) -> None:
        super().__init__()
        self.gain_SK = nn.Parameter(torch.linspace(-1, 1, 64 * num_rows).view(num_rows, 64))

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        return self.gain_SK[:2, 0, None, None] * mixture_BCT[:, None]


def test_noise_is_uniform_within_half_a_grid_step_and_is_gone_afterwards() -> None:
    model = Matrix(512)
    widths = BitWidths(model, replace(QUANTIZE, penalty=1e-9))
    before = model.gain_SK.detach().clone()
    step = 2.0 / (2**8 - 1)  # widths start at 8 bits, and the range is 2
    with widths.noisy(seed=0, step=0):
        noise = model.gain_SK.detach() - before
    assert noise.abs().max() <= 0.5001 * step
    assert noise.var().item() == pytest.approx(step**2 / 12, rel=0.03)
    assert abs(noise.mean().item()) < 0.02 * step
    assert torch.equal(model.gain_SK, before)
    with widths.noisy(seed=0, step=1):
        assert not torch.equal(model.gain_SK.detach() - before, noise)
    with pytest.raises(ZeroDivisionError), widths.noisy(seed=0, step=2):
        _ = 1 / 0
    assert torch.equal(model.gain_SK, before)


def test_a_width_s_gradient_is_the_slope_of_the_loss_along_it() -> None:
    model = Matrix(2)
    widths = BitWidths(model, replace(QUANTIZE, penalty=1e-12, min_mib=0.0))
    target = torch.randn(2, 64, generator=dice())

    def loss_at(logits_G: Tensor) -> float:
        with torch.no_grad():
            widths.logits_G.copy_(logits_G)
        with widths.noisy(seed=3, step=5):
            model.gain_SK.grad = None
            loss = (model.gain_SK.double() * target).sum()  # linear, so a difference is exact
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    start = torch.linspace(-2, 0, len(widths.logits_G))
    loss_at(start)
    assert widths.logits_G.grad is not None
    gradient = widths.logits_G.grad.clone()
    for place in (0, 7, 15):
        nudge = torch.zeros_like(start)
        nudge[place] = 0.05
        slope = (loss_at(start + nudge) - loss_at(start - nudge)) / 0.1
        assert gradient[place].item() == pytest.approx(slope, rel=0.02, abs=1e-5)


def test_a_penalty_takes_bits_from_weights_that_do_not_matter_and_leaves_them_to_those_that_do() -> None:
    model = Matrix()
    learner = Learner(model, replace(CONFIG, quantize=replace(QUANTIZE, penalty=1e-3), learning_rate=1e-4))
    sources_BSCT = torch.randn(2, 2, 2, 800, generator=dice())
    sizes = [float(learner.step(sources_BSCT, step=step).size_mib or 0) for step in range(60)]
    assert sizes[-1] < 0.8 * sizes[0]
    assert learner.widths is not None
    bits_G = learner.widths.bits().view(64, 8)
    assert bits_G[:2, 0].min() > 6
    assert bits_G[2:].max() < 4
    packing = learner.packing()
    assert packing is not None
    file_mib = packed_bytes(model.state_dict(), packing) / MIB
    assert file_mib == pytest.approx(sizes[-1], rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_with_learnt_widths_equals_one_that_never_stopped(precision: str, tmp_path: Path) -> None:
    config = replace(CONFIG, precision=precision)

    def make(model: nn.Module) -> Learner:
        return Learner(model, config, sample_rate=8000, seed=3)

    whole, first = make(small()), make(small())
    for step in range(4):
        whole.step(batch(step), step=step)
    for step in range(2):
        first.step(batch(step), step=step)
    checkpoint.save(tmp_path / "model", first.model, learner=first.state())
    second = make(load_model(tmp_path / "model"))
    second.load_state(checkpoint.load_learner(tmp_path / "model"))
    for step in range(2, 4):
        second.step(batch(step), step=step)
    for learner in (whole, second):
        checkpoint.save(tmp_path / str(learner is whole), learner.model, packing=learner.packing())
    assert describe(tmp_path / "True").digest == describe(tmp_path / "False").digest
    assert torch.equal(whole.averages[0].average["freq_emb.embedding.weight"],
                       second.averages[0].average["freq_emb.embedding.weight"])  # fmt: skip
    with pytest.raises(ModelError, match=r"another quantize\.penalty"):
        Learner(small(), replace(config, quantize=QuantizeConfig())).load_state(first.state())


def test_inside_a_data_parallel_wrapper_a_step_is_the_same(tmp_path: Path) -> None:
    singular = SpectralPenaltyConfig(penalty=1e-3, min_mib=0.001)
    config = replace(CONFIG, spectral_penalty=singular)
    alone = Learner(small(), config)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = Learner(nn.parallel.DistributedDataParallel(small()), config)
        for learner in (alone, wrapped):
            for step in range(2):
                learner.step(batch(step), step=step)
        inside = unwrap(wrapped.model).state_dict()
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.equal(value, inside[name]) for name, value in alone.model.state_dict().items())
    assert alone.widths is not None
    assert wrapped.widths is not None
    assert torch.equal(alone.widths.logits_G, wrapped.widths.logits_G)


def test_without_penalties_a_step_is_what_it_was_and_nothing_more_is_stored() -> None:
    config = replace(CONFIG, quantize=QuantizeConfig(), ema_decays=())
    learner, model = Learner(small(), config, normalized=True), small()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    for step in range(2):
        learner.step(batch(step), step=step)
        # The same augmentation is drawn from (seed, step, row); here all of it is sign and channel flips.
        sources_BSCT = augment(batch(step), PLAIN, seed=0, step=step, rows=range(2), shift_samples=0)
        optimizer.zero_grad()
        (model.train()(sources_BSCT.sum(dim=1)) - sources_BSCT).abs().mean(dim=(0, 2, 3)).mean().backward()
        optimizer.step()
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert learner.state().keys() == {"optimizer", "averages"}
    assert learner.packing() is None


def test_inside_quantized_the_model_is_what_its_file_will_hold(tmp_path: Path) -> None:
    learner = Learner(small(), CONFIG)
    learner.step(batch(0), step=0)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with learner.quantized():
        mixture_BCT = batch(1).sum(dim=1)
        with torch.no_grad():
            scored = learner.model.eval()(mixture_BCT)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    saved = checkpoint.save(tmp_path / "model", learner.model, packing=learner.packing())
    with torch.no_grad():
        assert torch.equal(load_model(saved)(mixture_BCT), scored)


@pytest.mark.parametrize(
    "changes", [{"penalty": -1.0}, {"group_size": 0}, {"learning_rate": 0.0}, {"min_mib": -1.0}]
)  # fmt: skip
def test_a_knob_of_quantisation_out_of_range_is_named(changes: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        QuantizeConfig(**changes)  # type: ignore[arg-type]
