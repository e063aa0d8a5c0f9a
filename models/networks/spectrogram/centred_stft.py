"""STFT and inverse with frames centred on multiples of any hop, as `torch.stft` has them, for graphs without it.

Frame n is centred on sample n * hop, so T samples give 1 + T // hop frames; both ends are reflected outwards by half a
window. What torch has for the inverse cannot be exported to ONNX; sums of shifted hops can. Arithmetic is float32 at
least, whatever the precision around it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import ModelError
from ..stft import at_least_float32

# Of the squared windows over a sample. With a hop of nearly half a window the last samples have less, and what is no
# transform of any samples, as masked ones are, would come out a thousand times too loud; with a third of one none has.
LEAST_WEIGHT = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CentredSTFT:
    """Transforms of `nfft` samples every `hop` samples, scaled by nfft^-1/2; the window is a periodic Hann or none."""

    nfft: int
    hop: int
    window: Literal["hann", "none"] = "hann"

    @property
    def num_rows(self) -> int:
        """Frequencies from 0 to Nyquist's."""
        return self.nfft // 2 + 1

    def to_spectrum(self, samples: Tensor) -> Tensor:
        """Real and imaginary parts (..., F, N, 2) of samples (..., T); ModelError where T is too short to reflect."""
        samples = at_least_float32(samples)
        half = self.nfft // 2
        check_length(samples.shape[-1], self.nfft)
        flat = F.pad(samples.flatten(0, -2)[:, None], (half, half), mode="reflect")
        frames = flat.view(*samples.shape[:-1], -1).unfold(-1, self.nfft, self.hop) * self._window(samples)
        return torch.view_as_real(torch.fft.rfft(frames, norm="ortho")).transpose(-2, -3)

    def to_samples(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """The first samples (..., T) of a spectrum (..., F, N, 2), of which a sample outside all frames has none."""
        spectrum = at_least_float32(spectrum).transpose(-2, -3).contiguous()
        window = self._window(spectrum)
        frames = torch.fft.irfft(torch.view_as_complex(spectrum), n=self.nfft, norm="ortho") * window
        weight = window.square().expand(frames.shape[-2], -1)
        inside = slice(self.nfft // 2, self.nfft // 2 + num_samples)
        return self._overlap_add(frames)[..., inside] / self._overlap_add(weight)[inside].clamp(min=LEAST_WEIGHT)

    def _window(self, like: Tensor) -> Tensor:
        kind = torch.hann_window if self.window == "hann" else torch.ones
        return kind(self.nfft, dtype=like.dtype, device=like.device)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Frames (..., N, nfft), each a hop further to the right, summed to (..., T)."""
        num_parts = -(-self.nfft // self.hop)
        frames = F.pad(frames, (0, num_parts * self.hop - self.nfft))
        parts = frames.view(*frames.shape[:-1], num_parts, self.hop).unbind(-2)
        hops = F.pad(parts[0], (0, 0, 0, num_parts - 1))
        for number, part in enumerate(parts[1:], start=1):
            hops = hops + F.pad(part, (0, 0, number, num_parts - 1 - number))
        return hops.flatten(-2)


def check_length(num_samples: int, nfft: int) -> None:
    """ModelError unless so many samples can be reflected by half a transform at both ends."""
    if num_samples <= nfft // 2:
        raise ModelError(
            f"{num_samples} samples are too short for an STFT of {nfft}: it reflects half of that at both ends; give "
            f"{nfft // 2 + 1} or more, by a longer segment_s or a smaller nfft"
        )


def check_hop(hop_length: int, nfft: int) -> None:
    """ModelError where a hop leaves samples between frames without a weight, or a transform has no middle."""
    if nfft % 2 or not hop_length <= nfft // 2:
        raise ModelError(f"nfft {nfft} must be even, and hop_length {hop_length} at most half of it")
