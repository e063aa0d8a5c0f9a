"""Training, evaluation and decision are three records: free settings, protocols and names add, and none overwrites."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from pipelines import registry
from pipelines.registry import Candidate, RegistryConfig
from pipelines.registry.database import mlflow_limits
from pipelines.training import train
from pipelines.training.train_config import ModelConfig, TrainConfig
from tests.pipelines.kills import dying
from tests.pipelines.registry.test_registration import CHUNKS, CONFIG, client, make_candidate

MLFLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def of_protocol(candidate: Candidate, protocol: str, score: float, **lineage: str) -> Candidate:
    told = {**candidate.lineage, "protocol": protocol, "scores_digest": f"of {score}", **lineage}
    return replace(candidate, scores={"test/nsdr/mean": score}, lineage=told)


@MLFLOW
def test_another_protocol_name_experiment_or_margin_adds_to_one_training(tmp_path: Path) -> None:
    store, made = str(tmp_path / "store"), make_candidate(tmp_path / "1")
    first = registry.register(CONFIG, of_protocol(made, "first 60 s", 5.0), store=store)
    again = registry.register(CONFIG, of_protocol(made, "whole songs", 6.0), store=store)
    assert again == first
    elsewhere = RegistryConfig(name="other", experiment="another")
    free = replace(made, config={**made.config, "registry": {"name": "other"}, "train": {"steps": 21}})
    other = registry.register(elsewhere, of_protocol(free, "whole songs", 6.0), store=store)
    assert (other.uri, other.run_id, other.digest) == ("models:/other/1", first.run_id, first.digest)

    books = client(store)
    found = registry.lineage(first.uri, store=store)
    assert [one.protocol for one in found.evaluations] == ["first 60 s", "whole songs"]
    scores = [books.get_run(one.run_id).data.metrics["test/nsdr/mean"] for one in found.evaluations]
    assert scores == [5.0, 6.0]
    assert found.tags["protocol"] == "first 60 s"  # with which it was registered
    run = books.get_run(first.run_id)
    assert run.data.params["train.steps"] == "20"
    assert "protocol" not in run.data.tags
    sources = {
        books.get_model_version(*uri.removeprefix("models:/").split("/")).source for uri in (first.uri, other.uri)
    }
    assert len(sources) == 1  # one copy of the weights
    trainings = [run for run in books.search_runs(["1"]) if "run_key" in run.data.tags]
    assert len(trainings) == 1

    for margin, says in ((0.0, True), (0.5, False)):
        told = {"promote": says, "reason": f"margin {margin}"}
        registry.promote(other, told, store=store, rules={"margin": margin})
        registry.promote(first, {"promote": False, "reason": f"margin {margin}"}, store=store, rules={"margin": margin})
    assert [told["reason"] for told in registry.decisions_of(first, store=store)] == ["margin 0.0", "margin 0.5"]
    assert registry.decision_of(other, store=store) == {"promote": True, "reason": "margin 0.0"}
    assert registry.attach(first.uri, tmp_path / "1" / "config.json", store=store).endswith("stemline/1/config.json")


@MLFLOW
def test_a_version_that_is_older_or_was_decided_on_is_not_the_candidate_again(tmp_path: Path) -> None:
    store, one = str(tmp_path / "store"), make_candidate(tmp_path / "1")
    two = make_candidate(tmp_path / "2", seed=1, run_key="b")
    first, second = (registry.register(CONFIG, each, store=store) for each in (one, two))

    def candidate() -> str:
        return str(client(store).get_registered_model("stemline").aliases.get("candidate", ""))

    assert registry.register(CONFIG, one, store=store) == first
    assert candidate() == second.version
    registry.promote(first, {"promote": False, "reason": "worse"}, store=store)
    registry.promote(second, {"promote": True, "reason": "better"}, store=store)
    assert candidate() == ""
    for each in (one, two):
        registry.register(CONFIG, each, store=store)
        assert candidate() == ""


@MLFLOW
@pytest.mark.parametrize("part", range(4))
def test_a_registration_killed_at_any_call_is_completed_with_other_free_settings(tmp_path: Path, part: int) -> None:
    """Every fourth call in each part; `make drill-mlflow` dies at every statement of the database."""
    store, made = str(tmp_path / "store"), of_protocol(make_candidate(tmp_path / "1"), "whole songs", 5.0)

    def state(run_key: str) -> Any:
        books = client(store)
        (version,) = books.search_model_versions(f"name = 'stemline' and tags.run_key = '{run_key}'")
        run = books.get_run(version.run_id)
        (evaluation,) = registry.lineage(f"models:/stemline/{version.version}", store=store).evaluations
        scored = books.get_run(evaluation.run_id)
        runs = [one for one in books.search_runs(["1"]) if run_key in one.data.tags.values()]
        shown = [
            (one.info.status, one.data.params, one.data.metrics, sorted(n for n in one.data.tags if "mlflow" not in n))
            for one in (run, scored)
        ]
        curve = [(point.step, point.value) for point in books.get_metric_history(version.run_id, "train/loss")]
        tags = sorted(name for name in version.tags if not name.startswith("evaluation."))
        alias = str(books.get_registered_model("stemline").aliases.get("candidate")) == str(version.version)
        files = [sorted(file.path for file in books.list_artifacts(one.info.run_id)) for one in (run, scored)]
        return len(runs), shown, curve, tags, alias, files

    registry.register(CONFIG, made, store=store)
    whole, at, died = state("a1b2"), part, True
    while died:
        at += 4
        mine = replace(made, run_key=f"killed{at}")
        with dying(at) as life:
            registry.register(CONFIG, mine, store=store)
        died = life.dead
        other = replace(mine, config={**mine.config, "gate": {"margin": at}} if at % 8 < 4 else mine.config)
        registry.register(CONFIG, replace(other, config=mine.config), store=store)
        registry.register(CONFIG, other, store=store)
        assert state(mine.run_key) == whole, at
    assert at > 20


@MLFLOW
def test_what_mlflow_does_not_take_as_it_is_is_told_all_the_same(tmp_path: Path) -> None:
    odd = ["lead (l/r)", "bell & whistle", "../up", "ギター", "a" * 300, "a" * 299 + "b", "", "x//y", "colon: 'quote\""]
    made = replace(
        make_candidate(tmp_path / "1"),
        config={"options": {name: "v" * 9000 + name for name in odd}, "many": {str(n): "é" * 6000 for n in range(210)}},
        history=[{"step": 1, "loss": float("nan"), **{f"loss_{name}": 1.0 for name in odd}}],
        scores={f"test/nsdr/{name}": 5.0 for name in odd} | {"test/nsdr/broken": float("nan")},
        lineage={"protocol": "p" * 20_000, "dataset_uri": "s3://" + "u" * 9000, "odd/ key?": "x"},
    )
    store = str(tmp_path / "store")
    version = registry.register(CONFIG, made, store=store)
    assert registry.register(CONFIG, made, store=store) == version
    books = client(store)
    run = books.get_run(version.run_id)
    assert len(run.data.params) == len(odd) + 210
    assert len(run.data.metrics) == len(odd)
    (evaluation,) = registry.lineage(version.uri, store=store).evaluations
    assert len(books.get_run(evaluation.run_id).data.metrics) == len(odd)
    assert max(len(text) for text in books.get_model_version("stemline", "1").tags.values()) <= 5000


@pytest.mark.parametrize(
    "name",
    ["train/loss", "loss_ギター", "a b.c-d_e/f", "loss:x", "a//b", "../a", "/a", "a/", "", ".", "é" * 400, "q'\""],
)
def test_a_key_is_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    made = mlflow_limits.key(name)
    _validate_metric_name(made)
    assert 0 < len(made) <= 250
    assert mlflow_limits.key(name) == made
    assert mlflow_limits.key(name + "?") != made
    assert (made == name) == (name in {"train/loss", "loss_ギター", "a b.c-d_e/f"})


def test_long_values_keep_what_tells_them_apart() -> None:
    assert mlflow_limits.value("short") == "short"
    one, other = (mlflow_limits.value("v" * 9000 + end) for end in ("a", "b"))
    assert one != other
    assert len(one) <= mlflow_limits.MAX_PARAM


def test_a_request_holds_no_more_than_a_server_takes() -> None:
    items = ["é" * 6000] * 100 + ["x"] * 205
    batches = list(mlflow_limits.batches(items, 100, str))
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) <= 100 for batch in batches)
    assert all(sum(len(item) * 6 for item in batch if len(item) > 1) < 1_000_000 for batch in batches)
    assert list(mlflow_limits.batches([], 100, str)) == []


def test_every_page_of_results_is_read() -> None:
    class Page(list[int]):
        token = ""

    def search(*, max_results: int, page_token: str | None, what: str) -> Page:
        start = int(page_token or 0)
        page = Page(range(start, min(start + max_results, 2500)))
        page.token = str(start + max_results) if start + max_results < 2500 else ""
        return page

    assert list(mlflow_limits.pages(search, what="all")) == list(range(2500))


@MLFLOW
def test_a_model_beyond_the_first_page_is_found(tmp_path: Path) -> None:
    """A server lists a thousand registered models at most; a later name was taken for absent."""
    store = str(tmp_path / "store")
    first = registry.register(CONFIG, make_candidate(tmp_path / "1"), store=store)
    books = client(store)
    books.create_registered_model("another-0000")
    copy = "INSERT INTO registered_models (workspace, name) SELECT workspace, ? FROM registered_models WHERE name = ?"
    with closing(sqlite3.connect(Path(store, "mlflow.db"))) as database, database:  # by MLflow it takes half a minute
        database.executemany(copy, ((f"another-{number:04d}", "another-0000") for number in range(1, 1001)))
    assert books.search_registered_models(max_results=1000).token  # there is a second page
    promoted = registry.promote(first, {"promote": True, "reason": "first"}, store=store)
    assert registry.champion(CONFIG, store=store) == promoted
    assert registry.register(CONFIG, make_candidate(tmp_path / "2", seed=1, run_key="b"), store=store).version == "2"
    with pytest.raises(InputError, match=r"no registered model 'missing'; there are: .*stemline"):
        registry.resolve("models:/missing@champion", store=store)


@MLFLOW
def test_an_experiment_that_was_deleted_is_said_with_the_way_back(tmp_path: Path) -> None:
    store, made = str(tmp_path / "store"), make_candidate(tmp_path / "1")
    registry.register(CONFIG, made, store=store)
    client(store).delete_experiment("1")
    with pytest.raises(InputError, match=r"experiment 'stemline' was deleted: `mlflow experiments restore"):
        registry.register(CONFIG, replace(made, run_key="next"), store=store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "stemline-promotions"}, "must not end in -promotions"),
        ({"name": ".."}, "not dots alone"),
        ({"name": "..my.model"}, "no two dots to begin with"),
        ({"name": "n" * 201}, "registry.name must have <= 200 characters, got 201"),
        ({"experiment": " "}, "registry.experiment must be a name"),
        ({"experiment": "e" * 201}, "registry.experiment must have <= 200 characters"),
    ],
)
def test_names_that_mlflow_would_refuse_are_refused_before(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RegistryConfig(**options)


def test_parameters_are_what_the_run_key_is_a_digest_of() -> None:
    shown = registry.flatten(
        train.key_settings(
            TrainConfig(num_workers=0, backup_uri="s3://b/x"),
            ModelConfig(preset="htdemucs", options={"segment_s": 1.0}),
            [(CHUNKS, 1.0), (CHUNKS, 0.5)], sources=["bass"],
        )
    )  # fmt: skip
    assert shown["train.steps"] == "288000"
    assert shown["model.options.segment_s"] == "1.0"
    assert shown["songs.1.weight"] == "0.5"
    assert shown["corpus.sources"] == "['bass']"
    free = {"train.num_workers", "train.backup_uri", "train.loader.cache", "train.use_gpu", "model.init_from"}
    assert not free & shown.keys()
