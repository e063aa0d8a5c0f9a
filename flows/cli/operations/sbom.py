"""`stemline sbom`: every dependency with its version and licence; `--json` is a CycloneDX 1.6 SBOM."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions, version
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flows.cli.options import NO_OPTIONS, PRESET, Options, Overrides
from flows.cli.session import run_verb
from flows.console.progress_display import table

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_NOT_STATED = "not stated"
# Extras named in pyproject.toml: their dependencies are needed, those of other extras are not.
_EXTRAS = {"ray": ("data", "default", "train")}

# Classifiers and names that mean one licence of SPDX's list. "BSD License" and the like do not say which one they mean.
_SPDX = {
    "MIT License": "MIT", "Apache Software License": "Apache-2.0", "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Python Software Foundation License": "PSF-2.0",
    "Apache 2.0": "Apache-2.0", "Apache License 2.0": "Apache-2.0", "Apache License, Version 2.0": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause", "3-Clause BSD License": "BSD-3-Clause",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed distribution that stemline needs, directly or not."""

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]


def sbom(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List every dependency with its version and licence; as CycloneDX with --json.

    Example: `stemline sbom --json > sbom.json`
    """
    return run_verb(overrides, options, lambda config, screen: run(as_json=options.json), preset=PRESET)


def run(*, as_json: bool) -> dict[str, Any]:
    """Everything that an installation without development tools needs."""
    listed = sorted(packages(), key=lambda package: package.name)
    if as_json:
        return {"document": cyclonedx(listed)}
    rows = [[package.name, package.version, package.licence] for package in listed]
    not_stated = sum(package.licence == _NOT_STATED for package in listed)
    output = [
        table("Dependencies", ["", "version", "licence"], rows),
        Text(f"{len(listed)} packages, {not_stated} {_NOT_STATED}"),
    ]
    return {"console_output": output}


def packages(root: str = "stemline") -> Iterator[Package]:
    """Everything that `root` needs on this machine, each once."""
    installed = {_normalized(package.name): package for package in distributions() if package.name}
    pending, seen = [_normalized(root)], {_normalized(root)}
    while pending:
        package = installed[pending.pop()]
        needs = tuple(sorted(set(_needs(package)) & installed.keys()))
        for name in needs:
            if name not in seen:
                seen.add(name)
                pending.append(name)
        if (name := _normalized(package.name)) != _normalized(root):
            yield Package(name=name, version=package.version, licence=_licence(package), needs=needs)


def cyclonedx(listed: list[Package]) -> dict[str, Any]:
    """CycloneDX 1.6 as JSON, without serial number and time, so that equal installations give equal bytes."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    root = Component(type=ComponentType.APPLICATION, name="stemline", version=version("stemline"), bom_ref="stemline")
    components = {package.name: _component(package) for package in listed}
    bom = Bom(components=components.values())
    bom.metadata.component = root
    bom.register_dependency(root, [components[name] for name in direct() if name in components])
    for package in listed:
        bom.register_dependency(components[package.name], [components[n] for n in package.needs if n in components])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    return document


def direct(root: str = "stemline") -> tuple[str, ...]:
    """Names of the direct dependencies of `root`."""
    return tuple(sorted(set(_needs(distribution(root)))))


def _component(package: Package) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    purl = PackageURL("pypi", name=package.name, version=package.version)
    licences = [] if package.licence == _NOT_STATED else [LicenseFactory().make_from_string(package.licence)]
    return Component(name=package.name, version=package.version, purl=purl, bom_ref=str(purl), licenses=licences)


def _needs(package: Distribution) -> Iterator[str]:
    """Names of what a distribution requires here; extras count where pyproject.toml names them."""
    from packaging.requirements import Requirement

    for text in package.requires or ():
        requirement = Requirement(text)
        extras = ("", *_EXTRAS.get(_normalized(package.name), ()))
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield _normalized(requirement.name)


def _licence(package: Distribution) -> str:
    """An SPDX identifier or expression where the package gives one in any form, else the first line of its text."""
    from cyclonedx.spdx import is_expression

    metadata = package.metadata
    text = str((metadata.get_all("License-Expression") or metadata.get_all("License") or [""])[0]).strip()
    licence = _SPDX.get(text, text)
    if licence and is_expression(licence):  # an identifier alone is one as well
        return str(licence)
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    kinds = [line.rpartition(" :: ")[2] for line in classifiers]
    kinds = [_SPDX.get(kind, kind) for kind in kinds if kind != "OSI Approved"]
    if kinds:
        return " or ".join(kinds)
    return licence.splitlines()[0][:60] if licence and licence != "UNKNOWN" else _NOT_STATED


def _normalized(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
