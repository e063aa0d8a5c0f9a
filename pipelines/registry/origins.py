"""Where every registered version comes from, under any model name: one look at the whole registry.

A version's tags say from which dataset it learnt and from which weights it began; `pipelines/lineage/ancestry.py`
follows them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import registry
from pipelines.registry import ModelVersion
from pipelines.registry.books import connected, is_new, run_or_none
from pipelines.registry.limits import pages

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
            model.name: str(model.aliases.get(registry.CHAMPION, ""))
            for model in pages(client.search_registered_models)
        }
        found = [
            _origin(client, made, is_champion=champions.get(made.name) == str(made.version))
            for made in pages(client.search_model_versions)
            if "checkpoint_digest" in made.tags or "dataset_uri" in made.tags
        ]
    return {origin.version.uri: origin for origin in sorted(found, key=_order)}


def _order(origin: Origin) -> tuple[str, int]:
    return origin.version.name, int(origin.version.version)


def _origin(client: "MlflowClient", made: Any, *, is_champion: bool) -> Origin:
    tags = made.tags
    # Versions registered before the tag was have the setting alone: an alias in it may have moved since.
    start = tags["start_uri"] if "start_uri" in tags else _setting(client, made.run_id)
    return Origin(
        version=ModelVersion(
            name=made.name,
            version=str(made.version),
            run_id=str(made.run_id),
            run_key=tags.get("run_key", ""),
            digest=tags.get("checkpoint_digest", ""),
            alias=registry.CHAMPION if is_champion else "",
            dataset_uri=tags.get("dataset_uri", ""),
        ),
        datasets=tuple(tags[name] for name in ("dataset_uri", "automix_uri") if tags.get(name)),
        weights_digest=tags.get("weights_digest", ""),
        start="" if start == NOTHING else start,
        start_digest=tags.get("start_digest", ""),
    )


def _setting(client: "MlflowClient", run_id: str) -> str:
    run = run_or_none(client, run_id)
    return f"a setting of run {run_id}, which is gone" if run is None else str(run.data.params.get("model.start", ""))
