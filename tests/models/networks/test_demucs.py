import math
from dataclasses import replace
from typing import Any

import julius
import pytest
import torch
from demucs.demucs import Demucs as Reference
from torch import nn

from models.errors import ModelError
from models.networks.catalog import PRESETS, build
from models.networks.demucs import Demucs, DemucsConfig, double_rate, halve_rate
from tests.models.parity import forward_gap, gradient_gap, noise, twin


class ReferenceV2(Reference):
    """Demucs v2 out of the parts of demucs 4.1.0, which has kept its layers but pads the decoder's convolutions."""

    def __init__(self, sources: list[str], **options: Any) -> None:
        super().__init__(sources, dconv_mode=0, gelu=False, lstm_layers=2, norm_starts=99, normalize=False, **options)
        for decode in self.decoder:
            decode[0].padding = (0,)

    def valid_length(self, length: int) -> int:
        length *= 2 if self.resample else 1
        for _ in range(self.depth):
            length = max(1, math.ceil((length - 8) / 4) + 1) + 2
        for _ in range(self.depth):
            length = (length - 1) * 4 + 8
        return math.ceil(length / 2) if self.resample else length


class Renamed(nn.Module):
    """A v2 reference under its published keys: 4.1.0 moved the second convolution of a layer from index 2 to 3."""

    def __init__(self, reference: ReferenceV2) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Sequential(e[0], e[2], e[3], e[5]) for e in reference.encoder)
        self.decoder = nn.ModuleList(nn.Sequential(*(d[k] for k in (0, 2, 3))) for d in reference.decoder)
        self.lstm = reference.lstm
        object.__setattr__(self, "whole", reference)

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return self.whole(mixture)


def reference_of(config: DemucsConfig) -> nn.Module:
    options: dict[str, Any] = {
        "audio_channels": config.audio_channels,
        "channels": config.channels,
        "growth": config.growth,
        "depth": config.depth,
        "resample": config.oversample,
    }
    if config.version == 2:
        return Renamed(ReferenceV2(list(config.sources), **options))
    return Reference(list(config.sources), **options)


def tiny(**changes: Any) -> DemucsConfig:
    return DemucsConfig(**({"sample_rate": 8000, "segment_s": 1.0, "channels": 4, "depth": 5} | changes))


VARIANTS = {
    "v2": tiny(),
    "v2 at its own rate, mono, two sources": tiny(oversample=False, audio_channels=1, sources=("voice", "rest")),
    "v3": tiny(version=3),
    "v3 at its own rate, mono, two sources": tiny(
        version=3, oversample=False, audio_channels=1, sources=("voice", "rest"), depth=6
    ),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request: pytest.FixtureRequest) -> tuple[Demucs, nn.Module]:
    torch.manual_seed(0)
    ours, reference = Demucs(request.param), reference_of(request.param)
    twin(ours, reference)
    return ours, reference


@pytest.mark.parametrize("num_samples", [2, 8000, 8001, 30_001])
def test_estimates_are_the_references(pair: tuple[Demucs, nn.Module], num_samples: int) -> None:
    ours, reference = pair[0].eval(), pair[1].eval()
    assert forward_gap(ours, reference, noise(2, ours.config.audio_channels, num_samples)) < 1e-4


def test_gradients_are_the_references(pair: tuple[Demucs, nn.Module]) -> None:
    ours, reference = pair[0].train(), pair[1].train()
    assert gradient_gap(ours, reference, noise(2, ours.config.audio_channels, 9001)) < 1e-3


@pytest.mark.parametrize("num_samples", [1, 7, 100, 1001])
def test_rates_double_and_halve_as_the_reference_does(num_samples: int) -> None:
    x = noise(2, 3, num_samples)
    torch.testing.assert_close(double_rate(x), julius.resample_frac(x, 1, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(halve_rate(x), julius.resample_frac(x, 2, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("version", "oversample", "num_samples", "valid"),
    [
        (2, True, 441_000, 447_146),
        (2, True, 1, 8874),
        (2, False, 441_000, 451_924),
        (2, False, 1, 17_748),
        (3, True, 1, 4778),
        (3, True, 44_100, 45_738),
        (3, True, 343_980, 344_746),
        (3, True, 441_000, 441_002),
        (3, True, 485_100, 486_058),
    ],
)
def test_valid_lengths_are_the_published_ones(version: int, oversample: bool, num_samples: int, valid: int) -> None:
    model = Demucs(tiny(version=version, oversample=oversample, depth=6))
    assert model.valid_length(num_samples) == valid


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("mode", [True, False])
def test_every_input_keeps_its_length(version: int, mode: bool) -> None:
    model = Demucs(tiny(version=version)).train(mode)
    for num_samples in {1, 777, *(model.valid_length(wanted) for wanted in (1, 500, 3000))}:
        with torch.no_grad():
            assert model(noise(1, 2, num_samples)).shape[-1] == num_samples


def test_version_2_uses_a_window_of_valid_length_as_it_is() -> None:
    """As separation feeds it, with real audio around a chunk; here zeros, which the model would have added itself."""
    torch.manual_seed(0)
    model = Demucs(tiny()).eval()
    chunk = noise(1, 2, 8000)
    missing = model.valid_length(8000) - 8000
    window = nn.functional.pad(chunk, (missing // 2, missing - missing // 2))
    with torch.no_grad():
        expected, found = model(chunk), model(window, with_context=True)
    surplus = found.shape[-1] - 8000
    assert 0 <= surplus < missing
    torch.testing.assert_close(found.narrow(-1, surplus // 2, 8000), expected, rtol=0, atol=1e-6)
    with pytest.raises(ModelError, match="valid_length, got 8001 samples"):
        model(noise(1, 2, 8001), with_context=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "num_parameters"),
    [("demucs-v2", 265_679_496), ("demucs-v2-48", 149_462_504), ("demucs-v3-time", 133_753_064)],
)
def test_published_preset_is_the_references(preset: str, num_parameters: int) -> None:
    torch.manual_seed(0)
    ours = build(preset)
    assert sum(parameter.numel() for parameter in ours.parameters()) == num_parameters
    reference = reference_of(ours.config)
    twin(ours, reference)
    assert forward_gap(ours.eval(), reference.eval(), noise(1, 2, 44100)) < 1e-4
    if preset == "demucs-v2":  # of the same parts as the next, whose gradients are compared
        assert replace(ours.config, channels=48) == PRESETS["demucs-v2-48"]
    else:
        assert gradient_gap(ours.train(), reference.train(), noise(1, 2, 12000)) < 1e-3


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [0.0, 1.0, 1e4])
def test_silence_constants_and_single_samples_stay_finite(version: int, fill: float) -> None:
    for num_samples in (1, 8000):
        estimates = Demucs(tiny(version=version))(torch.full((1, 2, num_samples), fill))
        assert estimates.shape == (1, 4, 2, num_samples)
        assert torch.isfinite(estimates).all()


def test_autocast_keeps_the_estimates_in_float32_and_near() -> None:
    torch.manual_seed(0)
    for version in (2, 3):
        model, mixture = Demucs(tiny(version=version)).eval(), noise(1, 2, 8000)
        with torch.no_grad():
            exact = model(mixture)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = model(mixture)
        assert rounded.dtype == torch.float32
        assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 4}, "version must be one of 2, 3, got 4"),
        ({"version": 3, "channels": 6}, "multiple of 4"),
        ({"sources": ("a", "a")}, "none twice"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**changes)
