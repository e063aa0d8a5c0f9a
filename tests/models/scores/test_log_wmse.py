"""log-WMSE against the package `torch-log-wmse`."""

import math

import pytest
import torch
from torch import Tensor
from torch_log_wmse import LogWMSE

from models.scores.log_wmse import impulse_response, log_wmse

RATE = 44100


def toy(
    seconds: float, *, seed: int = 0, sources: int = 3, channels: int = 2, rate: int = RATE
) -> tuple[Tensor, Tensor]:
    """References of different colours with a quiet second half, and estimates with leakage and noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sources, channels, round(seconds * rate))
    reference_SCT = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    for place in range(1, sources):
        reference_SCT[place] += 0.9 * reference_SCT[place].roll(place, dims=-1)
    reference_SCT[..., shape[2] // 2 :] *= 0.01
    estimate_SCT = 0.9 * reference_SCT + 0.05 * reference_SCT.sum(dim=0)
    return reference_SCT, estimate_SCT + 0.001 * torch.randn(shape, generator=generator, dtype=torch.float64)


def by_package(reference_SCT: Tensor, estimate_SCT: Tensor, mixture_CT: Tensor, rate: int = RATE) -> list[float]:
    stems = (signal_SCT.transpose(0, 1)[None] for signal_SCT in (estimate_SCT, reference_SCT))
    scores_CS = LogWMSE(sample_rate=rate).per_stem(mixture_CT[None], *stems)[0]
    return [float(score) for score in scores_CS.mean(dim=0)]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 3.3])
def test_it_is_the_packages(seconds: float, channels: int) -> None:
    reference_SCT, estimate_SCT = toy(seconds, channels=channels)
    mixture_CT = reference_SCT.sum(dim=0)
    expected = by_package(reference_SCT, estimate_SCT, mixture_CT)
    assert log_wmse(reference_SCT, estimate_SCT, mixture_CT, RATE).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000])
def test_at_other_rates_its_filter_is_resampled_as_there(rate: int) -> None:
    reference_SCT, estimate_SCT = toy(1.0, rate=rate)
    mixture_CT = reference_SCT.sum(dim=0)
    expected = by_package(reference_SCT, estimate_SCT, mixture_CT, rate)
    # torchaudio computes the kernel in single precision.
    assert log_wmse(reference_SCT, estimate_SCT, mixture_CT, rate).tolist() == pytest.approx(expected, abs=2e-5)
    assert len(impulse_response(rate)) == math.ceil(4000 * rate / RATE)


def test_silence_and_a_perfect_estimate_have_scores_as_there() -> None:
    reference_SCT, estimate_SCT = toy(0.5)
    reference_SCT[0] = 0
    mixture_CT, silence_CT = reference_SCT.sum(dim=0), torch.zeros_like(reference_SCT[0])
    expected = by_package(reference_SCT, estimate_SCT, mixture_CT)
    assert log_wmse(reference_SCT, estimate_SCT, mixture_CT, RATE).tolist() == pytest.approx(expected, abs=1e-6)
    assert log_wmse(reference_SCT, reference_SCT, mixture_CT, RATE).tolist() == pytest.approx([-4 * math.log(1e-8)] * 3)
    expected = by_package(reference_SCT, estimate_SCT, silence_CT)
    assert log_wmse(reference_SCT, estimate_SCT, silence_CT, RATE).tolist() == pytest.approx(expected, abs=1e-6)


def test_an_error_that_is_hard_to_hear_counts_less() -> None:
    reference_SCT, _ = toy(1.0, sources=1)
    time_T = torch.arange(RATE, dtype=torch.float64) / RATE
    errors = [0.01 * torch.sin(2 * torch.pi * hz * time_T) for hz in (40.0, 3000.0)]
    low, high = (
        log_wmse(reference_SCT, reference_SCT + error_T, reference_SCT.sum(dim=0), RATE).item() for error_T in errors
    )
    assert low > high + 10
