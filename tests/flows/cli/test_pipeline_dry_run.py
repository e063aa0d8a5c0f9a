"""What `--dry-run` of the pipeline's verbs says as a store grows, and that nothing is made by it."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets.corpus.synthetic import write_corpus
from flows import config as settings
from flows.config import RunConfig
from pipelines import registry
from pipelines.evaluation import evaluate
from pipelines.preparation import analyze, automix, curate, ingest
from pipelines.training import train
from tests.benchmarks.road import _without_ray
from tests.flows.cli.test_promote_dry_run import TINY
from tests.flows.command import stemline
from tests.pipelines.registry.test_registration import make_candidate

pytestmark = pytest.mark.slow
SETTINGS = [*TINY, "automix_weight=1", "automix.mixes_per_track=1", "curate.min_presence=0"]
SPLITS: Any = {"train": 2, "test": 1}
MORE: Any = {"train": 3, "test": 1}
STEPS = ("ingest", "curate", "analyze", "automix", "train", "evaluate", "promote", "report")


class Grown:
    """A store that gets one finished step after the other, as a run leaves them."""

    def __init__(self, folder: Path) -> None:
        self.store, self.songs = folder / "store", folder / "songs"
        write_corpus(self.songs, num_songs=3, seed=3, duration_s=8.0, sample_rate=8000, defects=False, splits=SPLITS)
        self.words = [f"store.root={self.store}", f"corpus.root={self.songs}", *SETTINGS]
        self.config: RunConfig = settings.load("smoke", self.words)

    def planned(self, verb: str, *more: str) -> list[tuple[str, str, str]]:
        answer = stemline(verb, "--dry-run", *self.words, *more, "--json")
        assert answer.code == 0, answer.err
        return [(step["step"], step["state"], step["detail"]) for step in json.loads(answer.out)["steps"]]

    def files(self) -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in self.store.rglob("*") if path.is_file()}


def expected(num_finished: int, detail: str) -> list[tuple[str, str, str]]:
    return [
        *((step, "finished", "") for step in STEPS[:num_finished]),
        (STEPS[num_finished], "would run", detail),
        *((step, "would run after it", "") for step in STEPS[num_finished + 1 :]),
    ]


def test_a_dry_run_tells_the_finished_steps_and_how_much_the_next_would_do(tmp_path: Path) -> None:
    grown = Grown(tmp_path)
    config, store = grown.config, str(grown.store)
    assert grown.planned("run") == expected(0, "3 songs")
    assert not grown.store.exists()
    with _without_ray():
        ingested = ingest.run(config.corpus, config.ingest, store=store)
        assert grown.planned("run") == expected(1, "3 songs")
        curated = curate.run(config.curate, ingested, store=store)
        assert grown.planned("run") == expected(2, "3 songs")
        profiles = analyze.run(config.analyze, curated.chunks, store=store)
        assert grown.planned("run") == expected(3, "")
        mixes = automix.run(config.automix, curated.chunks, profiles, store=store)
        assert grown.planned("run") == expected(4, "2 steps")
        tables = [(curated.chunks, 1.0)] + [(mixes.chunks, config.automix_weight)] * bool(mixes.chunks.num_rows)
        trained = train.run(config.train, config.model, tables, sources=config.corpus.sources, store=store)
        assert grown.planned("run") == expected(5, "the model")
        evaluate.run(config.evaluate, trained.checkpoint, curated.chunks, store=store)
        before = grown.files()
        assert grown.planned("evaluate") == [(step, "finished", "") for step in STEPS[:6]]
        assert grown.planned("curate") == [(step, "finished", "") for step in STEPS[:2]]
        assert [state for _, state, _ in grown.planned("run")][6:] == ["would run", "would run"]
        champion = registry.register(config.registry, make_candidate(tmp_path / "champion"), store=store)
        registry.promote(champion, {"promote": True, "reason": "better"}, store=store)
        assert grown.planned("evaluate")[-1] == ("evaluate", "would run", "the champion")
        # Other settings: what depends on them would run again, and mixes that nobody draws are not asked for.
        assert grown.planned("train", "train.steps=4")[-1] == ("train", "would run", "4 steps")
        assert [step for step, _, _ in grown.planned("train", "automix_weight=0")] == ["ingest", "curate", "train"]
        assert [step for step, _, _ in grown.planned("automix", "automix_weight=0")] == ["ingest", "curate"]
        assert [step for step, _, _ in grown.planned("analyze", "automix_weight=0")] == ["ingest", "curate", "analyze"]
        # A new song, and one that is in another split now.
        write_corpus(grown.songs, num_songs=4, seed=3, duration_s=8.0, sample_rate=8000, defects=False, splits=MORE)
        assert grown.planned("curate") == [("ingest", "would run", "2 songs"), ("curate", "would run after it", "")]
    made_since = {path: at for path, at in grown.files().items() if before.get(path) != at}
    ours = ("/mlflow.db", "/mlartifacts/", "/registries.json", "/promoting")  # of the champion that came meanwhile
    assert [path for path in made_since if "/cache/" not in path and not any(part in path for part in ours)] == []


def test_what_the_verb_would_refuse_a_dry_run_refuses(tmp_path: Path) -> None:
    answer = stemline("run", "--dry-run", f"store.root={tmp_path / 'store'}", "corpus.root=missing")
    assert (answer.code, "missing" in answer.err) == (2, True)
    (tmp_path / "songs").mkdir()
    answer = stemline("run", "--dry-run", f"store.root={tmp_path / 'store'}", f"corpus.root={tmp_path / 'songs'}")
    assert (answer.code, (tmp_path / "store").exists()) == (2, False)
