"""A commit that only rewords, renames or moves files changes no key: both are done to a copy of the tree."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from pipelines.runtime.step_keys import ROOMS

PRINT = "tests/pipelines/runtime/print_step_keys.py"
# A step, a rule of one, a part that several steps use, and the module that holds networks' versions moves along.
MOVES = {
    "pipelines.preparation.analyze": "pipelines.preparation.song_profiles",
    "pipelines.preparation.label_rule": "pipelines.evaluation.rule_of_labels",
    "datasets.quality.bleed": "datasets.quality.sound_of_others",
    "pipelines.training.train_loop": "pipelines.training.steps_of_training",
}


def _copy(repository: Path, to: Path) -> Path:
    unwanted = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(repository / room, to / room, ignore=unwanted)
    (to / PRINT).parent.mkdir(parents=True)
    shutil.copy(repository / PRINT, to / PRINT)
    return to


def _printed(tree: Path) -> dict[str, str]:
    """The keys as a new process has them that sees this tree alone."""
    told = subprocess.run(
        [sys.executable, PRINT],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    content = json.loads(told.stdout)
    assert content["root"] == str(tree)
    keys: dict[str, str] = content["keys"]
    return keys


def _sources(tree: Path) -> list[Path]:
    return sorted(path for path in tree.rglob("*.py"))


def _reworded(source: str) -> str:
    """The same code with other docstrings and comments."""
    lines = source.splitlines(keepends=True)
    spans = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                spans.append((first.lineno, first.end_lineno or first.lineno, first.col_offset))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("#!"):
            row, column = token.start
            lines[row - 1] = f"{lines[row - 1][:column]}# said otherwise\n"
    for begin, end, column in sorted(spans, reverse=True):
        lines[begin - 1 : end] = [" " * column + '"""Other words."""\n']
    return "".join(lines)


def _moved(source: str, old: str, new: str) -> str:
    """The same code, importing a module by its new name."""
    (old_package, _, old_name), (new_package, _, new_name) = old.rpartition("."), new.rpartition(".")
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.level:
            continue
        rows = slice(node.lineno - 1, node.end_lineno)
        indent = " " * node.col_offset
        if node.module == old:
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"from {old} ", f"from {new} ")
        elif node.module == old_package and any(alias.name == old_name for alias in node.names):
            names = [alias for alias in node.names if alias.name != old_name]
            asked = next(alias.asname or alias.name for alias in node.names if alias.name == old_name)
            text = f"{indent}from {new_package} import {new_name} as {asked}"
            if names:
                others = ", ".join(f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in names)
                text += f"; from {old_package} import {others}"
            lines[rows] = [f"{text}\n", *["\n"] * (rows.stop - rows.start - 1)]
    return "".join(lines)


@pytest.fixture(scope="module")
def before(repository: Path) -> dict[str, str]:
    return _printed(repository)


@pytest.mark.slow
def test_other_words_and_other_places_change_no_key(repository: Path, tmp_path: Path, before: dict[str, str]) -> None:
    tree = _copy(repository, tmp_path)
    for path in _sources(tree):
        source = path.read_text(encoding="utf-8")
        other = _reworded(source)
        for old, new in MOVES.items():
            other = _moved(other, old, new)
        assert other != source or not source.strip()
        path.write_text(other, encoding="utf-8")
    for names in MOVES.items():
        old_file, new_file = (tree.joinpath(*name.split(".")).with_suffix(".py") for name in names)
        old_file.rename(new_file)
    assert _printed(tree) == before


@pytest.mark.slow
def test_a_raised_version_changes_the_keys_of_all_that_is_made_by_that_code(
    repository: Path, tmp_path: Path, before: dict[str, str]
) -> None:
    tree = _copy(repository, tmp_path)
    path = tree / "models/networks/__init__.py"
    source = path.read_text(encoding="utf-8")
    other = re.sub(r"\nVERSION = \d+\n", "\nVERSION = 99\n", source)
    assert other != source
    path.write_text(other, encoding="utf-8")
    after = _printed(tree)
    changed = {name for name in before if after[name] != before[name]}
    made_by_networks = {"label_check", "evaluate", "listening_pages", "separate_songs", "train", "recipe", "job"}
    assert changed == {*made_by_networks, "curate"}  # a model was asked
