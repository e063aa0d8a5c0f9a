"""The kill test of training: SIGKILL at random steps, then the same again; the same losses and weights, bit for bit.

`make drill-training` plays five accidents, each `--times` times at random steps (10 by default, `--accidents` picks
some): the driver of a training in one process; a checkpoint cut short; one of two Ray workers, which Ray starts again
by itself; the same with a worker that is stopped and never answers again; and the driver of two Ray workers. Each ends
as a training that was left in peace with as many workers.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from flows.screen import table
from pipelines import train
from pipelines.progress import Silent
from tests.pipelines.songs import SOURCES, write_songs

ROOT = Path(__file__).resolve().parents[2]
STEPS = 48
CHECKPOINT_EVERY = 4
MAX_FAILURES = 100
TIMEOUT_S = 600.0
HANG_S = 30.0
_WORKER = "RayTrainWorker"  # a part of the name of Ray's processes
_SPREAD = 8  # steps to let pass before the next worker is killed, at most


class Said(Silent):
    """Writes how far the training is, for whoever holds the knife."""

    def __init__(self) -> None:
        self.step = 0.0

    def advance(self, amount: float = 1.0) -> None:
        self.step += amount
        sys.stdout.write(f"step {self.step:.0f}\n")
        sys.stdout.flush()


def child(store: Path, num_workers: int) -> None:
    """The training itself: a tiny network, dropout, averages, a falling rate, and learnt bit widths."""
    from models.recipe import AugmentConfig, LearnerConfig, QuantizeConfig

    chunks = write_songs(store.parent / "songs", {"a": "train", "b": "train", "c": "valid"})
    options = {"segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1, "dropout": 0.1}
    learner = LearnerConfig(
        learning_rate=2e-3, final_fraction=0.1, ema_decays=(0.9,), max_grad_norm=1.0,
        augment=AugmentConfig(shift_s=0.05, remix_group=2), quantize=QuantizeConfig(penalty=0.01, min_mib=0.0005),
    )  # fmt: skip
    config = train.TrainConfig(
        steps=STEPS, batch_size=4, checkpoint_every=CHECKPOINT_EVERY, log_every=1, num_workers=num_workers, valid_s=0.5,
        learner=learner, max_failures=MAX_FAILURES, hang_s=HANG_S,
    )  # fmt: skip
    model = train.ModelConfig(preset="htdemucs-tiny", options=options)
    result = train.run(config, model, [(chunks, 1.0)], sources=SOURCES, store=str(store), progress=Said())
    outcome = {"weights": result.model_digest, "nsdr": result.best_nsdr, "history": train.read_history(result)}
    (store / "outcome.json").write_text(json.dumps(outcome))


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def step(self) -> int:
        """How far it says it is."""
        steps = [line for line in self.log.read_text().splitlines() if line.startswith("step ")]
        return int(steps[-1].split()[1]) if steps else 0

    def wait(self, until: Callable[[], bool]) -> bool:
        """Whether it came to that before it ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if until():
                return True
            time.sleep(0.01)
        return False


@contextmanager
def started(store: Path, num_workers: int) -> Iterator[Training]:
    store.mkdir(parents=True, exist_ok=True)
    log = store / "log"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.e2e.drill_training",
        "--child",
        str(store),
        str(num_workers),
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Training(process=process, log=log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def finish(store: Path, num_workers: int) -> dict[str, Any]:
    with started(store, num_workers) as training:
        code = training.process.wait(TIMEOUT_S)
        assert code == 0, training.log.read_text()[-3000:]
    outcome: dict[str, Any] = json.loads((store / "outcome.json").read_text())
    return outcome


def kill_driver(store: Path, num_workers: int, step: int) -> int:
    """SIGKILL to the driver at a step; the step it had told of."""
    with started(store, num_workers) as training:
        assert training.wait(lambda: training.step() >= step), training.log.read_text()[-3000:]
        training.process.send_signal(signal.SIGKILL)
        return training.step()


def strike_workers(store: Path, dice: np.random.Generator, times: int, blow: signal.Signals) -> list[int]:
    """A signal to one of two workers, again and again in one training that goes on by itself; the steps."""
    steps = []
    with started(store, 2) as training:
        for _ in range(times):
            # A training taken back is told of again only when it gets further than ever before.
            target = training.step() + int(dice.integers(1, max(2, min(_SPREAD, (STEPS - 4) // times))))
            assert training.wait(lambda target=target: training.step() >= target and bool(workers(training))), (  # type: ignore[misc]
                training.log.read_text()[-3000:]
            )
            victims = workers(training)
            victims[int(dice.integers(len(victims)))].send_signal(blow)
            steps.append(training.step())
            gone = {victim.pid for victim in victims}
            training.wait(lambda gone=gone: not gone & {worker.pid for worker in workers(training)})  # type: ignore[misc]
        assert training.process.wait(TIMEOUT_S) == 0, training.log.read_text()[-3000:]
    return steps


def workers(training: Training) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(training.process.pid).children(recursive=True):
        try:
            if _WORKER in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def cut_short(store: Path, step: int, dice: np.random.Generator) -> int:
    """A driver killed at a step, and a file of its newest checkpoint cut short; the step of that checkpoint."""
    kill_driver(store, 0, step)
    newest = sorted(store.glob("runs/*/step-*"))[-1]
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    victim = files[int(dice.integers(len(files)))]
    victim.write_bytes(victim.read_bytes()[: int(dice.integers(victim.stat().st_size))])
    return int(newest.name.removeprefix("step-"))


ACCIDENTS = {
    "driver": 0,
    "truncated": 0,
    "ray-worker": 2,
    "ray-hang": 2,
    "ray-driver": 2,
}  # and the workers of the training


def play(accident: str, store: Path, *, times: int, seed: int) -> tuple[list[int], dict[str, Any]]:
    """One training that meets with an accident again and again: at which steps, and what it came to after all."""
    dice = np.random.default_rng(seed)
    num_workers = ACCIDENTS[accident]
    if accident in ("ray-worker", "ray-hang"):
        blow = signal.SIGKILL if accident == "ray-worker" else signal.SIGSTOP
        steps = strike_workers(store, dice, times, blow)
        return steps, json.loads((store / "outcome.json").read_text())
    first = 2 * CHECKPOINT_EVERY + 1 if accident == "truncated" else 1
    chosen = sorted(int(step) for step in dice.choice(range(first, STEPS), times, replace=False))
    if accident == "truncated":
        return [cut_short(store, step, dice) for step in chosen], finish(store, num_workers)
    return [kill_driver(store, num_workers, step) for step in chosen], finish(store, num_workers)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--child", nargs=2, metavar=("STORE", "WORKERS"))
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the steps")
    parser.add_argument("--accidents", nargs="*", choices=ACCIDENTS, default=list(ACCIDENTS))
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), int(options.child[1]))
        return 0
    console, rows, differing = Console(highlight=False, width=140), [], 0
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        folder, peace = Path(scratch), dict[int, dict[str, Any]]()
        for accident in options.accidents:
            num_workers = ACCIDENTS[accident]
            if num_workers not in peace:
                peace[num_workers] = finish(folder / f"peace-{num_workers}" / "store", num_workers)
            began = time.monotonic()
            steps, outcome = play(accident, folder / accident / "store", times=options.times, seed=options.seed)
            same = outcome == peace[num_workers]
            differing += not same
            rows.append([accident, str(len(steps)), "yes" if same else "NO", f"{time.monotonic() - began:.0f}"])
            console.print(f"{accident} at steps {', '.join(map(str, steps))}: {'as in peace' if same else 'DIFFERENT'}")
    columns = ["accident", "times", "as in peace, bit for bit", "s"]
    console.print(table(f"Accidents in a training of {STEPS} steps", columns, rows))
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
