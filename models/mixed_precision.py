"""The precision of a forward pass, decided in one place for training, separation and evaluation."""

import functools
import logging
import os
import platform
from contextlib import AbstractContextManager

import torch

# By the name in a configuration; int8 is for separation alone.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
# Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from the bfloat16 instructions of an x86 processor.
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")

_LOG = logging.getLogger(__name__)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """The context a forward pass runs in: autocast to `dtype`; float32 changes nothing.

    On a CPU without bfloat16 units bfloat16 is computed in float32, and a warning in the log says so once per process:
    there a product in bfloat16 takes 2 to 3 times as long as in float32 with AVX-512 and 30 to 40 times with AVX2, a
    convolution 1.4 and 85 to 95 times.
    """
    if dtype == torch.bfloat16 and device.type == "cpu" and not cpu_computes_bfloat16():
        _warn_once()
        dtype = torch.float32
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def set_tf32(mode: str) -> None:
    """How a GPU computes products of float32 numbers from now on, in this process.

    "convolutions", torch's default and so that of published trainings, takes TF32 (10 bits of mantissa instead of 23)
    for convolutions and recurrent layers; "on" for all products; "off" for none.
    """
    torch.set_float32_matmul_precision("high" if mode == "on" else "highest")
    torch.backends.cudnn.allow_tf32 = mode != "off"


@functools.cache
def cpu_computes_bfloat16() -> bool:
    """True where this CPU has bfloat16 units, and torch and ONEDNN_MAX_CPU_ISA let oneDNN use them."""
    if not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # oneDNN also says yes where AVX-512 has to do without such units; torch knows of the CPU's flags alone.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has_units and limit not in WITHOUT_BFLOAT16


@functools.cache
def _warn_once() -> None:
    _LOG.warning(
        "precision bfloat16 is computed in float32: this CPU has no bfloat16 units and would be slower in it; "
        "set precision to float32 (train.learner.precision, evaluate.precision, separate.precision)"
    )
