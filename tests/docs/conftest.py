"""What the documentation is made with, importable as Sphinx imports it."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def docs(repository: Path) -> Path:
    return repository / "docs"


@pytest.fixture(scope="session")
def reference(docs: Path) -> Any:
    """docs/_ext/stemline_reference.py."""
    if str(docs / "_ext") not in sys.path:
        sys.path.append(str(docs / "_ext"))
    return importlib.import_module("stemline_reference")


@pytest.fixture(scope="session")
def api(docs: Path, reference: Any) -> Any:
    """docs/_ext/stemline_api.py."""
    return importlib.import_module("stemline_api")
