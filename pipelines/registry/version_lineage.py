"""Where every registered version comes from, under any model name: one look at the whole registry.

A version's tags say from which dataset it learnt and from which weights it began, and
`pipelines/lineage/training_recordings.py` follows them.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets.errors import without_user
from pipelines.registry.connection import address, connected, is_new
from pipelines.registry.database.mlflow_limits import pages
from pipelines.registry.find_or_create import run_or_none
from pipelines.runtime.renamed_settings import current_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
from collections.abc import Mapping

from pipelines.registry import run_logging
from pipelines.registry.connection import RegistryConfig
from pipelines.registry.find_or_create import CHAMPION, aliases, model_versions
from pipelines.registry.promotion import decision_records, promotion_log
from pipelines.registry.promotion.decision_records import Note
from pipelines.registry.promotion.promotion_log import Promotion
from pipelines.registry.run_logging import Evaluation
from pipelines.registry.version_lookup import ModelVersion, look_up, require_books, version_of

NOTHING = "none"  # of a tag: it began from random weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A version, its datasets, and the weights that it began from."""

    version: ModelVersion
    datasets: tuple[str, ...]  # manifests: its songs first, then its automixes
    weights_digest: str  # empty where that was not told
    start: str  # models:/NAME/VERSION, or as the user wrote it; empty: random weights
    start_digest: str  # of the weights at that time; empty where that was not told


def every_version(*, store: str) -> dict[str, Origin]:
    """Every version of every model at the store's registry that stemline registered, by its address."""
    if is_new(store):
        return {}
    with connected(store) as client:
        champions = {
            model.name: str(model.aliases.get(CHAMPION, "")) for model in pages(client.search_registered_models)
        }
        origins = [
            _origin(client, raw_version, is_champion=champions.get(raw_version.name) == str(raw_version.version))
            for raw_version in pages(client.search_model_versions)
            if "checkpoint_digest" in raw_version.tags or "dataset_uri" in raw_version.tags
        ]
    return {origin.version.uri: origin for origin in sorted(origins, key=_order)}


def _order(origin: Origin) -> tuple[str, int]:
    return origin.version.name, int(origin.version.version)


def _origin(client: "MlflowClient", raw_version: Any, *, is_champion: bool) -> Origin:
    tags = raw_version.tags
    # Versions registered before the tag was have the setting alone: an alias in it may have moved since.
    start = tags["start_uri"] if "start_uri" in tags else _setting(client, raw_version.run_id)
    return Origin(
        version=ModelVersion(
            name=raw_version.name,
            version=str(raw_version.version),
            run_id=str(raw_version.run_id),
            run_key=tags.get("run_key", ""),
            digest=tags.get("checkpoint_digest", ""),
            alias=CHAMPION if is_champion else "",
            dataset_uri=tags.get("dataset_uri", ""),
        ),
        datasets=tuple(tags[name] for name in ("dataset_uri", "automix_uri") if tags.get(name)),
        weights_digest=tags.get("weights_digest", ""),
        start="" if start == NOTHING else start,
        start_digest=tags.get("start_digest", ""),
    )


def _setting(client: "MlflowClient", run_id: str) -> str:
    run = run_or_none(client, run_id)
    if run is None:
        return f"a setting of run {run_id}, which is gone"
    return str(current_names(run.data.params).get("model.init_from", ""))


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


def versions(config: RegistryConfig, *, store: str) -> list[ModelVersion]:
    """Every registered version, the oldest first."""
    if is_new(store):
        return []
    with connected(store) as client:
        present = aliases(client, config.name)
        return [version_of(raw_version, present) for raw_version in model_versions(client, config.name)]


def lineage(ref: str, *, store: str) -> Lineage:
    """Everything that the registry knows about where a version comes from."""
    require_books(ref, store)
    with connected(store) as client:
        version, raw_version = look_up(client, ref)
        done = promotion_log.take_snapshot(client, version.name).done
        hidden = [
            name
            for name in raw_version.tags
            if decision_records.is_own_tag(name) or name.startswith(run_logging.EVALUATION)
        ]
        return Lineage(
            version=version,
            settings=run_logging.settings_of(client, run_or_none(client, version.run_id)),
            tags={name: text for name, text in raw_version.tags.items() if name not in hidden},
            decision=decision_records.counting(client, raw_version, is_champion=version.alias == CHAMPION),
            promotions=tuple(entry for entry in done if entry.version == version.version),
            evaluations=run_logging.evaluations(raw_version.tags),
            decisions=tuple(decision_records.notes(raw_version)),
        )


def decision_of(version: ModelVersion, *, store: str) -> dict[str, Any] | None:
    """The decision about a version that counts: the one that promoted it, else the last; None if there is none."""
    with connected(store) as client:
        raw_version = client.get_model_version(version.name, version.version)
        return decision_records.counting(client, raw_version, is_champion=version.alias == CHAMPION)


def decisions_of(version: ModelVersion, *, store: str) -> list[dict[str, Any]]:
    """Every decision about a version, the oldest first."""
    with connected(store) as client:
        raw_version = client.get_model_version(version.name, version.version)
        return [decision_records.read(client, raw_version, note.key) for note in decision_records.notes(raw_version)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """Where the files of a version's training are: `link` is the page that shows them, empty without a server."""

    run_id: str
    link: str
    paths: tuple[str, ...]  # of examples and reports


def read_songs(run_id: str, *, store: str) -> list[dict[str, Any]]:
    """The table of the evaluation with this run; empty where its run is gone, or older than such tables."""
    import mlflow

    with connected(store) as client:
        run = run_or_none(client, run_id)
        if run is None or run_logging.SONG_TABLE not in {file.path for file in client.list_artifacts(run_id)}:
            return []
        table = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{run_logging.SONG_TABLE}"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def files_of(ref: str, *, store: str) -> VersionFiles:
    """Examples and reports among the files of a version's training; none where its run is gone."""
    tracking = address(store)
    with connected(store) as client:
        version, _ = look_up(client, ref)
        run = run_or_none(client, version.run_id)
        if run is None:
            return VersionFiles(run_id=version.run_id, link="", paths=())
        folders = ("examples", f"reports/{version.name}/{version.version}")
        present = [file for folder in folders for file in client.list_artifacts(version.run_id, folder)]
        page = f"#/experiments/{run.info.experiment_id}/runs/{version.run_id}/artifacts"
    link = f"{without_user(tracking)}/{page}" if tracking.startswith("http") else ""
    return VersionFiles(run_id=version.run_id, link=link, paths=tuple(sorted(file.path for file in present)))
