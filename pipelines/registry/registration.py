"""Registers a trained checkpoint with its run, evaluation and tags; the same again adds nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.registry import run_logging, used_registries
from pipelines.registry.bundle import checkpoint_digest
from pipelines.registry.connection import RegistryConfig, connected
from pipelines.registry.database import mlflow_limits
from pipelines.registry.find_or_create import (
    CANDIDATE,
    aliases,
    create_model,
    model_versions,
    open_run,
)
from pipelines.registry.promotion import decision_records
from pipelines.registry.run_logging import Candidate
from pipelines.registry.version_lookup import (
    ModelVersion,
    digest_of,
    look_up,
    version_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


MAX_DESCRIPTION = 5000  # characters that MLflow's tables take


def register(config: RegistryConfig, candidate: Candidate, *, store: str) -> ModelVersion:
    """Log the run and register the checkpoint; found again by run key and digest, so a rerun adds nothing.

    Scores that are not known yet are added as another evaluation of the version. Killed at any line, the same command
    completes it.
    """
    digest = checkpoint_digest(Path(candidate.checkpoint))
    key = run_logging.evaluation_key(candidate, digest)
    with connected(store) as client:
        used_registries.record(store)
        raw_version = _find(client, config, run_key=candidate.run_key, digest=digest)
        run_id = str(raw_version.run_id) if raw_version else open_run(client, config, candidate.run_key, store=store)
        tags, described = dict[str, str](), dict[str, str]()
        if raw_version is None:
            run_logging.log_run(client, run_id, candidate)
            model_id, described = run_logging.log_model(client, run_id, candidate)
        else:
            model_id = str(raw_version.source).removeprefix("models:/")
        if key and (raw_version is None or f"{run_logging.EVALUATION}{key}" not in raw_version.tags):
            own = run_logging.log_evaluation(client, run_id, candidate, model_id=model_id, key=key)
            tags = run_logging.evaluation_tag(client, candidate, key, own)
        if raw_version is None:
            _ensure_registered(client, config.name)
            described |= {"run_key": candidate.run_key, "checkpoint_digest": digest, **candidate.lineage}
            tags = {
                mlflow_limits.key(name): mlflow_limits.value(text, mlflow_limits.MAX_TAG)
                for name, text in described.items()
            } | tags
            # The tags arrive together with the version: a version without its digest never exists.
            raw_version = client.create_model_version(
                config.name, f"models:/{model_id}", run_id=run_id, tags=tags, model_id=model_id
            )
        else:
            for name, text in tags.items():
                client.set_model_version_tag(config.name, raw_version.version, name, text)
        run_logging.end_run(client, run_id, "FINISHED")
        present = aliases(client, config.name)
        if _awaits_decision(raw_version, present):
            client.set_registered_model_alias(config.name, CANDIDATE, str(raw_version.version))
        return version_of(raw_version, present)


def _ensure_registered(client: "MlflowClient", name: str) -> None:
    create_model(client, name, "Whole songs in, their stems out.")


def _find(client: "MlflowClient", config: RegistryConfig, *, run_key: str, digest: str) -> Any | None:
    candidates = model_versions(client, config.name, run_key)
    return next(
        (raw_version for raw_version in candidates if raw_version.tags.get("checkpoint_digest") == digest), None
    )


def _awaits_decision(raw_version: Any, present: Mapping[str, str]) -> bool:
    """Whether a version should be the candidate: nothing was decided about it, and no later one was registered."""
    later = int(present.get(CANDIDATE, "0")) > int(raw_version.version)
    return not later and str(raw_version.version) not in present.values() and not decision_records.notes(raw_version)


def attach(ref: str, file: Path, *, store: str, kind: Literal["export", "report"] = "export") -> str:
    """The address of a file that is now kept with a version, such as its graph; a tag names it and its digest."""
    with connected(store) as client:
        version, _ = look_up(client, ref)
        folder = f"{kind}s/{version.name}/{version.version}"
        kept = f"{client.get_run(version.run_id).info.artifact_uri}/{folder}/{file.name}"
        reference = f"{kept} sha256:{digest_of(file)}"
        client.log_artifact(version.run_id, str(file), folder)
        client.set_model_version_tag(
            version.name,
            version.version,
            mlflow_limits.key(f"{kind}.{file.name}"),
            mlflow_limits.value(reference, mlflow_limits.MAX_TAG),
        )
    return kept


def set_description(ref: str, text: str, *, store: str) -> None:
    """Make a text the description of a version; lines beyond what MLflow takes are left out."""
    lines = text.splitlines()
    while lines and len("\n".join(lines)) > MAX_DESCRIPTION:
        lines.pop()
    with connected(store) as client:
        version, raw_version = look_up(client, ref)
        if (raw_version.description or "") != "\n".join(lines):
            client.update_model_version(version.name, version.version, "\n".join(lines))
