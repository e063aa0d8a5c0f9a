"""The reference's options: what we write builds the reference's network, and what we cannot build is refused."""

import importlib
from typing import Any

import pytest
import torch

from models.errors import ModelError
from models.networks.catalog import build, to_config
from models.weights.demucs_options import ClassName, to_kwargs, to_our_config
from tests.models.parity import forward_gap, gradient_gap, noise, twin

SOURCES = ["drums", "bass", "other", "vocals"]
HYBRID, TIME = ClassName("demucs.hdemucs.HDemucs"), ClassName("demucs.demucs.Demucs")
# What the bags mdx and mdx_extra set besides the sources.
MDX = {
    "amplitude": (HYBRID, {"cac": False, "hybrid_old": True, "norm_starts": 999}),
    "bands": (HYBRID, {"multi_freqs": [0.1, 0.3], "norm_starts": 999}),
    "without norms": (HYBRID, {"norm_starts": 999}),
}


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


@pytest.mark.parametrize(
    ("variant", "reasons"),
    [
        ("amplitude", [r"cac=False.*amplitude spectrograms", r"hybrid_old=True.*padding"]),
        ("bands", [r"multi_freqs=\[0.1, 0.3\].*per frequency band"]),
        ("without norms", [r"norm_starts=999.*without norms"]),
    ],
)
def test_the_models_of_the_challenge_are_refused_by_every_option_that_is_not_taken_over(
    variant: str, reasons: list[str]
) -> None:
    klass, kwargs = MDX[variant]
    for reason in reasons:
        with pytest.raises(ModelError, match=f"x sets .*{reason}.*not taken over"):
            to_our_config(klass, (SOURCES,), kwargs, origin="x")


def test_the_challenges_complex_models_are_built() -> None:
    """Two of the bag mdx_extra, e51eebcc and cfa93e08, are what hdemucs-mmi is."""
    kwargs: dict[str, Any] = {"segment": 44, "hybrid_old": False, "cac": True, "norm_starts": 4}
    with torch.device("meta"):
        assert to_our_config(HYBRID, (SOURCES,), kwargs, origin="x") == to_config(build("hdemucs-mmi"))


@pytest.mark.parametrize(("preset", "message"), [("demucs-v2-tiny", "Demucs v2"), ("sparse-htdemucs-tiny", "sparse")])
def test_what_the_stock_package_cannot_build_is_not_exported(preset: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        to_kwargs(build(preset))
