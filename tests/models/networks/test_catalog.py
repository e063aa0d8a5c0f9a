import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.networks.catalog import FAMILIES, PRESETS, build, from_config, to_config
from tests.models.parity import noise

TINY = [name for name in PRESETS if name.endswith("tiny")]


@pytest.mark.parametrize("preset", TINY)
def test_a_model_comes_back_from_its_configuration_as_json(preset: str) -> None:
    model = build(preset, sources=["voice", "rest"], sample_rate=16000)
    config = json.loads(json.dumps(to_config(model)))
    again = from_config(config)
    assert again.config == model.config
    assert again.config.sources == ("voice", "rest")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes


def test_every_family_has_a_tiny_preset_and_demucs_one_of_each_version() -> None:
    configs = [to_config(build(preset)) for preset in TINY]
    assert {config["family"] for config in configs} == set(FAMILIES)
    assert {config["version"] for config in configs if config["family"] == "demucs"} == {2, 3}


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize(
    ("sources", "channels", "sample_rate"),
    [(("voice",), 1, 8000), (("a", "b", "c", "d", "e", "f", "g"), 2, 22050), (("left", "right"), 2, 96000)],
    ids=["one source of mono", "seven sources", "two at 96 kHz"],
)
def test_any_sources_channels_and_rate_separate_and_learn(
    preset: str, sources: tuple[str, ...], channels: int, sample_rate: int
) -> None:
    torch.manual_seed(0)
    model = build(preset, sources=sources, audio_channels=channels, sample_rate=sample_rate, segment_s=0.1)
    num_samples = model.config.segment_samples
    mixture = noise(2, channels, num_samples)
    with torch.no_grad():
        estimates = model.eval()(mixture)
    assert estimates.shape == (2, len(sources), channels, num_samples)
    assert torch.isfinite(estimates).all()
    model.train()(mixture).square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients if gradient is not None)


def test_no_line_outside_networks_and_the_reader_of_their_weights_knows_of_roformers_and_scnet(
    repository: Path,
) -> None:
    """They train, separate, compress, register and export by what serves any network."""
    named = [
        f"{path.relative_to(repository)}:{number}"
        for room in ("models", "pipelines", "flows", "infra")
        for path in sorted((repository / room).rglob("*.py"))
        if "networks" not in path.parts and "msst" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search("scnet|ro_?former", line, re.IGNORECASE)
    ]
    assert named == []


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="no preset 'htdemucs-tyni': did you mean 'htdemucs-tiny'"):
        build("htdemucs-tyni")


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="no option 'chanels': did you mean 'channels'"):
        build("htdemucs-tiny", chanels=4)
    with pytest.raises(ModelError, match="no option 'nftt': did you mean 'nfft'"):
        from_config(to_config(build("htdemucs-tiny")) | {"nftt": 1024})


def test_an_option_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ModelError, match="depth must be a whole number, got 'four'"):
        build("htdemucs-tiny", depth="four")
    with pytest.raises(ModelError, match="wrong type"):
        build("htdemucs-tiny", sources=3)


def test_an_unknown_family_or_a_foreign_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no family 'htdemuc': did you mean 'htdemucs'"):
        from_config({"family": "htdemuc"})
    with pytest.raises(ModelError, match="no family None"):
        from_config({})
    with pytest.raises(ModelError, match="Linear is no model of this catalog"):
        to_config(nn.Linear(1, 1))
