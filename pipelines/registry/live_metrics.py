"""The loss curve and examples in MLflow while the training goes on, and all of it in the end, whatever happens there.

`history.jsonl` in the folder of a run is the truth, and training writes nowhere else. A pump in the driver follows the
file and delivers what it can, when it can: a server that is away is asked again, and nothing is lost, since nothing is
kept here. Points and examples are delivered once the checkpoint that holds them is written: a training that is taken
back takes its curve back only to there, so no step is ever told twice. Every start of a run finds the same MLflow run.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.registry import run_logging
from pipelines.registry.connection import RegistryConfig, address, check_address, ready
from pipelines.registry.database import mlflow_limits
from pipelines.registry.database.mlflow_client import new_client
from pipelines.registry.find_or_create import open_run
from pipelines.registry.used_registries import current, is_current
from pipelines.runs import example_estimates
from pipelines.runs.curve_points import CurvePoints
from pipelines.runs.run_place import RunPlace

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0
_LAST_S = 60.0  # how long the end of a training waits for a delivery under way
MARK = "mlflow.json"  # in the folder of a run: how far its curve and its examples were delivered, and where
ENDED, STOPPED = "ended", "stopped"  # tags of an MLflow run: why a training failed, and why it stopped early


class MetricsForwarder:
    """Delivers the curve of one run's folder."""

    def __init__(self, config: RegistryConfig, place: RunPlace) -> None:
        self.config, self.place, self.store = config, place, place.store
        self.curve = CurvePoints(place)
        self.folder = self.curve.folder
        self.mark = storage.join(place.kept, MARK)
        self.uri = address(self.store)
        self.complaint = ""  # why the last delivery failed
        self.stopped = ""  # why the training stopped before its last step, where it did
        self._client: Any = None
        self._run_id = ""

    def delivered(self) -> int:
        """The last step of the curve that MLflow has, -1 before the first; another server begins anew."""
        return self._marked("step")

    def _marked(self, what: str) -> int:
        mark = read_json(self.mark) or {}
        return int(mark.get(what, -1)) if self._is_here(mark) else -1

    def _is_here(self, mark: Mapping[str, Any]) -> bool:
        """Whether a mark was made for the registry that is asked now."""
        return is_current(str(mark.get("address", "")), self.place.folder, store=self.store)

    def send(self) -> int:
        """Deliver what is certain and was not yet; how many steps of the curve that were.

        Interrupted and done again it adds nothing: MLflow takes a value with the same step and time for the same, and
        a file takes the place of the one with its name.
        """
        certain = self.curve.newest_step()
        sent = self._send_curve(certain)
        self._send_examples(certain)
        return sent

    def _send_curve(self, certain: int) -> int:
        done = self.delivered()
        points = self.curve.between(done, certain)
        if not points:
            return 0
        run_id, time_ms = self._open()
        rows = [
            (step, name, float(value))
            for step, point in sorted(points.items())
            for name, value in point.items()
            if not name.endswith("/step") and math.isfinite(value)
        ]
        self._log(run_id, rows, time_ms)
        self._mark(run_id, step=certain, examples=self._marked("examples"))
        self.curve.forget(certain)
        return len(points)

    def _send_examples(self, certain: int) -> None:
        """One after the other: after the curve, which is small and should not wait for them."""
        for step, path in example_estimates.steps(self.folder).items():
            if self._marked("examples") < step <= certain:
                run_id, _ = self._open()
                self._client.log_artifacts(run_id, str(path), f"{example_estimates.FOLDER}/{path.name}")
                self._mark(run_id, step=self.delivered(), examples=step)

    def _mark(self, run_id: str, **done: object) -> None:
        write_json(self.mark, {"address": current(self.store), "run_id": run_id, **done})

    @contextmanager
    def running(self) -> Iterator["MetricsForwarder"]:
        """Deliver from a thread while the body runs, and what is left when it has ended; never an error.

        The MLflow run is RUNNING meanwhile, and closed at the end: FINISHED, KILLED where somebody stopped the
        training, FAILED with the tag "ended" where it diverged or was given up.
        """
        over, ended = threading.Event(), ("FINISHED", "")

        def follow() -> None:
            self._try(self._reopen)
            while not over.wait(_POLL_S):
                self.try_to_send()
            self.try_to_send()
            if not self.complaint:
                self._try(lambda: self.close(*ended))

        thread = threading.Thread(target=follow, name="mlflow-curve", daemon=True)
        thread.start()
        try:
            yield self
        except Exception as error:
            ended = ("FAILED", (str(error).strip() or type(error).__name__).splitlines()[0])
            raise
        except BaseException:
            ended = ("KILLED", "stopped by hand; the same command goes on")
            raise
        finally:
            over.set()
            thread.join(timeout=_LAST_S)
            if self.complaint:
                _LOG.warning("the loss curve is not in MLflow yet: %s; the same command delivers it", self.complaint)

    def _reopen(self) -> None:
        """The run of a training that goes on after it was stopped is RUNNING again."""
        run_id, _ = self._open()
        run = self._client.get_run(run_id)
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")

    def close(self, status: str, why: str) -> None:
        """Close the MLflow run."""
        run_id, _ = self._open()
        tags = {name: text for name, text in ((ENDED, why), (STOPPED, self.stopped)) if text}
        for tag in ({ENDED, STOPPED} - tags.keys()) & self._client.get_run(run_id).data.tags.keys():
            self._client.delete_tag(run_id, tag)  # of an earlier start
        run_logging.end_run(self._client, run_id, status, tags=tags)
        self._mark(run_id, step=self.delivered(), examples=self._marked("examples"), closed=status)

    def is_closed(self) -> bool:
        """Whether MLflow was told that the training is finished."""
        mark = read_json(self.mark) or {}
        return mark.get("closed") == "FINISHED" and self._is_here(mark)

    def try_to_send(self) -> None:
        """As `send`, but what goes wrong is told once and does not come out."""
        self._try(self.send)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # a curve that is late must not end a training
            complaint = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not self.complaint:
                _LOG.warning("MLflow takes no points now, training goes on: %s", complaint)
            self.complaint = complaint
        else:
            self.complaint = ""

    def _open(self) -> tuple[str, int]:
        """The MLflow run of this training, and the one time that all its points have."""
        check_address(self.uri)
        if self._client is None:
            ready(self.store)
            self._client = new_client(self.uri)
        if not self._run_id:
            self._run_id = open_run(self._client, self.config, self.place.name, store=self.store)
        return self._run_id, int(self._client.get_run(self._run_id).info.start_time)

    def _log(self, run_id: str, rows: list[tuple[int, str, float]], time_ms: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(mlflow_limits.key(name), value, time_ms, step) for step, name, value in rows]
        for batch in mlflow_limits.batches(metrics, mlflow_limits.MAX_METRICS, dict):
            self._client.log_batch(run_id, metrics=batch)


def deliver_rest(config: RegistryConfig, place: RunPlace, *, stopped: str = "") -> None:
    """What a finished run could not deliver in its time, tried once more."""
    pump = MetricsForwarder(config, place)
    pump.stopped = stopped
    pump.try_to_send()
    if not pump.complaint and not pump.is_closed():
        pump._try(lambda: pump.close("FINISHED", ""))
