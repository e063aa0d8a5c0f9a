"""The reference's options: what we write builds the reference's network, and what we cannot build is refused."""

import importlib
from typing import Any

import pytest
import torch

from models.errors import ModelError
from models.networks.catalog import build, from_config, to_config
from models.weights.demucs.demucs_options import ClassName, to_kwargs, to_our_config
from models.weights.demucs.diffq import reference_shapes
from tests.models.parity import forward_gap, gradient_gap, noise, twin

SOURCES = ["drums", "bass", "other", "vocals"]
HYBRID, TIME = ClassName("demucs.hdemucs.HDemucs"), ClassName("demucs.demucs.Demucs")
SMALL = {"channels": 16, "nfft": 256, "depth": 4, "norm_starts": 2, "dconv_attn": 2, "dconv_lstm": 2, "segment": 1.0}
# What the bags mdx and mdx_extra set besides the sources, and other networks that the classes can build.
VARIANTS = {
    "amplitude, with the first models' padding, without norms": (
        HYBRID,
        SMALL | {"cac": False, "hybrid_old": True, "norm_starts": 999},
    ),
    "bands": (HYBRID, SMALL | {"multi_freqs": [0.2, 0.5], "multi_freqs_depth": 1, "norm_starts": 999}),
    "no shared layer": (HYBRID, SMALL | {"depth": 3}),
    "two shared layers, norms and LSTMs from the second on": (
        HYBRID,
        SMALL | {"depth": 5, "norm_starts": 1, "dconv_attn": 1, "dconv_lstm": 1},
    ),
    "time without gates": (TIME, {"channels": 8, "depth": 2, "rewrite": False, "segment": 1.0}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_the_references_and_written_back(variant: str) -> None:
    torch.manual_seed(0)
    name, kwargs = VARIANTS[variant]
    module, _, klass = name.path.rpartition(".")
    reference = getattr(importlib.import_module(module), klass)(SOURCES[:2], samplerate=8000, **kwargs)
    ours = from_config(to_our_config(name, (SOURCES[:2],), kwargs | {"samplerate": 8000}, origin="x"))
    twin(ours, reference)
    assert list(reference_shapes(ours)) == [key for key, _ in reference.named_parameters()]
    for num_samples in (2000, 1999):
        assert forward_gap(ours.eval(), reference.eval(), noise(1, 2, num_samples)) < 1e-4
    assert gradient_gap(ours.train(), reference.train(), noise(1, 2, 2000)) < 1e-3
    assert to_our_config(name, (), to_kwargs(ours)[1], origin="x") == to_config(ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 2}, "sets depth=2; with nfft 256 only 3 and more layers let its branches meet"),
        ({"dconv_attn": 1}, "sets dconv_attn=1 with dconv_lstm=2"),
        ({"wiener_iters": 2, "end_iters": 2}, "sets wiener_iters=2; only 0 can be built here, and sets end_iters=2"),
        ({"multi_freqs": [0.5, 0.2], "norm_starts": 999}, "band_limits .* must rise"),
        ({"multi_freqs": [0.5], "multi_freqs_depth": 3}, "banded_layers 3: only layers without norms"),
        ({"multi_freqs": [0.01], "norm_starts": 999}, "leave a band without rows"),
        ({"norm_starts": 0, "channels": 18}, "channels 18"),
    ],
)
def test_a_hybrid_model_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        to_our_config(HYBRID, (SOURCES,), SMALL | {"multi_freqs_depth": 2} | changes, origin="x")


@pytest.mark.parametrize("preset", ["htdemucs-tiny", "hdemucs-tiny", "demucs-v3-tiny"])
@pytest.mark.parametrize("sources", [("voice",), ("drums", "bass", "other", "vocals", "guitar", "piano")])
def test_the_options_written_build_the_references_twin(preset: str, sources: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    ours = build(preset, sources=sources, audio_channels=1, sample_rate=16000, segment_s=0.5)
    name, kwargs = to_kwargs(ours)
    module, _, klass = name.path.rpartition(".")
    reference = getattr(importlib.import_module(module), klass)(**kwargs)
    twin(ours, reference)
    mixture = noise(2, 1, ours.config.segment_samples)
    assert forward_gap(ours.eval(), reference.eval(), mixture) < 1e-4
    assert gradient_gap(ours.train(), reference.train(), mixture) < 1e-3


@pytest.mark.parametrize("preset", ["htdemucs", "htdemucs-6s", "htdemucs-384", "hdemucs-mmi", "demucs-v3-time"])
def test_the_options_written_are_read_back(preset: str) -> None:
    with torch.device("meta"):
        model = build(preset)
    klass, kwargs = to_kwargs(model)
    ours = to_config(model)
    if ours["family"] == "htdemucs":  # the reference has one share for both dropouts
        ours["attention_dropout"] = ours["dropout"]
    assert to_our_config(klass, (), kwargs, origin="x") == ours


def test_the_challenges_complex_models_are_built() -> None:
    """Two of the bag mdx_extra, e51eebcc and cfa93e08, are what hdemucs-mmi is."""
    kwargs: dict[str, Any] = {"segment": 44, "hybrid_old": False, "cac": True, "norm_starts": 4}
    with torch.device("meta"):
        assert to_our_config(HYBRID, (SOURCES,), kwargs, origin="x") == to_config(build("hdemucs-mmi"))


@pytest.mark.parametrize(("preset", "message"), [("demucs-v2-tiny", "Demucs v2"), ("sparse-htdemucs-tiny", "sparse")])
def test_what_the_stock_package_cannot_build_is_not_exported(preset: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        to_kwargs(build(preset))
