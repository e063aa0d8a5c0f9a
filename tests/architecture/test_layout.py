"""How the four rooms are laid out: folders of a dozen entries, one class of a name, a test for each module."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("models", "datasets", "pipelines", "flows")
MAX_ENTRIES = 12
# models and datasets may not import each other and share one text (see test_rooms). `Inputs` and `SongInputs` are what
# each step declares as the inputs of its key, under one name in every step.
TWINS = {"Range", "Declared", "Inputs", "SongInputs"}
NO_ENTRIES = ("__init__.py", "__main__.py", "__pycache__", "README.md")


def _folders(repository: Path) -> Iterator[Path]:
    for room in ROOMS:
        yield from (path.parent for path in sorted((repository / room).rglob("__init__.py")))


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in NO_ENTRIES)


def test_no_folder_has_more_entries_than_one_sees_at_a_glance(repository: Path) -> None:
    full = {str(folder.relative_to(repository)): len(_entries(folder)) for folder in _folders(repository)}
    assert {name: count for name, count in full.items() if count > MAX_ENTRIES} == {}


def test_no_public_class_name_exists_twice(repository: Path) -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    for room in (*ROOMS, "infra"):
        for path in sorted((repository / room).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in TWINS:
                    seen[node.name].append(str(path.relative_to(repository)))
    assert {name: paths for name, paths in seen.items() if len(paths) > 1} == {}


def test_every_module_of_datasets_has_a_test_file_of_its_name(repository: Path) -> None:
    missing = []
    for path in sorted((repository / "datasets").rglob("*.py")):
        below = path.relative_to(repository)
        readme = path.parent / "README.md"
        told = readme.is_file() and f"`{path.name}`" in readme.read_text(encoding="utf-8")
        test = repository / "tests" / below.parent / f"test_{path.name}"
        if path.name != "__init__.py" and not told and not test.is_file():
            missing.append(str(below))
    assert missing == []
