"""A model's forward pass by torch's compiler, taken only where it computes what the model does without it.

The first rows of a training go both ways. Dropout differs between the two, so their losses may differ as much as two
draws of it do; where they differ more, or the compiler fails, training goes on without it, and a warning says so.
"""

import logging

import torch
from torch import Tensor, nn

from ..mixed_precision import autocast

MAX_GAP = 0.01  # of the mean magnitude of what comes out, beside what draws of dropout make
_LOG = logging.getLogger(__name__)


def compile_in_place(model: nn.Module, mode: str, mixture_BCT: Tensor, dtype: torch.dtype) -> str:
    """Compile `model`, in training mode, for mixtures of this shape; why it stays as it was, empty where it did not.

    `mode` is one of those of `learner_config.py`. Under `dtype` other than float32 both ways run in autocast.
    """
    if mode == "off":
        return ""
    eager, again = (_magnitudes(model, mixture_BCT, dtype) for _ in range(2))
    model.compile(mode=None if mode == "on" else mode, dynamic=False)
    try:
        compiled = _magnitudes(model, mixture_BCT, dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds: the compiler's own, a C++ compiler's, a missing file's
        return _without(model, mode, " ".join((str(error).strip() or type(error).__name__).split("\n")[:2]))
    gap, allowed = (compiled - eager).abs().max(), 3 * (again - eager).abs().max() + MAX_GAP * eager.abs().mean()
    if gap <= allowed:
        return ""
    return _without(model, mode, f"its estimates differ by {float(gap):.2g}, where {float(allowed):.2g} is noise")


def _without(model: nn.Module, mode: str, why: str) -> str:
    model._compiled_call_impl = None
    _LOG.warning("train.compile=%s: training goes on without the compiler, since %s", mode, why)
    return why


def _magnitudes(model: nn.Module, mixture_BCT: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean magnitude of each row and source of the estimates; random numbers are as they were afterwards."""
    devices = [mixture_BCT.device] if mixture_BCT.device.type == "cuda" else []
    with torch.random.fork_rng(devices), autocast(mixture_BCT.device, dtype):
        estimates_BSCT: Tensor = model(mixture_BCT)
    return estimates_BSCT.detach().float().abs().mean(dim=(2, 3))
