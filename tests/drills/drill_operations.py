"""One road through a deployment while everything it stands on is killed in turn: `make drill-operations`.

A disk fills up. Then the flow runner, a Ray node, PostgreSQL, the Prefect server, S3 and the MLflow server go away one
after the other, each while a step is at work, and come back as a supervisor would bring them. Then a run is cancelled,
a model grows stale, a retraining fails, everything is lost that a backup has, and the store moves. The table says how
long until the work went on, what was lost, and who had to do something. `--accidents NAME...` takes some of them.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import soundfile
from rich.console import Console
from rich.table import Table

from datasets.corpus.synthetic import write_corpus
from tests.benchmarks.table import Row, figure, show
from tests.drills import backup, drill_road, stack
from tests.drills.service_processes import BIN, Cluster
from tests.drills.services_here import cluster
from tests.drills.termination import clean_up_when_terminated

CONSOLE = Console(highlight=False, width=150)
# Where no accident strikes the first run: it has to leave a champion, and be quick.
LIGHT = (*stack.SETTINGS, "train.num_workers=0", "evaluate.num_workers=1")
AWAY_S = 15.0  # until a supervisor has started a service again
NOTICED_WITHIN_S = 120.0
GOES_ON_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fault did."""

    what: str
    lost: str
    seconds: float  # from the blow until the run was seen to go on
    who: str


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


def kill_the_runner(made: Cluster, run: str, step: str = "ingest") -> Outcome:
    """The process of the flow itself; its job in the cluster does not notice."""
    job = step_at_work(made, run, step)
    before = stack.watch(made, run)["starts"]
    runners = made.survivors("prefect.engine")
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
    deadline_s = time.monotonic() + NOTICED_WITHIN_S
    while made.services[name].answers():  # Ray counts a node as alive for a while that is not
        assert time.monotonic() < deadline_s, f"nobody noticed that {name} is gone"
        time.sleep(0.5)
    away_s = time.monotonic() - began_s
    back_s = made.services[name].start()
    since = _now()
    wait_for(made, run, lambda: said_since(made, run, since) or stack.watch(made, run)["type"] == "COMPLETED")
    seconds = time.monotonic() - began_s
    what = f"{name}, SIGKILL, back after {away_s + back_s:.0f} s"
    return Outcome(what=what, lost=lost, seconds=seconds, who=who)


def cancel(made: Cluster) -> Outcome:
    """A run that is cancelled on Prefect's page after its server was away; nothing of it goes on in the cluster."""
    run = stack.start_run(made, "train-model/stemline", overrides=[*stack.SETTINGS, "train.steps=5000"])
    step_at_work(made, run, "train")
    _kill(made, run, "Prefect server", lost="nothing", who="nobody (its supervisor)")
    began_s = time.monotonic()
    made.ask("Prefect", "POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    deadline_s = began_s + GOES_ON_WITHIN_S
    while running_jobs(made) or made.survivors("RayTrainWorker") or stack.watch(made, run)["type"] != "CANCELLED":
        assert time.monotonic() < deadline_s, f"{running_jobs(made)} run on, {stack.watch(made, run)}"
        time.sleep(0.5)
    seconds = time.monotonic() - began_s
    return Outcome(
        what="run cancelled, Prefect server back again", lost="nothing runs on", seconds=seconds, who="nobody else"
    )


def drift(made: Cluster) -> Outcome:
    """The champion does worse on the canary songs than it did, and `retrain` acts on it once, though it is killed."""
    canary, before = made.folder / "canary", stack.versions(made)
    settings = [*LIGHT, f"retrain.canary={canary}", "retrain.canary_drop_db=0.05", "retrain.min_interval_h=0"]
    write_corpus(canary, num_songs=2, seed=7, duration_s=4.0, defects=False, splits={})
    first = _retrained(made, stack.start_run(made, "retrain/stemline", overrides=settings))
    assert first.startswith("No: "), first
    # 12 dB down, what a model of 40 steps leaves in them of the rest weighs more than they do; curation keeps them.
    for path in canary.rglob("vocals.flac"):
        sound, rate = soundfile.read(path)
        soundfile.write(path, 0.25 * sound, rate)
    write_corpus(made.folder / "new", num_songs=1, seed=8, duration_s=4.0, defects=False, splits={})
    (song,) = (path for path in (made.folder / "new").iterdir() if path.is_dir())
    song.rename(made.folder / "music" / "train" / "New")
    began_s = time.monotonic()
    run = stack.start_run(made, "retrain/stemline", overrides=settings)
    kill_the_runner(made, run, step="train")
    second = _retrained(made, run)
    assert second.startswith("Yes: the canary songs lost "), second
    assert stack.versions(made) == before + 1, "no new version"
    CONSOLE.print(f"first: {first}\nthen: {second}")
    seconds = time.monotonic() - began_s
    return Outcome(what="score on canary songs fell; runner killed", lost="nothing", seconds=seconds, who="nobody")


def _retrained(made: Cluster, run: str) -> str:
    """Why a run of `retrain` did or did not train, once it is over."""
    stack.finish(made, run)
    return next(one["data"] for one in stack.artifacts(made, run) if one["key"] == "retrain-why")


def fail_a_retraining(made: Cluster) -> Outcome:
    """A retraining that fails is in the log as failed, is tried again at once, and by then trains."""
    settings = [*LIGHT, "retrain.max_age_days=1e-9", "retrain.min_interval_h=0", "train.seed=5"]
    roots = [f"corpus.root={made.folder / 'music'}", f"store.root={made.folder / 'store'}"]

    def explained() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            made.run(BIN / "stemline", "retrain", "--explain", "--json", "--preset", "smoke", *roots, *settings)
        )
        return answer

    broken = stack.start_run(made, "retrain/stemline", overrides=[*settings, "train.backup_uri=/proc/nowhere"])
    while (state := stack.watch(made, broken)["type"]) not in ("FAILED", "COMPLETED", "CRASHED"):
        time.sleep(1)
    assert state == "FAILED", state
    began_s, log = time.monotonic(), explained()["facts"]["done"]
    assert (log[-1]["status"], log[-1]["gpu_hours"]) == ("failed", 0.0), log
    assert "/proc/nowhere" in log[-1]["error"], log
    assert explained()["retrain"], explained()["why"]
    again = _retrained(made, stack.start_run(made, "retrain/stemline", overrides=settings))
    assert again.startswith("Yes: "), again
    assert [one["status"] for one in explained()["facts"]["done"]][-2:] == ["failed", "done"]
    seconds = time.monotonic() - began_s
    return Outcome(what="failed retraining", lost="nothing", seconds=seconds, who="mends what was wrong")


def lose_everything(made: Cluster) -> Outcome:
    """A backup, then no database, no bucket and no store, then the backup: everybody sees what they saw."""
    settings, kept = [f"store.root={made.folder / 'store'}", *stack.SETTINGS], made.folder / "backup"
    song = next((made.folder / "music").rglob("other.flac"))
    before, best = backup.known(made, settings, song, made.folder / "before"), stack.champion(made)
    began_s = time.monotonic()
    backup.back_up(made, kept)
    saved_s = time.monotonic() - began_s
    backup.lose(made)
    began_s = time.monotonic()
    backup.restore(made, kept)
    seconds = time.monotonic() - began_s
    after = backup.known(made, settings, song, made.folder / "after")
    assert after == before, f"{before}\n{after}"
    assert stack.champion(made) == best
    return Outcome(
        what=f"PostgreSQL, S3, store lost; backup of {saved_s:.0f} s",
        lost="nothing that the backup had",
        seconds=seconds,
        who="restores dumps and buckets",
    )


def move_the_store(made: Cluster) -> Outcome:
    """The store's folder is renamed, and its tables lie elsewhere: all is known, nothing is made anew or deleted."""
    there, data = made.folder / "moved, 100%2F #1", "songs/moved"
    song = next((made.folder / "music").rglob("other.flac"))
    before = backup.known(made, [f"store.root={made.folder / 'store'}", *stack.SETTINGS], song, made.folder / "at home")
    began_s = time.monotonic()
    backup.move(made, "songs/store", there, data)
    moved = [f"store.root={there}", *stack.SETTINGS, f"store.data=s3://{data}"]
    made.run(BIN / "stemline", "gc", "--delete", "--json", *moved)
    with_dates = json.loads(made.run(BIN / "stemline", "datasets", "--json", *moved))
    after = backup.known(made, moved, song, made.folder / "moved")
    as_if_home = json.loads(json.dumps(after).replace(data, "songs/store"))
    assert as_if_home == before, f"{before}\n{after}"
    chunks = f"{data}/chunks"
    stored = backup.listed(made, chunks)
    made.run(BIN / "stemline", "ingest", "--preset", "smoke", f"corpus.root={made.folder / 'music'}", *moved)
    assert json.loads(made.run(BIN / "stemline", "datasets", "--json", *moved)) == with_dates, "a version was made anew"
    assert backup.listed(made, chunks) == stored, "songs were decoded again"
    assert not (made.folder / "store").exists(), "something was written where the store was"
    seconds = time.monotonic() - began_s
    return Outcome(what="moved store", lost="nothing", seconds=seconds, who="moves it, says where it is")


def fill_the_disk(folder: Path) -> Outcome:
    """The store's disk fills up at work: one message; with room again the same command goes on. Needs to be root."""
    disk, songs = folder / "disk", folder / "songs"
    disk.mkdir()
    drill_road.make_songs(songs)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disk], check=True)
    try:
        command = [sys.executable, "-m", "flows", "ingest", f"store.root={disk / 'store'}", f"corpus.root={songs}"]
        with open(folder / "said", "w+") as said:
            first = subprocess.Popen(command, cwd=drill_road.ROOT, stdout=said, stderr=said)
            while first.poll() is None and not any((disk / "store" / "chunks").glob("*")):
                time.sleep(0.01)
            filled_s = _fill(disk / "ballast")
            code, gave_up_s = first.wait(GOES_ON_WITHIN_S), time.monotonic()
        words = (folder / "said").read_text().strip().splitlines()
        assert code == 2, "\n".join(words)
        assert not any("Traceback" in line for line in words), "\n".join(words)
        (disk / "ballast").unlink()
        began_s = time.monotonic()
        second = subprocess.run(command, cwd=drill_road.ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 0, second.stderr[-2000:]
        seconds = time.monotonic() - began_s
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    CONSOLE.print(f"{gave_up_s - filled_s:.0f} s after the disk was full: {words[-1]}")
    return Outcome(what="disk full", lost="nothing that was whole", seconds=seconds, who="makes room, says it again")


def _fill(ballast: Path) -> float:
    """When the last byte of the disk was taken."""
    with suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(65536)):
            pass
    return time.monotonic()


# In the order of the steps of one run; then those that begin runs of their own.
ON_A_RUN: dict[str, Callable[[Cluster, str], Outcome]] = {
    "runner": kill_the_runner, "node": kill_a_node, "database": kill_the_database, "prefect": kill_prefect,
    "s3": pause_s3, "mlflow": kill_mlflow,
}  # fmt: skip
AFTERWARDS: dict[str, Callable[[Cluster], Outcome]] = {
    "cancel": cancel, "drift": drift, "failed-retraining": fail_a_retraining, "backup": lose_everything,
    "moved-store": move_the_store,
}  # fmt: skip
DISK = "disk"
ACCIDENTS = (DISK, *ON_A_RUN, *AFTERWARDS)


def drill(made: Cluster, chosen: Sequence[str]) -> tuple[list[Outcome], list[Row]]:
    """The chosen accidents, those that strike a run on one run of the whole road."""
    drill_road.make_songs(made.folder / "music")
    stack.deploy(made)
    stack.start_worker(made)
    found, rows = [], []

    def note(one: Outcome) -> None:
        found.append(one)
        CONSOLE.print(f"{one.what}: went on after {one.seconds:.0f} s; lost: {one.lost}")

    strikes = [ON_A_RUN[name] for name in ON_A_RUN if name in chosen]
    if strikes or (set(AFTERWARDS) - {"cancel"}) & set(chosen):
        run = stack.start_run(made, "full-run/stemline", **({} if strikes else {"overrides": list(LIGHT)}))
        for strike in strikes:
            note(strike(made, run))
        starts = 1 + ("runner" in chosen)
        rows.append(figure("the run's starts", stack.finish(made, run)["starts"], "", target=starts))
        rows.append(figure("champions that came of it", float(stack.champion(made)["version"]), "", target=1))
    for name in AFTERWARDS:
        if name in chosen:
            note(AFTERWARDS[name](made))
    left = sum(status not in ("SUCCEEDED", "FAILED", "STOPPED") for status in stack.jobs(made).values())
    return found, [*rows, figure("jobs that run on at the end", left, "", target=0)]


def report(found: list[Outcome], rows: list[Row], out: str | None) -> int:
    """Prints who lost what; then the figures."""
    shown = Table("what happened", "lost", "goes on after", "who does what", box=None)
    for one in found:
        shown.add_row(one.what, one.lost, f"{one.seconds:.0f} s", one.who)
    CONSOLE.print(shown)
    rows = [*(figure(f"goes on after: {one.what}", one.seconds, "s") for one in found), *rows]
    return show("Faults in operation", rows, out, decimals=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--keep-logs", help="a folder for the services' logs")
    parser.add_argument("--accidents", nargs="+", choices=ACCIDENTS, default=ACCIDENTS, help="only these")
    options = parser.parse_args()
    clean_up_when_terminated()
    found, rows = list[Outcome](), list[Row]()
    if DISK in options.accidents and os.geteuid() == 0:
        with tempfile.TemporaryDirectory(prefix="disk-") as folder:
            found.append(fill_the_disk(Path(folder)))
    if set(options.accidents) - {DISK}:
        with cluster(say=CONSOLE.print) as made:
            try:
                struck, rows = drill(made, options.accidents)
            finally:
                if options.keep_logs:
                    shutil.copytree(made.folder / "logs", options.keep_logs, dirs_exist_ok=True)
        found += struck
    return report(found, rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
