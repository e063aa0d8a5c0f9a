"""The loss curve in TensorBoard and in Weights & Biases while a training goes on, by their own libraries.

As MLflow's (`registry/live_metrics.py`) it follows the files of a run and hands on what is in a checkpoint, so that a
training that is taken back, or killed, gives each step once. What goes wrong there is logged and ends no training;
the same command hands on the rest.
"""

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.runs.curve_points import CurvePoints
from pipelines.runs.run_place import RunPlace
from pipelines.runtime import ray_jobs

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0
_LAST_S = 60.0  # how long the end of a training waits for what is handed on
OFFLINE = ("offline", "disabled")  # modes of W&B that ask no server


class CurveWriter(Protocol):
    """Takes the points of one run from a step on."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def check(tensorboard: str, wandb: str, *, store: str) -> None:
    """InputError where a library, a folder or an account is missing: found out before hours of training."""
    if storage.is_remote(tensorboard):
        raise InputError(f"train.tensorboard must be a folder of this machine, got {tensorboard}")
    if not wandb:
        return
    if os.environ.get("WANDB_MODE") == "offline" and storage.is_remote(store):
        raise InputError(
            f"train.wandb={wandb}: WANDB_MODE=offline keeps the curve in the training's folder, and with {store} that "
            "is removed when the training is finished; set WANDB_MODE=online, or a store on a disk"
        )
    if importlib.util.find_spec("wandb") is None:
        raise InputError(
            f"train.wandb={wandb} needs the package wandb, which is not installed: pip install 'stemline[wandb]', or "
            'leave it out with train.wandb=""'
        )
    if ray_jobs.server() is None:  # else the job has an account or none, whatever this machine has
        check_account(wandb)


def check_account(wandb: str) -> None:
    """InputError where this machine, which is to send the curve, has no library or no account."""
    try:
        import wandb as library
    except ImportError:
        raise InputError(f"train.wandb={wandb}: the package wandb is not installed where the training starts") from None
    if os.environ.get("WANDB_MODE") in OFFLINE:
        return
    if not library.login(prompt=False):
        raise InputError(
            f"train.wandb={wandb}: there is no account; set WANDB_API_KEY, or WANDB_MODE=offline and `wandb sync` later"
        )


class TensorBoardWriter:
    """Event files in a folder; what a file of before has of these and later steps no longer counts.

    tensorboardX's `SummaryWriter` writes from a queue that its flush does not wait for; here every step is on the disk
    before it is noted as handed on.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, first_step: int) -> None:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = Event, summary
        self._file = EventsWriter(str(folder / "events"), f".{first_step}-{os.getpid()}")
        begins = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=max(0, first_step), session_log=begins))
        rows = "".join(f"| {name} | {text} |\n" for name, text in settings.items())
        text = summary.text("settings", f"| setting | value |\n|---|---|\n{rows}")
        self._file.write_event(Event(wall_time=time.time(), step=max(0, first_step), summary=text))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            scalar = self._summary.scalar(name, value)
            self._file.write_event(self._event(wall_time=time.time(), step=step, summary=scalar))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class WandbWriter:
    """A run of a project, which goes on under its id; WANDB_MODE=offline keeps it in a folder for `wandb sync`."""

    def __init__(self, project: str, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project, id=name, name=name, dir=str(folder), config=dict(settings), resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Nothing to do: its own process sends what it has."""

    def close(self) -> None:
        self._run.finish()


class CurveExport:
    """Hands the curve of one run on to one writer."""

    def __init__(self, place: RunPlace, kind: str, target: str, open_writer: Callable[[int], CurveWriter]) -> None:
        self.kind, self.target, self._open_writer = kind, target, open_writer
        self._curve = CurvePoints(place, followed=f"followed-{kind}")
        self._mark = storage.join(place.kept, f"{kind}.json")  # how far it was handed on, and where to
        self._writer: CurveWriter | None = None
        self.complaint = ""

    def send(self) -> int:
        """Hand on what is certain and was not yet; how many steps that were."""
        certain, done = self._curve.newest_step(), self._done()
        points = self._curve.between(done, certain)
        if not points:
            return 0
        if self._writer is None:
            self._writer = self._open_writer(done + 1)
        try:
            for step, values in sorted(points.items()):
                numbers = {name: float(value) for name, value in values.items() if not name.endswith("/step")}
                self._writer.write(step, numbers)
            self._writer.flush()
            write_json(self._mark, {"target": self.target, "step": certain})
        except BaseException:  # a new writer begins after the mark: what this one has of later steps no longer counts
            broken, self._writer = self._writer, None
            with suppress(Exception):
                broken.close()
            raise
        self._curve.forget(certain)
        return len(points)

    def _done(self) -> int:
        mark = read_json(self._mark) or {}
        return int(mark.get("step", -1)) if mark.get("target") == self.target else -1

    @contextmanager
    def running(self) -> Iterator["CurveExport"]:
        """Hand on from a thread while the body runs, and what is left when it has ended; never an error."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(_POLL_S):
                self._try(self.send)
            self._try(self.send)
            if self._writer is not None:
                self._try(self._writer.close)

        thread = threading.Thread(target=follow, name=f"{self.kind}-curve", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join(timeout=_LAST_S)
            if thread.is_alive():
                _LOG.warning("%s did not take the rest of the curve within %g s", self.kind, _LAST_S)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # a curve that is late must not end a training
            complaint = (str(error).splitlines() or [type(error).__name__])[0]
            if complaint != self.complaint:
                _LOG.warning("%s takes no points now, training goes on: %s", self.kind, complaint)
            self.complaint = complaint
        else:
            self.complaint = ""


def exports(place: RunPlace, settings: Mapping[str, Any], *, tensorboard: str, wandb: str) -> list[CurveExport]:
    """One for each that is asked for: event files in a folder of the run's name, and a run of that project."""
    chosen = []
    if tensorboard:
        folder = Path(tensorboard, place.name)
        chosen.append(
            CurveExport(
                place, "tensorboard", str(folder), lambda step: TensorBoardWriter(folder, settings, first_step=step)
            )
        )
    if wandb:
        chosen.append(
            CurveExport(place, "wandb", wandb, lambda step: WandbWriter(wandb, place.name, place.folder, settings))
        )
    return chosen
