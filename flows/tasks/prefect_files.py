"""Files of the folder a command is called from that Prefect obeys without a word: `.env`, `prefect.toml` and others.

Another project's would send this run's records to its server, or take its database. The environment says which servers
are used, and a file that says otherwise is refused by name.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets.errors import InputError

DOTENV, SETTINGS, PROJECT = ".env", "prefect.toml", "pyproject.toml"
# What these change is seen at once, and harms no run.
_HARMLESS = ("PREFECT_LOGGING_", "PREFECT_CLI_", "PREFECT_UI_")


def require_none() -> None:
    """InputError where a file of this folder has a setting of Prefect that the environment has not."""
    for file, names in _files():
        hidden = [name for name in names if name not in os.environ and not name.startswith(_HARMLESS)]
        if hidden:
            raise InputError(
                f"the file {file} in {Path.cwd()} sets {', '.join(hidden)}, which Prefect would obey unseen. Export "
                "what you want as environment variables, or run the command from another folder"
            )


def _files() -> Iterator[tuple[str, list[str]]]:
    if Path(DOTENV).is_file():
        yield DOTENV, [name for name in _dotenv_names() if name.startswith("PREFECT_")]
    for file, sections in ((SETTINGS, ()), (PROJECT, ("tool", "prefect"))):
        tree: Any = _toml(file)
        for section in sections:
            tree = tree.get(section, {}) if isinstance(tree, Mapping) else {}
        yield file, list(_variables(tree, "PREFECT")) if isinstance(tree, Mapping) else []


def _dotenv_names() -> list[str]:
    import dotenv

    try:
        return [name.upper() for name in dotenv.dotenv_values(DOTENV)]
    except (OSError, ValueError):  # Prefect could not read it either
        return []


def _toml(file: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or nothing that Prefect could read
        return {}


def _variables(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """The environment variables that stand for the same settings."""
    for key, value in tree.items():
        name = f"{prefix}_{key.upper()}"
        if isinstance(value, Mapping):
            yield from _variables(value, name)
        else:
            yield name
