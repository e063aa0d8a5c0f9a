"""What MLflow is told of a training: its run with parameters, curve and scores, and the model that came of it.

A point of the curve that is told twice, as after a kill, is kept once.
"""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.registry.bundle import SERVED, Bundle, write_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.registry import Candidate

MAX_VALUE = 6000  # characters of a parameter that MLflow keeps


def log_run(client: "MlflowClient", run_id: str, candidate: "Candidate") -> None:
    """Its configuration, lineage, loss curve, dataset and documents."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    params = [Param(key, value[:MAX_VALUE]) for key, value in flatten(candidate.config).items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    for key, value in candidate.lineage.items():
        client.set_tag(run_id, key, value)
    # One fixed time for all rows: MLflow takes a row that it already has for the same one.
    time_ms = client.get_run(run_id).info.start_time
    points = [
        Metric(f"train/{key}", value, time_ms, int(row["step"]))
        for row in candidate.history
        for key, value in _numbers({name: value for name, value in row.items() if name != "step"})
    ]
    for start in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[start : start + 1000])
    dataset = Dataset(
        name=candidate.dataset.table,
        digest=candidate.dataset.digest[:36],
        source_type="local",
        source=json.dumps({"uri": candidate.dataset.uri}),
        profile=json.dumps({"num_rows": candidate.dataset.num_rows}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    for name, text in candidate.documents.items():
        client.log_text(run_id, text, name)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted keys: {"train": {"steps": 20}} becomes {"train.steps": "20"}."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
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
    elif isinstance(value, int | float):
        yield name, float(value)


def log_model(client: "MlflowClient", run_id: str, candidate: "Candidate") -> str:
    """Log the bundle as a model of this run and return its id."""
    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        bundle = write_bundle(Path(candidate.checkpoint), Path(scratch))
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # It asks for type hints and an input example; the signature below says more than either.
            warnings.simplefilter("ignore", UserWarning)
            info = mlflow.pyfunc.log_model(
                name="separator",
                python_model=str(SERVED),
                artifacts={"checkpoint": str(bundle.checkpoint)},
                code_paths=[str(bundle.package)],
                signature=_signature(bundle),
                pip_requirements=requirements(),
                tags={"run_key": candidate.run_key, "checkpoint_digest": bundle.digest},
                metadata={"sample_rate": bundle.sample_rate, "sources": list(bundle.sources)},
            )
    return str(info.model_id)


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


def requirements() -> list[str]:
    """What a consumer installs: nothing but MLflow, torch, NumPy and safetensors, in the versions used here."""
    from importlib.metadata import version

    names = ("mlflow", "numpy", "safetensors", "torch")
    return [f"{name}=={version(name).split('+')[0]}" for name in names]  # a local build tag is on no index


def log_scores(client: "MlflowClient", run_id: str, candidate: "Candidate", *, model_id: str) -> None:
    """Its scores, which belong to the run and to the model alike."""
    time_ms = client.get_run(run_id).info.start_time
    # A new model of a run inherits the metrics that an earlier, killed attempt had logged.
    inherited = {metric.key for metric in client.get_logged_model(model_id).metrics or ()}
    for key in candidate.scores.keys() - inherited:
        client.log_metric(
            run_id, key, float(candidate.scores[key]), timestamp=time_ms, step=0, model_id=model_id,
            dataset_name=candidate.dataset.table, dataset_digest=candidate.dataset.digest[:36],
        )  # fmt: skip
