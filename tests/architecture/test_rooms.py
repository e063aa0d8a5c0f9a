"""Who imports whom, and from where: the rules of docs/decisions/0001 that import-linter cannot see."""

import ast
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOMS = ("models", "datasets", "pipelines", "flows", "infra", "stemline")
HEAVY = ("torch", "ray", "mlflow", "prefect", "librosa", "numba", "pandas", "scipy")


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_imported_from_this_repository(room: str, repository: Path) -> None:
    found = importlib.import_module(room).__file__
    assert found is not None
    assert Path(found).resolve().is_relative_to(repository), f"{room} came from {found}"


def test_no_installed_distribution_brings_a_rival_of_our_rooms() -> None:
    owners = metadata.packages_distributions()
    rivals = {room: [name for name in owners.get(room, []) if name.lower() != "stemline"] for room in (*ROOMS, "tests")}
    assert {room: names for room, names in rivals.items() if names} == {}


def test_models_imports_itself_relatively_so_the_folder_can_travel(repository: Path) -> None:
    culprits = []
    for path in sorted((repository / "models").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            culprits += [f"{path.name}:{node.lineno}: {n}" for n in names if n.split(".")[0] in (*ROOMS, "tests")]
    assert culprits == []


def test_no_two_rooms_share_a_file_name(repository: Path) -> None:
    seen: dict[str, list[str]] = {}
    for room in ROOMS:
        for path in (repository / room).rglob("*.py"):
            # Two rooms that do not know each other each have errors of their own, and a copy of what both need;
            # a verb's file is named as the verb.
            twins = path.name in ("__init__.py", "__main__.py", "errors.py", "field_constraints.py")
            if not twins and "cli" not in path.parts:
                seen.setdefault(path.name, []).append(str(path.relative_to(repository)))
    assert {name: paths for name, paths in seen.items() if len(paths) > 1} == {}


def test_models_and_datasets_declare_ranges_by_one_text(repository: Path) -> None:
    one, other = (repository / room / "field_constraints.py" for room in ("models", "datasets"))
    assert one.read_text(encoding="utf-8") == other.read_text(encoding="utf-8"), "copy one over the other"


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["flows.__main__", "flows.config", "flows.cli.promote_dry_run", "datasets.schema", "datasets.corpus.scan"]
)
def test_the_command_line_and_the_plain_modules_import_nothing_heavy(module: str, repository: Path) -> None:
    program = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.split() == []
