"""What MLflow is told of a training and of each evaluation, which are runs of their own, and the model that came of it.

A training's parameters are what its key is a digest of, so nothing that is free to change can stand against them. What
is told twice, as after a kill, is kept once.
"""

import hashlib
import json
import math
import tempfile
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datasets.schema import ShardSet
from datasets.store.strict_json import dumps
from pipelines.registry.bundle import SERVED, Bundle, write_bundle
from pipelines.registry.database import mlflow_limits
from pipelines.registry.find_or_create import USER, run_or_none, user_name
from pipelines.runtime.renamed_settings import current_names

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Of a candidate's lineage, what belongs to one evaluation and not to the training.
OF_EVALUATION = ("protocol", "scores_digest")
TASK = "music source separation"
EXAMPLE_SAMPLES = 256
SONG_TABLE = "songs.json"  # among an evaluation's files
_TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's page finds tables
EVALUATION = "evaluation."  # a tag of a version for each of its evaluations
MLFLOW_COMMIT = "mlflow.source.git.commit"  # the tag that MLflow's page of a run shows as its source
_CONFIG = "config.toml"  # among a run's documents
_SHAPE_NOTHING = (
    "store",
    "separate",
    "listen",
    "report",
    "retrain",
    "notify",
)  # its sections that no version depends on


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUse:
    """Songs that a model was trained, selected or scored with, an input of their own on the page of the run."""

    context: Literal["training", "validation", "evaluation"]
    table: str  # and split, such as "songs, train"
    digest: str
    uri: str
    num_songs: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trained and scored checkpoint, with everything that should be told about it."""

    run_key: str
    checkpoint: str  # folder
    dataset: ShardSet  # the chunks that it learned from
    uses: Sequence[DatasetUse] = ()  # the songs of it and of others, by what they were used for
    config: Mapping[str, Any]  # what the run key is a digest of; nested tables become dotted parameters
    history: Sequence[Mapping[str, Any]] = ()  # points with a "step"; numbers nest as in {"valid_nsdr": {"raw": 5.1}}
    scores: Mapping[str, float] = field(default_factory=dict)  # such as {"test/nsdr/drums": 5.1}, in dB
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # settings of the evaluation that gave these scores
    # Digests, commit, counts: tags of run and version; "protocol" and "scores_digest" are those of the evaluation.
    lineage: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)  # file name -> text, kept with the run
    songs: Sequence[Mapping[str, Any]] = ()  # scores of songs, a row for each
    title: str = ""  # what people call the training


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of a version; another protocol, or other scores, are another one."""

    key: str
    run_id: str  # of MLflow: nested in the training's, with the scores as its metrics
    protocol: str
    scores_digest: str
    at: str  # UTC, ISO 8601


def log_run(client: "MlflowClient", run_id: str, candidate: Candidate) -> None:
    """Settings, lineage, loss curve, dataset and documents of its training; what is there already stays."""
    from mlflow.entities import Metric, RunTag

    run = client.get_run(run_id)
    _log_params(client, run, candidate.config)
    own = {key: text for key, text in candidate.lineage.items() if key not in OF_EVALUATION}
    own |= {MLFLOW_COMMIT: own["commit"]} if "commit" in own else {}
    tags = [
        RunTag(mlflow_limits.key(key), mlflow_limits.value(text, mlflow_limits.MAX_TAG)) for key, text in own.items()
    ]
    for batch in mlflow_limits.batches(
        [tag for tag in tags if tag.key not in run.data.tags], mlflow_limits.MAX_PARAMS, dict
    ):
        client.log_batch(run_id, tags=batch)
    # One fixed time for all rows: MLflow takes a row that it already has for the same one.
    time_ms = run.info.start_time
    points = [
        Metric(mlflow_limits.key(f"train/{key}"), value, time_ms, int(row["step"]))
        for row in candidate.history
        for key, value in _numbers({name: value for name, value in row.items() if name != "step"})
    ]
    for metrics in mlflow_limits.batches(points, mlflow_limits.MAX_METRICS, dict):
        client.log_batch(run_id, metrics=metrics)
    uses = [use for context in ("training", "validation") for use in _dataset_inputs(candidate.uses, context)]
    if uses:
        client.log_inputs(run_id, uses)
    _log_documents(client, run_id, candidate)
    if candidate.title and run.info.run_name != candidate.title:
        client.update_run(run_id, name=candidate.title)


def _log_params(client: "MlflowClient", run: Any, settings: Mapping[str, Any]) -> None:
    """Those that are not there yet: MLflow refuses to change a parameter, and an older run may hold others."""
    from mlflow.entities import Param

    flat = {mlflow_limits.key(key): mlflow_limits.value(text) for key, text in flatten(settings).items()}
    params = [Param(key, text) for key, text in flat.items() if key not in run.data.params]
    for batch in mlflow_limits.batches(params, mlflow_limits.MAX_PARAMS, dict):
        client.log_batch(run.info.run_id, params=batch)


def _log_documents(client: "MlflowClient", run_id: str, candidate: Candidate) -> None:
    present = {file.path for file in client.list_artifacts(run_id)}
    for name, text in candidate.documents.items():
        if name not in present:
            client.log_text(run_id, text, name)


def _dataset_inputs(uses: Sequence[DatasetUse], context: str) -> list[Any]:
    """Those of one context as MLflow's inputs of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=use.table,
                digest=use.digest[:36],
                source_type="local",
                source=dumps({"uri": use.uri}),
                profile=dumps({"songs": use.num_songs, "hours": round(use.hours, 3)}),
            ),
            [InputTag("mlflow.data.context", use.context)],
        )
        for use in uses
        if use.context == context
    ]


def end_run(client: "MlflowClient", run_id: str, status: str, *, tags: Mapping[str, str] | None = None) -> None:
    """Close a run, unless it is closed so already, or gone; tags say why."""
    run = run_or_none(client, run_id)
    if run is None:
        return
    for key, text in (tags or {}).items():
        client.set_tag(run_id, key, mlflow_limits.value(text, mlflow_limits.MAX_TAG))
    if run.info.status != status:
        client.set_terminated(run_id, status)


def settings_of(client: "MlflowClient", run: Any | None) -> dict[str, str]:
    """Every setting that shaped a training, by dotted name: its parameters, and what its configuration says besides."""
    import mlflow

    if run is None:
        return {}
    written: dict[str, str] = {}
    if _CONFIG in {file.path for file in client.list_artifacts(run.info.run_id)}:
        tree = tomllib.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{_CONFIG}"))
        written = flatten({name: section for name, section in tree.items() if name not in _SHAPE_NOTHING})
    return current_names(written) | current_names(run.data.params)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted keys: {"train": {"steps": 20}} becomes {"train.steps": "20"}."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(below, Mapping) for below in value):
            flat |= flatten({str(place): below for place, below in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested mappings and lists, under its path: {"per_source": [1, 2]} has per_source/0 and /1."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _numbers(below, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield from _numbers(dict(enumerate(value)), name)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield name, float(value)


def log_model(client: "MlflowClient", run_id: str, candidate: Candidate) -> tuple[str, dict[str, str]]:
    """Log the bundle as a model of this run and return its id, and what it is as tags; one that is there already is
    that.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        bundle = write_bundle(Path(candidate.checkpoint), Path(scratch))
        described = {"task": TASK, "sources": ", ".join(bundle.sources), "sample_rate": str(bundle.sample_rate)}
        if model_id := _known_model(client, run_id, bundle):
            return model_id, described
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # It asks for type hints; the signature below says more.
            warnings.simplefilter("ignore", UserWarning)
            info = mlflow.pyfunc.log_model(
                name="separator",
                python_model=str(SERVED),
                artifacts={"checkpoint": str(bundle.checkpoint)},
                code_paths=[str(bundle.package)],
                signature=_signature(bundle),
                input_example=_example(bundle),
                pip_requirements=sorted({*requirements(), *bundle.requirements}),
                tags={
                    "run_key": candidate.run_key,
                    "checkpoint_digest": bundle.digest,
                    "source_package": bundle.package.name,
                },
                metadata={"sample_rate": bundle.sample_rate, "sources": list(bundle.sources)},
            )
    return str(info.model_id), described


def _known_model(client: "MlflowClient", run_id: str, bundle: Bundle) -> str:
    """The model of this run with the same checkpoint and source, if it was logged whole; else empty."""
    places = [client.get_run(run_id).info.experiment_id]
    wanted = {"checkpoint_digest": bundle.digest, "source_package": bundle.package.name}
    models = mlflow_limits.pages(
        client.search_logged_models, experiment_ids=places, filter_string=f"source_run_id = '{run_id}'"
    )
    whole = [model for model in models if str(model.status) == "READY" and wanted.items() <= model.tags.items()]
    return str(min(whole, key=lambda model: model.creation_timestamp).model_id) if whole else ""


def _signature(bundle: Bundle) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    float32, channels = np.dtype(np.float32), bundle.audio_channels
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, channels, -1))]),
        outputs=Schema([TensorSpec(float32, (-1, -1, channels, -1))]),
        params=ParamSchema(
            [
                ParamSpec("overlap", DataType.double, 0.25),
                ParamSpec("shifts", DataType.long, 0),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("stems", DataType.string, list(bundle.sources), shape=(-1,)),
            ]
        ),
    )


def _example(bundle: Bundle) -> Any:
    """A batch of one song, so short that its figures can be read: a quiet tone of 440 Hz."""
    import numpy as np

    time_T = np.arange(EXAMPLE_SAMPLES) / bundle.sample_rate
    return np.broadcast_to(0.1 * np.sin(2 * np.pi * 440 * time_T), (1, bundle.audio_channels, EXAMPLE_SAMPLES)).astype(
        np.float32
    )


def requirements() -> list[str]:
    """What a consumer installs: nothing but MLflow, torch, NumPy and safetensors, in the versions used here."""
    from importlib.metadata import version

    names = ("mlflow", "numpy", "safetensors", "torch")
    return [f"{name}=={version(name).split('+')[0]}" for name in names]  # a local build tag is on no index


def evaluation_key(candidate: Candidate, digest: str) -> str:
    """The name of an evaluation: a digest of weights, songs, protocol and scores; empty where nothing was scored."""
    if not candidate.scores:
        return ""
    inputs = [
        candidate.run_key,
        digest,
        candidate.dataset.digest,
        *(candidate.lineage.get(name, "") for name in OF_EVALUATION),
    ]
    return hashlib.sha256(dumps([*inputs, candidate.scores], sort_keys=True).encode()).hexdigest()[:16]


def log_evaluation(client: "MlflowClient", run_id: str, candidate: Candidate, *, model_id: str, key: str) -> str:
    """A run of its own, nested in the training's, with the scores, which the model has too; found again by its key."""
    from mlflow.entities import Metric

    parent = client.get_run(run_id)
    runs = client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.evaluation_key = '{key}'", max_results=1,
        order_by=["attributes.start_time ASC"],
    )  # fmt: skip
    tags = {
        "mlflow.parentRunId": run_id,
        USER: user_name(),
        "evaluation_key": key,
        "evaluated": candidate.run_key,
        **{name: candidate.lineage[name] for name in OF_EVALUATION if name in candidate.lineage},
    }
    short = {name: mlflow_limits.value(text, mlflow_limits.MAX_TAG) for name, text in tags.items()}
    name = f"{candidate.title or candidate.run_key} scored"
    run = runs[0] if runs else client.create_run(parent.info.experiment_id, run_name=name, tags=short)
    own = str(run.info.run_id)
    if run.info.status == "FINISHED":
        return own
    _log_params(client, run, candidate.evaluation)
    finite = {name: float(score) for name, score in candidate.scores.items() if math.isfinite(score)}
    inputs = _dataset_inputs(candidate.uses, "evaluation")
    scored = {"dataset_name": inputs[0].dataset.name, "dataset_digest": inputs[0].dataset.digest} if inputs else {}
    metrics = [
        Metric(mlflow_limits.key(name), score, run.info.start_time, 0, model_id=model_id, **scored)
        for name, score in finite.items()
    ]
    for batch in mlflow_limits.batches(metrics, mlflow_limits.MAX_METRICS, dict):
        client.log_batch(own, metrics=batch)
    if inputs:
        client.log_inputs(own, inputs)
    _log_documents(client, own, candidate)
    _log_songs(client, own, candidate.songs)
    client.set_terminated(own)
    return own


def _log_songs(client: "MlflowClient", run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep the scores of songs with an evaluation, in the form of MLflow's `log_table`, which its page shows.

    Told again, as after a kill, it is the same file; `log_table` would add the rows to those that are there.
    """
    if rows:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}
        client.log_text(run_id, dumps(table), SONG_TABLE)
        client.set_tag(run_id, _TABLES, dumps([{"path": SONG_TABLE, "type": "table"}]))


def evaluation_tag(client: "MlflowClient", candidate: Candidate, key: str, run_id: str) -> dict[str, str]:
    """The tag of a version that names one of its evaluations."""
    origin = {name: candidate.lineage.get(name, "") for name in OF_EVALUATION}
    at = datetime.fromtimestamp(client.get_run(run_id).info.start_time / 1000, UTC).isoformat(timespec="milliseconds")
    short = {name: mlflow_limits.value(text, 1000) for name, text in origin.items()}
    return {f"{EVALUATION}{key}": dumps({"run_id": run_id, "at": at, **short})}


def evaluations(tags: Mapping[str, str]) -> tuple[Evaluation, ...]:
    """Those that the tags of a version name, the oldest first."""
    own = {name.removeprefix(EVALUATION): text for name, text in tags.items() if name.startswith(EVALUATION)}
    recorded = [Evaluation(key=key, **json.loads(text)) for key, text in own.items()]
    return tuple(sorted(recorded, key=lambda evaluation: (evaluation.at, evaluation.key)))
