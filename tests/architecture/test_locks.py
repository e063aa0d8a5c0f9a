"""The three locks: each on top of the one before, together all of pyproject.toml, with hashes and no addresses.

`make demo` installs the lowest alone, so all that the four rooms import, and all that this asks for, must be in it.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows.cli.operations import sbom

RUNTIME, EXTRAS, DEV = "requirements.lock", "requirements-extras.lock", "requirements-dev.lock"
PIN = re.compile(r"^([a-z0-9][\w.-]*)==([^ ;\\]+)(?: ; ([^\\]+?))?(?: \\)?$")
ROOMS = ("models", "datasets", "pipelines", "flows", "infra", "stemline")
Pins = dict[str, set[str]]


def pins_of(path: Path) -> Pins:
    """Versions by name of one lock, without those below it."""
    found: Pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if pinned := PIN.match(line):
            found.setdefault(canonicalize_name(pinned[1]), set()).add(pinned[2])
    return found


@pytest.fixture(scope="module")
def locks(repository: Path) -> dict[str, Pins]:
    return {name: pins_of(repository / name) for name in (RUNTIME, EXTRAS, DEV)}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, object]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def unresolved(texts: list[str], pins: Pins) -> dict[str, set[str] | None]:
    """Requirements that no pin satisfies, with the versions there are."""
    wanted = [Requirement(text) for text in texts]
    return {
        str(need): pins.get(canonicalize_name(need.name))
        for need in wanted
        if not any(need.specifier.contains(held) for held in pins.get(canonicalize_name(need.name), ()))
    }


def test_each_lock_resolves_its_part_of_pyproject(locks: dict[str, Pins], project: dict[str, dict]) -> None:
    extras = [text for texts in project["project"]["optional-dependencies"].values() for text in texts]
    assert unresolved(project["project"]["dependencies"], locks[RUNTIME]) == {}, "run `make lock`"
    assert unresolved(extras, locks[RUNTIME] | locks[EXTRAS]) == {}, "run `make lock`"
    together = locks[RUNTIME] | locks[EXTRAS] | locks[DEV]
    assert unresolved(project["dependency-groups"]["dev"], together) == {}, "run `make lock`"
    assert unresolved(["torch==0.1"], together) == {"torch==0.1": together["torch"]}, "a missing version is seen"


def test_each_lock_names_the_one_below_and_repeats_no_pin_of_it(repository: Path, locks: dict[str, Pins]) -> None:
    named = {
        name: re.findall(r"^-r (\S+)$", (repository / name).read_text(encoding="utf-8"), re.MULTILINE) for name in locks
    }
    assert named == {RUNTIME: [], EXTRAS: [RUNTIME], DEV: [EXTRAS]}
    for lower, upper in ((RUNTIME, EXTRAS), (RUNTIME, DEV), (EXTRAS, DEV)):
        other = {name for name in locks[lower].keys() & locks[upper].keys() if locks[upper][name] - locks[lower][name]}
        assert other == set(), f"{upper} pins another version than {lower}"


def test_each_pin_has_hashes_and_no_lock_an_address(repository: Path, locks: dict[str, Pins]) -> None:
    for name in locks:
        lines = (repository / name).read_text(encoding="utf-8").splitlines()
        bare = [
            line
            for line, after in zip(lines, [*lines[1:], ""], strict=True)
            if PIN.match(line) and "--hash=" not in after
        ]
        assert bare == []
        assert [line for line in lines if "://" in line or line.startswith(("--index", "--extra", "--find"))] == []


def test_what_stemline_runs_on_holds_no_tool_of_tests_and_no_extra(
    locks: dict[str, Pins], project: dict[str, dict]
) -> None:
    others = [text for texts in project["project"]["optional-dependencies"].values() for text in texts]
    others += project["dependency-groups"]["dev"]
    named = {canonicalize_name(Requirement(text).name) for text in others}
    both = {"matplotlib", "cyclonedx-python-lib"}  # MLflow asks for the first; tests ask for more of the second
    assert named & locks[RUNTIME].keys() == both


def test_what_stemline_needs_is_in_the_lowest_lock_to_the_last(
    locks: dict[str, Pins], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What setuptools brings for itself stands before all else once it was imported, as by the compiler of torch.
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if Path(folder).name != "_vendor"])
    needed = {canonicalize_name(package.name): package.version for package in sbom.packages()}
    assert len(needed) > 100
    wrong = {name: held for name, held in needed.items() if held.split("+")[0] not in locks[RUNTIME].get(name, ())}
    assert wrong == {}, "what is installed is not what the lock says: `make sync`"


def test_the_rooms_import_nothing_that_the_lowest_lock_lacks(repository: Path, locks: dict[str, Pins]) -> None:
    owners = packages_distributions()
    held = locks[RUNTIME].keys() | {"onnxruntime", "wandb"}  # extras, each asked for in functions of one file
    for room in ROOMS:
        for path in sorted((repository / room).rglob("*.py")):
            for module in set(imported(path)) - sys.stdlib_module_names - set(ROOMS):
                makers = {canonicalize_name(name) for name in owners.get(module, [])}
                assert makers & held, f"{path.relative_to(repository)} imports {module}"


def imported(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_each_lock_says_what_it_costs_before_it_is_installed(repository: Path, locks: dict[str, Pins]) -> None:
    for name in locks:
        told = re.findall(
            r"^# (Linux x86_64|Linux aarch64|Darwin arm64): (\d+) packages, (\d+) MB \(.+\)$",
            (repository / name).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        assert len(told) == 3, "`.ci/sync` shows these lines"
        assert all(0 < int(count) <= len(locks[name]) and int(megabytes) > 0 for _, count, megabytes in told)
