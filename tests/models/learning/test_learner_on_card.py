"""A training step of every family on the pretended card: on the device, with two waits, in bfloat16 if so asked."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.inference.separate import separate
from models.learner_config import LearnerConfig, QuantizeConfig, SpectralPenaltyConfig
from models.learning.learner import Learner
from models.networks.catalog import build
from models.rng import generator
from tests.models.test_pretended_card import ALL
from tests.pretended_card import CUDA, card

FAMILIES = [
    "demucs-v2-tiny",
    "demucs-v3-tiny",
    "hdemucs-tiny",
    "htdemucs-tiny",
    "sparse-htdemucs-tiny",
    "scnet-tiny",
    "mel-band-roformer-tiny",
]
# Many layers and many bands are many kernels, and each takes its time here.
SMALLER: dict[str, dict[str, Any]] = {
    "htdemucs-tiny": {"depth": 2, "nfft": 256, "transformer_layers": 2},
    "sparse-htdemucs-tiny": {"depth": 2, "nfft": 256, "transformer_layers": 2},
    "scnet-tiny": {"nfft": 128, "hop_length": 64, "block_channels": (16,)},
    "mel-band-roformer-tiny": {"nfft": 128, "hop_length": 50, "num_bands": 4, "depth": 1, "mask_expansion": 8},
}
EVERYTHING = LearnerConfig(
    optimizer="muon",
    augment=ALL,
    max_grad_norm=1.0,
    trim_loss_drop=0.5,
    trim_loss_group=2,
    trim_loss_after=0,
    source_weights=(1.0, 2.0),
    ema_decays=(0.9,),
    epoch_ema_decays=(0.5,),
    epoch_steps=2,
    quantize=QuantizeConfig(penalty=1e-4, min_mib=0.001),
    spectral_penalty=SpectralPenaltyConfig(penalty=1e-5, min_mib=0.01, rank=4),
)


def tiny(preset: str) -> Any:
    torch.manual_seed(0)
    return build(preset, sources=("a", "b"), sample_rate=8000, segment_s=0.25, **SMALLER.get(preset, {}))


def batch_of(model: Any) -> Tensor:
    samples = ALL.input_samples(model.config.segment_samples, 8000)
    return 0.1 * torch.randn(4, 2, 2, samples, generator=generator(1))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", FAMILIES)
def test_a_step_with_everything_on_waits_twice_moves_little_but_the_batch_and_is_in_the_precision_that_is_asked(
    preset: str, precision: str
) -> None:
    """Gates take in the widest tensors; where a norm comes before one, as in the inner layers of v3, it is float32."""
    model = tiny(preset)
    batch_BSCT = batch_of(model)
    with card() as traffic:
        learner = Learner(model.to("cuda"), replace(EVERYTHING, precision=precision), sample_rate=8000, seed=1)
        before = {name: value.cpu() for name, value in learner.averages[0].average.items()}
        for step in range(2):
            traffic.clear()
            metrics = learner.step(batch_BSCT, step=step)
            assert sum(traffic.waits.values()) <= 2, traffic.waits
            # Half of the megabyte that is allowed: an index as long as the small batch is less than that.
            assert sum(traffic.to_device.values()) <= 4 * batch_BSCT.numel() + 5e5, traffic.to_device
            wide = traffic.gates[f"torch.{precision}"]
            allowed = 0.03 if preset in ("demucs-v3-tiny", "hdemucs-tiny") else 0.0
            assert 0 < sum(traffic.gates.values()) <= (1 + allowed) * wide, traffic.gates
        assert not metrics.skipped
        assert metrics.loss.device == CUDA
        assert float(metrics.loss) > 0
        for average in learner.averages:
            assert average.count
            assert any(not torch.equal(value.cpu(), before[name]) for name, value in average.average.items())


def test_a_tensor_of_the_cpu_in_a_layer_is_refused() -> None:
    class Planted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(2))

        def forward(self, mixture_BCT: Tensor) -> Tensor:
            order = torch.tensor([1, 0])  # on the CPU
            return (mixture_BCT[:, order] * self.gain[:, None])[:, None].expand(-1, 2, -1, -1)

    with card():
        config = replace(EVERYTHING, quantize=QuantizeConfig(), spectral_penalty=SpectralPenaltyConfig())
        learner = Learner(Planted().to("cuda"), config, sample_rate=8000)
        with pytest.raises(RuntimeError, match="same device"):
            learner.step(batch_of(tiny("htdemucs-tiny")), step=0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", FAMILIES)
def test_a_song_is_separated_on_the_card_as_on_the_cpu(preset: str) -> None:
    model = tiny(preset).eval()
    mixture_CT = 0.1 * torch.randn(2, 5000, generator=generator(2))
    expected = separate(model, mixture_CT, shifts=1, batch_size=2)
    with card():
        moved = separate(model.to("cuda"), mixture_CT, shifts=1, batch_size=2, device="cuda")
        assert moved.device.type == "cpu"
        torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_sparse_attention_is_compiled_for_eight_sizes_over_training_and_validation() -> None:
    model = tiny("sparse-htdemucs-tiny")
    samples = ALL.input_samples(model.config.segment_samples, 8000)
    batch_BSCT = 0.1 * torch.randn(12, 2, 2, samples, generator=generator(1))
    with card() as traffic:
        # 12 rows in parts of at most 8: of 6.
        learner = Learner(model.to("cuda"), LearnerConfig(augment=ALL), sample_rate=8000, rows_at_once=8)
        for step in range(2):
            learner.step(batch_BSCT, step=step)
        for num_samples in (3000, 5000, 9000):  # 2, 4 and 6 segments, four at once
            song_CT = 0.1 * torch.randn(2, num_samples, generator=generator(2))
            assert separate(model, song_CT, device="cuda", batch_size=4).shape == (2, 2, num_samples)
        assert sum(traffic.attended.values()) > 8
        assert len(traffic.attended) <= 8, traffic.attended
