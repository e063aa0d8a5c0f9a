"""Parameters, arithmetic and memory, counted by hand for networks small enough to count."""

import pytest
import torch
from torch import Tensor, nn

from models.networks import compute_cost
from models.networks.catalog import build


class TwoLayers(nn.Module):
    """A convolution of 3 taps from 2 to 5 channels, ReLU, and one of 1 tap to 4, on (B, 2, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 5, 3, padding=1), nn.Conv1d(5, 4, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        y_BCT: Tensor = self.second(torch.relu(self.first(x_BCT)))
        return y_BCT


def test_two_layers_cost_what_one_counts() -> None:
    counted = compute_cost.of(TwoLayers, num_channels=2, num_samples=100)
    assert counted.parameters == (2 * 3 * 5 + 5) + (5 * 4 + 4)
    assert counted.forward_flop == 2 * 100 * (2 * 3 * 5 + 5 * 4)
    # Backwards twice as much, but for the gradient of the input, which nobody asks for.
    assert counted.step_flop == 3 * counted.forward_flop - 2 * 100 * 2 * 3 * 5
    # The input, for the first layer's weight; what ReLU gave, for its own gradient and the second layer's, once.
    assert counted.kept_bytes == 4 * 100 * (2 + 5)


def test_a_recurrent_layer_takes_its_matrices_once_for_each_step() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True)

        def forward(self, x_BCT: Tensor) -> Tensor:
            y: Tensor = self.lstm(x_BCT.permute(2, 0, 1))[0]
            return y

    counted = compute_cost.of(Recurrent, num_channels=3, num_samples=50)
    gates = 4 * 4
    assert counted.forward_flop == 2 * 50 * 2 * gates * ((3 + 4) + (8 + 4))
    assert counted.parameters == sum(weight.numel() for weight in Recurrent().parameters())


@pytest.mark.parametrize(("preset", "twin"), [("sparse-htdemucs-tiny", "htdemucs-tiny")])
def test_sparse_attention_counts_as_dense(preset: str, twin: str) -> None:
    options = {"sample_rate": 8000, "segment_s": 0.5, "nfft": 512, "depth": 2}
    sparse, plain = (
        compute_cost.of(lambda name=name: build(name, **options), num_channels=2, num_samples=4000)  # type: ignore[misc]
        for name in (preset, twin)
    )
    assert sparse.forward_flop == plain.forward_flop
    assert sparse.parameters == plain.parameters


def test_arithmetic_and_memory_grow_with_the_segment_and_parameters_do_not() -> None:
    short, long = (
        compute_cost.of(lambda: build("demucs-v2-tiny", depth=3, channels=8), num_channels=2, num_samples=num_samples)
        for num_samples in (8000, 16000)
    )
    assert short.parameters == long.parameters
    assert long.forward_flop == pytest.approx(2 * short.forward_flop, rel=0.05)
    assert long.kept_bytes == pytest.approx(2 * short.kept_bytes, rel=0.05)


# Of HT Demucs at 32 rows of 7.8 s, as counted by another count of operators (2026-11-28): 33.5 TFLOP; in bfloat16
# 507 GB element by element, 149 GB by products and 1.73 GiB kept a row; 3.15 GiB kept a row in float32.
@pytest.mark.slow
def test_counts_of_a_step_of_ht_demucs_at_32_rows_stay_what_they_were_made() -> None:
    samples = round(7.8 * 44100)
    low, full = (
        compute_cost.of(lambda: build("htdemucs"), num_channels=2, num_samples=samples, precision=precision, rows=32)
        for precision in (torch.bfloat16, torch.float32)
    )
    assert low.forward_flop == full.forward_flop == pytest.approx(335.5e9, rel=0.001)
    assert 32 * low.step_flop == pytest.approx(33.54e12, rel=0.002)
    assert 32 * low.elementwise_bytes < 505e9  # 682e9 with a gate's bias in float32
    assert 32 * low.product_bytes < 151e9
    assert low.kernels < 5250
    assert full.kernels < 4450
    assert low.kept_bytes / 2**30 == pytest.approx(1.73, rel=0.02)
    assert full.kept_bytes / 2**30 == pytest.approx(3.15, rel=0.02)


def test_traffic_is_what_kernels_read_and_write_and_repeated_numbers_are_read_once() -> None:
    x_BT, gain_B1 = torch.empty(2, 100, device="meta"), torch.empty(2, 1, device="meta")
    with compute_cost._Traffic() as traffic:
        x_BT + gain_B1.expand(-1, 100)
        x_BT.view(-1)  # starts no kernel
        torch.empty_like(x_BT)  # nor does this
        x_BT @ x_BT.T
    assert traffic.kernels == 2
    assert traffic.bytes == {"elementwise": 4 * (200 + 2 + 200), "product": 4 * (200 + 200 + 4)}
