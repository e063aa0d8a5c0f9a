"""The whole pipeline: a corpus from songs, a model from the corpus, and something to show."""

from dataclasses import dataclass

from prefect import flow

from flows.build_corpus import Corpus, build_corpus
from flows.config import RunConfig
from flows.report_model import Shown, present_model
from flows.train_model import Trained, train_model
from pipelines.inference.song_files import SongFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class FullRun:
    """Its three parts."""

    corpus: Corpus
    model: Trained
    presented: Shown


@flow(name="full-run", validate_parameters=False)
def full_run(config: RunConfig, song: SongFiles | None = None) -> FullRun:
    """Songs in; champion, stems and report out. `song` is what is separated, by default a held-out one."""
    corpus = build_corpus(config)
    model = train_model(config, corpus)
    return FullRun(corpus=corpus, model=model, presented=present_model(config, corpus, model, song))


def run_all(config: RunConfig) -> FullRun:
    """The same steps within the flow run that calls it, without subflows: these would stay "running" after a crash."""
    corpus = build_corpus.fn(config)
    model = train_model.fn(config, corpus)
    return FullRun(corpus=corpus, model=model, presented=present_model.fn(config, corpus, model))
