"""A client of MLflow in a process of its own, as a command has it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# What the collector does while a client is made: how often it ran, whether it is on afterwards, objects left to it.
PROGRAM = """
import gc, json, sys
from pipelines.registry.database.mlflow_client import new_client
runs = []
gc.callbacks.append(lambda phase, _: runs.append(phase))
try:
    new_client(sys.argv[1])
    failed = False
except Exception:
    failed = True
during, kept = len(runs), gc.get_freeze_count()
list([index] for index in range(10_000))
print(json.dumps([failed, during, gc.isenabled(), len(runs) > during, kept > 10 * len(gc.get_objects())]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("address", "fails"), [("sqlite:///{}/mlflow.db", False), ("nosuch://{}", True)])
def test_a_command_looks_for_no_garbage_while_it_imports_mlflow_and_does_so_afterwards(
    address: str, fails: bool, tmp_path: Path, repository: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, address.format(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout) == [fails, 0, True, True, True]
