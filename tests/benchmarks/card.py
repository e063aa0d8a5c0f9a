"""All that is to be measured on a GPU that is lent for minutes; what was measured is never lost.

    make bench-card OUT=FILE.jsonl
    python -m tests.benchmarks.card --out FILE.jsonl    # on a bare host; `models/` and `tests/benchmarks/` are enough
    python -m tests.benchmarks.card --toy               # the same in small, on a CPU, with more time

Every group of figures runs in a process of its own under a time limit of its own, and appends each figure to the file
as one line of JSON once it is known. So a group that hangs costs itself alone, and whoever is killed at any second
leaves whole lines. What the groups are is in `card_figures.py`; the order is that of what matters most. A host needs
Python 3.12, torch 2.11, triton, NumPy, safetensors, and for the reference the wheels demucs, einops, julius and tqdm.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.table import show

BUDGET_S = 480.0
TOY_TIMES = 5  # as much time: a CPU compiles for minutes what is compiled for one
# Seconds that each group may take, in the order in which they run.
LIMITS = {
    "rates": 20, "families": 60, "step": 50, "compiled": 120, "memory": 30, "reference": 50, "kernels": 20,
    "separation": 40, "processes": 40, "curves": 60, "flex": 60,
}  # fmt: skip
PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", help="file that lines of JSON are appended to; a temporary one by default")
    parser.add_argument("--toy", action="store_true", help="tiny networks on this machine's CPU")
    parser.add_argument("--groups", nargs="*", choices=list(LIMITS), default=list(LIMITS), help="all by default")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for all groups together on a GPU")
    parser.add_argument("--worker", choices=list(LIMITS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, Path(options.out), toy=options.toy)
    out = Path(options.out or tempfile.mkstemp(prefix="bench-card-", suffix=".jsonl")[1]).absolute()
    print(f"figures go to {out}", file=sys.stderr, flush=True)
    times = TOY_TIMES if options.toy else 1
    end = time.monotonic() + times * options.budget_s
    for group in options.groups:
        limit_s = min(times * float(LIMITS[group]), end - time.monotonic())
        append(out, {"group": group, **run(group, out, toy=options.toy, limit_s=limit_s)})
    lines = read(out)
    for line in lines:
        if line.get("ended") not in (None, "done"):
            print(f"{line['group']}: {line['ended']} after {line['seconds']:.0f} s: {line['why']}", file=sys.stderr)
    return show("A GPU in minutes", [line for line in lines if "value" in line])


def run(group: str, out: Path, *, toy: bool, limit_s: float) -> dict[str, Any]:
    """How the process of a group ended: "done", "failed" or "late", after how long, and why."""
    if limit_s <= 0:
        return {"ended": "late", "seconds": 0.0, "why": "no time was left to begin"}
    command = [sys.executable, "-m", "tests.benchmarks.card", "--worker", group, "--out", str(out)]
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, *(["--toy"] if toy else [])], stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            ended, why = ("failed", _last_line(errors)) if code else ("done", "")
        except subprocess.TimeoutExpired:
            ended, why = "late", f"its limit was {limit_s:.0f} s"
        finally:
            _kill_group(process)
    return {"ended": ended, "seconds": time.monotonic() - began, "why": why}


def work(group: str, out: Path, *, toy: bool) -> int:
    """The process of a group: it dies with the one that started it."""
    die_with_parent()
    from tests.benchmarks import card_figures

    scale = card_figures.TOY if toy else card_figures.FULL
    for row in card_figures.GROUPS[group](scale):
        append(out, {"group": group, **row})
    return 0


def die_with_parent() -> None:
    """Have the system end this process when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def append(out: Path, line: dict[str, Any]) -> None:
    """One whole line, on the disk when this returns."""
    data = (json.dumps(line) + "\n").encode()
    with out.open("ab", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _last_line(errors: Any) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """What the group's process started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
