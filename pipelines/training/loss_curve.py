"""The curve of a training as it grows: losses averaged over steps and workers, validation scores, and speed.

One file holds the losses and scores, which a kill leaves as they would have been; another holds speed and memory.
"""

import math
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.runs import run_folder
from pipelines.training.train_config import Job, Session

if TYPE_CHECKING:
    from torch import Tensor

    from models.learning.learner import StepMetrics
    from models.networks.bag import ModelInterface
    from pipelines.training.batches import Feed

_MAX_LOSSES = 500  # points of the curve that a decision may look back on


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """How much arithmetic training does on GPUs, by the count of a row."""

    row_tflop: float  # of a step: 10^12 operations, forwards and backwards
    peak_tflops: float | None  # of one device in the training's precision; None where the device is not known

    @classmethod
    def of(cls, job: Job, interface: "ModelInterface") -> "Utilization":
        """Of a job on the GPU of this process."""
        import torch

        from pipelines.training import resource_estimate

        precision = job.config.learner.precision
        cost, _ = resource_estimate.price(
            job.model, sources=interface.sources, sample_rate=interface.sample_rate,
            channels=interface.audio_channels, precision=precision,
        )  # fmt: skip
        memory_gib = torch.cuda.mem_get_info()[1] / resource_estimate.GIB
        device = resource_estimate.device_named(torch.cuda.get_device_name(), memory_gib)
        return cls(row_tflop=cost.step_flop / 1e12, peak_tflops=device.tflops(precision) if device else None)

    def at(self, rows_per_s: float, num_workers: int) -> dict[str, float]:
        """Columns of the curve of speed: TFLOP/s of all workers, and their share of the devices' peak."""
        tflops = rows_per_s * self.row_tflop
        return {"tflops": tflops} | ({"mfu": tflops / (num_workers * self.peak_tflops)} if self.peak_tflops else {})


class LossCurve:
    """Collects the metrics of steps and writes them down, point by point.

    `rows_weight` is this worker's number of rows relative to an equal division.
    """

    def __init__(self, job: Job, session: Session, *, sources: Sequence[str], rows_weight: float) -> None:
        self.config, self.session = job.config, session
        self.sources, self.rows_weight = sources, rows_weight
        self.losses: list[float] = []
        self._history = run_folder.Lines(session.folder / run_folder.HISTORY)
        self._speed = run_folder.Lines(session.folder / run_folder.SPEED)
        self._pending: list[StepMetrics] = []  # of the steps since the last point
        self._feed: Feed | None = None
        self.utilization: Utilization | None = None  # on GPUs
        self.uploads_waited_s: float | None = None  # for checkpoints on their way elsewhere; None where none is sent
        self._last_point = (time.monotonic(), 0.0)  # when, and how long batches were waited for until then
        self._last_waited_s = 0.0

    def start_clock(self, feed: "Feed") -> None:
        """Measure speed from now on, and the waiting for these batches."""
        self._feed = feed
        self._last_point = (time.monotonic(), 0.0)

    def leave_out(self, seconds: float) -> None:
        """Do not count these seconds as training, such as those of a validation."""
        self._last_point = (self._last_point[0] + seconds, self._last_point[1])

    def add(self, metrics: "StepMetrics") -> bool:
        """Take in a step; whether enough of them are there for a point."""
        self._pending.append(metrics)
        return len(self._pending) >= self.config.log_every

    def write_point(self, step: int) -> bool:
        """Average the steps since the last point over themselves and the workers, skipped ones left out.

        False where there were none.
        """
        steps, self._pending = self._pending, []
        if not steps:
            return False
        loss, *per_source, grad_norm = self._averages(steps)
        point = {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": steps[-1].learning_rate}
        point |= {f"loss_{source}": value for source, value in zip(self.sources, per_source, strict=True)}
        if (size_mib := steps[-1].size_mib) is not None:
            point["size_mib"] = size_mib.item()
        if skipped := sum(metrics.skipped for metrics in steps):
            point["skipped"] = skipped
        self.write(point)
        self.session.report_metrics({"skipped": float(skipped)})  # also zero, or an alert would never end
        self.losses = [*self.losses, loss][-_MAX_LOSSES:]
        speed = self._write_speed(step, len(steps))
        self.session.report_progress(step, _in_words(point, speed, batch_size=self.config.batch_size))
        return True

    def write(self, point: dict[str, float]) -> None:
        """One line of the curve; values that are not finite, for which JSON has no number, are left out."""
        if self.session.rank == 0:
            finite = {name: value for name, value in point.items() if math.isfinite(value)}
            self._history.append(finite)
            self.session.report_metrics(finite)

    def _averages(self, steps: "Sequence[StepMetrics]") -> list[float]:
        """Loss, loss per source, norm of the gradient."""
        import torch

        rows = [
            torch.cat([metrics.loss[None], metrics.per_source, metrics.grad_norm[None]])
            for metrics in steps
            if not metrics.skipped
        ]
        mean = torch.stack(rows).mean(dim=0) if rows else torch.full((len(self.sources) + 2,), math.nan)
        averages: list[float] = self._mean_over_workers(mean.to(self.session.device)).tolist()
        return averages

    def _mean_over_workers(self, values: "Tensor") -> "Tensor":
        """Weighted by the rows that each had."""
        import torch.distributed

        if self.session.world_size > 1:
            values = values * self.rows_weight
            torch.distributed.all_reduce(values)
        return values / self.session.world_size

    def _write_speed(self, step: int, num_steps: int) -> dict[str, float]:
        """What is written of the steps since the last point; nothing by other workers than the first."""
        import torch

        if self.session.rank or self._feed is None:
            return {}
        now, stalled_s = time.monotonic(), self._feed.stalled_s
        seconds = max(now - self._last_point[0], 1e-9)
        row: dict[str, float] = {
            "step": step,
            "workers": self.session.world_size,
            "rows_per_s": num_steps * self.config.batch_size / seconds,
            "stall": (stalled_s - self._last_point[1]) / seconds,
        }
        if self.utilization is not None:
            row |= self.utilization.at(row["rows_per_s"], self.session.world_size)
        if self.uploads_waited_s is not None:
            row["upload_stall"] = (self.uploads_waited_s - self._last_waited_s) / seconds
            self._last_waited_s = self.uploads_waited_s
        row["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if self.session.device.type == "cuda":
            row["memory_gib"] = torch.cuda.max_memory_allocated(self.session.device) / 2**30
            with suppress(ModuleNotFoundError, RuntimeError):  # pynvml is missing, or the driver refuses
                row["gpu"] = torch.cuda.utilization(self.session.device) / 100
        self._speed.append(row)
        self.session.report_metrics(row)
        self._last_point = (now, stalled_s)
        return row


def _in_words(point: Mapping[str, float], speed: Mapping[str, float], *, batch_size: int) -> str:
    """A point for people: what is learnt, how fast, with which rate, and what it takes."""
    parts = [f"loss {point['loss']:.4f}"]
    if speed:
        steps_per_s = speed["rows_per_s"] / batch_size
        parts.append(f"{steps_per_s:.2g} steps/s" if steps_per_s >= 0.1 else f"{1 / steps_per_s:.0f} s/step")
    parts.append(f"lr {point['learning_rate']:.1e}")
    if speed:
        parts += [f"{speed['memory_gib']:.1f} GiB", f"stall {speed['stall']:.0%}"]
        parts += [f"upload stall {speed['upload_stall']:.0%}"] if speed.get("upload_stall") else []
        parts += [f"{speed['tflops']:.1f} TFLOP/s"] if "tflops" in speed else []
    parts += [f"{point['skipped']:.0f} skipped"] if "skipped" in point else []
    return " · ".join(parts)
