"""Log a run, register a version, promote it, fetch it back: the only MLflow code.

Without MLFLOW_TRACKING_URI everything lies in the store: `mlflow.db` (SQLite) and `mlartifacts/`. There are three
records, and none of them is ever overwritten: a training is one MLflow run and, with its checkpoint, one version of
each model name it is registered under; an evaluation is a run nested in it; a decision is a document of the version.
Read `register` first, then `record.py` for the first two, `decisions.py` for the third, `ledger.py` and `promoting.py`
for how a version becomes the champion, and `bundle.py` for what a version is made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.schema import ShardSet
from pipelines.registry import decisions, limits, promotion_log, run_logging
from pipelines.registry.books import (
    RegistryConfig,
    address,
    aliases,
    connected,
    create_model,
    is_new,
    model_versions,
    open_run,
    run_or_none,
)
from pipelines.registry.bundle import checkpoint_digest
from pipelines.registry.decisions import Note
from pipelines.registry.promoting import champion, history, promote, promote_by_name, rollback, rolled_back
from pipelines.registry.promotion_log import CANDIDATE, CHAMPION, Promotion
from pipelines.registry.registered import (
    ModelVersion,
    digest_of,
    fetch,
    look_up,
    require_books,
    resolve,
    version_of,
)
from pipelines.registry.run_logging import Evaluation, flatten, requirements

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "CHAMPION",
    "Candidate",
    "Evaluation",
    "Lineage",
    "ModelVersion",
    "Note",
    "Promotion",
    "RegistryConfig",
    "address",
    "attach",
    "champion",
    "decision_of",
    "decisions_of",
    "digest_of",
    "fetch",
    "flatten",
    "history",
    "lineage",
    "open_run",
    "promote",
    "promote_by_name",
    "register",
    "requirements",
    "resolve",
    "rollback",
    "rolled_back",
    "versions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trained and scored checkpoint, with everything that should be told about it."""

    run_key: str
    checkpoint: str  # folder
    dataset: ShardSet  # the chunks that it learned from
    config: Mapping[str, Any]  # what the run key is a digest of; nested tables become dotted parameters
    history: Sequence[Mapping[str, Any]] = ()  # points with a "step"; numbers nest as in {"valid_nsdr": {"raw": 5.1}}
    scores: Mapping[str, float] = field(default_factory=dict)  # such as {"test/nsdr/drums": 5.1}, in dB
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # settings of the evaluation that gave these scores
    # Digests, commit, counts: tags of run and version; "protocol" and "scores_digest" are those of the evaluation.
    lineage: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)  # file name -> text, kept with the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a version was made from, how it was scored, and what was decided about it."""

    version: ModelVersion
    settings: Mapping[str, str]  # by dotted name: those of the training, and of all that came before it
    tags: Mapping[str, str]  # digests, commit; the protocol of the evaluation that it was registered with
    decision: Mapping[str, Any] | None  # that counts: the promoting one, else the last
    promotions: tuple[Promotion, ...]  # of this version, the oldest first
    evaluations: tuple[Evaluation, ...] = ()  # the oldest first
    decisions: tuple[Note, ...] = ()  # every one, the oldest first


def register(config: RegistryConfig, candidate: Candidate, *, store: str) -> ModelVersion:
    """Log the run and register the checkpoint; found again by run key and digest, so a rerun adds nothing.

    Scores that are not known yet are added as another evaluation of the version. Killed at any line, the same command
    completes it.
    """
    from pipelines.registry import known as registries

    digest = checkpoint_digest(Path(candidate.checkpoint))
    key = run_logging.evaluation_key(candidate, digest)
    with connected(store) as client:
        registries.note(store)
        made = _find(client, config, run_key=candidate.run_key, digest=digest)
        run_id = str(made.run_id) if made else open_run(client, config, candidate.run_key, store=store)
        tags = {}
        if made is None:
            run_logging.log_run(client, run_id, candidate)
            model_id = run_logging.log_model(client, run_id, candidate)
        else:
            model_id = str(made.source).removeprefix("models:/")
        if key and (made is None or f"{run_logging.EVALUATION}{key}" not in made.tags):
            own = run_logging.log_evaluation(client, run_id, candidate, model_id=model_id, key=key)
            tags = run_logging.evaluation_tag(client, candidate, key, own)
        if made is None:
            _ensure_registered(client, config.name)
            told = {"run_key": candidate.run_key, "checkpoint_digest": digest, **candidate.lineage}
            tags = {limits.key(name): limits.value(text, limits.MAX_TAG) for name, text in told.items()} | tags
            # The tags arrive together with the version: a version without its digest never exists.
            made = client.create_model_version(
                config.name, f"models:/{model_id}", run_id=run_id, tags=tags, model_id=model_id
            )
        else:
            for name, text in tags.items():
                client.set_model_version_tag(config.name, made.version, name, text)
        run_logging.end_run(client, run_id, "FINISHED")
        present = aliases(client, config.name)
        if _awaits_decision(made, present):
            client.set_registered_model_alias(config.name, CANDIDATE, str(made.version))
        return version_of(made, present)


def _ensure_registered(client: "MlflowClient", name: str) -> None:
    create_model(client, name, "Whole songs in, their stems out.")


def _find(client: "MlflowClient", config: RegistryConfig, *, run_key: str, digest: str) -> Any | None:
    found = model_versions(client, config.name, run_key)
    return next((made for made in found if made.tags.get("checkpoint_digest") == digest), None)


def _awaits_decision(made: Any, present: Mapping[str, str]) -> bool:
    """Whether a version should be the candidate: nothing was decided about it, and no later one was registered."""
    later = int(present.get(CANDIDATE, "0")) > int(made.version)
    return not later and str(made.version) not in present.values() and not decisions.notes(made)


def versions(config: RegistryConfig, *, store: str) -> list[ModelVersion]:
    """Every registered version, the oldest first."""
    if is_new(store):
        return []
    with connected(store) as client:
        present = aliases(client, config.name)
        return [version_of(made, present) for made in model_versions(client, config.name)]


def lineage(ref: str, *, store: str) -> Lineage:
    """Everything that the registry knows about where a version comes from."""
    require_books(ref, store)
    with connected(store) as client:
        version, made = look_up(client, ref)
        done = promotion_log.snapshot(client, version.name).done
        hidden = [name for name in made.tags if decisions.is_own_tag(name) or name.startswith(run_logging.EVALUATION)]
        return Lineage(
            version=version,
            settings=run_logging.settings_of(client, run_or_none(client, version.run_id)),
            tags={name: text for name, text in made.tags.items() if name not in hidden},
            decision=decisions.counting(client, made, is_champion=version.alias == CHAMPION),
            promotions=tuple(entry for entry in done if entry.version == version.version),
            evaluations=run_logging.evaluations(made.tags),
            decisions=tuple(decisions.notes(made)),
        )


def decision_of(version: ModelVersion, *, store: str) -> dict[str, Any] | None:
    """The decision about a version that counts: the one that promoted it, else the last; None if there is none."""
    with connected(store) as client:
        made = client.get_model_version(version.name, version.version)
        return decisions.counting(client, made, is_champion=version.alias == CHAMPION)


def decisions_of(version: ModelVersion, *, store: str) -> list[dict[str, Any]]:
    """Every decision about a version, the oldest first."""
    with connected(store) as client:
        made = client.get_model_version(version.name, version.version)
        return [decisions.read(client, made, note.key) for note in decisions.notes(made)]


def attach(ref: str, file: Path, *, store: str) -> str:
    """The address of a file that is now kept with a version, such as its graph; a tag names it and its digest."""
    with connected(store) as client:
        version, _ = look_up(client, ref)
        folder = f"exports/{version.name}/{version.version}"
        client.log_artifact(version.run_id, str(file), folder)
        kept = f"{client.get_run(version.run_id).info.artifact_uri}/{folder}/{file.name}"
        told = f"{kept} sha256:{digest_of(file)}"
        client.set_model_version_tag(
            version.name, version.version, limits.key(f"export.{file.name}"), limits.value(told, limits.MAX_TAG)
        )
    return kept
