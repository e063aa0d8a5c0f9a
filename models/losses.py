"""What is optimized: the mean absolute distance between waveforms, kept apart by source."""

import torch
from torch import Tensor

from .errors import ModelError


def l1(estimates_BSCT: Tensor, sources_BSCT: Tensor) -> Tensor:
    """Mean absolute error of each source over the batch, its channels and samples; shape (S,), float32."""
    return (estimates_BSCT.float() - sources_BSCT.float()).abs().mean(dim=(0, 2, 3))


def weighted_mean(per_source_S: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Mean over sources by weight; no weights count every source equally."""
    if not weights:
        return per_source_S.mean()
    if len(weights) != len(per_source_S):
        raise ModelError(f"{len(weights)} source weights for {len(per_source_S)} sources: give one per source")
    weights_S = torch.tensor(weights, dtype=per_source_S.dtype, device=per_source_S.device)
    return (per_source_S * weights_S).sum() / weights_S.sum()
