"""Alerts: each has a test that makes it fire and one that keeps it silent, run by promtool where there is one."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool runs the tests of rules")


def monitoring(repository: Path, name: str) -> Any:
    return yaml.safe_load((repository / "infra" / "monitoring" / name).read_text(encoding="utf-8"))


def alerts(repository: Path) -> list[Any]:
    return [rule for group in monitoring(repository, "alerts.yaml")["groups"] for rule in group["rules"]]


def test_every_alert_says_how_bad_it_is_and_what_to_do(repository: Path) -> None:
    for rule in alerts(repository):
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]


def test_every_alert_is_tested_firing_and_silent(repository: Path) -> None:
    asked = [one for each in monitoring(repository, "alerts_test.yaml")["tests"] for one in each["alert_rule_test"]]
    names = {rule["alert"] for rule in alerts(repository)}
    assert {one["alertname"] for one in asked if one.get("exp_alerts")} == names
    assert {one["alertname"] for one in asked if not one.get("exp_alerts")} == names


@needs_promtool
def test_alerts_fire_and_stay_silent_as_told(repository: Path) -> None:
    folder = repository / "infra" / "monitoring"
    said = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


@needs_promtool
def test_a_rule_that_is_silent_without_nodes_is_found_out(repository: Path, tmp_path: Path) -> None:
    folder = repository / "infra" / "monitoring"
    rules = (folder / "alerts.yaml").read_text(encoding="utf-8")
    silent = re.sub(r'absent\(up\{job="ray"\} == 1\)', 'count(up{job="ray"} == 1) < 1', rules)
    assert silent != rules
    (tmp_path / "alerts.yaml").write_text(silent, encoding="utf-8")
    shutil.copy(folder / "alerts_test.yaml", tmp_path)
    said = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert said.returncode == 1
