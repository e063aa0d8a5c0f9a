"""SI-SIR and SI-SAR: what SI-SDR counts as error, split into other sources and what is of none.

Le Roux, Wisdom, Erdogan and Hershey 2019, "SDR - half-baked or well done?": an estimate e is split into a·s, its own
reference with the gain that fits best, interference, which is the rest of its projection on all references, and
artifacts. SI-SIR = |a·s|²/|interference|², SI-SAR = |a·s|²/|artifacts|²; as energies, the inverses of both add up to
that of SI-SDR. As in `metrics.si_sdr`, a song is one vector: all its channels have one gain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .metrics import comparable, energy, silent

# Of an energy: below that a difference is rounding errors alone. Ratios to it are at most 313 dB; museval, which has no
# such limit, gets 300 to 310 dB where nothing is left.
ROUNDING = torch.finfo(torch.float64).eps ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleInvariant:
    """Decibels of shape (S,), float64; NaN where the reference or the estimate is silent, at most 313 dB."""

    sir_S: Tensor
    sar_S: Tensor


def scale_invariant(reference_SCT: Tensor, estimate_SCT: Tensor) -> ScaleInvariant:
    """SI-SIR and SI-SAR of every source over the whole excerpt.

    References that are copies of each other, or silent, count once or not at all. -inf where an estimate has nothing of
    its own reference; SI-SIR is NaN where no other reference sounds (`metrics.silent`).
    """
    reference_SCT, estimate_SCT = comparable(reference_SCT, estimate_SCT)
    reference_SN, estimate_SN = reference_SCT.flatten(1), estimate_SCT.flatten(1)
    levels_S = energy(reference_SCT).sqrt()
    unit_S = levels_S.clamp(min=torch.finfo(torch.float64).tiny).reciprocal()  # as if all were equally loud
    gram_SS = unit_S[:, None] * (reference_SN @ reference_SN.mT) * unit_S
    products_SS = unit_S[:, None] * (reference_SN @ estimate_SN.mT)  # references by estimates
    gains_SS = torch.linalg.pinv(gram_SS, hermitian=True) @ products_SS
    own_SS = products_SS.diagonal().diag()
    target_S = products_SS.diagonal().square()
    other_SS = gains_SS - own_SS
    interference_S = (other_SS * (gram_SS @ other_SS)).sum(dim=0)
    pairs = zip(estimate_SN, (unit_S[:, None] * gains_SS).mT, strict=True)
    artifacts_S = torch.stack([(estimate_N - gain_S @ reference_SN).square().sum() for estimate_N, gain_S in pairs])
    floor_S = ROUNDING * energy(estimate_SCT)
    silent_S = (levels_S == 0) | (floor_S == 0)

    def ratio(error_S: Tensor) -> Tensor:
        return (10 * torch.log10(target_S / torch.maximum(error_S, floor_S))).masked_fill(silent_S, torch.nan)

    sounding_S = (~silent(reference_SCT)).int()
    alone_S = sounding_S.sum() - sounding_S == 0  # then there is nothing that could interfere
    return ScaleInvariant(sir_S=ratio(interference_S).masked_fill(alone_S, torch.nan), sar_S=ratio(artifacts_S))
