"""The kill test of training: accidents at random steps, then the same again; the same losses and weights, bit for bit.

`make drill-training` plays eight accidents, each `--times` times at random steps (10 by default, `--accidents` picks
some): the driver of a training in one process is killed, with its store on this disk, and with its store in S3 and
another scratch folder at each start, as on another machine; a checkpoint is cut short; one of two Ray workers is
killed, or stopped and never answers again; the driver of two Ray workers is killed; a machine with one of them is lost.
Each ends as a training that was left in peace with as many workers. Last, a machine is lost and comes back later, and
the training goes on with one worker and then with two again: every step sees the same rows as in one process.

Machines are raylets on this one. Whatever Ray is asked to do by itself it does by itself: only killed drivers are
started again. Each blow is told as it falls. With `--folder` what was left in peace is found again by the next call,
so that accidents can be played a few at a time, each call with a `--seed` of its own; `--family` takes another network.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from datasets.store import scratch
from flows.console.progress_display import table
from pipelines.registry import RegistryConfig
from pipelines.runs import run_folder
from pipelines.runtime.progress import NullProgress
from pipelines.training import train, train_result
from tests.pipelines.songs import SOURCES, write_songs
from tests.s3 import BUCKET, object_store

ROOT = Path(__file__).resolve().parents[2]
STEPS = 48
CHECKPOINT_EVERY = 4
MAX_FAILURES = 100
TIMEOUT_S = 600.0
HANG_S = 30.0
_WORKER = "RayTrainWorker"  # a part of the name of Ray's processes
_IN_S3 = "s3-"  # begins the names of accidents whose store is in S3
_SPREAD = 8  # steps to let pass before the next blow, at most
# A training that lasts long enough to lose a machine and get one back. It hardly learns, so that the loss of a step
# tells which rows it saw.
# Ray looks at its machines every 20 s.
ELASTIC = {"steps": 1500, "checkpoint_every": 50, "elastic_check_s": 1.0, "valid_songs": 0}
# Options of each family's tiny preset that make a step take as little as it can.
NETWORKS: dict[str, dict[str, Any]] = {
    "htdemucs": {"nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1},
    "bs-roformer": {"depth": 1, "width": 16, "attention_dropout": 0.1},
}
NETWORK = {"family": "htdemucs"}  # what all trainings of this call learn
_SAME_ROWS = 1e-3  # of a loss; other rows change it by tens of per cent


class Said(NullProgress):
    """Writes how far the training is, for whoever holds the knife."""

    def __init__(self) -> None:
        self.step = 0.0

    def advance(self, amount: float = 1.0) -> None:
        self.step += amount
        sys.stdout.write(f"step {self.step:.0f}\n")
        sys.stdout.flush()


def child(store: Path, settings: dict[str, Any]) -> None:
    """The training itself: a tiny network, dropout, averages, a falling rate, and learnt bit widths."""
    family = settings.pop("family")
    from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig

    address = settings.pop("address", str(store))
    quiet = "elastic_check_s" in settings
    live = RegistryConfig() if settings.pop("live", False) else None
    chunks = write_songs(store.parent / "songs", {"a": "train", "b": "train", "c": "valid"})
    learner = LearnerConfig(
        learning_rate=1e-6 if quiet else 2e-3, min_lr_ratio=0.1, ema_decays=(0.9,), max_grad_norm=1.0,
        augment=AugmentConfig(shift_s=0.05, remix_group=2),
        quantize=QuantizeConfig(penalty=0.0 if quiet else 0.01, min_mib=0.0005),
    )  # fmt: skip
    usual = {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY}
    config = train.TrainConfig(
        batch_size=4, log_every=1, valid_s=0.5, learner=learner, max_failures=MAX_FAILURES, worker_timeout_s=HANG_S,
        **(usual | settings),
    )  # fmt: skip
    options = {"segment_s": 0.25, **NETWORKS[family], "dropout": 0.1}
    if quiet:
        options |= {"dropout": 0.0, "attention_dropout": 0.0}
    model = train.ModelConfig(preset=f"{family}-tiny", options=options)
    result = train.run(
        config, model, [(chunks, 1.0)], sources=SOURCES, store=address, progress=Said(), live=live
    )  # fmt: skip
    outcome = {"weights": result.model_digest, "nsdr": result.best_nsdr, "history": train_result.read_history(result)}
    (store / "outcome.json").write_text(json.dumps(outcome))


class Machines:
    """Two machines of one CPU each, as far as one can play both: raylets of their own; the second can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()
        self._add(include_dashboard=False)
        self.add()

    def _add(self, **options: Any) -> Any:
        for attempt in range(3):  # Ray gives a start 30 s, which a loaded machine exceeds
            try:
                return self._cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, **options)
            except Exception:
                if attempt == 2:
                    raise

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self._second = self._add()

    def lose(self) -> None:
        self._cluster.remove_node(self._second, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def step(self) -> int:
        """How far it says it is."""
        steps = [line for line in self.log.read_text().splitlines() if line.startswith("step ")]
        return int(steps[-1].split()[1]) if steps else 0

    def workers_at(self) -> list[tuple[int, int]]:
        """Which steps were taken by how many workers, as (step, workers), in the order in which it was done."""
        rows = [row for path in self.log.parent.glob("runs/*/speed.jsonl") for row in run_folder.Lines(path).read()]
        return [(row["step"], row["workers"]) for row in rows]

    def need(self, until: Callable[[], bool]) -> None:
        """Wait for it; AssertionError with what the training said if it never comes."""
        assert self.wait(until), self.log.read_text()[-3000:]

    def end(self) -> dict[str, Any]:
        """What it came to."""
        assert self.process.wait(TIMEOUT_S) == 0, self.log.read_text()[-3000:]
        outcome: dict[str, Any] = json.loads((self.log.parent / "outcome.json").read_text())
        return outcome

    def wait(self, until: Callable[[], bool]) -> bool:
        """Whether it came to that before it ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if until():
                return True
            time.sleep(0.02)
        return False


@contextmanager
def started(
    store: Path, settings: dict[str, Any], machines: Machines | None, variables: Mapping[str, str] | None = None
) -> Iterator[Training]:
    """The training in a process of its own, with more environment variables if there are any."""
    store.mkdir(parents=True, exist_ok=True)
    log = store / "log"
    if store.parent.name.startswith(_IN_S3):
        settings = settings | {"address": f"s3://{BUCKET}/{store.parent.name}"}
        variables = dict(variables or {}) | {scratch.VARIABLE: tempfile.mkdtemp(prefix="machine-", dir=store.parent)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.drills.drill_training"]
    command += ["--child", str(store), json.dumps(NETWORK | settings)]
    environment = os.environ | ({"RAY_ADDRESS": machines.address} if machines else {}) | dict(variables or {})
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Training(process=process, log=log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def finish(store: Path, settings: dict[str, Any], machines: Machines | None) -> dict[str, Any]:
    with started(store, settings, machines) as training:
        return training.end()


# --- accidents ----------------------------------------------------------------------------------------------


def tell(step: int) -> int:
    """The step, told to whoever waits for the table."""
    sys.stderr.write(f"a blow at step {step}, {time.strftime('%H:%M:%S')}\n")
    return step


def kill_drivers(store: Path, rng: np.random.Generator, times: int, machines: Machines | None) -> list[int]:
    """SIGKILL to one driver after the other, each at a step of its own, as it had told of it."""
    steps = []
    for step in sorted(int(step) for step in rng.choice(range(1, STEPS), times, replace=False)):
        steps.append(_kill_driver(store, step, machines))
    return steps


def _kill_driver(store: Path, step: int, machines: Machines | None) -> int:
    with started(store, {"num_workers": 2 if machines else 0}, machines) as training:
        training.need(lambda: training.step() >= step)
        training.process.send_signal(signal.SIGKILL)
        return tell(training.step())


def cut_short(store: Path, rng: np.random.Generator, times: int, machines: Machines | None) -> list[int]:
    """Drivers killed, and each time a file of the newest checkpoint cut short; the steps of those checkpoints."""
    steps = []
    for step in sorted(int(step) for step in rng.choice(range(2 * CHECKPOINT_EVERY + 1, STEPS), times, replace=False)):
        _kill_driver(store, step, machines)
        newest = sorted(store.glob("runs/*/step-*"))[-1]
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        victim = files[int(rng.integers(len(files)))]
        victim.write_bytes(victim.read_bytes()[: int(rng.integers(victim.stat().st_size))])
        steps.append(int(newest.name.removeprefix("step-")))
    return steps


def strike(
    store: Path, rng: np.random.Generator, times: int, blow: Callable[[], None], machines: Machines
) -> list[int]:
    """One training with two workers that is struck again and again and goes on by itself; at which steps."""
    steps = []
    with started(store, {"num_workers": 2}, machines) as training:
        for _ in range(times):
            # A training taken back is told of again only when it gets further than ever before.
            target = training.step() + int(rng.integers(1, max(2, min(_SPREAD, (STEPS - 4) // times))))
            training.need(lambda target=target: training.step() >= target and len(workers()) == 2)  # type: ignore[misc]
            gone = {worker.pid for worker in workers()}
            blow()
            steps.append(tell(training.step()))
            training.wait(lambda gone=gone: not gone & {worker.pid for worker in workers()})  # type: ignore[misc]
        training.end()
    return steps


def lose_and_regain(store: Path, machines: Machines) -> list[int]:
    """A machine lost, the training going on with one worker, a machine again, and two workers; at which steps."""
    with started(store, ELASTIC | {"num_workers": 2, "min_workers": 1}, machines) as training:
        training.need(lambda: training.step() >= 5)
        machines.lose()
        training.need(lambda: training.workers_at()[-1][1] == 1)
        alone = training.workers_at()[-1][0]
        machines.add()
        training.need(lambda: training.workers_at()[-1][1] == 2)
        together = training.workers_at()[-1][0]
        training.end()
    return [alone, together]


def same_rows(outcome: dict[str, Any], peace: dict[str, Any]) -> bool:
    """Whether every step is there once, with the loss that the same rows have in one process."""
    curves = [[(point["step"], point["loss"]) for point in what["history"]] for what in (outcome, peace)]
    return [step for step, _ in curves[0]] == list(range(1, int(ELASTIC["steps"]) + 1)) and all(
        here[0] == there[0] and math.isclose(here[1], there[1], rel_tol=_SAME_ROWS)
        for here, there in zip(*curves, strict=True)
    )


def workers() -> list[psutil.Process]:
    """Ray's workers that train; their machines are children of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if _WORKER in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


ALONE = ("driver", "s3-driver", "truncated")  # in one process, without Ray
ACCIDENTS = (*ALONE, "ray-worker", "ray-hang", "ray-driver", "node", "elastic")


def play(accident: str, store: Path, *, times: int, seed: int, machines: Machines | None) -> list[int]:
    """A training that meets with an accident again and again, until it is finished: at which steps."""
    rng = np.random.default_rng(seed)
    if accident in ("driver", "s3-driver", "ray-driver"):
        return kill_drivers(store, rng, times, machines)
    if accident == "truncated":
        return cut_short(store, rng, times, machines)
    assert machines is not None
    if accident == "elastic":
        return lose_and_regain(store, machines)

    def one(blow: signal.Signals) -> None:
        found = workers()
        found[int(rng.integers(len(found)))].send_signal(blow)

    def another_machine() -> None:
        machines.lose()
        machines.add()

    blows: dict[str, Callable[[], None]] = {
        "ray-worker": lambda: one(signal.SIGKILL),
        "ray-hang": lambda: one(signal.SIGSTOP),
        "node": another_machine,
    }
    return strike(store, rng, 1 if accident == "ray-hang" else times, blows[accident], machines)


def compare(
    accident: str, store: Path, peace: dict[str, Any], machines: Machines | None, steps: list[int]
) -> list[str]:
    """The row of an accident: whether what it came to is what came of peace."""
    settings: dict[str, Any] = {"num_workers": 0 if machines is None else 2}
    if accident == "elastic":
        settings = ELASTIC | settings
    outcome = finish(store, settings, machines)
    if accident == "elastic":
        same = same_rows(outcome, peace)
        return [accident, "1", f"{'same' if same else 'OTHER'} rows, each step once", ", ".join(map(str, steps))]
    return [accident, str(len(steps)), "yes" if outcome == peace else "NO", ", ".join(map(str, steps))]


def drill(accidents: list[str], folder: Path, *, times: int, seed: int) -> Iterator[list[str]]:
    """A row for each accident, as they are played."""
    machines, peace, servers = None, dict[str, dict[str, Any]](), ExitStack()
    if any(accident.startswith(_IN_S3) for accident in accidents):
        servers.enter_context(object_store())
    try:
        for accident in sorted(accidents, key=ACCIDENTS.index):
            if accident not in ALONE and machines is None:
                machines = Machines()
            kind = "elastic" if accident == "elastic" else "alone" if machines is None else "two"
            if kind not in peace:
                left: dict[str, Any] = {"num_workers": 2 if kind == "two" else 0}
                settings = ELASTIC | left if kind == "elastic" else left
                peace[kind] = finish(folder / f"peace-{kind}" / "store", settings, machines)
            scene = folder / f"{accident}-{seed}"
            if times:  # else what a call left that was cut short is only finished and compared
                shutil.rmtree(scene, ignore_errors=True)
            steps = play(accident, scene / "store", times=times, seed=seed, machines=machines)
            yield compare(accident, scene / "store", peace[kind], machines, steps)
    finally:
        servers.close()
        if machines is not None:
            machines.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--child", nargs=2, metavar=("STORE", "SETTINGS"))
    parser.add_argument("--times", type=int, default=10, help="of each accident but ray-hang and elastic; 0 finishes")
    parser.add_argument("--seed", type=int, default=0, help="of the steps")
    parser.add_argument("--family", choices=NETWORKS, default=NETWORK["family"], help="of the network that learns")
    parser.add_argument("--elastic-steps", type=int, default=ELASTIC["steps"], help="fewer do on a loaded machine")
    parser.add_argument("--accidents", nargs="*", choices=ACCIDENTS, default=list(ACCIDENTS))
    parser.add_argument("--folder", type=Path, help="where trainings are kept; by default they are forgotten")
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # this process and the trainings know no common token
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several trainings share this machine
    if options.child:
        child(Path(options.child[0]), json.loads(options.child[1]))
        return 0
    ELASTIC["steps"], NETWORK["family"] = options.elastic_steps, options.family
    console, rows = Console(highlight=False, width=140), []
    with tempfile.TemporaryDirectory(prefix="drill-") as place:
        began, folder = time.monotonic(), options.folder or Path(place)
        for row in drill(options.accidents, folder, times=options.times, seed=options.seed):
            rows.append([*row, f"{time.monotonic() - began:.0f}"])
            console.print(", ".join(rows[-1]))
            began = time.monotonic()
    columns = ["accident", "times", "as in peace, bit for bit", "at steps", "s"]
    console.print(table(f"Accidents in a training of {STEPS} steps", columns, rows))
    return int(any("NO" in row or row[2].startswith("OTHER") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
