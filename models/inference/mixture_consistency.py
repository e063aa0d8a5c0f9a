"""Estimates that sum to the mixture: what they miss is shared among them, or its spectrum is, in their ratio.

`MixtureConsistency` takes blocks of any length, so a track in memory and one that comes in blocks give the same.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ModelError
from . import CONSISTENCY_MODES

NFFT = 4096  # samples of a frame of the mask
HOP = NFFT // 4
FRAMES_AT_ONCE = 256  # 6 s at 44.1 kHz
MIN_MAGNITUDE = 1e-12  # where all estimates are silent, each has an equal share


class MixtureConsistency:
    """What is done to estimates (S, C, T) of a mixture (C, T), block after block.

    "off" leaves them; "residual" adds to each an equal part of what their sum misses (Wisdom et al. 2019); "mask" takes
    the mixture's STFT times each estimate's share of the sum of their magnitudes, per channel and bin, with the
    mixture's phases.
    """

    def __init__(self, mode: str) -> None:
        if mode not in CONSISTENCY_MODES:
            raise ModelError(f"mixture_consistency must be one of {', '.join(CONSISTENCY_MODES)}, got {mode!r}")
        self.mode = mode
        self.waiting_SCT: Tensor | None = None  # estimates and mixture that later frames need
        self.sum_SCT: Tensor | None = None  # of frames, as far as others will be added
        self.still_to_drop = NFFT - HOP  # silence before the track, so that every sample lies in four frames

    def overwrite(self, estimates_SCT: Tensor, mixture_CT: Tensor) -> None:
        """Do it to a whole track in the place of its estimates, so that no copy of them is needed."""
        num_written = 0
        blocks = (torch.split(value, FRAMES_AT_ONCE * HOP, dim=-1) for value in (estimates_SCT, mixture_CT))
        for block_SCT, block_CT in zip(*blocks, strict=True):
            num_written = _write(self.push(block_SCT, block_CT), estimates_SCT, num_written)
        if (rest_SCT := self.close()) is not None:
            _write(rest_SCT, estimates_SCT, num_written)

    def push(self, estimates_SCT: Tensor, mixture_CT: Tensor) -> Tensor:
        """Take in a block; give what became final: with "mask", up to a frame later."""
        if self.mode == "off":
            return estimates_SCT
        if self.mode == "residual":
            return estimates_SCT + (mixture_CT - estimates_SCT.sum(dim=0)) / len(estimates_SCT)
        block_SCT = torch.cat([estimates_SCT, mixture_CT[None]])
        if self.waiting_SCT is None:
            self.waiting_SCT = pad(block_SCT, (NFFT - HOP, 0))
            self.sum_SCT = estimates_SCT.new_zeros(*estimates_SCT.shape[:2], NFFT - HOP)
        else:
            self.waiting_SCT = torch.cat([self.waiting_SCT, block_SCT], dim=-1)
        return self._masked()

    def close(self) -> Tensor | None:
        """The track has ended: what is left of it, or None."""
        if self.waiting_SCT is None:
            return None
        num_samples = self.waiting_SCT.shape[-1] - self.still_to_drop
        self.waiting_SCT = pad(self.waiting_SCT, (0, NFFT - 1))
        return self._masked()[..., :num_samples]

    def _masked(self) -> Tensor:
        """What whole frames make final, without the silence before the track."""
        assert self.waiting_SCT is not None
        assert self.sum_SCT is not None
        window_N = torch.hann_window(NFFT, device=self.sum_SCT.device)
        done = [self.sum_SCT[..., :0]]
        while self.waiting_SCT.shape[-1] >= NFFT:
            frames_SCFN = self.waiting_SCT.unfold(-1, NFFT, HOP)[..., :FRAMES_AT_ONCE, :]
            num_samples = frames_SCFN.shape[2] * HOP
            masked_SCFN = _divided(torch.fft.rfft(frames_SCFN * window_N)) * window_N / 1.5  # four squared windows
            sum_SCT = pad(self.sum_SCT, (0, num_samples))
            for start in range(0, NFFT, HOP):
                sum_SCT[..., start : start + num_samples] += masked_SCFN[..., start : start + HOP].flatten(-2)
            dropped = min(self.still_to_drop, num_samples)
            self.still_to_drop -= dropped
            done.append(sum_SCT[..., dropped:num_samples])
            self.sum_SCT = sum_SCT[..., num_samples:]
            self.waiting_SCT = self.waiting_SCT[..., num_samples:]
        return torch.cat(done, dim=-1)


def _write(final_SCT: Tensor, track_SCT: Tensor, start: int) -> int:
    """The end of what is now written to a track."""
    end = start + final_SCT.shape[-1]
    track_SCT[..., start:end] = final_SCT
    return end


def _divided(spectra_SCFK: Tensor) -> Tensor:
    """Frames (S, C, F, N) of the mixture, whose spectrum comes last, divided by the magnitudes of those before it."""
    magnitude_SCFK = spectra_SCFK[:-1].abs().clamp(min=MIN_MAGNITUDE)
    frames_SCFN: Tensor = torch.fft.irfft(spectra_SCFK[-1] * (magnitude_SCFK / magnitude_SCFK.sum(dim=0)))
    return frames_SCFN
