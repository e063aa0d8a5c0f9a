"""The way to MLflow: its address, a client, what its refusals mean, and what is registered under a name."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from pipelines.registry.limits import pages
from pipelines.registry.server_check import check_address, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOG = "-promotions"  # what the promotion log of a model is called after the model's name
MAX_NAME = 200  # characters; a database keeps 256 of a name, with what is added here


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Names under which versions are kept."""

    name: str = "stemline"  # name of the registered model: consumers load models:/NAME@champion
    experiment: str = "stemline"  # experiment of MLflow that holds the runs
    # Where a new experiment keeps files: s3://BUCKET/FOLDER; empty: the server's choice, or the store
    artifacts: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name == "." or self.name.startswith(".."):
            raise InputError(
                f"registry.name={self.name!r}: use letters, digits, dot, dash and underscore only, not dots alone, and "
                "no two dots to begin with"
            )
        if self.name.endswith(LOG):
            raise InputError(f"registry.name must not end in {LOG}, the name of a promotion log; got {self.name!r}")
        if not self.experiment.strip():
            raise InputError(f"registry.experiment must be a name, got {self.experiment!r}")
        for name in ("name", "experiment"):
            if len(getattr(self, name)) > MAX_NAME:
                raise InputError(f"registry.{name} must have <= {MAX_NAME} characters, got {len(getattr(self, name))}")


def address(store: str) -> str:
    """Where MLflow keeps its books: MLFLOW_TRACKING_URI, or a SQLite file in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(store).resolve() / 'mlflow.db'}"


def is_new(store: str) -> bool:
    """Whether the books are a file, the store's own or a named one, that is not there yet: reading makes none."""
    kind, _, file = address(store).partition(":///")
    return kind == "sqlite" and not Path(file).exists()


@contextmanager
def connected(store: str) -> Iterator["MlflowClient"]:
    """A client of the registry, with MLflow's global address set meanwhile and put back afterwards."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is first imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # our own bars are drawn elsewhere
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = address(store)
    check_address(uri)

    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it tells of every table, and of errors that it raises too
    try:
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        if not _is_of_servers(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"MLflow at {without_password(uri)} refused, or went away: {said}; when it answers, the same command "
            "goes on"
        ) from error
    finally:
        # MLflow writes its address into the environment, where every later job would take it for the user's.
        if given is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        else:
            os.environ["MLFLOW_TRACKING_URI"] = given


def _is_of_servers(error: Exception) -> bool:
    """Whether MLflow, its database, its object store or the way there raised it; known by their packages alone."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(packages & {"mlflow", "sqlalchemy", "boto3", "botocore", "requests", "urllib3"})


def is_absence(error: Exception) -> bool:
    """Whether MLflow says that there is no such thing; a refusal and a server in trouble say something else."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


# --- experiments and runs -----------------------------------------------------------------------------------


def open_run(client: "MlflowClient", config: RegistryConfig, run_key: str, *, store: str) -> str:
    """The run of a training, made if there is none in any experiment; it is RUNNING until the training has ended."""
    wanted = f"tags.run_key = '{run_key}'"
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment {config.experiment!r} was deleted: `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}` brings it back, and registry.experiment names another"
        )
    here = None if experiment is None else str(experiment.experiment_id)
    for places in _experiments(client, first=here):
        found = client.search_runs(places, filter_string=wanted, max_results=1, order_by=["attributes.start_time ASC"])
        if found:
            return str(found[0].info.run_id)
    if here is None:
        here = str(client.create_experiment(config.experiment, artifact_location=_artifacts(config, store)))
    return str(client.create_run(here, run_name=run_key, tags={"run_key": run_key}).info.run_id)


def _experiments(client: "MlflowClient", *, first: str | None) -> Iterator[list[str]]:
    """Ids of experiments, as many as one search should name: one first and alone, then all others."""
    if first is not None:
        yield [first]
    others = [str(one.experiment_id) for one in pages(client.search_experiments)]
    others = [one for one in others if one != first]
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


def _artifacts(config: RegistryConfig, store: str) -> str | None:
    """Where the files of a new experiment go; None leaves it to the server."""
    if config.artifacts or address(store).startswith("http"):
        return config.artifacts or None
    folder = Path(store).resolve() / "mlartifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.as_uri()


# --- registered models --------------------------------------------------------------------------------------


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
    found = pages(client.search_model_versions, filter_string=f"name = '{name}'{of_key}")
    return sorted(found, key=lambda made: int(made.version))
