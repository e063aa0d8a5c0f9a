"""The gate asks the ancestry: of a first champion's start, and of what the champion began from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from datasets.errors import InputError
from datasets.schema import ShardSet
from flows import gate_decision, train_model
from flows.build_corpus import Corpus
from flows.config import load
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.gate import GateDecision
from pipelines.evaluation.summary import ScoreSummary
from pipelines.lineage import training_ancestry
from pipelines.training.train_result import TrainResult
from tests.pipelines.evaluation.test_gate import summary
from tests.pipelines.lineage.test_contamination import dataset, sounds, tune
from tests.pipelines.lineage.test_training_recordings import book, client

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    return {**{str(seed): sounds(tune(seed)) for seed in range(4)}, "1 louder": sounds(0.4 * tune(1))}


def of(songs: Mapping[str, float], *, model: str) -> ScoreSummary:
    """Scores of songs of these names, as high in each source."""
    made = summary(list(songs.values()), list(songs.values()), num_songs=len(songs), model=model)
    return replace(made, songs=dict(zip(songs, made.songs.values(), strict=True)))


def judged(store: Path, songs: ShardSet, candidate: ScoreSummary, champion: ScoreSummary | None = None) -> GateDecision:
    """The decision on a training of the store that is called `run`."""

    def scored(of: ScoreSummary | None) -> Any:
        return cast(EvaluateResult, SimpleNamespace(summary=of)) if of else None

    config = load("smoke", [f"store.root={store}", "gate.min_songs=1", "gate.min_improvement=3.0"])
    corpus = cast(Corpus, SimpleNamespace(songs=songs, training_data=lambda weight: [(songs, 1.0)]))
    trained = cast(TrainResult, SimpleNamespace(checkpoint=str(store / "runs" / "run" / "model")))
    return gate_decision._gate_decision(config, corpus, trained, scored(candidate), scored(champion))


def began(store: Path, songs: ShardSet, start: str) -> None:
    folder = store / "runs" / "run"
    folder.mkdir(parents=True)
    training_ancestry.write(folder, start=start, datasets=[songs.uri], store=str(store))


def test_a_training_that_the_gate_would_refuse_for_its_songs_is_not_begun(
    tmp_path: Path, heard: dict[str, str]
) -> None:
    songs = dataset(tmp_path, "now", [("a", "train", "0"), ("b", "valid", "1"), ("x", "test", "2")], heard)
    corpus = cast(Corpus, SimpleNamespace(songs=songs, training_data=lambda weight: [(songs, 1.0)]))
    config = load("smoke", [f"store.root={tmp_path}"])
    train_model.refuse_licenses(config, corpus)
    strict = replace(config, gate=replace(config.gate, refuse_non_commercial=True))
    with pytest.raises(InputError, match=r"it is not trained\. Licences of its songs: unknown \(2\)"):
        train_model.refuse_licenses(strict, corpus)
    finished = tmp_path / "runs" / train_model.run_key(strict, corpus)
    finished.mkdir(parents=True)
    result = TrainResult(
        checkpoint="",
        run_key="",
        model_digest="",
        history="",
        steps=1,
        best_step=1,
        best_weights="raw",
        best_nsdr=None,
        seconds=1.0,
    )
    (finished / "result.json").write_text(json.dumps(asdict(result)))
    train_model.refuse_licenses(strict, corpus)  # which goes to the gate


def test_a_first_champion_is_not_judged_by_songs_that_its_start_had_heard(
    tmp_path: Path, heard: dict[str, str]
) -> None:
    before = dataset(tmp_path, "before", [("pretrained on", "train", "1 louder")], heard)
    songs = dataset(tmp_path, "now", [("a", "train", "0"), ("x", "test", "1"), ("y", "test", "2")], heard)
    start = book(tmp_path, "elsewhere", {"dataset_uri": before.uri, "checkpoint_digest": "c", "weights_digest": "w"})
    began(tmp_path, songs, start)
    decision = judged(tmp_path, songs, of({"x": 30.0, "y": -4.0}, model="m"))
    assert decision.left_out == ("x",)
    assert (decision.promote, decision.num_songs, decision.improvement) == (False, 1, 1.0)
    client(tmp_path).delete_model_version("elsewhere", "1")
    unknown = judged(tmp_path, songs, of({"x": 30.0, "y": -4.0}, model="m"))
    assert unknown.left_out == ()
    assert any("the candidate began from models:/elsewhere/1, which is gone" in one.message for one in unknown.checks)


def test_what_the_champion_began_from_counts_as_well(tmp_path: Path, heard: dict[str, str]) -> None:
    before = dataset(tmp_path, "before", [("pretrained on", "valid", "2")], heard)
    songs = dataset(tmp_path, "now", [("a", "train", "0"), ("x", "test", "1"), ("y", "test", "2")], heard)
    start = book(tmp_path, "elsewhere", {"dataset_uri": before.uri, "checkpoint_digest": "c"})
    tags = {"dataset_uri": songs.uri, "checkpoint_digest": "d", "start_uri": start}
    book(tmp_path, "stemline", tags)
    client(tmp_path).set_registered_model_alias("stemline", "champion", "1")
    began(tmp_path, songs, "")
    decision = judged(tmp_path, songs, of({"x": 9.0, "y": 9.0}, model="m"), of({"x": 1.0, "y": 1.0}, model="champion"))
    assert decision.left_out == ("y",)
    assert decision.num_songs == 1
