"""Runs the loop of `train_loop.py`: in the calling process, or on Ray workers that are restarted when one is lost."""

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.store import scratch, storage
from models.errors import ModelError
from pipelines.runs import remote_checkpoints, run_folder
from pipelines.runs.run_place import RunPlace
from pipelines.runtime.cluster import connect
from pipelines.runtime.progress import Progress
from pipelines.training import train_loop
from pipelines.training.progress_actor import ProgressActor, ProgressPoller
from pipelines.training.train_config import Job, TrainConfig

if TYPE_CHECKING:
    from torch import nn


class LocalSession:
    """One worker in the calling process."""

    rank = 0
    world_size = 1

    def __init__(self, place: RunPlace, config: TrainConfig, progress: Progress) -> None:
        import torch

        self.place, self.folder = place, place.folder
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        self.progress_actor = ProgressActor()
        self.poller = ProgressPoller(progress, self.progress_actor.read)

    def prepare(self, model: "nn.Module") -> "nn.Module":
        return model.to(self.device)

    def report_progress(self, step: int, text: str) -> None:
        self.progress_actor.report(step, text)
        self.poller.poll()

    def report_metrics(self, metrics: Mapping[str, float]) -> None:
        """Nothing collects metrics here; they are in the run's folder."""


def train_here(job: Job, place: RunPlace, progress: Progress) -> dict[str, Any]:
    session = LocalSession(place, job.config, progress)
    return train_loop.train(job, session)


class RaySession:
    """One worker of a Ray Train group."""

    def __init__(self, place: RunPlace, config: TrainConfig, progress_actor: Any) -> None:
        import ray.train
        import ray.train.torch
        import torch

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.place, self.folder = place, place.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = ray.train.torch.get_device()
        self.progress_actor = progress_actor
        if self.device.type == "cpu":
            torch.set_num_threads(config.cpus_per_worker)  # workers on one machine would fight for its cores

    def prepare(self, model: "nn.Module") -> "nn.Module":
        import ray.train.torch

        prepared: nn.Module = ray.train.torch.prepare_model(model)
        return prepared

    def report_progress(self, step: int, text: str) -> None:
        if self.rank == 0 and self.progress_actor is not None:
            self.progress_actor.report.remote(step, text)

    def report_metrics(self, metrics: Mapping[str, float]) -> None:
        export_metrics(self.folder.name, metrics)


def export_metrics(run_key: str, metrics: Mapping[str, float]) -> None:
    """Hand metrics to Ray, whose nodes offer them to Prometheus as `ray_stemline_training_NAME{run="RUN_KEY"}`."""
    for name, value in metrics.items():
        _gauge("stemline_training_" + re.sub(r"\W", "_", name)).set(value, tags={"run": run_key})


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description="of the newest point of a training", tag_keys=("run",))


def _worker(settings: dict[Any, Any]) -> Any:
    """What each Ray worker runs."""
    job: Job = settings["job"]
    os.environ.update(settings["scratch"])
    place: RunPlace = settings["place"]
    scratch.hold(place.folder)
    scratch.tidy()
    try:
        return train_loop.train(job, RaySession(place, job.config, settings["progress_actor"]))
    finally:
        scratch.let_go(place.folder)


def train_on_ray(job: Job, place: RunPlace, progress: Progress) -> dict[str, Any]:
    # How long Ray waits for places for its workers. What it knows of machines may be 20 s old: just after one was lost
    # an elastic group is planned for the old number, and must not wait for long before it is planned again.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30" if job.config.min_workers else "180")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a report waits for the controller's next look
    with connect(store=place.store) as ray:
        if _has_all_steps(job, place):
            return {"step": job.config.steps}
        _check_cores(job.config, ray)
        # An actor tells the driver how far rank 0 is: reports to Ray Train are a barrier for all workers. It stands on
        # the driver's machine, since others may be lost.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        progress_actor = ray.remote(num_cpus=0, label_selector=here)(ProgressActor).remote()
        poller = ProgressPoller(progress, lambda: ray.get(progress_actor.read.remote(), timeout=10))
        try:
            with poller.running():
                outcome = _fit(job, place, progress_actor)
            poller.reach(outcome.get("step", 0))  # its last report may be on its way still
            return outcome
        finally:
            ray.kill(progress_actor)


def _check_cores(config: TrainConfig, ray: Any) -> None:
    """InputError where workers ask this machine for more cores than it has; a cluster may grow, and is waited for."""
    if "RAY_ADDRESS" in os.environ:
        return
    cores, workers = int(ray.cluster_resources().get("CPU", 0)), config.min_workers or config.num_workers
    if workers > cores:
        raise InputError(f"train.num_workers must be <= {cores}, the cores of this machine, got {workers}")
    if workers * config.cpus_per_worker > cores:
        raise InputError(
            f"train.cpus_per_worker must be <= {cores // workers} with {workers} workers on the {cores} cores of this "
            f"machine, got {config.cpus_per_worker}; `stemline plan` says how long training waits for songs then"
        )


def _has_all_steps(job: Job, place: RunPlace) -> bool:
    """Whether the last step was taken before, and only the result is missing."""
    if place.address and remote_checkpoints.newest_step(place.address) >= job.config.steps:
        return remote_checkpoints.fetch_newest(place.folder, place.address).step >= job.config.steps
    return not place.address and run_folder.find(place.folder).step >= job.config.steps


def _fit(job: Job, place: RunPlace, progress_actor: Any) -> dict[str, Any]:
    """Ray Train starts the workers, and restarts them when one is lost; see `checkpointing.py` for checkpoints."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    filesystem, path = storage.filesystem(place.address) if place.address else (None, str(place.folder))
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "job": job,
            "place": place,
            "scratch": {name: os.environ[name] for name in (scratch.VARIABLE, scratch.LIMIT) if name in os.environ},
            "progress_actor": progress_actor,
        },
        torch_config=TorchConfig(
            backend="nccl" if config.use_gpu else "gloo", timeout_s=round(config.worker_timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=_workers(config),
            elastic_resize_monitor_interval_s=config.elastic_check_s,  # type: ignore[call-arg]  # V2's, not V1's
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[_no_second_try()],
        ),
    )
    try:
        outcome: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]  # V2's, not V1's
    except TrainingFailedError as error:
        if isinstance(refused := getattr(error, "controller_failure", None), InputError):
            raise InputError(str(refused)) from error
        raise
    return outcome


def _workers(config: TrainConfig) -> Any:
    """A number, or the least and the most: an elastic group, which V2 takes and the types of V1 do not know."""
    return (config.min_workers, config.num_workers) if config.min_workers else config.num_workers


def _no_second_try() -> Any:
    """What the user has to mend fails again however often workers are restarted: it ends the run at once."""
    from ray.train import UserCallback

    class NoSecondTry(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for failure in worker_exceptions.values():
                cause = getattr(failure, "_base_exc", failure)  # Ray wraps what the loop raised
                if isinstance(cause, InputError | ModelError):
                    raise InputError(str(cause))

    return NoSecondTry()
