"""What is optimized: the mean absolute distance between waveforms, kept apart by source; and a penalty on weights."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..host_to_device import upload
from ..learner_config import SpectralPenaltyConfig
from ..rng import generator

GRAM_SQUARINGS = 10  # the first vector's share grows with the 1024th power of the ratio of squared singular values


def l1(estimates_BSCT: Tensor, sources_BSCT: Tensor) -> Tensor:
    """Mean absolute error of each row and source over channels and samples; shape (B, S), float32."""
    return (estimates_BSCT.float() - sources_BSCT.float()).abs().mean(dim=(2, 3))


def kept(loss_BS: Tensor, drop: float, group: int) -> Tensor:
    """Weights that leave the highest losses of each source out, their share `drop` of every `group` rows; shape (B, S).

    Kept rows weigh more, so that the mean of the weighted losses is the mean of the kept ones. A stem under the wrong
    name is what a model that has learned anything is worst at. Groups of consecutive rows make the outcome
    independent of how many workers share a batch.
    """
    if len(loss_BS) % group:
        raise ModelError(f"{len(loss_BS)} rows are no whole number of robust groups of {group}")
    dropped = round(drop * group)
    order_GRS = loss_BS.view(-1, group, loss_BS.shape[1]).argsort(dim=1, stable=True)
    kept_BS = (order_GRS.argsort(dim=1) < group - dropped).view_as(loss_BS)
    return kept_BS.to(loss_BS.dtype) * (group / (group - dropped))


def weighted_mean(per_source_S: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Mean over sources by weight; no weights count every source equally."""
    if not weights:
        return per_source_S.mean()
    if len(weights) != len(per_source_S):
        raise ModelError(f"{len(weights)} source weights for {len(per_source_S)} sources: give one per source")
    weights_S = upload(torch.tensor(weights, dtype=per_source_S.dtype), per_source_S.device)
    return (per_source_S * weights_S).sum() / weights_S.sum()


def singular_penalty(model: nn.Module, config: SpectralPenaltyConfig, *, seed: int, step: int) -> Tensor:
    """Sum over large weight matrices of the square of the largest singular value; a scalar in float32.

    The value is looked for in a random sketch of `config.rank` dimensions, so it may be a little too small, never
    too large. Singular vectors count as constants: that is the exact gradient where they are found exactly.
    """
    total = torch.zeros((), device=next(model.parameters()).device)
    for place, matrix in enumerate(_large_matrices(model, config.min_mib)):
        rng = generator(seed, step, "singular", place, device=matrix.device)
        left, right = _leading_vectors(matrix.detach(), config, rng)
        total = total + (left @ matrix @ right).square()
    return total


def check_penalized(model: nn.Module, config: SpectralPenaltyConfig) -> None:
    """ModelError where a penalty is asked for and no matrix of the model is large enough for it."""
    if config.penalty and next(_large_matrices(model, config.min_mib), None) is None:
        raise ModelError(
            "spectral_penalty.min_mib must be at most the size of the largest weight matrix, got "
            f"{config.min_mib:g} MiB"
        )


def _large_matrices(model: nn.Module, min_mib: float) -> Iterator[Tensor]:
    """Weights as (outputs, inputs x taps); transposed convolutions keep their outputs in the second dimension."""
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if weight.dim() > 1 and 4 * weight.numel() >= min_mib * 2**20:
                turned = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
                yield (weight.transpose(0, 1) if turned else weight).flatten(1).float()


@torch.no_grad()
def _leading_vectors(matrix: Tensor, config: SpectralPenaltyConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The first pair of singular vectors, by subspace iteration (Halko, Martinsson, Tropp 2011)."""
    shape = matrix.shape[1], min(config.rank, *matrix.shape)
    sketch = torch.randn(shape, generator=rng, device=matrix.device)
    basis = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(config.iterations):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    inside = basis.T @ matrix
    if inside.device.type == "cpu":
        left, _, right = torch.linalg.svd(inside, full_matrices=False)
        return basis @ left[:, 0], right[0]
    left_first = _leading_left(inside)
    right_first = nn.functional.normalize(left_first @ inside, dim=0)
    return basis @ left_first, right_first


def _leading_left(matrix: Tensor) -> Tensor:
    """The first left singular vector of a matrix of few rows, by squaring its Gram matrix.

    A singular value decomposition on a GPU looks for errors on the host, which waits for it.
    """
    gram = matrix @ matrix.T
    for _ in range(GRAM_SQUARINGS):
        gram = gram / gram.trace().clamp(min=torch.finfo(gram.dtype).tiny)
        gram = gram @ gram
    first = gram.diagonal().argmax().reshape(1)
    return nn.functional.normalize(gram.index_select(1, first)[:, 0], dim=0)
