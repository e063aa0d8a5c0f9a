"""Many machines, no shared disk: the whole road with its songs and its store in S3, and accidents on the way.

`make drill-cluster` starts a Ray of machines that share nothing but the code (`isolated_machines.py`), walks from songs
to a champion, and then trains again and again in stores of their own: workers, machines and drivers are killed
`--kills` times each at random steps, a driver each time begun again on the other machine; a machine is lost for good,
and another one joins; a training goes on with one worker and with two again; S3 errs, is slow, goes away, refuses, and
is cut off in an upload. Each ends with the weights and the curve of the first, and with each step and one version in
MLflow.

Exit code 2 where this user or system gives no namespaces.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from datasets.store import storage
from flows.console.progress_display import table
from tests.drills import drill_road
from tests.drills.cluster_training import ROAD, Scene, Trained, Training, forget_runs, mlflow_faults, same_rows, started
from tests.drills.failing_s3 import FailingS3
from tests.drills.isolated_machines import (
    Machine,
    Machines,
    NotAllowedError,
    machines,
    require_namespaces,
    shared_paths,
)
from tests.drills.services_here import prefect_and_mlflow
from tests.drills.termination import clean_up_when_terminated
from tests.s3 import BUCKET, object_store

CONSOLE = Console(highlight=False, width=140)
STEPS = 80
GONE_S, JOINS_AFTER_S = 60.0, 30.0
SLOW_S = 0.3  # of every request
ALONE_S = 0.5  # of every request while one worker trains alone, else it would be done before another machine is there
# It hardly learns, so that a loss tells which rows a step saw.
ELASTIC = (
    "train.steps=150", "train.checkpoint_every=20", "train.valid_songs=0", "train.learner.learning_rate=1e-6",
    "model.options.dropout=0.0", "train.elastic_check_s=1.0",
)  # fmt: skip
_OF_WORKERS = ("worker", "node", "replaced", "elastic")  # played with Ray's workers only
_TO_THE_END = ("worker", "node", "driver")  # up to a champion; the others end with the training


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """One accident: the step at which it struck, the steps that were taken anew, and when the next one was taken."""

    at: int
    lost: int
    seconds: float


class Drill:
    """The accidents, and what they need: machines, and an S3 that fails when it is told to."""

    def __init__(self, here: Machines, s3: FailingS3, folder: Path, *, kills: int, seed: int) -> None:
        self.here, self.s3, self.folder, self.kills, self.seed = here, s3, folder, kills, seed
        self.rng = np.random.default_rng(seed)
        self.num_workers = 2  # of a training; 0: in the driver's own process
        self.walks_to_the_end = True  # from songs to a champion, and once more, before the accidents
        self.references: Path | None = None  # a folder for what trainings came to that were left in peace
        self.peace = Trained(digest="", curve=[])  # of a training which nothing befell
        self.answer: dict[str, Any] = {}  # of the last command that came to its end

    def scene(self, accident: str, *, undisturbed: bool = False) -> Scene:
        """The store of an accident."""
        name = accident if accident == ROAD else f"{'undisturbed-' * undisturbed}{accident}-{self.seed}"
        verb = "promote" if accident in _TO_THE_END else "train"
        if accident == ROAD:
            verb = "run" if self.walks_to_the_end else "automix"
        settings = ELASTIC if accident == "elastic" else (f"train.steps={STEPS}",)
        workers = 2 if accident == ROAD else 0 if accident == "elastic" and undisturbed else self.num_workers
        return Scene(name=name, here=self.here, folder=self.folder, settings=settings, verb=verb, num_workers=workers)

    def play(self, accident: str, scene: Scene) -> list[Blow]:
        """A training that meets with an accident until it is finished."""
        acts: dict[str, Callable[[Scene], list[Blow]]] = {
            "worker": lambda scene: self._struck(scene, self._kill_worker, self.kills),
            "node": lambda scene: self._struck(scene, self._replace, self.kills),
            "driver": self._drivers,
            "replaced": lambda scene: self._struck(scene, lambda scene: self._replace(scene, JOINS_AFTER_S), 1),
            "elastic": self._elastic,
            "s3-errors": self._errors,
            "s3-slow": self._slow,
            "s3-gone": self._gone,
            "s3-expired": self._expired,
            "s3-cut": self._cut,
        }
        return acts[accident](scene)

    # --- processes and machines ---------------------------------------------------------------------------------

    def _struck(self, scene: Scene, blow: Callable[[Scene], None], times: int) -> list[Blow]:
        """One command, that goes on by itself."""
        blows = []
        with started(scene, self._machine(0)) as training:
            for target in self._targets(times):
                at = training.reach(target)
                gone, began_s = {worker.pid for worker in scene.workers()}, time.monotonic()
                blow(scene)
                blows.append(self._told(at, training.goes_on(gone), began_s))
            self.answer = training.finish()
        return blows

    def _kill_worker(self, scene: Scene) -> None:
        found = scene.workers()
        found[int(self.rng.integers(len(found)))].kill()

    def _replace(self, scene: Scene, after_s: float = 0.0) -> None:
        """The machine without the driver is lost with its disk; another one joins after so long."""
        self.here.lose(self._machine(1))
        time.sleep(after_s)
        self.here.add()

    def _drivers(self, scene: Scene) -> list[Blow]:
        """The command is killed, and said again on the other machine."""
        return self._restarted(scene, self.kills, lambda training, step: training.reach(step))

    def _restarted(self, scene: Scene, times: int, until: Callable[[Training, int], int]) -> list[Blow]:
        """Commands that come to an end at a step, as `until` has it, each followed by the same on another machine."""
        blows = []
        gone, at, began_s = set[int](), 0, 0.0
        targets = self._targets(times)
        for number in range(times + 1):
            with started(scene, self._machine(number)) as training:
                if number:
                    blows.append(self._told(at, training.goes_on(gone), began_s))
                if number == times:
                    self.answer = training.finish()
                else:
                    training.need(lambda: len(scene.workers()) == scene.num_workers)
                    at, gone = until(training, targets[number]), {one.pid for one in scene.workers()}
                    training.kill()
                    at, began_s = max(at, scene.step()), time.monotonic()
                    self.s3.gone = self.s3.expired = False
        return blows

    def _elastic(self, scene: Scene) -> list[Blow]:
        """A machine lost, one worker alone, another machine, and two again."""
        alone = Scene(
            name=scene.name, here=scene.here, folder=scene.folder, verb=scene.verb,
            settings=(*scene.settings, "train.min_workers=1"),
        )  # fmt: skip
        with started(alone, self._machine(0)) as training:
            at, began_s = training.reach(int(self.rng.integers(1, 40))), time.monotonic()
            gone = {worker.pid for worker in scene.workers()}
            self.here.lose(self._machine(1))
            blows = [self._told(at, training.goes_on(gone, workers=1), began_s)]
            at, began_s = scene.step(), time.monotonic()
            gone = {worker.pid for worker in scene.workers()}
            self.s3.delay_s = ALONE_S
            try:
                self.here.add()
                training.need(lambda: len({worker.pid for worker in scene.workers()} - gone) == scene.num_workers)
            finally:
                self.s3.delay_s = 0.0
            blows.append(self._told(at, training.goes_on(gone), began_s))
            self.answer = training.finish()
        return blows

    # --- S3 -----------------------------------------------------------------------------------------------------

    def _errors(self, scene: Scene) -> list[Blow]:
        """Every tenth request fails, from the first to the last."""
        self.s3.one_in, before = 10, self.s3.failed
        try:
            return self._watched(scene, lambda: self.s3.failed - before)
        finally:
            self.s3.one_in = 0

    def _slow(self, scene: Scene) -> list[Blow]:
        """Every request takes longer."""
        before, self.s3.delay_s = len(self.s3.requests), SLOW_S
        try:
            return self._watched(scene, lambda: len(self.s3.requests) - before)
        finally:
            self.s3.delay_s = 0.0

    def _watched(self, scene: Scene, count: Callable[[], int]) -> list[Blow]:
        with started(scene, self._machine(0)) as training:
            self.answer = training.finish()
            CONSOLE.print(f"  {count()} requests met with it")
            return [Blow(at=0, lost=0, seconds=training.longest_pause_s)]

    def _gone(self, scene: Scene) -> list[Blow]:
        """No connection is answered for a minute: the seconds until there is another checkpoint in S3."""
        with started(scene, self._machine(0)) as training:
            at = training.reach(self._targets(1)[0])
            before, began_s = set(scene.lists()), time.monotonic()
            self.s3.gone = True
            try:
                training.need(lambda: time.monotonic() > began_s + GONE_S)
            finally:
                self.s3.gone = False
            training.need(lambda: bool(set(scene.lists()) - before))
            blows = [self._told(at, at, began_s)]
            self.answer = training.finish()
        return blows

    def _expired(self, scene: Scene) -> list[Blow]:
        """Credentials run out: the command ends with exit code 2 and says so; with others it goes on elsewhere."""

        def until(training: Training, step: int) -> int:
            at, began_s = training.reach(step), time.monotonic()
            self.s3.expired = True
            code = training.end()
            assert code == 2, f"exit code {code}: {training.said()[-3000:]}"
            assert "the credentials are missing, wrong, have run out" in training.said(), training.said()[-3000:]
            CONSOLE.print(f"  exit code 2 after {time.monotonic() - began_s:.0f} s")
            return at

        return self._restarted(scene, 1, until)

    def _cut(self, scene: Scene) -> list[Blow]:
        """An upload ends half way, S3 with it, and then the command."""

        def until(training: Training, step: int) -> int:
            training.reach(step)
            self.s3.cut = "/current/weights"
            training.need(lambda: self.s3.gone)
            return scene.step()

        return self._restarted(scene, 1, until)

    # --- small things -------------------------------------------------------------------------------------------

    def _machine(self, number: int) -> Machine:
        return self.here.others[number % len(self.here.others)]

    def _targets(self, times: int) -> list[int]:
        """So many random steps, in order; after the last there is another checkpoint."""
        return sorted(int(step) for step in self.rng.choice(range(1, STEPS - 10), times, replace=False))

    def _told(self, at: int, resumed: int, began_s: float) -> Blow:
        blow = Blow(at=at, lost=max(0, at - resumed), seconds=time.monotonic() - began_s)
        CONSOLE.print(f"  struck at step {at}, went on from {resumed} after {blow.seconds:.1f} s")
        return blow


ACCIDENTS = (
    "worker", "node", "driver", "replaced", "elastic", "s3-errors", "s3-slow", "s3-gone", "s3-expired", "s3-cut",
)  # fmt: skip


def road(drill: Drill) -> dict[str, Any]:
    """Songs to a champion, and the same command on the other machine: it finds all of it."""
    scene, seconds, answers = drill.scene(ROAD), [], []
    for number in (0, 1):
        began_s = time.monotonic()
        with started(scene, drill.here.others[number]) as training:
            answers.append(training.finish())
        seconds.append(time.monotonic() - began_s)
    first, answer = answers
    drill.peace = Trained.of(first)
    assert answer["version"] == first["version"], (answer["version"], first["version"])
    assert answer["version"]["alias"] == "champion", answer["version"]
    faults = mlflow_faults(scene, answer)
    CONSOLE.print(f"road: {seconds[0]:.0f} s, and {seconds[1]:.0f} s to find it finished on another machine")
    return _row(ROAD, [Blow(at=0, lost=0, seconds=seconds[1])], equal=True, faults=faults)


def rows(drill: Drill, accidents: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each accident, as they are played."""
    shared = shared_paths([one for one in (drill.here.head, *drill.here.others) if one])
    assert not shared, shared
    CONSOLE.print(f"{len(drill.here.others)} machines and a head, without a common path that can be written")
    if drill.walks_to_the_end:
        yield road(drill)
    else:
        with started(drill.scene(ROAD), drill.here.others[0]) as making_songs:
            making_songs.finish()
    if set(accidents) != {"elastic"} and not (drill.walks_to_the_end and drill.num_workers):
        drill.peace = _undisturbed(drill, "s3-errors")  # it has the settings of all but one
    for accident in accidents:
        CONSOLE.print(accident)
        scene = drill.scene(accident)
        try:
            yield _outcome(drill, accident, scene)
        except AssertionError as error:  # the others are played all the same
            CONSOLE.print(str(error))
            yield _row(accident, [], equal=False, faults=[str(error).splitlines()[0][:80]])
            forget_runs(scene)


def _outcome(drill: Drill, accident: str, scene: Scene) -> dict[str, Any]:
    """The row of an accident: it is played, and what came of it is held against a training that was left in peace."""
    expected = _undisturbed(drill, accident) if accident == "elastic" else drill.peace
    scene.bring_songs()
    blows = drill.play(accident, scene)
    answer = drill.answer
    trained = Trained.of(answer)
    equal = same_rows(trained.curve, expected.curve) if accident == "elastic" else trained == expected
    faults = mlflow_faults(scene, answer, versions=0 if scene.verb == "train" else 1)
    if left := scene.leftovers():
        faults.append(f"{left} files of cut uploads are left")
    return _row(accident, blows, equal=equal, faults=faults)


def _undisturbed(drill: Drill, accident: str) -> Trained:
    """What a training with the settings of an accident comes to when nothing happens; it may be known already."""
    quiet = drill.scene(accident, undisturbed=True)
    reference = drill.references / f"{accident}-{quiet.num_workers}-workers.json" if drill.references else None
    if reference and reference.exists():
        return Trained(**json.loads(reference.read_text()))
    quiet.bring_songs()
    with started(quiet, drill.here.others[0]) as training:
        trained = Trained.of(training.finish())
    forget_runs(quiet)
    if reference:
        reference.write_text(json.dumps(asdict(trained)))
    return trained


def _row(accident: str, blows: Sequence[Blow], *, equal: bool, faults: Sequence[str]) -> dict[str, Any]:
    return {"accident": accident, "blows": [asdict(blow) for blow in blows], "equal": equal, "faults": list(faults)}


def show(told: Sequence[dict[str, Any]]) -> None:
    """The table."""
    lines = []
    for row in told:
        lost, seconds = ([blow[name] for blow in row["blows"]] or [math.nan] for name in ("lost", "seconds"))
        equal = ("the same rows" if row["accident"] == "elastic" else "yes") if row["equal"] else "NO"
        lines.append([
            row["accident"], str(len(row["blows"])), f"{statistics.median(lost):.0f} ({max(lost)})",
            f"{statistics.median(seconds):.0f} ({max(seconds):.0f})", equal, ", ".join(row["faults"]) or "once",
        ])  # fmt: skip
    columns = ["accident", "times", "steps taken anew", "seconds until it went on", "equal", "all in MLflow"]
    CONSOLE.print(table("Accidents on machines that share nothing; medians (and the most)", columns, lines))


@contextmanager
def servers(folder: Path) -> Iterator[tuple[FailingS3, dict[str, str]]]:
    """S3 with the songs, and the environment that leads machines to it, to Prefect and to MLflow."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with object_store(FailingS3) as s3:
        songs = folder / "songs"
        drill_road.make_songs(songs)
        for path in songs.rglob("*.*"):
            storage.write(f"s3://{BUCKET}/corpus/{path.relative_to(songs).as_posix()}", path.read_bytes())
        with prefect_and_mlflow(say=CONSOLE.print) as services:
            environment = dict(services.environment)
            del environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]  # as the product has it
            yield s3, environment


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accidents", nargs="*", choices=ACCIDENTS, default=list(ACCIDENTS))
    parser.add_argument("--kills", type=int, default=10, help="of workers, machines and drivers each")
    parser.add_argument("--seed", type=int, default=0, help="of the steps")
    parser.add_argument("--references", help="a folder for what trainings left in peace came to; found there, not run")
    parser.add_argument("--num-workers", type=int, choices=(0, 2), default=2, help="0: without Ray, quicker")
    parser.add_argument("--no-road", action="store_true", help="one training instead of the whole pipeline, twice")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    clean_up_when_terminated()
    if not options.num_workers and (needing := [one for one in options.accidents if one in _OF_WORKERS]):
        parser.error(f"--num-workers 0 has no {', '.join(needing)}")
    told: list[dict[str, Any]] = []
    try:
        require_namespaces()
    except NotAllowedError as error:
        CONSOLE.print(
            "this drill needs namespaces of mounts, processes and host names (root, or a container that may unshare): "
            f"{error}"
        )
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as place,
        servers(Path(place)) as (s3, environment),
        machines(Path(place), environment, count=2) as here,
    ):
        drill = Drill(here, s3, Path(place), kills=options.kills, seed=options.seed)
        drill.num_workers, drill.walks_to_the_end = options.num_workers, not options.no_road
        drill.references = Path(options.references) if options.references else None
        for row in rows(drill, options.accidents):
            told.append(row)
            if options.out:
                Path(options.out).write_text(json.dumps(told, indent=1) + "\n")
    show(told)
    return int(any(not row["equal"] or row["faults"] for row in told))


if __name__ == "__main__":
    sys.exit(main())
