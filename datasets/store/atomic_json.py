"""JSON files that are written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.store import storage


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    storage.write(path, (json.dumps(content, indent=1, ensure_ascii=True, sort_keys=True) + "\n").encode())


def read_json(path: str | Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None when it is missing or damaged."""
    try:
        content = json.loads(storage.read(path))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
