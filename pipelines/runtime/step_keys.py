"""What a result was made from: digests of configuration and code, and the keys that name finished steps.

A step's key is a digest of everything that can change its output. Outputs are stored under it, so a rerun
finds what is still valid and redoes the rest, whatever the scheduler remembers.
"""

import ast
import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAMP = "infra/commit"  # beside the packages of a wheel: the commit that it was built from
ROOMS = ("models", "datasets", "pipelines", "flows", "infra")


def digest(*parts: Any) -> str:
    """Sixteen hex digits over the JSON form of the parts; dataclasses count by their fields."""
    plain = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


@cache
def code_digest(*modules: str) -> str:
    """A digest of the source of these modules and of everything of ours that they import, however deep."""
    seen: dict[str, str] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        path = _source_of(module)
        if path is None or module in seen:
            continue
        source = path.read_text(encoding="utf-8")
        seen[module] = hashlib.sha256(source.encode()).hexdigest()
        pending += _imports(source, module, is_package=path.name == "__init__.py")
    return digest(sorted(seen.items()))


def _source_of(module: str) -> Path | None:
    if module.split(".")[0] not in ROOMS:
        return None
    stem = ROOT.joinpath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(source: str, module: str, *, is_package: bool) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


@cache
def code_commit() -> str:
    """The git commit of this checkout, with "+changes" if files differ from it; of the one that a wheel was built from.

    Empty where neither is known. The repository of a user in which this code is installed is never asked.
    """
    if not _is_checkout():
        stamp = ROOT / STAMP
        return stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else ""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _is_checkout() -> bool:
    """Whether our project, and not one that merely holds it somewhere, is a repository with its root here."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        return project.get("name") == "stemline" and Path(_git("rev-parse", "--show-toplevel")).samefile(ROOT)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False


def _git(*words: str) -> str:
    # A hook of another repository sets variables that make git answer for that one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
