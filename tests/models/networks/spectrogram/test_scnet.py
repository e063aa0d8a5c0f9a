"""SCNet is the public implementation's twin, and refuses what it could not run on."""

from typing import Any

import pytest
import torch
from pymss_core.modules.scnet import SCNet as Reference
from torch import nn

from models.errors import ModelError
from models.networks.catalog import build
from models.networks.spectrogram.scnet import SCNet, SCNetConfig
from models.weights.msst.msst_names import SCNET
from tests.models.parity import noise, renamed_twin_gaps

TINY: dict[str, Any] = {
    "sample_rate": 8000,
    "segment_s": 0.25,
    "block_channels": (8, 16),
    "nfft": 256,
    "hop_length": 64,
    "conv_depths": (2, 1, 0),
    "dual_path_layers": 2,
}
VARIANTS = {
    "the paper's shares": {},
    "another split, mono, one source": {
        "sources": ("voice",),
        "audio_channels": 1,
        "band_shares": (0.225, 0.372),
        "band_strides": (1, 2, 5),
        "band_kernels": (5, 2, 5),
        "rnn_expand": 2,
        "conv_kernel": 5,
        "hop_length": 50,
    },
}


def tiny(**changes: Any) -> SCNetConfig:
    return SCNetConfig(**(TINY | changes))


def reference_of(config: SCNetConfig) -> nn.Module:
    model: nn.Module = Reference(
        sources=list(config.sources),
        audio_channels=config.audio_channels,
        dims=[2 * config.audio_channels, *config.block_channels],
        nfft=config.nfft,
        hop_size=config.hop_length,
        win_size=config.nfft,
        band_SR=[*config.band_shares, 1 - sum(config.band_shares)],
        band_stride=list(config.band_strides),
        band_kernel=list(config.band_kernels),
        conv_depths=list(config.conv_depths),
        compress=config.conv_compress,
        conv_kernel=config.conv_kernel,
        num_dplayer=config.dual_path_layers,
        expand=config.rnn_expand,
    )
    return model


@pytest.mark.filterwarnings("ignore:A window was not provided")  # nor is there one in the paper's implementation
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_estimates_and_gradients_are_the_references(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = SCNet(tiny(**changes))
    mixture = noise(2, ours.config.audio_channels, 2001)
    forward, gradient = renamed_twin_gaps(ours, reference_of(ours.config), SCNET, mixture)
    assert forward < 1e-4
    assert gradient < 1e-3


@pytest.mark.parametrize(
    ("preset", "num_parameters"),
    [("scnet", 10_578_768), ("scnet-large", 42_181_232), ("scnet-xl", 54_006_896), ("scnet-xl-ihf", 53_466_800)],
)
def test_published_preset_has_its_number_of_parameters(preset: str, num_parameters: int) -> None:
    with torch.device("meta"):
        model, reference = build(preset), reference_of(build(preset).config)
    for network in (model, reference):
        assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_s": 0.01}, "80 samples are too short for an STFT of 256: .* give 129 or more"),
        ({"hop_length": 200}, "hop_length 200 at most half of it"),
        ({"nfft": 255}, "nfft 255 must be even"),
        ({"band_shares": (0.5, 0.5)}, "band_shares .* below 1 together"),
        ({"band_strides": (1, 4)}, "band_strides .* 3 numbers"),
        ({"band_kernels": (4, 4, 16)}, "must be odd where the stride is 1"),
        ({"band_kernels": (3, 5, 16)}, "and else equal to it"),
        ({"block_channels": (2,)}, "squeezes fewer to nothing"),
        ({"nfft": 4, "hop_length": 1, "band_shares": (0.6, 0.39)}, "nfft 4 leaves a band without rows in block 2"),
        ({"dual_path_layers": 3}, "dual_path_layers must be even"),
        ({"conv_kernel": 2}, "conv_kernel must be odd"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**changes)


def test_a_mixture_too_short_for_the_transform_is_refused() -> None:
    with pytest.raises(ModelError, match="128 samples are too short"):
        SCNet(tiny())(torch.zeros(1, 2, 128))
    assert SCNet(tiny())(torch.zeros(1, 2, 129)).shape == (1, 4, 2, 129)
