"""How the rooms are laid out: folders of a dozen entries, one class of a name, a test for each module."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("models", "datasets", "pipelines", "flows", "stemline")
MAX_ENTRIES = 12
TWINS = {"Range", "Declared"}  # models and datasets may not import each other and share one text (see test_rooms)
NO_ENTRIES = ("__init__.py", "__main__.py", "__pycache__", "README.md")
SUFFIXES = ("py", "toml", "json", "html", "js", "csv")
# Values, sections of the settings, and modules of others, whose members may have names of ours.
NO_MODULES = (
    "config",
    "model",
    "curate",
    "train",
    "trian",
    "gate",
    "evaluate",
    "analyze",
    "corpus",
    "store",
    "one",
    "signal",
    "torch",
    "F",
)


def _folders(repository: Path) -> Iterator[Path]:
    for room in ROOMS:
        yield from (path.parent for path in sorted((repository / room).rglob("__init__.py")))


def _entries(folder: Path) -> list[str]:
    def is_left(path: Path) -> bool:
        """Of a package that was renamed: its compiled files, which git does not remove."""
        return path.is_dir() and [below.name for below in path.iterdir()] in ([], ["__pycache__"])

    return sorted(path.name for path in folder.iterdir() if path.name not in NO_ENTRIES and not is_left(path))


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


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_has_a_test_file_of_its_name_or_a_line_that_says_where_it_is_tested(
    room: str, repository: Path
) -> None:
    listed = repository / "tests" / room / "README.md"
    rows = dict(re.findall(r"\| `(.+?\.py)` \| `(.+?\.py)` \|", listed.read_text())) if listed.is_file() else {}
    assert [test for test in rows.values() if not (listed.parent / test).is_file()] == []
    modules = {str(path.relative_to(repository / room)) for path in (repository / room).rglob("*.py")}
    modules = {module for module in modules if Path(module).name != "__init__.py"}
    own = {module for module in modules if (listed.parent / module).with_name(f"test_{Path(module).name}").is_file()}
    in_readme = {module for module in modules if _is_in_readme(repository / room / module)}
    assert rows.keys() <= modules - own, "a row of a module that is gone or has a test file of its own"
    assert modules - own - in_readme - rows.keys() == set()


def _is_in_readme(module: Path) -> bool:
    """Whether the README beside a module names it."""
    readme = module.with_name("README.md")
    return readme.is_file() and f"`{module.name}`" in readme.read_text(encoding="utf-8")


def test_the_init_of_a_package_of_pipelines_defines_nothing(repository: Path) -> None:
    for path in (repository / "pipelines").rglob("__init__.py"):
        kinds = {type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, path


def test_every_module_that_a_docstring_or_a_readme_names_is_there(repository: Path) -> None:
    rooms = [*ROOMS, "tests"]
    modules = ["/" + str(path.relative_to(repository)) for room in rooms for path in (repository / room).rglob("*.py")]
    texts = [path for room in rooms for kind in ("*.py", "README.md") for path in (repository / room).rglob(kind)]
    named = {
        (path, name) for path in texts for name in re.findall(r"`(?:\.+/)*([a-z0-9_/]+\.py)`", path.read_text("utf-8"))
    }
    of_others = "mlflow/utils/validation.py"
    missing = [
        f"{path.relative_to(repository)}: {name}"
        for path, name in sorted(named)
        if name != of_others and not any(module.endswith(f"/{name}") for module in modules)
    ]
    assert missing == []


def test_every_function_that_a_docstring_or_comment_names_by_its_module_is_there(repository: Path) -> None:
    """Of `one.two`, where two is a function or class of ours, one has to be a module or a class that has it."""
    owners: dict[str, set[str]] = defaultdict(set)  # of each function and class: the modules and classes that have it
    known: set[str] = set()  # modules, and what they define
    paths = [path for room in (*ROOMS, "tests") for path in sorted((repository / room).rglob("*.py"))]
    for path in paths:
        module = path.parent.name if path.name == "__init__.py" else path.stem
        body = ast.parse(path.read_text(encoding="utf-8")).body
        known |= {module, *(name for node in body for name in _names_in(node))}
        for node in body:
            for name in _names_in(node):
                owners[name].add(module)
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                for name in _names_in(member):
                    owners[name].add(node.name)
    wrong = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for one, two in re.findall(r"`(\w+)\.(\w+)(?:\(\))?`", text):
            if two in owners and two not in SUFFIXES and one not in {*owners[two], *NO_MODULES}:
                wrong.append(f"{path.relative_to(repository)}: {one}.{two}")
        unknown = [name for name in re.findall(r"[Ss]ee `(\w+)`", text) if name not in known]
        wrong += [f"{path.relative_to(repository)}: see {name}" for name in unknown]
    assert not wrong, "\n".join(wrong)


def _names_in(node: ast.stmt) -> set[str]:
    """What a statement of a module or a class makes known there."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[-1] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
