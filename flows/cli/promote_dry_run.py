"""What the gate would decide on a model that a store has trained: read from what is there; only caches are written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards.manifests import address_of, read_manifest
from datasets.store import storage
from flows import config as settings
from flows.config import RunConfig
from flows.gate_decision import Trained, decide
from pipelines import registry
from pipelines.evaluation import evaluate
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.evaluate_config import with_subfolder
from pipelines.lineage import training_ancestry
from pipelines.lineage.erasure import changed_ns
from pipelines.runs.run_place import kept_files
from pipelines.training import train_result
from pipelines.training.train_result import TrainResult

_SETTINGS = "model.toml"  # beside the model of a training, of the last run that used it


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTraining:
    """A finished training of a store, with the settings of the run that ended last in it."""

    config: RunConfig
    trained: TrainResult
    tables: tuple[ShardSet, ...]  # that it drew from: its songs, then its automixes

    @property
    def songs(self) -> ShardSet:
        """The songs that its model is scored on."""
        return self.tables[0]

    def training_data(self, automix_weight: float) -> list[tuple[ShardSet, float]]:
        """The tables that it drew from, each with its weight."""
        return [(table, automix_weight if place else 1.0) for place, table in enumerate(self.tables)]


def find_training(requested: RunConfig, overrides: Sequence[str], *, of_last_run: bool) -> StoredTraining:
    """The training that ended last in a store, with its own settings and `overrides` over these.

    Where they are not `of_last_run`, the last one whose songs and training are those that are `requested`. InputError
    where there is none.
    """
    for folder in _finished(requested.store.root):
        here = [settings.override("store.root", requested.store.root)]
        preset = storage.join(folder, _SETTINGS)
        stored = settings.load(preset, here)
        config = settings.load(preset, [*here, *overrides]) if of_last_run else requested
        trained, noted = train_result.find_result(folder), training_ancestry.read(folder)
        if trained and noted and _of_training(config) == _of_training(stored):
            # By name: a store may have been moved since.
            places = [storage.join(config.store.tables, "manifests", Path(uri).name) for uri in noted["datasets"]]
            tables = tuple(address_of(read_manifest(place)) for place in places)
            return StoredTraining(config=config, trained=trained, tables=tables)
    raise InputError(
        f"nothing to decide on: no training with these settings has ended in {requested.store.root}; `stemline "
        "evaluate` with the same settings trains and scores a model, and promote --dry-run then says what the gate "
        "would decide"
    )


def _of_training(config: RunConfig) -> tuple[object, ...]:
    """The settings that shape a trained model; where the songs lie is none of them."""
    corpus = replace(config.corpus, root="")
    songs = (corpus, config.ingest, config.curate, config.analyze, config.automix, config.automix_weight)
    return (*songs, config.model, config.train)


def _finished(store: str) -> Iterator[str]:
    """Where finished trainings with their settings are kept, the one of the last run first."""
    results = {path.rpartition("/")[0] for path in kept_files(store, "result.json")}
    paths = [path for path in kept_files(store, _SETTINGS) if path.rpartition("/")[0] in results]
    for path in sorted(paths, key=lambda path: (changed_ns(path), path), reverse=True):
        yield path.rpartition("/")[0]


def decide_only(training: StoredTraining) -> Trained:
    """The gate's decision on a training whose scores, and the champion's, are known; InputError where they are not."""
    config = training.config
    candidate = _known(config, training, training.trained.checkpoint, label="the trained model")
    version = registry.champion(config.registry, store=config.store.root)
    champion = None
    if version is not None:
        checkpoint = str(registry.fetch(version.uri, store=config.store.root))
        scoring = replace(config, evaluate=with_subfolder(config.evaluate, "champion"))
        champion = _known(scoring, training, checkpoint, label=f"the champion, version {version.version},")
    decision = decide(config, training, training.trained, candidate, champion)
    return Trained(trained=training.trained, candidate=candidate, champion=champion, decision=decision)


def _known(config: RunConfig, training: StoredTraining, checkpoint: str, *, label: str) -> EvaluateResult:
    scores = evaluate.find(config.evaluate, checkpoint, training.songs, store=config.store.tables)
    if scores is None:
        raise InputError(
            f"nothing to decide on yet: {label} was not scored on these songs with these settings; `stemline evaluate` "
            "with the same settings does, and promote --dry-run then says what the gate would decide"
        )
    return scores
