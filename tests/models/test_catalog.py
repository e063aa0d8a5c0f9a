import json

import pytest
from torch import nn

from models.catalog import FAMILIES, PRESETS, build, from_config, to_config
from models.errors import ModelError

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


def test_every_family_has_a_tiny_preset() -> None:
    assert {to_config(build(preset))["family"] for preset in TINY} == set(FAMILIES)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="no preset 'htdemucs-tyni': did you mean 'htdemucs-tiny'"):
        build("htdemucs-tyni")


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="no option 'chanels': did you mean 'channels'"):
        build("htdemucs-tiny", chanels=4)
    with pytest.raises(ModelError, match="no option 'nftt': did you mean 'nfft'"):
        from_config(to_config(build("htdemucs-tiny")) | {"nftt": 1024})


def test_an_option_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ModelError, match="wrong type"):
        build("htdemucs-tiny", depth="four")


def test_an_unknown_family_or_a_foreign_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no family 'htdemuc': did you mean 'htdemucs'"):
        from_config({"family": "htdemuc"})
    with pytest.raises(ModelError, match="no family None"):
        from_config({})
    with pytest.raises(ModelError, match="Linear is no model of this catalog"):
        to_config(nn.Linear(1, 1))
