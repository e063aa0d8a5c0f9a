"""What `stemline config` says of settings, sections and networks' options."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from flows.__main__ import main
from flows.config import RunConfig
from flows.config.setting_descriptions import every

Told = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """What the command says in JSON."""

    def ask(*words: str) -> list[dict[str, Any]]:
        assert main(["config", *words, "--json"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["settings"]
        return found

    return ask


def test_a_setting_is_explained_with_its_value_in_a_preset(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    (steps,) = told("train.steps", "--preset", "htdemucs-musdb")
    assert (steps["value"], steps["default"], steps["range"], steps["type"]) == (360 * 576, 288000, ">= 1", "int")
    assert main(["config", "train.steps", "train.steps=7"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"train\.steps = 7 +int, >= 1; default 288000", shown)
    assert "Optimization steps of the whole training" in shown


def test_a_section_has_its_settings_and_those_below(told: Told) -> None:
    names = [one["name"] for one in told("train.learner")]
    assert "train.learner.beta2" in names
    assert any(name.startswith("train.learner.augment.") for name in names)
    assert all(name.startswith("train.learner.") for name in names)


def test_without_a_name_every_section_is_listed_and_every_setting_told(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [one["name"] for one in told()] == [one.name for one in every(RunConfig)]
    assert main(["config", "--preset", "htdemucs-one-gpu"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^train +\d+ settings, [1-9]\d* changed by htdemucs-one-gpu$", shown, re.M)
    sections = {one.name.rpartition(".")[0] for one in every(RunConfig)} - {""}
    assert all(re.search(rf"^{section} ", shown, re.M) for section in sections)
    assert re.search(r"^store +\d+ settings, 0 changed", shown, re.M), "a folder that became absolute is no change"
    assert re.search(r"^corpus +\d+ settings, 0 changed", shown, re.M)


def test_a_networks_options_are_those_of_the_presets_network(told: Told) -> None:
    ours = {one["name"]: one for one in told("model.options", "--preset", "htdemucs-musdb")}
    assert ours["model.options.transformer_layers"]["value"] == 5
    time = {one["name"]: one for one in told("model.options", "--preset", "demucs-v2", "model.options.channels=48")}
    assert "model.options.transformer_layers" not in time
    assert time["model.options.channels"]["value"] == 48


def test_words_are_looked_for_in_names_and_meanings(told: Told) -> None:
    found = [one["name"] for one in told("--find", "Dropouts")]
    assert found == ["curate.max_dropouts"]
    both = [one["name"] for one in told("--find", "warm-up")]
    inside = [one["name"] for one in told("train.learner", "--find", "warm-up")]
    assert "train.learner.learning_rate" in inside
    assert inside == [name for name in both if name.startswith("train.learner.")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian.steps"], "did you mean 'train.steps'?"),
        (["model.options.layers"], "transformer_layers"),
        (["model.options", "model.preset=htdemuks"], "model.preset=htdemuks: no preset 'htdemuks'"),
        (["model.options", "model.options.layers=3"], "htdemucs has no option 'layers'"),
        (["--find", "zebra"], "no setting has this"),
        (["train.learner.beta1=1.5"], "train.learner.beta1"),
    ],
    ids=" ".join,
)
def test_what_is_no_setting_is_refused_with_the_nearest(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
