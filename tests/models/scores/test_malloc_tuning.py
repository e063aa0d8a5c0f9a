"""Pages of a freed tensor serve the next one."""

import subprocess
import sys

import pytest

FAULTS_OF_TWENTY_TENSORS = """
import resource, sys
import torch
from models.scores.malloc_tuning import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    torch.ones(8 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(8 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told")
def test_the_system_is_asked_for_fresh_pages_once() -> None:
    faults = {}
    for how in ("give back", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS_OF_TWENTY_TENSORS, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(done.stdout)
    assert faults["keep"] < 100
    assert faults["give back"] > 20 * faults["keep"]
