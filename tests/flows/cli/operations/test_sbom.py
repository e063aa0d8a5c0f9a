"""The list of what we are built on, and its form for machines."""

import json

import pytest

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


def test_the_bill_of_materials_refers_to_what_it_lists(found: dict[str, Package]) -> None:
    told = sbom.cyclonedx(sorted(found.values(), key=lambda package: package.name))
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    listed = {component["bom-ref"] for component in told["components"]}
    assert len(listed) == len(told["components"]) > 100
    assert {name for entry in told["dependencies"] for name in entry["dependsOn"]} <= listed
    assert all(component["licenses"][0]["license"]["name"] for component in told["components"])


def test_the_command_prints_the_bill_and_nothing_of_ours_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sbom", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == sbom.cyclonedx([]).keys()
