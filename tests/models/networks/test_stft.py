import math

import pytest
import torch
from demucs.hdemucs import pad1d
from demucs.spec import ispectro, spectro

from models.networks import stft
from models.networks.stft import to_channels, to_samples, to_spectrum
from tests.models.parity import noise

NFFT = 1024
HOP = NFFT // 4


def reference_spectrum(samples: torch.Tensor) -> torch.Tensor:
    """What HTDemucs of demucs 4.1.0 computes, out of its own building blocks."""
    num_frames, margin = math.ceil(samples.shape[-1] / HOP), HOP // 2 * 3
    padded = pad1d(samples, (margin, margin + num_frames * HOP - samples.shape[-1]), mode="reflect")
    return spectro(padded, NFFT, HOP)[..., :-1, 2 : 2 + num_frames]


def reference_samples(spectrum: torch.Tensor, num_samples: int) -> torch.Tensor:
    margin = HOP // 2 * 3
    padded = torch.nn.functional.pad(spectrum, (2, 2, 0, 1))
    length = HOP * math.ceil(num_samples / HOP) + 2 * margin
    return ispectro(padded, HOP, length=length)[..., margin : margin + num_samples]


@pytest.mark.parametrize("num_samples", [1, 2, 255, 256, 257, 383, 384, 385, 640, 4096, 5000])
def test_spectrum_is_the_references_for_every_length(num_samples: int) -> None:
    samples = noise(2, 3, num_samples)
    found, expected = to_spectrum(samples, NFFT), reference_spectrum(samples)
    assert found.shape == expected.shape == (2, 3, NFFT // 2, math.ceil(num_samples / HOP))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 257, 5000])
def test_samples_are_the_references_for_any_spectrum(num_samples: int) -> None:
    shape = (2, 3, NFFT // 2, math.ceil(num_samples / HOP))
    spectrum = torch.complex(noise(*shape), noise(*shape, seed=1))
    found, expected = to_samples(to_channels(spectrum), NFFT, num_samples), reference_samples(spectrum, num_samples)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_samples", [257, 5000])
def test_the_fast_way_to_samples_has_the_values_and_gradients_of_plain_operations(
    num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = noise(2, 3, 4, NFFT // 2, math.ceil(num_samples / HOP))
    mean, std = noise(2, 1, 1, 1, 1, seed=1), noise(2, 1, 1, 1, 1, seed=2).abs()

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = channels.clone().requires_grad_()
        samples = to_samples(leaf, NFFT, num_samples, mean=mean, std=std)
        return samples, torch.autograd.grad(samples, leaf, noise(*samples.shape, seed=3))[0]

    fast = both()
    monkeypatch.setattr(stft, "uses_cpu_kernels", lambda _: False)
    for found, expected in zip(fast, both(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_round_trip_is_exact_inside_and_fades_at_the_edges() -> None:
    time = torch.arange(8 * NFFT) / 44100
    samples = torch.cos(2 * torch.pi * 1000 * time)[None, None]  # nothing near the Nyquist row, which is dropped
    back = to_samples(to_channels(to_spectrum(samples, NFFT)), NFFT, samples.shape[-1])
    inside = slice(2 * HOP, -2 * HOP)
    torch.testing.assert_close(back[..., inside], samples[..., inside], rtol=0, atol=2e-3)
    assert back[0, 0, 0].abs() < 0.6


@pytest.mark.parametrize("frame", [3, 10])
def test_an_impulse_peaks_in_the_frame_centred_on_it(frame: int) -> None:
    samples = torch.zeros(1, 16 * NFFT)
    samples[0, frame * HOP + HOP // 2] = 1
    assert to_spectrum(samples, NFFT)[0].abs().sum(0).argmax() == frame


def test_channels_interleave_real_and_imaginary_parts() -> None:
    spectrum = torch.complex(noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1))
    channels = to_channels(spectrum)
    assert channels.shape == (2, 6, 4, 5)
    assert torch.equal(channels[:, 0], spectrum[:, 0].real)
    assert torch.equal(channels[:, 3], spectrum[:, 1].imag)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_is_float32_out(dtype: torch.dtype) -> None:
    samples = noise(1, 1, 2000).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        spectrum = to_spectrum(samples, NFFT)
        assert spectrum.dtype == torch.complex64
        assert to_samples(to_channels(spectrum), NFFT, 2000).dtype == torch.float32
