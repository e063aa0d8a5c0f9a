"""The whole pipeline: a dataset from songs, a model from the dataset, and a report."""

from dataclasses import dataclass

from prefect import flow

from flows.build_corpus import Corpus, build_corpus
from flows.config import RunConfig
from flows.gate_decision import Trained
from flows.report_model import Presentation, report_model
from flows.tasks.prefect_step import RUN_NAME
from flows.train_model import train_model
from pipelines.inference.example_song import SongFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class FullRun:
    """Its three parts."""

    corpus: Corpus
    model: Trained
    presented: Presentation


@flow(name="full-run", flow_run_name=RUN_NAME, validate_parameters=False)
def full_run(config: RunConfig, song: SongFiles | None = None) -> FullRun:
    """Songs in; champion, stems and report out. `song` is separated for the report, by default a held-out one."""
    corpus = build_corpus(config)
    model = train_model(config, corpus)
    return FullRun(corpus=corpus, model=model, presented=report_model(config, corpus, model, song))


def run_all(config: RunConfig) -> FullRun:
    """The same steps in the flow run of the caller, without subflows, which would stay "running" after a crash."""
    corpus = build_corpus.fn(config)
    model = train_model.fn(config, corpus)
    return FullRun(corpus=corpus, model=model, presented=report_model.fn(config, corpus, model))
