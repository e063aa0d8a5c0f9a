"""What a result was made from: the keys that name finished steps, and the commit that is noted beside them.

A step's key is made of its name, the versions of the code that its result passes through, the settings that decide and
one declared record of its inputs. Outputs are stored under it, so a rerun finds what is still valid and redoes the
rest, whatever the scheduler remembers. Versions are integers that people raise when results change (CONTRIBUTING.md,
"How to change a step"), so a comment or a moved file changes no key; commits are noted and never part of one.
"""

import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAMP = "infra/commit"  # beside the packages of a wheel: the commit that it was built from
ROOMS = ("models", "datasets", "pipelines", "flows", "infra", "stemline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something whose results are stored: its name, the version of what it writes, and that of what it relies on."""

    name: str
    version: int
    uses: Mapping[str, int] = field(default_factory=dict)  # versions of code in common, by the name of what it does

    @property
    def versions(self) -> dict[str, int]:
        """Its own version and all that it uses: what a step that builds on its results uses in turn."""
        return {**self.uses, self.name: self.version}

    @property
    def words(self) -> str:
        """Its versions for people, such as "train 1 (learning 1, networks 2)"."""
        used = ", ".join(f"{name} {version}" for name, version in sorted(self.uses.items()))
        return f"{self.name} {self.version}" + (f" ({used})" if used else "")

    def key(self, inputs: Any, settings: Any = None) -> str:
        """The name of the result for one record of inputs, a dataclass, and the settings that decide on it."""
        if not is_dataclass(inputs) or isinstance(inputs, type):
            raise TypeError(f"the inputs of {self.name} must be a declared record, got {type(inputs).__name__}")
        return digest(self.name, self.versions, settings, inputs)


def incomplete_key(key: str, missing: Any) -> str:
    """The name of a result that lacks some of what was asked for, so that the next run does not take it for whole."""
    return digest(key, missing)


def digest(*parts: Any) -> str:
    """Sixteen hex digits over the JSON form of the parts; dataclasses count by their fields."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    # The text of anything else may hold an address in memory, or the name of a class.
    raise TypeError(f"a key cannot be made of a {type(value).__name__}")


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


def _git(*arguments: str) -> str:
    # A hook of another repository sets variables that make git answer for that one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
