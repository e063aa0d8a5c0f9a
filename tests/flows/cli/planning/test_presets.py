"""What `stemline presets` lists."""

import json

import pytest

from flows import config as settings
from flows.__main__ import main


def test_every_preset_is_listed_with_its_network_and_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)["presets"]}
    assert sorted(told) == settings.presets()
    assert told["htdemucs-musdb"]["network"] == "htdemucs"
    assert told["htdemucs-musdb"]["steps"] == 360 * 576
    assert told["htdemucs-musdb"]["description"].endswith("Published SDR 7.52 dB.")
    assert all(len(one["description"]) > 40 for one in told.values())
    assert main(["presets"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(one["description"] in shown for one in told.values())
