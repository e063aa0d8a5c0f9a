"""`stemline sbom`: what this program is built on, with versions and licences; `--json` is a CycloneDX 1.6 SBOM."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions, version
from typing import Any

from rich.text import Text

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.console.progress_display import table

_UNSAID = "not stated"
# Extras in pyproject.toml: what they bring is needed, what other extras would bring is not.
_ASKED = {"ray": ("data", "default", "train")}


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
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "stemline", "version": version("stemline")}},
        "components": [
            {
                "type": "library",
                "bom-ref": _purl(package),
                "name": package.name,
                "version": package.version,
                "purl": _purl(package),
                "licenses": [{"license": {"name": package.licence}}],
            }
            for package in found
        ],
        "dependencies": [
            {
                "ref": _purl(package),
                "dependsOn": [_purl(other) for other in found if other.name in package.needs],
            }
            for package in found
        ],
    }


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
    """The SPDX expression where one is given, else the classifiers, else the first line of what is said."""
    told = found.metadata
    if expression := told.get_all("License-Expression"):
        return str(expression[0])
    kinds = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    kinds = [kind for kind in kinds if kind != "OSI Approved"]
    if kinds:
        return " or ".join(kinds)
    said = str((told.get_all("License") or [""])[0]).strip().splitlines()
    return said[0][:60] if said and said[0] != "UNKNOWN" else _UNSAID


def _plain(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"
