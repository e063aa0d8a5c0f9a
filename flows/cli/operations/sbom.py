"""`stemline sbom`: what this program is built on, with versions and licences; `--json` is a CycloneDX 1.6 SBOM."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions, version
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.console.progress_display import table

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_UNSAID = "not stated"
# Extras in pyproject.toml: what they bring is needed, what other extras would bring is not.
_ASKED = {"ray": ("data", "default", "train")}

# Classifiers and words that mean one licence of SPDX's list. "BSD License" and the like do not say which one they mean.
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
    return run_verb(overrides, options, lambda config, screen: run(as_json=options.json))


def run(*, as_json: bool) -> dict[str, Any]:
    """Everything that an installation without development tools needs."""
    found = sorted(packages(), key=lambda package: package.name)
    if as_json:
        return {"document": cyclonedx(found)}
    rows = [[package.name, package.version, package.licence] for package in found]
    unsaid = sum(package.licence == _UNSAID for package in found)
    shown = [
        table("Dependencies", ["", "version", "licence"], rows),
        Text(f"{len(found)} packages, {unsaid} {_UNSAID}"),
    ]
    return {"shown": shown}


def packages(root: str = "stemline") -> Iterator[Package]:
    """Everything that `root` needs on this machine, each once."""
    installed = {_plain(found.name): found for found in distributions() if found.name}
    pending, seen = [_plain(root)], {_plain(root)}
    while pending:
        found = installed[pending.pop()]
        needs = tuple(sorted(set(_needs(found)) & installed.keys()))
        for name in needs:
            if name not in seen:
                seen.add(name)
                pending.append(name)
        if _plain(found.name) != _plain(root):
            yield Package(name=_plain(found.name), version=found.version, licence=_licence(found), needs=needs)


def cyclonedx(found: list[Package]) -> dict[str, Any]:
    """CycloneDX 1.6 as JSON; without a serial number or a time, so that equal installations give equal bytes."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    root = Component(type=ComponentType.APPLICATION, name="stemline", version=version("stemline"), bom_ref="stemline")
    components = {package.name: _component(package) for package in found}
    bom = Bom(components=components.values())
    bom.metadata.component = root
    bom.register_dependency(root, [components[name] for name in direct() if name in components])
    for package in found:
        bom.register_dependency(components[package.name], [components[n] for n in package.needs if n in components])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    return document


def direct(root: str = "stemline") -> tuple[str, ...]:
    """Names of what `root` itself asks for."""
    return tuple(sorted(set(_needs(distribution(root)))))


def _component(package: Package) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    purl = PackageURL("pypi", name=package.name, version=package.version)
    said = [] if package.licence == _UNSAID else [LicenseFactory().make_from_string(package.licence)]
    return Component(name=package.name, version=package.version, purl=purl, bom_ref=str(purl), licenses=said)


def _needs(found: Distribution) -> Iterator[str]:
    """Names of what a distribution requires here; extras count where pyproject.toml names them."""
    from packaging.requirements import Requirement

    for text in found.requires or ():
        wanted = Requirement(text)
        extras = ("", *_ASKED.get(_plain(found.name), ()))
        applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
        if applies:
            yield _plain(wanted.name)


def _licence(found: Distribution) -> str:
    """An SPDX identifier or expression where the package gives one in any form, else its own words in a line."""
    from cyclonedx.spdx import is_expression

    told = found.metadata
    given = told.get_all("License-Expression") or told.get_all("License") or [""]
    said = str(given[0]).strip()
    said = _SPDX.get(said, said)
    if said and is_expression(said):  # an identifier alone is one as well
        return str(said)
    kinds = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    kinds = [_SPDX.get(kind, kind) for kind in kinds if kind != "OSI Approved"]
    if kinds:
        return " or ".join(kinds)
    return said.splitlines()[0][:60] if said and said != "UNKNOWN" else _UNSAID


def _plain(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
