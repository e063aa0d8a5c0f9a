"""The cases of ../shared/cases/ops: scripts that look at stores, retrainings and commands, a part of `make cases`.

Each is a program that exits with 0 where all is right, with 1 where it is not, and with 3 where it could not look. They
were written for older names of modules, verbs and settings: what runs is a copy with today's.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases" / "ops"
WITHIN_S = 1800.0  # several start Ray or Prefect more than once
# In the order in which they are replaced.
TODAY = {
    "datasets.synthetic": "datasets.corpus.synthetic",
    "datasets.shards import": "datasets.shards.manifests import",
    "from flows.screen": "from flows.console.progress_display",
    "flows.deployed": "flows.deployments",
    "from models import catalog, checkpoint": (
        "from models.networks import catalog\n    from models.weights import checkpoint"
    ),
    "from pipelines import curate, ingest, registry": (
        "from pipelines import registry\n    from pipelines.preparation import curate, ingest"
    ),
    "from pipelines.cluster": "from pipelines.runtime.cluster",
    "from pipelines import cluster": "from pipelines.runtime import cluster",
    "tests.bench.road": "tests.benchmarks.road",
    '"why"': '"retrain", "--explain"',
    "$S corpus ": "$S inspect ",
    "retrain.pause_h": "retrain.min_interval_h",
    # What makes a training fail: weights that are not there are refused before it begins.
    "model.start=/no/such/checkpoint": "train.backup_uri=/proc/nowhere",
    '"*store*"': '"store"',  # what is not copied with the code: some of our modules are called so
}


def case_names() -> list[str]:
    """The cases that are there; none where the folder does not stand beside the checkout."""
    return sorted(path.stem for path in CASES.glob("[!_]*.*") if path.suffix in (".py", ".sh"))


def what_is_right(name: str) -> str:
    """The line of a script that says what is right."""
    (script,) = CASES.glob(f"{name}.*")
    found = re.search(r"RIGHT: (.+)$", script.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def run_case(name: str) -> tuple[str, bool]:
    """What was seen of one case, in a few words, and whether all of it is right."""
    with tempfile.TemporaryDirectory(prefix="stemline-ops-") as folder:
        for path in CASES.glob("*.*"):
            text = path.read_text(encoding="utf-8")
            for old, new in TODAY.items():
                text = text.replace(old, new)
            Path(folder, path.name).write_text(text, encoding="utf-8")
        (script,) = Path(folder).glob(f"{name}.*")
        program = sys.executable if script.suffix == ".py" else shutil.which("bash") or "bash"
        try:
            done = subprocess.run(
                [program, str(script)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=WITHIN_S,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"it did not end within {WITHIN_S:.0f} s", False
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode == 0:
        return "right", True
    told = [line for line in lines if line.startswith("WRONG")] or lines[-1:]
    return "\n".join([f"exit code {done.returncode}", *told]), False
