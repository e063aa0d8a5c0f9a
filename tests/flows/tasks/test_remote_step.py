"""Steps as jobs of a cluster: what crosses the border comes back as it was; `make stack` has the cluster."""

import io
import json
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from datasets.errors import InputError
from datasets.schema import ShardSet, Verdict
from flows import build_corpus, train_model
from flows import config as door
from flows.build_corpus import Corpus
from flows.console import notifications
from flows.console.progress_display import Screen
from flows.retraining import retrain_model
from flows.tasks import prefect_artifacts, remote_step
from flows.tasks.prefect_step import lost_a_worker
from pipelines.preparation.curate import CurateResult
from pipelines.preparation.ingest import IngestResult
from pipelines.runtime import cluster, ray_jobs
from pipelines.runtime.ray_jobs import JobLostError
from pipelines.training.train_result import TrainResult

CHUNKS = ShardSet(uri="s3://songs/manifests/a.json", table="chunks", num_rows=3, digest="d" * 8)
REFUSED = Verdict(
    track_id="x", title="X", split="train", duration_s=1.5, keep=False, reason="undecodable", detail="no header",
    measures={"peak": 0.5},
)  # fmt: skip


def ingested() -> IngestResult:
    return IngestResult(chunks=CHUNKS, rejected=(), layout="folders", drawn=("test",))


def corpus() -> Corpus:
    curated = CurateResult(verdicts=CHUNKS, chunks=CHUNKS, kept=("a", "b"), summary={"songs": 2, "h": 0.5}, page="p")
    return Corpus(ingested=ingested(), curated=curated, profiles=CHUNKS)


@pytest.mark.parametrize(
    "step",
    [
        build_corpus.ingest_songs, build_corpus.curate_songs, build_corpus.analyze_songs, build_corpus.automix_songs,
        train_model.train_candidate, train_model.score_candidate, train_model.score_champion,
        retrain_model.score_canary,
    ],
)  # fmt: skip
def test_whatever_a_step_takes_crosses_the_border_unchanged(step: Any) -> None:
    told = {
        door.RunConfig: door.load("smoke", ["train.steps=7"]),
        IngestResult: ingested(),
        CurateResult: corpus().curated,
        ShardSet: CHUNKS,
        Corpus: corpus(),
        TrainResult: TrainResult(
            checkpoint="c", run_key="k", model_digest="m", history="h", steps=7, best_step=6, best_weights="raw",
            best_nsdr=None, interventions=("step 3: skipped",), seconds=1.5,
        ),
    }  # fmt: skip
    function = step.fn.__wrapped__
    hints = typing.get_type_hints(function)
    for name in [name for name in hints if name != "return"]:
        value = told[hints[name]]
        assert door.parse(hints[name], json.dumps(remote_step._as_dict(value))) == value


def test_a_call_names_a_step_and_nothing_else(tmp_path: Path) -> None:
    for wrong in ("os:system", "flows.tasks.open_store:store_lock", "flows.build_corpus:build_corpus"):
        asked, answer = tmp_path / "call.json", tmp_path / "answer.json"
        asked.write_text(json.dumps({"function": wrong, "arguments": {}}))
        assert remote_step.run_remote_step(str(asked), str(answer)) == 1
        told = json.loads(answer.read_text())
        assert told["error"]["exit_code"] == 2
        assert "is not a step that can run as a job" in told["error"]["message"]


def test_an_answer_is_a_result_or_the_error_that_it_was_there(tmp_path: Path) -> None:
    path, job = tmp_path / "answer.json", ray_jobs.RayJob(id="train-1", status="SUCCEEDED", message="", attached=False)
    with pytest.raises(JobLostError, match="train-1 ended without an answer"):
        remote_step._answer(job, str(path), IngestResult)
    with pytest.raises(InputError, match="was stopped"):
        remote_step._answer(replace(job, status="STOPPED"), str(path), IngestResult)
    result = replace(ingested(), rejected=(REFUSED,))
    path.write_text(json.dumps({"result": remote_step._as_dict(result)}))
    assert remote_step._answer(job, str(path), IngestResult) == result
    path.write_text(json.dumps({"error": {"exit_code": 2, "message": "no songs", "kinds": ["InputError"]}}))
    with pytest.raises(InputError, match="no songs"):
        remote_step._answer(job, str(path), IngestResult)
    path.write_text(json.dumps({"error": {"exit_code": 1, "message": "oops", "kinds": ["NodeDiedError"]}}))
    with pytest.raises(remote_step.JobFailedError, match="oops") as failed:
        remote_step._answer(job, str(path), IngestResult)
    assert lost_a_worker(None, None, _Failed(failed.value))
    assert not lost_a_worker(None, None, _Failed(ValueError("ours")))


class _Failed:
    """A state of Prefect's, as far as a retry looks at it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, *, raise_on_failure: bool) -> Exception:
        return self._error


def test_what_a_job_says_is_drawn_where_it_was_sent_from(capsys: pytest.CaptureFixture[str]) -> None:
    writer = remote_step.JobProgressWriter()
    writer.start("train", 20, "steps")
    for _ in range(20):
        writer.advance()
    writer.finish("20 steps")
    writer.cached("ingest", "as it was")
    said = capsys.readouterr().out
    text = io.StringIO()
    screen = Screen(Console(file=text, width=80))
    listen = remote_step._JobProgressReader(screen)
    for line in [
        *said.splitlines(),
        "a line of Ray's",
        f"{remote_step.MARK}not json",
        f'{remote_step.MARK}["_stop", []]',
    ]:
        listen(line)
    assert screen.finished == {"train"}
    assert screen._done == 20
    assert "20 steps" in text.getvalue()
    assert "as it was" in text.getvalue()
    assert writer.finished == {"train"}


def test_jobs_are_asked_for_by_a_web_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert ray_jobs.server() is None
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert ray_jobs.server() == "http://head:8265"
    with pytest.raises(InputError, match="RAY_ADDRESS must be host:port"), cluster.connect():
        pass


def test_what_ray_shows_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = (
        "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_AUTH", "STEMLINE_PASS", notifications.ADDRESSES, "WANDB_API_KEY",
    )  # fmt: skip
    for name in (*hidden, "AWS_ENDPOINT_URL", "UNRELATED", "WANDB_MODE"):
        monkeypatch.setenv(name, "value")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    shown = cluster.forwarded()
    assert not set(shown) & {*hidden, "UNRELATED"}
    assert {"MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "WANDB_MODE"} <= set(shown)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:s3cret@db/mlflow")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://ada:s3cret@minio:9000")
    assert "s3cret" not in str(cluster.forwarded())


def test_a_page_shows_figures_and_addresses_and_lists_by_their_length() -> None:
    page = prefect_artifacts._page("curate", corpus())
    assert "| curated.chunks.uri | s3://songs/manifests/a.json |" in page
    assert "| curated.kept | 2 items |" in page
    assert "| curated.summary.h | 0.5 |" in page


def test_a_link_to_mlflow_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.registry import ModelVersion

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hush@books.example")
    made = ModelVersion(name="stemline", version="3", run_id="r", run_key="k", digest="d")
    assert "(https://books.example/#/models/stemline/versions/3)" in prefect_artifacts._page("register", made)
