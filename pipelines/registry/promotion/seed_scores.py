"""Trainings of one recipe that differ in their seed alone, and what each of them scored."""

from typing import TYPE_CHECKING, Any

from pipelines.registry import run_logging
from pipelines.registry.connection import RegistryConfig, connected, is_new
from pipelines.registry.find_or_create import model_versions, run_or_none
from pipelines.runtime.renamed_settings import current_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
_SEED = "train.seed"
# Tags of a version, beside its settings, that a recipe consists of.
_OF_RECIPE = ("dataset_digest", "start_digest", "train_version")


def scores_by_recipe(
    config: RegistryConfig, *, store: str, protocol: str, metric: str, but: str = ""
) -> list[list[float]]:
    """Scores of the versions of each recipe that was trained more than once, under one protocol and on one dataset.

    A recipe is the settings of a training without its seed. `metric` is such as "test/nsdr/mean"; versions with the
    weights digest `but` are left out, as are those whose settings or scores are gone.
    """
    if is_new(store):
        return []
    with connected(store) as client:
        recipes: dict[tuple[Any, ...], dict[str, Any]] = {}
        for raw_version in model_versions(client, config.name):
            weights = raw_version.tags.get("weights_digest", "")
            evaluations = run_logging.evaluations(raw_version.tags)
            if weights in ("", but) or all(evaluation.protocol != protocol for evaluation in evaluations):
                continue
            if recipe := _recipe(client, raw_version):
                recipes.setdefault(recipe, {})[weights] = raw_version  # the same weights again are no other training
        by_recipe = [
            [
                score
                for raw_version in own.values()
                if (score := _score(client, raw_version, protocol, metric)) is not None
            ]
            for own in recipes.values()
            if len(own) > 1
        ]
    return [scores for scores in by_recipe if len(scores) > 1]


def _recipe(client: "MlflowClient", raw_version: Any) -> tuple[Any, ...]:
    """All that shaped a version but its seed; empty where that is not known."""
    run = run_or_none(client, raw_version.run_id)
    settings = {} if run is None else current_names(run.data.params)
    if _SEED not in settings:
        return ()
    own = sorted((name, value) for name, value in settings.items() if name != _SEED)
    return (*own, *(raw_version.tags.get(name, "") for name in _OF_RECIPE))


def _score(client: "MlflowClient", raw_version: Any, protocol: str, metric: str) -> float | None:
    """What the last evaluation of a version under a protocol says."""
    for evaluation in reversed(run_logging.evaluations(raw_version.tags)):
        run = run_or_none(client, evaluation.run_id) if evaluation.protocol == protocol else None
        if run is not None and metric in run.data.metrics:
            return float(run.data.metrics[metric])
    return None
