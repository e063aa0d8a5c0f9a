"""One road through a deployment while everything it stands on is killed in turn: `make drill-operations`.

The flow runner, a Ray node, PostgreSQL, the Prefect server, S3 and the MLflow server go away one after the other, each
while a step is at work, and come back as a supervisor would bring them. The table says how long until the run went on,
what was lost, and who had to do something. Then a disk fills up, and a run is cancelled.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.table import Row, figure, show
from tests.e2e import drill_road, stack
from tests.e2e.services_here import MARK, Cluster, cluster

CONSOLE = Console(highlight=False, width=150)
AWAY_S = 15.0  # until a supervisor has started a service again
GOES_ON_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fault did."""

    what: str
    lost: str
    seconds: float  # from the blow until the run was seen to go on
    who: str


def processes(made: Cluster, words: str) -> list[psutil.Process]:
    """This cluster's processes whose command line has these words."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == made.mark and words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def running_jobs(made: Cluster) -> set[str]:
    """The ids of jobs that are under way."""
    return {name for name, status in stack.jobs(made).items() if status in ("PENDING", "RUNNING")}


def wait_for(made: Cluster, run: str, reached: Callable[[], Any], *, within_s: float = GOES_ON_WITHIN_S) -> Any:
    """What `reached` says once it says something; the run must not end badly meanwhile."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            if found := reached():
                return found
            state = stack.watch(made, run)["type"]
        except (OSError, ValueError, KeyError):  # a server that was just killed
            state = "?"
        if state in ("FAILED", "CANCELLED"):
            raise AssertionError("\n".join([state, *stack.logs(made, run)[-40:]]))
        assert time.monotonic() < deadline_s, "the run does not go on"
        time.sleep(0.5)


def step_at_work(made: Cluster, run: str, name: str) -> str:
    """The id of the job that carries out a step, once it runs."""
    return str(wait_for(made, run, lambda: next((job for job in running_jobs(made) if job.startswith(name)), "")))


def said_since(made: Cluster, run: str, since: str) -> bool:
    """Whether the run has said anything after a time of day of the server's."""
    body = {"logs": {"flow_run_id": {"any_": [run]}, "timestamp": {"after_": since}}, "limit": 1}
    return bool(made.ask("Prefect", "POST", "/logs/filter", body))


def _now() -> str:
    return datetime.now(UTC).isoformat()


def kill_the_runner(made: Cluster, run: str) -> Outcome:
    """The process of the flow itself; its job in the cluster does not notice."""
    job = step_at_work(made, run, "ingest")
    before = stack.watch(made, run)["starts"]
    runners = processes(made, "prefect.flow_engine") or processes(made, "prefect.engine")
    assert runners, "no process runs the flow"
    began_s = time.monotonic()
    for process in runners:
        process.kill()
    wait_for(made, run, lambda: stack.watch(made, run)["starts"] > before)
    seconds = time.monotonic() - began_s
    attempts = [name for name in stack.jobs(made) if name.rpartition("-")[0] == job.rpartition("-")[0]]
    lost = "nothing: its job ran on" if attempts == [job] else f"the job began again ({len(attempts)} attempts)"
    return Outcome(what="flow runner, SIGKILL", lost=lost, seconds=seconds, who="nobody: an automation")


def kill_a_node(made: Cluster, run: str) -> Outcome:
    """A raylet with its workers; the tasks on it are done again elsewhere, or when it is back."""
    step_at_work(made, run, "curate")
    return _kill(made, run, "Ray node 1", lost="tasks on it, done again", who="nobody (KubeRay starts another)")


def kill_the_database(made: Cluster, run: str) -> Outcome:
    step_at_work(made, run, "analyze")
    return _kill(made, run, "PostgreSQL", lost="nothing: its log is on disk", who="nobody (its supervisor)")


def kill_prefect(made: Cluster, run: str) -> Outcome:
    step_at_work(made, run, "automix")
    return _kill(made, run, "Prefect server", lost="nothing", who="nobody (its supervisor)")


def pause_s3(made: Cluster, run: str) -> Outcome:
    """Stopped, not killed: the server for tests keeps its objects in memory, where others have disks."""
    step_at_work(made, run, "train")
    server, since, began_s = made.services["S3"], _now(), time.monotonic()
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    time.sleep(AWAY_S)
    os.killpg(server.process.pid, signal.SIGCONT)
    wait_for(made, run, lambda: said_since(made, run, since))
    seconds = time.monotonic() - began_s
    return Outcome(what=f"S3, no answer for {AWAY_S:.0f} s", lost="nothing", seconds=seconds, who="nobody")


def kill_mlflow(made: Cluster, run: str) -> Outcome:
    step_at_work(made, run, "evaluate")
    return _kill(made, run, "MLflow server", lost="nothing: its books are in PostgreSQL", who="nobody (its supervisor)")


def _kill(made: Cluster, run: str, name: str, *, lost: str, who: str) -> Outcome:
    """A service dies, is away for a while and comes back; the run goes on when it says something again."""
    began_s = time.monotonic()
    made.services[name].kill()
    time.sleep(AWAY_S)
    back_s = made.services[name].start()
    since = _now()
    wait_for(made, run, lambda: said_since(made, run, since) or stack.watch(made, run)["type"] == "COMPLETED")
    seconds = time.monotonic() - began_s
    what = f"{name}, SIGKILL, back after {AWAY_S + back_s:.0f} s"
    return Outcome(what=what, lost=lost, seconds=seconds, who=who)


Fault = Callable[[Cluster, str], Outcome]
FAULTS: tuple[Fault, ...] = (kill_the_runner, kill_a_node, kill_the_database, kill_prefect, pause_s3, kill_mlflow)


def cancel(made: Cluster) -> Outcome:
    """A run that is cancelled on Prefect's page; nothing of it goes on in the cluster."""
    run = stack.start_run(made, "train-model/stemline", overrides=[*stack.SETTINGS, "train.steps=5000"])
    step_at_work(made, run, "train")
    began_s = time.monotonic()
    made.ask("Prefect", "POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    deadline_s = began_s + GOES_ON_WITHIN_S
    while running_jobs(made) or stack.watch(made, run)["type"] != "CANCELLED":
        assert time.monotonic() < deadline_s, f"{running_jobs(made)} run on, {stack.watch(made, run)}"
        time.sleep(0.5)
    seconds = time.monotonic() - began_s
    return Outcome(what="run cancelled", lost="nothing runs on", seconds=seconds, who="whoever cancelled it")


def fill_the_disk(folder: Path) -> Outcome:
    """The store's disk is full: one message; with more room the same command goes on. Needs to be root, for a mount."""
    disk, songs = folder / "disk", folder / "songs"
    disk.mkdir()
    drill_road.make_songs(songs)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
    try:
        command = [sys.executable, "-m", "flows", "ingest", f"store.root={disk / 'store'}", f"corpus.root={songs}"]
        first = subprocess.run(command, cwd=drill_road.ROOT, capture_output=True, text=True, check=False)
        assert first.returncode == 2, first.stderr[-2000:]
        assert "Traceback" not in first.stderr
        said = first.stderr.strip().splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=300m", disk], check=True)
        began_s = time.monotonic()
        second = subprocess.run(command, cwd=drill_road.ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 0, second.stderr[-2000:]
        seconds = time.monotonic() - began_s
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    CONSOLE.print(f"the full disk says: {said}")
    return Outcome(
        what="disk full", lost="nothing that was whole", seconds=seconds, who="makes room, repeats the command"
    )


def drill(made: Cluster, faults: Sequence[Fault]) -> tuple[list[Outcome], dict[str, Any]]:
    """Every fault on one run, then the run to its end."""
    drill_road.make_songs(made.folder / "music")
    stack.deploy(made)
    stack.start_worker(made)
    run = stack.start_run(made, "full-run/stemline")
    found = []
    for fault in faults:
        found.append(fault(made, run))
        CONSOLE.print(f"{found[-1].what}: went on after {found[-1].seconds:.0f} s; lost: {found[-1].lost}")
    return found, stack.finish(made, run)


def report(found: list[Outcome], rows: list[Row], out: str | None) -> int:
    """Prints who lost what; then the figures."""
    shown = Table("what was killed", "lost", "goes on after", "who does what", box=None)
    for one in found:
        shown.add_row(one.what, one.lost, f"{one.seconds:.0f} s", one.who)
    CONSOLE.print(shown)
    return show("Faults in operation", rows, out, decimals=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--keep-logs", help="a folder for the services' logs")
    parser.add_argument("--faults", type=int, default=len(FAULTS), help="only so many of the first")
    options = parser.parse_args()
    found = []
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory(prefix="disk-") as folder:
            found.append(fill_the_disk(Path(folder)))
    with cluster(say=CONSOLE.print) as made:
        try:
            faults, seen = drill(made, FAULTS[: options.faults])
            best = stack.champion(made)
            found += [*faults, cancel(made)]
        finally:
            if options.keep_logs:
                shutil.copytree(made.folder / "logs", options.keep_logs, dirs_exist_ok=True)
        left = sum(status not in ("SUCCEEDED", "FAILED", "STOPPED") for status in stack.jobs(made).values())
    rows = [figure(f"goes on after: {one.what}", one.seconds, "s") for one in found]
    rows += [
        figure("faults on one run", len(faults), ""),
        figure("the run's starts", seen["starts"], "", target=2),
        figure("champions that came of it", float(best["version"]), "", target=1),
        figure("jobs that run on at the end", left, "", target=0),
    ]
    return report(found, rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
