"""Experiments, runs, registered models and versions, as MLflow has them: found, or made where they are missing."""

import getpass
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.store import storage
from pipelines.registry.connection import LOG, RegistryConfig, address, connected, is_absence, is_new
from pipelines.registry.database.mlflow_limits import pages
from pipelines.registry.database.moved_artifacts import ARTIFACTS, OURS, artifact_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

USER = "mlflow.user"  # the tag that MLflow's page of a run shows as its user


def living_experiment(client: "MlflowClient", config: RegistryConfig) -> Any | None:
    """The experiment of the configuration, None where there is none yet; InputError where somebody deleted it."""
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment {config.experiment!r} was deleted: `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}` brings it back, and registry.experiment names another"
        )
    return experiment


def check(config: RegistryConfig, *, store: str) -> None:
    """InputError where nothing answers, or the experiment was deleted; a database that is not there yet is not made."""
    if not is_new(store):
        with connected(store) as client:
            living_experiment(client, config)


def open_run(client: "MlflowClient", config: RegistryConfig, run_key: str, *, store: str) -> str:
    """The run of a training, made if there is none in any experiment; it is RUNNING until the training has ended."""
    wanted = f"tags.run_key = '{run_key}'"
    experiment = living_experiment(client, config)
    here = None if experiment is None else str(experiment.experiment_id)
    for places in _experiments(client, first=here):
        runs = client.search_runs(places, filter_string=wanted, max_results=1, order_by=["attributes.start_time ASC"])
        if runs:
            return str(runs[0].info.run_id)
    if here is None:
        location = _artifacts(config, store)
        tags = {OURS: "in the store"} if location == artifact_folder(store).as_uri() else {}
        here = str(client.create_experiment(config.experiment, artifact_location=location, tags=tags))
    return str(client.create_run(here, run_name=run_key, tags={"run_key": run_key, USER: user_name()}).info.run_id)


def user_name() -> str:
    """Who runs this, as the system has it; the number of a user without a name, as in a container."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _experiments(client: "MlflowClient", *, first: str | None) -> Iterator[list[str]]:
    """Ids of experiments, as many as one search should name: one first and alone, then all others."""
    if first is not None:
        yield [first]
    others = [str(experiment.experiment_id) for experiment in pages(client.search_experiments)]
    others = [experiment for experiment in others if experiment != first]
    for start in range(0, len(others), 100):
        yield others[start : start + 100]


def run_or_none(client: "MlflowClient", run_id: str) -> Any | None:
    """A run as MLflow has it, or None if there is none: somebody removed it, or the version was made without one."""
    if run_id in ("", "None"):
        return None
    try:
        return client.get_run(run_id)
    except Exception as error:
        if is_absence(error):
            return None
        raise


def require_run(client: "MlflowClient", raw_version: Any) -> None:
    """InputError where somebody deleted the run of a version: MLflow then clears away its files one day."""
    run = run_or_none(client, str(raw_version.run_id))
    if run is not None and run.info.lifecycle_stage == "deleted":
        raise InputError(
            f"version {raw_version.version} of {raw_version.name} cannot become the champion: its MLflow run was "
            f"deleted. `mlflow runs restore --run-id {raw_version.run_id}` brings it back; if its experiment was "
            f"deleted, `mlflow experiments restore --experiment-id {run.info.experiment_id}` does"
        )


def _artifacts(config: RegistryConfig, store: str) -> str | None:
    """Where the files of a new experiment go; None leaves it to the server."""
    if config.artifacts or address(store).startswith("http"):
        return config.artifacts or None
    if storage.is_remote(store):
        return storage.join(storage.absolute(store), ARTIFACTS)
    folder = artifact_folder(store)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.as_uri()


def registered(client: "MlflowClient", name: str) -> Any | None:
    """The registered model, or None if there is none of this name."""
    try:
        return client.get_registered_model(name)
    except Exception as error:
        if is_absence(error):
            return None
        raise


def aliases(client: "MlflowClient", name: str) -> Mapping[str, str]:
    """Alias -> version of a registered model; empty if there is no such model."""
    # Searching versions leaves their aliases empty; the registered model knows them.
    model = registered(client, name)
    return {} if model is None else {alias: str(version) for alias, version in model.aliases.items()}


def create_model(client: "MlflowClient", name: str, description: str) -> None:
    """Make a registered model, unless it is there."""
    if registered(client, name) is not None:
        return
    try:
        client.create_registered_model(name, description=description)
    except Exception as error:  # somebody else was faster
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def model_names(client: "MlflowClient") -> list[str]:
    """Every registered model but the promotion logs, by name."""
    return sorted(model.name for model in pages(client.search_registered_models) if not model.name.endswith(LOG))


def version_or_none(client: "MlflowClient", name: str, version: str) -> Any | None:
    """A version as MLflow has it, with its tags, or None if there is none."""
    try:
        return client.get_model_version(name, version)
    except Exception as error:
        if is_absence(error):
            return None
        raise


def model_versions(client: "MlflowClient", name: str, run_key: str = "") -> list[Any]:
    """Every version of a model, the oldest first; of one training alone where its key is given."""
    of_key = f" and tags.run_key = '{run_key}'" if run_key else ""
    versions = pages(client.search_model_versions, filter_string=f"name = '{name}'{of_key}")
    return sorted(versions, key=lambda version: int(version.version))


CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"
