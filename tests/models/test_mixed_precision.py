"""bfloat16 is computed where it is faster; elsewhere float32 takes its place, and the log says so."""

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

from models import mixed_precision
from models.learner_config import PRECISIONS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    mixed_precision.cpu_computes_bfloat16.cache_clear()
    mixed_precision._warn_once.cache_clear()


@pytest.fixture
def a_cpu_with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    with mixed_precision.autocast(CPU, dtype):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.usefixtures("a_cpu_with_units")
@pytest.mark.parametrize(
    ("limit", "units"),
    [("", True), ("ALL", True), ("AVX512_CORE_BF16", True), ("AVX512_CORE", False), ("avx2", False), ("SSE41", False)],
)
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_the_limit_that_onednn_was_given_counts(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: str, units: bool
) -> None:
    monkeypatch.setenv(name, limit)
    assert mixed_precision.cpu_computes_bfloat16() is units


@pytest.mark.usefixtures("a_cpu_with_units")
@pytest.mark.parametrize("missing", ["library", "instructions", "units"])
def test_library_processor_and_its_units_are_all_needed(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "library":
        monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    elif missing == "instructions":
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    else:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not mixed_precision.cpu_computes_bfloat16()


@pytest.mark.usefixtures("a_cpu_with_units")
def test_with_units_products_are_in_bfloat16_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert product_dtype(torch.bfloat16) == torch.bfloat16
    assert product_dtype(torch.float32) == torch.float32
    assert not caplog.records


def test_without_units_products_are_in_float32_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mixed_precision, "cpu_computes_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert product_dtype(torch.float32) == torch.float32
        assert not caplog.records
        assert product_dtype(torch.bfloat16) == torch.float32
        assert product_dtype(torch.bfloat16) == torch.float32
    (record,) = caplog.records
    assert "evaluate.precision" in record.getMessage()


SEPARATE_AND_LEARN = """
import torch
from models.inference.separate import separate
from models.learner_config import LearnerConfig
from models.learning.learner import Learner
from models.networks.catalog import build

def network():
    torch.manual_seed(0)
    return build("htdemucs-tiny", sample_rate=8000, segment_s=0.25, nfft=512, depth=2)

mixture_CT = torch.randn(2, 3000)
exact, low = (separate(network(), mixture_CT, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
assert torch.equal(exact, low), "separation"
losses = []
for precision in ("float32", "bfloat16"):
    learner = Learner(network(), LearnerConfig(precision=precision), sample_rate=8000)
    torch.manual_seed(1)
    losses.append(learner.step(0.1 * torch.randn(4, 4, 2, 10000), step=0).loss)
assert losses[0] == losses[1], "training"
"""


@pytest.mark.slow
def test_separation_and_training_on_a_cpu_without_units_are_those_of_float32() -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SEPARATE_AND_LEARN], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("bfloat16 is computed in float32") == 1


def test_every_precision_that_a_configuration_may_name_is_computed() -> None:
    assert tuple(mixed_precision.DTYPES) == (*PRECISIONS, "int8")  # which separation alone may name


def test_tf32_is_for_convolutions_as_torch_has_it_or_for_all_products_or_none() -> None:
    def seen() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = seen()
    mixed_precision.set_tf32("on")
    assert seen() == ("high", True)
    mixed_precision.set_tf32("off")
    assert seen() == ("highest", False)
    mixed_precision.set_tf32("convolutions")
    assert seen() == before == ("highest", True)
