"""MLflow away, and deaths while it is written to: each step is told once, each act is completed by its own command.

`make drill-mlflow` starts a server and a training in a process of its own, kills the server with SIGKILL at a random
step, starts it again `--away` seconds later, and holds what it knows in the end against the loss curve in the folder of
the run. If the training ends before the server is back, the same command is given once more. Then registrations,
promotions and rollbacks are killed before each statement that they write with (`drill_registry.py`), or before every
`--every`-th.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket

import numpy as np

from datasets.store.atomic_json import read_json
from pipelines.registry.live_metrics import MARK
from pipelines.runs import example_estimates
from tests.benchmarks.table import Row, figure, show
from tests.drills import drill_registry
from tests.drills.drill_training import started
from tests.drills.termination import clean_up_when_terminated

STEPS = 2400  # so that the training is still going on when the server is back
SETTINGS = {"steps": STEPS, "checkpoint_every": 40, "num_workers": 0, "live": True}
PATIENCE_S = 300.0


@contextmanager
def server(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """An MLflow server on loopback whose books lie in the folder; yielded once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'books.db'}", "--artifacts-destination", str(folder)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _answers(port):
            late = process.poll() is not None or time.monotonic() > deadline
            assert not late, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield process
    finally:
        _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With its workers, which are a group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
    except (OSError, urllib.error.URLError):
        return False
    return True


def _free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--away", type=float, default=30.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the step")
    parser.add_argument("--every", type=int, default=1, help="of the statements in a registration or promotion")
    parser.add_argument("--no-server", action="store_true", help="the kills alone")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    clean_up_when_terminated()
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:  # first, while no thread of MLflow's is there to fork
        rows = list(drill_registry.rows(Path(scratch), every=options.every))
    if not options.no_server:
        rows += _server_away(options)
    return show("MLflow away, and kills", rows, options.out, decimals=0)


def _server_away(options: argparse.Namespace) -> list[Row]:
    port, at = _free_port(), int(np.random.default_rng(options.seed).integers(STEPS // 10, STEPS // 3))
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        folder, store = Path(scratch), Path(scratch, "training", "store")
        with ExitStack() as until_the_end:
            with server(folder, port) as running:
                training = until_the_end.enter_context(started(store, SETTINGS, None, environment))
                training.need(lambda: bool(list(store.glob(f"runs/*/{MARK}"))) and training.step() >= at)
                killed_at = training.step()
                _kill(running)
            gone = time.monotonic()
            training.wait(lambda: time.monotonic() - gone > options.away)
            when_back = training.step()
            with server(folder, port):
                training.end()
                again = 0
                if not _all_told(store):
                    again = 1
                    with started(store, SETTINGS, None, environment) as once_more:
                        once_more.end()
                made = max(len(example_estimates.steps(run)) for run in store.glob("runs/*"))
                told, heard = _told(environment["MLFLOW_TRACKING_URI"])
    return [
        figure("server killed at step", killed_at, ""),
        figure("steps taken without it", when_back - killed_at, "", target=1, more=True),
        figure("the same command once more", again, "times"),
        figure("steps in MLflow", len(told), "", target=STEPS, more=True),
        figure("steps told more than once", sum(count > 1 for count in told.values()), "", target=0),
        figure("examples in MLflow", heard, "", target=made, more=True),
    ]


def _all_told(store: Path) -> bool:
    marks = {path.parent: read_json(path) or {} for path in store.glob(f"runs/*/{MARK}")}
    return all(
        mark.get("step") == STEPS and mark.get("examples") == max(example_estimates.steps(run))
        for run, mark in marks.items()
    )


def _told(uri: str) -> tuple[Counter[int], int]:
    """How often each step of the loss is known, over all runs, and how many folders of examples."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
    points = [point.step for run in runs for point in client.get_metric_history(run.info.run_id, "train/loss")]
    heard = sum(len(client.list_artifacts(run.info.run_id, example_estimates.FOLDER)) for run in runs)
    return Counter(points), heard


if __name__ == "__main__":
    sys.exit(main())
