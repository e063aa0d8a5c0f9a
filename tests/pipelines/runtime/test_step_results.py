"""Whoever changes what a step writes raises its version: results of tiny inputs are noted for each."""

import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipelines.runtime.step_keys import Step
from tests.pipelines.runtime import print_step_keys, step_results

REMEDY = "CONTRIBUTING.md, 'How to change a step', says what to do"
# Made of the results of other steps, or of nothing but a call: they write nothing of their own.
WITHOUT_RESULTS = {"job", "recipe", "listening_pages"}


def _steps() -> dict[str, Step]:
    """Every step that any module of pipelines and flows declares, by name."""
    found: dict[str, Step] = {}
    for room in ("pipelines", "flows"):
        package: ModuleType = importlib.import_module(room)
        for info in pkgutil.walk_packages(package.__path__, f"{room}."):
            if not info.name.endswith("__main__"):
                members = vars(importlib.import_module(info.name)).values()
                found |= {value.name: value for value in members if isinstance(value, Step)}
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_what_steps_write_is_what_is_noted_for_their_versions(ray_local: Any, tmp_path: Path) -> None:
    noted = step_results.read_noted()
    for step, made in step_results.all_results(tmp_path):
        assert step.words in noted, f"{step.words} has no results that are noted: {REMEDY}"
        found = list(step_results.differences(json.loads(json.dumps(made)), noted[step.words]))
        assert not found, f"{step.words} writes something else: {found[:3]}; raise a VERSION it is made of: {REMEDY}"


def test_every_step_has_results_and_keys_that_tests_watch() -> None:
    steps = _steps()
    noted = {words.split(" ")[0] for words in step_results.read_noted()}
    assert steps.keys() - noted == WITHOUT_RESULTS
    assert steps.keys() - print_step_keys.all_keys().keys() == set()
    current = {step.words for name, step in steps.items() if name not in WITHOUT_RESULTS}
    missing = current - step_results.read_noted().keys()
    assert not missing, f"no results are noted for {sorted(missing)}: {REMEDY}"


def test_results_of_a_noted_version_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_results, "NOTED", tmp_path / "noted.json")
    said: list[str] = []
    assert step_results.note({"a 1": {"x": 1.0, "w": "b"}}, say=said.append) == 0
    assert step_results.note({"a 1": {"x": 1.00001, "w": "b"}}, say=said.append) == 0
    kept = (tmp_path / "noted.json").read_bytes()
    for other in (
        {"x": 1.01, "w": "b"},
        {"x": 1.0, "w": "c"},
        {"x": 1.0},
        {"x": [1.0], "w": "b"},
        {"x": None, "w": "b"},
    ):
        assert step_results.note({"a 1": other}, say=said.append) == 1
        assert (tmp_path / "noted.json").read_bytes() == kept
    assert step_results.note({"a 2": {"x": 2.0}}, say=said.append) == 0
    assert step_results.read_noted() == {"a 1": {"x": 1.0, "w": "b"}, "a 2": {"x": 2.0}}
    assert "raise a VERSION" in said[1]
