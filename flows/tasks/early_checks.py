"""What can be known of a run before a server starts or a song is decoded: asked by commands and deployments alike."""

from datasets.corpus.file_listing import check_root
from flows.config import RunConfig
from flows.console import notifications
from flows.tasks import prefect_files
from pipelines import registry
from pipelines.evaluation.extra_metrics import plugin_metrics
from pipelines.evaluation.gate.gate_plugins import gate_rules
from pipelines.preparation import ingest
from pipelines.preparation.song_rules import curation_rules
from pipelines.runs import curve_export
from pipelines.training import train

CORPUS_STEPS = ("ingest", "curate", "analyze", "automix")
# Verbs that talk to MLflow.
WITH_REGISTRY = ("evaluate", "promote", "run", "demo", "compare", "listen", "retrain")


def check_run(config: RunConfig, *, verb: str) -> None:
    """InputError where the songs, the network, the weights to begin with, the registry or who is told are not there.

    Nor may a file of this folder redirect Prefect.
    """
    prefect_files.require_none()
    models = verb not in (*CORPUS_STEPS, "compare", "listen", "outliers")
    curation_rules(config.curate.plugins)
    notifications.check(config.notify)
    if models:
        config.model.check()
        train.plugin_versions(config.train, config.model)  # so each is imported
        gate_rules(config.gate)
        curve_export.check(config.train.tensorboard, config.train.wandb, store=config.store.root)
    if models or verb == "compare":
        plugin_metrics(config.evaluate.plugins)
    if verb != "demo" or config.corpus.root:  # a demo composes its songs
        ingest.check(config.corpus)
    if models and config.model.init_from:
        registry.resolve(config.model.init_from, store=config.store.root)
    if verb == "train":
        registry.address(config.store.root)  # the curve goes there; where it does not answer, training goes on
    if verb in WITH_REGISTRY:
        registry.check(config.registry, store=config.store.root)
    if verb == "retrain" and config.retrain.canary:
        check_root(config.retrain.canary)
