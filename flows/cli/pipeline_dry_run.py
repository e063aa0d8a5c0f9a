"""The steps of a pipeline verb: which are finished, and how much the first of the others has to do.

Each step is asked as in a run, up to where its work would begin; only the cache of the scan is written.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from datasets.corpus.scan import survey
from datasets.store import storage
from datasets.store.ownership import is_store
from flows.build_corpus import Corpus
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from flows.tasks.early_checks import CORPUS_STEPS, check_run
from pipelines import registry
from pipelines.evaluation import evaluate
from pipelines.evaluation.evaluate_config import with_subfolder
from pipelines.preparation import analyze, automix, curate, ingest
from pipelines.runs.run_place import RunPlace
from pipelines.runtime.cluster import session
from pipelines.runtime.progress import NullProgress
from pipelines.training import train, train_result
from pipelines.training.train_result import TrainResult

FINISHED, WOULD_RUN, AFTER = "finished", "would run", "would run after it"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step, how it stands, and what is known of its work."""

    step: str
    state: str  # FINISHED, WOULD_RUN, or AFTER the step that comes before it
    detail: str = ""


class _WorkBegins(Exception):
    """In place of work: of how much."""

    def __init__(self, detail: str) -> None:
        super().__init__()
        self.detail = detail


class _UpToWork(NullProgress):
    """Shows the scan of the songs, and ends a step where its work would begin."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def start(self, name: str, total: float, unit: str) -> None:
        if name != "scan":
            raise _WorkBegins(f"{total:g} {unit}" if total else "")
        self.screen.start(name, total, unit)

    def advance(self, amount: float = 1.0) -> None:
        self.screen.advance(amount)

    def finish(self, summary: str) -> None:
        self.screen.finish(summary)


def run(config: RunConfig, *, verb: str, screen: Screen) -> dict[str, Any]:
    """How every step of the verb stands.

    Raises:
        InputError: As the verb itself would, for what can be known before work begins.
    """
    check_run(config, verb=verb if verb in CORPUS_STEPS else "train")  # without the registry
    with session():  # for a scan of many new files; nothing starts before
        steps = list(_steps(config, verb, _UpToWork(screen)))
    rows = [[step.step, step.state, step.detail] for step in steps]
    grid = table(f"The steps of stemline {verb}", ["step", "state", "how much"], rows)
    for column in grid.columns:
        column.justify = "left"
    return {"steps": [asdict(step) for step in steps], "console_output": [grid]}


def _steps(config: RunConfig, verb: str, progress: _UpToWork) -> Iterator[PlannedStep]:
    """Those up to the verb's own; after the first that would run no other can be asked, as its input is not there."""
    find = {
        "ingest": _ingest, "curate": _curate, "analyze": _analyze, "automix": _automix, "train": _train,
        "evaluate": _evaluate,
    }  # fmt: skip
    names = list(find)[: list(find).index(verb) + 1] if verb in find else list(find)
    if not config.wants_automixes and verb != "analyze":
        names = [name for name in names if name not in ("analyze", "automix")]
    results: dict[str, Any] = {}
    running = False
    for name in names:
        if running:
            yield PlannedStep(step=name, state=AFTER)
            continue
        try:
            results[name] = find[name](config, results, progress)
            yield PlannedStep(step=name, state=FINISHED)
        except _WorkBegins as work:
            running = True
            yield PlannedStep(step=name, state=WOULD_RUN, detail=work.detail)
    if verb == "run":
        yield from (PlannedStep(step=name, state=AFTER if running else WOULD_RUN) for name in ("promote", "report"))


def _ingest(config: RunConfig, results: dict[str, Any], progress: _UpToWork) -> Any:
    if not is_store(config.store.tables):  # not even the cache of a scan may make one
        corpus = config.corpus
        songs = survey(
            corpus.root, sources=corpus.sources, split_seed=corpus.split_seed, valid_fraction=corpus.valid_fraction,
            test_fraction=corpus.test_fraction, rules=corpus.rules,
        ).songs  # fmt: skip
        raise _WorkBegins(f"{sum(not song.reason for song in songs)} songs")
    return ingest.run(config.corpus, config.ingest, store=config.store.tables, progress=progress)


def _curate(config: RunConfig, results: dict[str, Any], progress: _UpToWork) -> Any:
    return curate.run(
        config.curate, results["ingest"], store=config.store.tables, home=config.store.root, progress=progress
    )


def _analyze(config: RunConfig, results: dict[str, Any], progress: _UpToWork) -> Any:
    return analyze.run(config.analyze, results["curate"].chunks, store=config.store.tables, progress=progress)


def _automix(config: RunConfig, results: dict[str, Any], progress: _UpToWork) -> Any:
    return automix.run(
        config.automix, results["curate"].chunks, results["analyze"], store=config.store.tables, progress=progress
    )


def _train(config: RunConfig, results: dict[str, Any], progress: _UpToWork) -> TrainResult:
    corpus = Corpus(ingested=results["ingest"], curated=results["curate"], automixes=results.get("automix"))
    job = train.job_of(
        config.train, config.model, corpus.training_data(config.automix_weight), sources=config.corpus.sources,
        store=config.store.root,
    )  # fmt: skip
    place = RunPlace(store=storage.absolute(config.store.root), name=train.key_of(job))
    if (finished := train_result.find_result(place.kept)) is None:
        raise _WorkBegins(f"{config.train.steps} steps")
    return finished


def _evaluate(config: RunConfig, results: dict[str, Any], progress: _UpToWork) -> None:
    """Scores of the model and of the champion, if there is one, on the held-out songs."""
    songs, store = results["curate"].chunks, config.store.root
    models = {"the model": (config.evaluate, results["train"].checkpoint)}
    if champion := registry.champion(config.registry, store=store):
        scoring = with_subfolder(config.evaluate, "champion")
        models["the champion"] = (scoring, str(registry.fetch(champion.uri, store=store)))
    missing = [
        name
        for name, (scoring, checkpoint) in models.items()
        if evaluate.find(scoring, checkpoint, songs, store=config.store.tables) is None
    ]
    if missing:
        raise _WorkBegins(" and ".join(missing))
