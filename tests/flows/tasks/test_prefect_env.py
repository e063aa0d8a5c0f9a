"""Prefect keeps its records of a store in that store, whatever characters its path has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.tasks.prefect_env import home_environment

CREATE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@pytest.mark.slow
def test_the_database_is_where_the_store_is(tmp_path: Path) -> None:
    home = tmp_path / "100% a%2F#b?c" / "prefect"
    home.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-W", "ignore", "-c", CREATE]
    subprocess.run(command, env={**environment, **home_environment(home.parent)}, cwd=tmp_path, check=True, timeout=300)
    assert (home / "prefect.db").stat().st_size > 100_000
    assert list(tmp_path.iterdir()) == [home.parent]
