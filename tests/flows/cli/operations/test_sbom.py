"""The list of what we are built on, and its form for machines."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from flows.__main__ import main
from flows.cli.operations import sbom
from flows.cli.operations.sbom import Package


@pytest.fixture(scope="module")
def found() -> dict[str, Package]:
    return {package.name: package for package in sbom.packages()}


def test_every_direct_dependency_is_listed_and_no_development_tool(found: dict[str, Package]) -> None:
    assert {"ray", "torch", "mlflow", "prefect", "numpy", "pyarrow", "soundfile"} <= set(found)
    assert not {"pytest", "ruff", "mypy", "demucs", "moto"} & set(found)
    assert "aiohttp" in found["ray"].needs, "an extra that pyproject.toml names"


@pytest.fixture(scope="module")
def bill(found: dict[str, Package]) -> dict[str, Any]:
    return sbom.cyclonedx(sorted(found.values(), key=lambda package: package.name))


def test_the_bill_of_materials_is_as_the_schema_of_cyclonedx_1_6_asks(bill: dict[str, Any]) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill)) is None
    spoilt = {**bill, "components": [{**bill["components"][0], "licenses": [{"license": {"id": "BSD License"}}]}]}
    assert validator.validate_str(json.dumps(spoilt)) is not None, "an id that SPDX does not list"


def test_licences_stand_as_spdx_ids_and_expressions_where_packages_say_so(
    found: dict[str, Package], bill: dict[str, Any]
) -> None:
    said = {one["name"]: one["licenses"][0] for one in bill["components"] if "licenses" in one}
    ids = {name for name, one in said.items() if "id" in one.get("license", {})}
    expressions = {name for name, one in said.items() if "expression" in one}
    assert len(ids) + len(expressions) >= 0.8 * len(found), (len(ids), len(expressions))
    assert said["ray"]["license"]["id"] == "Apache-2.0", "its words are `Apache 2.0`"
    assert " " in said[sorted(expressions)[0]]["expression"]
    assert {one["license"].get("name") for name, one in said.items() if name not in ids | expressions} != {None}


def test_the_bill_of_materials_refers_to_what_it_lists_and_is_equal_each_time(
    found: dict[str, Package], bill: dict[str, Any]
) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {component["bom-ref"] for component in bill["components"]}
    assert len(listed) == len(bill["components"]) > 100
    needs = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in bill["dependencies"]}
    assert set().union(*needs.values()) <= listed
    assert {f"pkg:pypi/{name}@{found[name].version}" for name in ("ray", "torch", "jinja2")} <= needs["stemline"]
    assert json.dumps(sbom.cyclonedx(list(found.values()))) == json.dumps(bill), "no time, no number, no order of ours"


def test_the_command_prints_the_bill_and_nothing_of_ours_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sbom", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"components", *sbom.cyclonedx([]).keys()}
