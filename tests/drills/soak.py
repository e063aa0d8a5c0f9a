"""Many scheduled retrainings in a row, and what grows meanwhile: `make soak RUNS=100`.

PostgreSQL, S3, Prefect with its worker, MLflow, a store, and the deployment `retrain`, which finds no champion each
time, since two steps make none, and trains with another seed. After each run the memory, processes and open files of
everything that runs are counted, and temporary files. The median of the last third is held against that of the second:
the first may fill caches. Servers keep connections to their databases, each a process of PostgreSQL with files of its
own, and open and close them as requests come; those are counted apart, and may be as many as the servers' pools hold.
PostgreSQL keeps files open up to a number of its own, the more of them while it writes a checkpoint; they are not
counted. The S3 server for tests has no disk, so what it stores is its memory, and is told apart too.

Memory is what a process has for itself, so that nothing else on the machine changes it.
"""

import argparse
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console

from tests.benchmarks.table import Row, figure, show
from tests.drills import drill_road, stack
from tests.drills.service_processes import BIN, Cluster
from tests.drills.services_here import cluster
from tests.drills.termination import clean_up_when_terminated

CONSOLE = Console(highlight=False)
SETTINGS = (
    *drill_road.SETTINGS, "train.steps=2", "train.num_workers=0", "evaluate.num_workers=1", "retrain.max_age_days=1e-9",
    "retrain.min_interval_h=0",
)  # fmt: skip
# Of SQLAlchemy, each 5 connections and 10 more for a moment: Prefect's server's, those of MLflow's runs and registry.
POOLS = 3 * (5 + 10)
Sample = dict[str, float]
GONE_WITHIN_S = 30.0  # after a run is over its process may take so long to end; later it is counted
CONNECTIONS = "database connections"
STORED = "S3, MiB"
# What may grow from the second third of the runs to the last.
ALLOWED = {"memory, MiB": 1.10, "processes": 1.0, "open files": 1.05, "temporary files": 1.0}


def sample(made: Cluster, runners: set[int]) -> Sample:
    """What is there between two runs; `runners` are the processes that carried out runs so far."""
    family = made.family()
    connections = [process for process in family if _is_connection(process)]
    lasting = [process for process in family if process not in connections]
    database, stored = ({one.pid for one in made.services[name].family()} for name in ("PostgreSQL", "S3"))
    held, open_files = dict[int, float](), 0
    for process in lasting:
        with suppress(psutil.Error):
            held[process.pid] = process.memory_full_info().uss / 2**20
            open_files += process.num_fds() if process.pid not in database else 0
    files = sum(len(names) for _, _, names in os.walk(made.environment["TMPDIR"]))
    sessions = sum(any(Path("/tmp").glob(f"sl-{runner}-*")) for runner in runners)  # Ray's: pipelines.runtime.cluster
    return {
        "memory, MiB": sum(mib for pid, mib in held.items() if pid not in stored),
        "processes": float(len(lasting)),
        "open files": float(open_files),
        "temporary files": float(files + sessions),
        CONNECTIONS: float(len(connections)),
        STORED: sum(mib for pid, mib in held.items() if pid in stored),
    }


def _is_connection(process: psutil.Process) -> bool:
    """Whether it serves one connection to a database, or cleans up after some, as PostgreSQL's titles say."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).startswith(("postgres: stemline ", "postgres: autovacuum worker"))
    return False


def finish(made: Cluster, run: str) -> set[int]:
    """The processes that were seen to carry out a run, once it is over."""
    seen = set[int]()
    while stack.watch(made, run)["type"] not in ("COMPLETED", "FAILED", "CANCELLED"):
        seen |= {process.pid for process in made.survivors("prefect.engine")}
        time.sleep(1)
    stack.finish(made, run)
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while made.survivors("prefect.engine") and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return seen


def soak(made: Cluster, runs: int, *, within_min: float) -> tuple[list[Sample], list[float]]:
    """A sample after each run, and the seconds that each took; none begins when time is up."""
    until_s = time.monotonic() + 60 * within_min
    drill_road.make_songs(made.folder / "music")
    made.environment.pop("RAY_ADDRESS", None)  # a Ray of each run's own has more to leave behind
    made.environment["PREFECT_WORKER_QUERY_SECONDS"] = "2"  # by default the worker looks for runs every 10 s
    roots = (f"corpus.root={made.folder / 'music'}", f"store.root={made.folder / 'store'}")
    made.run(BIN / "stemline", "deploy", "--preset", "smoke", *roots, *SETTINGS)
    stack.start_worker(made)
    samples, seconds, runners = [], [], set[int]()
    for number in range(runs):
        if time.monotonic() > until_s:
            CONSOLE.print(f"time is up after {number} runs of {runs}")
            break
        began_s = time.monotonic()
        run = stack.start_run(made, "retrain/stemline", overrides=[*SETTINGS, f"train.seed={number}"])
        runners |= finish(made, run)
        seconds.append(time.monotonic() - began_s)
        time.sleep(1)
        samples.append(sample(made, runners))
        words = ", ".join(f"{name} {value:.0f}" for name, value in samples[-1].items())
        CONSOLE.print(f"run {number + 1}: {seconds[-1]:.0f} s; {words}")
    return samples, seconds


def growth(samples: list[Sample]) -> list[Row]:
    """How each figure of the last third stands to that of the second."""
    third = max(1, len(samples) // 3)
    rows = []
    for name, allowed in ALLOWED.items():
        before, after = (median(one[name] for one in part) for part in (samples[third : 2 * third], samples[-third:]))
        rows.append(figure(name, after, "", baseline=before, target=before * allowed))
    most = max(one[CONNECTIONS] for one in samples)
    stored = (samples[-1][STORED] - samples[0][STORED]) / (len(samples) - 1)
    return [
        *rows,
        figure(f"{CONNECTIONS}, the most", most, "", target=POOLS),
        figure("stored in S3", stored, "MiB a run"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--within-min", type=float, default=600.0, help="no run begins after so many minutes")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    clean_up_when_terminated()
    assert options.runs >= 3, "three thirds take three runs"
    with cluster(say=CONSOLE.print, ray_nodes=0) as made:
        samples, seconds = soak(made, options.runs, within_min=options.within_min)
        registered = stack.versions(made)
    third = max(1, len(samples) // 3)
    rows = [
        figure("runs", len(samples), "", target=options.runs, more=True),
        figure("models registered", registered, "", target=len(samples), more=True),
        figure("seconds a run", median(seconds[-third:]), "s", baseline=median(seconds[third : 2 * third])),
        *growth(samples),
    ]
    return show("Retrainings in a row, last third against the second", rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
