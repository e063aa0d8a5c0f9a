"""`make bench-road`: how long the demo takes, what a second run saves, and what the platforms cost per stage.

The same steps are called directly, in one process, without Prefect and Ray and with one training worker, and each
stage's time is set against it. MLflow's cost is the whole of register and promote. Times are wall clock on a machine
that should have nothing else to do; the load at the start is a row of its own.
"""

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.corpus.synthetic import write_corpus
from flows import config as door
from flows.cli.pipeline import demo
from flows.console.progress_display import Screen
from tests.benchmarks.table import Row, figure, show

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "curate", "analyze", "automix", "train", "evaluate")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-road-") as folder:
        rows = measure(Path(folder))
    return show("The road", rows, arguments.out)


def measure(folder: Path) -> list[Row]:
    load = os.getloadavg()[0]
    first_s, first = _demo(folder / "store")
    second_s, _ = _demo(folder / "store")
    direct = _directly(folder)
    stages = first["seconds"]
    rows = [
        figure("load before", load, "processes"),
        figure("demo", first_s, "s", target=300.0),
        figure("demo, second run", second_s, "s", baseline=first_s, target=first_s / 3),
        figure("demo, gain over the mixture", first["gain_db"], "dB nSDR", target=demo.MIN_GAIN_DB, more=True),
        figure("outside the stages (Prefect, imports)", first_s - sum(stages.values()), "s"),
        figure("register and promote (MLflow)", stages.get("register", 0) + stages.get("promote", 0), "s"),
    ]
    for stage in STAGES:
        rows.append(figure(f"{stage}, on the platforms", stages[stage], "s", baseline=direct[stage]))
    return rows


def _demo(store: Path) -> tuple[float, dict[str, Any]]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows", "demo", "--json", f"store.root={store}"],
        cwd=ROOT, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return time.monotonic() - began, json.loads(done.stdout)


def _directly(folder: Path) -> Mapping[str, float]:
    """Seconds per stage of the same steps as plain calls, with a listener that only takes the time."""
    from pipelines.evaluation import evaluate
    from pipelines.preparation import analyze, automix, curate, ingest
    from pipelines.training import train

    songs = folder / "store" / "demo-songs"
    write_corpus(songs, num_songs=demo.NUM_SONGS, seed=demo.SEED, duration_s=demo.SONG_S, splits=demo.splits())
    config = door.load("demo", [f"corpus.root={songs}", f"store.root={folder / 'direct'}"])
    store, clock = config.store.root, Screen(Console(file=io.StringIO()))
    with _without_ray():
        ingested = ingest.run(config.corpus, config.ingest, store=store, progress=clock)
        curated = curate.run(config.curate, ingested, store=store, progress=clock)
        profiles = analyze.run(config.analyze, curated.chunks, store=store, progress=clock)
        mixes = automix.run(config.automix, curated.chunks, profiles, store=store, progress=clock)
        trained = train.run(
            replace(config.train, num_workers=0),
            config.model,
            [(curated.chunks, 1.0), (mixes.chunks, config.automix_weight)],
            sources=config.corpus.sources,
            store=store,
            progress=clock,
        )
        evaluate.run(config.evaluate, trained.checkpoint, curated.chunks, store=store, progress=clock)
    return clock.seconds


@contextmanager
def _without_ray() -> Iterator[None]:
    """The jobs' own work functions, called one after the other in this process."""
    from pipelines.evaluation import scoring_job

    def one_by_one(work: Callable[[Any], Any], items: Sequence[Any], **_: Any) -> Iterator[Any]:
        return (work(item) for item in items)

    @contextmanager
    def nothing(**_: Any) -> Iterator[None]:
        yield

    def score(
        config: Any, checkpoint: str, chunks: Any, items: Sequence[Mapping[str, str]], store: str
    ) -> Iterator[str]:
        separator, scorer = scoring_job.Separator(config, checkpoint, chunks), scoring_job.Scorer(config, chunks, store)
        for item in items:
            yield scorer(separator({"item": json.dumps(dict(item))}))["title"]

    modules = [
        importlib.import_module(f"pipelines.preparation.{name}")
        for name in ("ingest.dataset_version", "signal_stats", "analyze", "automix")
    ]
    evaluate = importlib.import_module("pipelines.evaluation.evaluate")
    before = [(module, name, getattr(module, name)) for module in modules for name in ("map_rows", "connect")]
    before += [(evaluate, name, getattr(evaluate, name)) for name in ("connect", "separate_and_score")]
    try:
        for module, name, _ in before:
            setattr(module, name, {"map_rows": one_by_one, "connect": nothing, "separate_and_score": score}[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


if __name__ == "__main__":
    sys.exit(main())
