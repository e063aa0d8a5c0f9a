"""A pipeline on isolated machines, watched from outside: how far its training is, who trains, and what came of it."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from datasets.store import storage
from datasets.store.scratch import scratch
from pipelines.runs import remote_checkpoints
from tests.drills import drill_road
from tests.drills.isolated_machines import SCRATCH, Machine, Machines
from tests.s3 import BUCKET

ROAD = "road"  # the scene whose songs all others use
WITHIN_S = 400.0
_WORKER = "RayTrainWorker"  # a part of the name of Ray's processes
_LOOK_S = 0.02
_SAME_ROWS = 1e-3  # of a loss; other rows change it by tens of per cent


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A store of its own in the bucket, and the commands that work on it."""

    name: str
    here: Machines
    folder: Path  # for what commands say
    settings: Sequence[str]
    verb: str = "promote"
    num_workers: int = 2

    @property
    def store(self) -> str:
        return f"s3://{BUCKET}/{self.name}"

    def words(self) -> list[str]:
        """The command."""
        roots = [f"store.root={self.store}", f"store.scratch={SCRATCH}", f"corpus.root=s3://{BUCKET}/corpus"]
        names = [f"registry.name={self.name}", f"registry.experiment={self.name}"]
        command = [sys.executable, "-m", "flows", self.verb, "--json", "--preset", "smoke"]
        workers = (f"train.num_workers={self.num_workers}", "train.max_failures=100")
        return [*command, *roots, *names, *drill_road.SETTINGS, *workers, *self.settings]

    def bring_songs(self) -> None:
        """What the road made of the songs, so that only the training is left to do."""
        road = f"s3://{BUCKET}/{ROAD}"
        for path in storage.files_below(road):
            if path.split("/")[0] in ("chunks", "tables", "manifests", "cache"):
                storage.write(storage.join(self.store, *path.split("/")), storage.read(storage.join(road, path)))

    @property
    def checkpoint_every(self) -> int:
        return int([word for word in self.words() if word.startswith("train.checkpoint_every=")][-1].split("=")[1])

    def files(self, name: str) -> list[Path]:
        """A file of the training's folder, on all machines that have it, the one that changed last first."""
        pattern = f"{SCRATCH.strip('/')}/{scratch(self.store).name}/runs/*/{name}"
        found = []
        for machine in self.here.others:
            with suppress(psutil.Error, IndexError):
                found += list(machine.root.glob(pattern))
        return sorted(found, key=_changed, reverse=True)

    def newest(self, name: str) -> dict[str, Any]:
        """The last line of such a file, where it changed last; of the loss curve how far the training is."""
        for path in self.files(name)[:1]:
            with suppress(OSError, ValueError, IndexError):
                return dict(json.loads(path.read_text().splitlines()[-1]))
        return {}

    def step(self) -> int:
        return int(self.newest("history.jsonl").get("step", 0))

    def workers(self) -> list[psutil.Process]:
        """Ray's workers that train."""
        return [process for machine in self.here.others for process in machine.processes(_WORKER)]

    def lists(self) -> list[str]:
        """The checkpoints that are whole in S3."""
        paths = storage.files_below(f"{self.store}/runs")
        return [path for path in paths if path.count("/") == 1 and "/step-" in path and path.endswith(".json")]

    def leftovers(self) -> int:
        """Files of checkpoints that no list names, in S3."""
        runs = {path.split("/")[0] for path in storage.files_below(f"{self.store}/runs")}
        return sum(remote_checkpoints.remove_leftovers(f"{self.store}/runs/{run}") for run in runs)


class Training:
    """One command on one of the machines."""

    def __init__(self, scene: Scene, machine: Machine) -> None:
        self.scene = scene
        self.log = scene.folder / f"{scene.name}-{time.monotonic_ns()}"
        with open(f"{self.log}.out", "wb") as out, open(f"{self.log}.err", "wb") as err:
            self.process = machine.start(scene.words(), out, err)
        self.longest_pause_s = 0.0

    def reach(self, step: int) -> int:
        """Wait for a step, with all workers there; the step that was seen."""
        self.need(lambda: self.scene.step() >= step and len(self.scene.workers()) == self.scene.num_workers)
        return self.scene.step()

    def goes_on(self, gone: set[int], *, workers: int | None = None) -> int:
        """Wait for so many others than these processes, and for a step of theirs; the checkpoint they went on from."""
        wanted = self.scene.num_workers if workers is None else workers
        self.need(lambda: len({worker.pid for worker in self.scene.workers()} - gone) == wanted)
        since_s, seen = time.time(), list[int]()

        def beyond() -> bool:
            # What other machines have of earlier turns does not count.
            if any(_changed(path) > since_s for path in self.scene.files("history.jsonl")[:1]):
                seen.append(self.scene.step())
            return bool(seen) and seen[-1] > min(seen)

        self.need(beyond)
        return min(seen) // self.scene.checkpoint_every * self.scene.checkpoint_every

    def need(self, until: Callable[[], bool]) -> None:
        """Wait for it; AssertionError with what the command said if that never comes."""
        deadline_s = time.monotonic() + WITHIN_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            if until():
                return
            time.sleep(_LOOK_S)
        raise AssertionError(f"exit code {self.process.poll()}: {self.said()[-3000:]}")

    def said(self) -> str:
        return Path(f"{self.log}.err").read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to the driver, and to what it started itself."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Its exit code."""
        last, seen_s, deadline_s = self.scene.step(), time.monotonic(), time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"it does not end: {self.said()[-3000:]}"
            if (step := self.scene.step()) != last:
                if last:
                    self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - seen_s)
                last, seen_s = step, time.monotonic()
            time.sleep(0.1)
        return int(self.process.returncode)

    def finish(self) -> dict[str, Any]:
        """Its answer; it has to succeed."""
        code = self.end()
        assert code == 0, f"exit code {code}: {self.said()[-3000:]}"
        text = Path(f"{self.log}.out").read_text()
        assert text, f"no answer: {self.said()[-3000:]}"
        answer: dict[str, Any] = json.loads(text)
        return dict(answer.get("model", answer))


@contextmanager
def started(scene: Scene, machine: Machine) -> Iterator[Training]:
    """A command that does not outlive what is done with it."""
    training = Training(scene, machine)
    try:
        yield training
    finally:
        training.kill()


def curve(answer: dict[str, Any]) -> list[dict[str, float]]:
    """The points of a training's curve."""
    return [json.loads(line) for line in storage.read(answer["trained"]["history"]).splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training comes to, as far as another one has to come to the same."""

    digest: str
    curve: list[dict[str, float]]

    @staticmethod
    def of(answer: dict[str, Any]) -> "Trained":
        """From what the command answered."""
        return Trained(digest=answer["trained"]["model_digest"], curve=curve(answer))


def same_rows(curve_a: Sequence[dict[str, float]], curve_b: Sequence[dict[str, float]]) -> bool:
    """Whether two curves have each step once, with the losses of the same rows."""
    losses = [[(point["step"], point["loss"]) for point in one if "loss" in point] for one in (curve_a, curve_b)]
    return [step for step, _ in losses[0]] == [step for step, _ in losses[1]] and all(
        math.isclose(here, there, rel_tol=_SAME_ROWS) for (_, here), (_, there) in zip(*losses, strict=True)
    )


def mlflow_faults(scene: Scene, answer: dict[str, Any], *, versions: int = 1) -> list[str]:
    """What MLflow lacks, or has twice; its run is removed then, as the next scene's has the same key."""
    from mlflow import MlflowClient

    client = MlflowClient(scene.here.environment["MLFLOW_TRACKING_URI"])
    found = _runs(scene)
    runs = [run for run in found if "mlflow.parentRunId" not in run.data.tags]  # scores are runs below it
    faults = [] if len(runs) == 1 else [f"{len(runs)} runs"]
    if len(found) - len(runs) != versions:
        faults.append(f"scored {len(found) - len(runs)} times")
    for run in runs:
        expected = sorted(int(point["step"]) for point in curve(answer) if "loss" in point)
        steps = sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss"))
        if steps != expected:
            faults.append(f"{len(steps)} points, {len(set(steps))} of them once, of {len(expected)}")
        if run.info.status != "FINISHED":
            faults.append(f"the run is {run.info.status}")
    if (count := len(client.search_model_versions(f"name='{scene.name}'"))) != versions:
        faults.append(f"{count} versions")
    forget_runs(scene)
    return faults


def forget_runs(scene: Scene) -> None:
    """Remove the MLflow runs of a scene: trainings of the same songs have one key, and would find them."""
    from mlflow import MlflowClient

    client = MlflowClient(scene.here.environment["MLFLOW_TRACKING_URI"])
    for run in _runs(scene):
        client.delete_run(run.info.run_id)


def _runs(scene: Scene) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(scene.here.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(scene.name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
