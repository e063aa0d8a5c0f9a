"""STFT and its inverse as Hybrid and HT Demucs pad it; complex numbers as channels. Read next: `blocks/layers.py`.

A hop is a quarter of the transform, so T samples become ceil(T / hop) frames and frame n is centred on sample
(n + 1/2) * hop: exactly what a strided convolution of the time branch produces, so the branches line up.
The Nyquist row is dropped, which leaves a number of rows that halves as often as the network needs.
Arithmetic is float32 at least, whatever the precision around it. `standardize` serves waveforms as well.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .cpu_kernels.dispatch import accumulation_dtype, uses_cpu_kernels

# With a periodic Hann window and a quarter hop, the squared windows over any sample sum to this.
HANN_OVERLAP = 1.5


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 if they are that already."""
    return x.to(accumulation_dtype(x.dtype))


def standardize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each example of the batch with mean 0 and deviation 1, and that mean and deviation, shaped to broadcast.

    Statistics are float32 at least. Silence stays silence: the deviation is floored by 1e-5 added.
    """
    x = at_least_float32(x)
    dims = tuple(range(1, x.dim()))
    correction = 1 if math.prod(x.shape[1:]) > 1 else 0
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    # torch.std_mean takes fifteen times as long on a CPU.
    std = (centred.square().sum(dims, keepdim=True) / (math.prod(x.shape[1:]) - correction)).sqrt()
    return centred / (1e-5 + std), mean, std


def to_spectrum(samples: Tensor, nfft: int, *, reflect: bool = True) -> Tensor:
    """Complex spectrogram (..., nfft/2, N) of samples (..., T), N = ceil(T / hop), scaled by nfft^-1/2.

    Both ends are reflected outwards by one and a half hops, the right one after filling up its last hop; without
    `reflect` they go on with zeros.
    """
    hop = nfft // 4
    margin = hop + hop // 2
    samples = at_least_float32(samples)
    left, right = margin, margin + -samples.shape[-1] % hop
    padded = _reflect(samples, left, right) if reflect else F.pad(samples, (left, right))
    window = torch.hann_window(nfft, dtype=padded.dtype, device=padded.device)
    frames = padded.unfold(-1, nfft, hop) * window
    spectrum: Tensor = torch.fft.rfft(frames, norm="ortho")[..., :-1]
    return spectrum.transpose(-1, -2)


def to_channels(spectrum: Tensor) -> Tensor:
    """Real (B, 2C, F, N) from complex (B, C, F, N): each channel's real part, then its imaginary part."""
    parts = torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3)
    return parts.flatten(1, 2)


def to_samples(
    channels: Tensor,
    nfft: int,
    num_samples: int,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    late: bool = False,
) -> Tensor:
    """Samples (..., C, T) from a spectrogram with complex numbers as channels, (..., 2C, nfft/2, N).

    That of `channels * std + mean`, where these are given; each is one number per example, shaped to broadcast.

    Not quite the inverse near the edges: a frame that would begin before the first or end after the last
    counts as silence, so an untouched spectrogram returns 52 % of the first sample's amplitude, 99 % a hop
    later and all of it from about 1.3 hops on. Overlapping segments hide it (`separate.py`).

    `late` gives the first hybrid models' samples: what is before the first sample too, and so all 1.5 hops late.
    """
    hop = nfft // 4
    margin = hop + hop // 2
    window = torch.hann_window(nfft, dtype=accumulation_dtype(channels.dtype), device=channels.device) / HANN_OVERLAP
    if uses_cpu_kernels(channels) and not any(part is not None and part.requires_grad for part in (mean, std)):
        # Without autograd's own bookkeeping in between, forward and backward take 0.6 of the time.
        hops: Tensor = _Synthesis.apply(channels, mean, std, window)
    else:
        if mean is not None and std is not None:
            channels = channels * std + mean
        # One copy puts the numbers in the order the transform wants and the Nyquist row back, as zeros.
        ordered = F.pad(_by_frame(channels), (0, 0, 0, 1))
        frames = torch.fft.irfft(torch.view_as_complex(ordered), n=nfft, norm="ortho")
        first, second, third, fourth = (frames * window).reshape(*frames.shape[:-1], 4, hop).unbind(-2)
        # Frame n covers hops n to n + 3: add the four quarters of all frames, each a hop further to the right.
        hops = F.pad(first, (0, 0, 0, 3)) + F.pad(second, (0, 0, 1, 2)) + F.pad(third, (0, 0, 2, 1))
        hops = hops + F.pad(fourth, (0, 0, 3, 0))
    if not late:
        return hops.flatten(-2)[..., margin : margin + num_samples]
    # No frame before the first counts for the first hop: the reference divides it by what is left of the overlap.
    last_quarter = (window[-hop:] * HANN_OVERLAP).square()
    first = hops[..., :1, :] * (HANN_OVERLAP / (HANN_OVERLAP - last_quarter))
    return torch.cat([first, hops[..., 1:, :]], dim=-2).flatten(-2)[..., :num_samples]


def magnitudes_of(spectrum: Tensor) -> Tensor:
    """Real magnitudes of a complex spectrogram, in operations that ONNX has."""
    return torch.view_as_real(spectrum).square().sum(-1).sqrt()


def with_phase_of(spectrum: Tensor, magnitudes: Tensor) -> Tensor:
    """Magnitudes (B, S, C, F, N) with the phase of a complex mixture (B, C, F, N), as channels: (B, S, 2C, F, N)."""
    size = magnitudes_of(spectrum)
    real, imaginary = (part / size.clamp_min(torch.finfo(size.dtype).tiny) for part in _parts(spectrum))
    unit = torch.stack([torch.where(size > 0, real, 1.0), imaginary], dim=2)  # silence has phase 0
    parts = unit[:, None] * at_least_float32(magnitudes)[:, :, :, None]
    return parts.flatten(2, 3)


def _parts(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return real, imaginary


def _by_frame(channels: Tensor) -> Tensor:
    """(..., 2C, F, N) as (..., C, N, F, 2), a view: one transform after the other."""
    pairs = channels.view(*channels.shape[:-3], -1, 2, *channels.shape[-2:])
    return pairs.movedim((-1, -2, -3), (-3, -2, -1))


# It saves 0.09 s of a segment of 5.2 and 0.16 s of a training step of 22.1 on a CPU, and stays though that is little:
# sums in another order would change what a seed trains.
class _Synthesis(torch.autograd.Function):
    """Scale, shift, inverse transform, window and overlap-add, (..., 2C, F, N) to hops (..., C, N + 3, hop)."""

    @staticmethod
    def forward(ctx: Any, channels: Tensor, mean: Tensor | None, std: Tensor | None, window: Tensor) -> Tensor:
        given = _by_frame(channels)
        num_frames, num_rows = given.shape[-3:-1]
        ordered = window.new_empty(*given.shape[:-2], num_rows + 1, 2)
        ordered[..., num_rows, :] = 0  # Nyquist's row
        if mean is None or std is None:
            ordered[..., :num_rows, :] = given
        else:
            torch.addcmul(mean[..., None], given, std[..., None], out=ordered[..., :num_rows, :])
        frames = torch.fft.irfft(torch.view_as_complex(ordered), n=len(window), norm="ortho")
        quarters = frames.view(*frames.shape[:-1], 4, -1)
        hops: Tensor = frames.new_zeros(*frames.shape[:-2], num_frames + 3, len(window) // 4)
        for number, part in enumerate(window.chunk(4)):
            hops[..., number : number + num_frames, :].addcmul_(quarters[..., number, :], part)
        ctx.save_for_backward(std, window)
        ctx.shape, ctx.dtype = channels.shape, channels.dtype
        return hops

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        std, window = ctx.saved_tensors
        num_rows, num_frames = ctx.shape[-2:]
        quarters = grad.new_empty(*grad.shape[:-2], num_frames, 4, len(window) // 4)
        for number, part in enumerate(window.chunk(4)):
            torch.mul(grad[..., number : number + num_frames, :], part, out=quarters[..., number, :])
        spectrum = torch.view_as_real(torch.fft.rfft(quarters.flatten(-2), norm="ortho"))[..., :num_rows, :]
        gradient = grad.new_empty(ctx.shape, dtype=ctx.dtype)
        by_frame = _by_frame(gradient)
        # All rows but the first stand for their mirror image too; that one's imaginary part has no effect.
        torch.mul(spectrum, 2 if std is None else 2 * std[..., None], out=by_frame)
        by_frame[..., 0, 0] /= 2
        by_frame[..., 0, 1] = 0
        return gradient, None, None, None


def _reflect(samples: Tensor, left: int, right: int) -> Tensor:
    """Reflect padding; signals too short to be reflected that far get zeros first, at the right if they fit."""
    zeros = max(0, max(left, right) + 1 - samples.shape[-1])
    zeros_right = min(right, zeros)
    zeros_left = zeros - zeros_right
    if zeros:
        samples = F.pad(samples, (zeros_left, zeros_right))
    flat = samples.reshape(-1, 1, samples.shape[-1])  # F.pad reflects tensors of three dimensions
    flat = F.pad(flat, (left - zeros_left, right - zeros_right), mode="reflect")
    return flat.reshape(*samples.shape[:-1], flat.shape[-1])
