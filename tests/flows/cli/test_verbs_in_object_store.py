"""Verbs on a store in an object store that do not need a cluster: they find there what they find on a disk."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.corpus.removed_songs import RemovedSong
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.store import scratch, storage
from datasets.store.ownership import claim_store
from flows import config as settings
from flows import train_model
from flows.__main__ import main
from flows.cli.models import listen
from flows.cli.operations import deploy, ui
from flows.cli.pipeline import demo
from flows.cli.store import forget
from flows.cli.store.forget import SongToForget
from flows.console.progress_display import current
from flows.retraining import retrain_log, retrain_model
from models.networks.bag import interface
from models.weights.loading import load_model
from pipelines import registry
from pipelines.evaluation import evaluate, gate
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.inference import listening_pages
from pipelines.inference.listening_pages import ComparedModel, ListenConfig
from pipelines.lineage import training_ancestry
from pipelines.registry import RegistryConfig
from pipelines.runs import stored_model
from tests.benchmarks.road import _without_ray
from tests.flows.cli.test_promote_dry_run import said, trained
from tests.flows.retraining.test_retrain_log import ENTRY
from tests.pipelines.inference.test_listening_pages import rivals, songs  # noqa: F401
from tests.pipelines.registry.test_registration import make_candidate
from tests.s3 import BUCKET, ObjectStore, object_store


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture
def store(server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "scratch"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield f"s3://{BUCKET}/{tmp_path.name}"
    server.refuse_after = None


@pytest.mark.slow
def test_a_dry_run_decides_on_what_is_there_and_writes_nothing(
    server: ObjectStore, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["promote", "--dry-run", "--json", f"store.root={store}"]
    code, _, message = said(capsys, dry)
    assert code == 2
    assert "no training with these settings has ended in s3://" in message
    config, checkpoint, table = trained(tmp_path, store)
    with _without_ray():
        evaluate.run(config.evaluate, checkpoint, table, store=store)
    server.requests.clear()
    code, out, message = said(capsys, dry)
    assert code == 0, message
    assert json.loads(out)["decision"]["reason"].startswith("No better than silence")
    assert {method for method, _, _ in server.requests} <= {"GET", "HEAD"}
    code, _, message = said(capsys, [*dry, "train.steps=4"])
    assert code == 2
    assert "no training with these settings" in message
    # A plan counts the songs that are there, and a bag is made of checkpoints by their addresses.
    server.requests.clear()
    code, out, message = said(capsys, ["plan", "smoke", "--gpu", "l4", "--json", f"store.root={store}"])
    assert code == 0, message
    assert (json.loads(out)["songs"], json.loads(out)["corpus_hours"]) == (5, pytest.approx(5 * 3 / 3600))
    assert {method for method, _, _ in server.requests} <= {"GET", "HEAD"}
    parts = [f"{source}={checkpoint}" for source in config.corpus.sources]
    code, _, message = said(capsys, ["bag", *parts, "--to", str(tmp_path / "ft.yaml"), f"store.root={store}"])
    assert code == 0, message
    assert interface(load_model(tmp_path / "ft.yaml")).sources == config.corpus.sources


@pytest.mark.parametrize(
    "words",
    [
        ["bag", "drums=a", "--to", "{}/ft.yaml"],
        ["export", "a", "--to", "{}/a.onnx"],
        ["compress", "a", "--to", "{}/small"],
        ["separate", "a.wav", "--model", "a", "--out", "{}/stems"],
    ],
)
def test_what_is_written_on_this_machine_only_is_refused_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    address = "s3://songs/elsewhere"
    assert main([word.format(address) for word in words]) == 2
    assert f"{words[-2]} must be on this machine, got {words[-1].format(address)}" in capsys.readouterr().err
    assert not (tmp_path / "s3:").exists()


@pytest.mark.slow
def test_a_champion_there_is_rolled_back_from_and_history_tells(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--json", f"store.root={store}"]
    code, _, message = said(capsys, ["rollback", *where])
    assert code == 2
    assert f"no model is registered in {store} yet: there is nothing to roll back" in message
    for seed in (0, 1):
        made = make_candidate(tmp_path / str(seed), run_key=f"run{seed}", seed=seed)
        version = registry.register(RegistryConfig(), made, store=store)
        registry.promote(version, {"promote": True, "reason": "better"}, store=store)
    code, out, message = said(capsys, ["rollback", *where])
    assert code == 0, message
    assert (json.loads(out)["version"], json.loads(out)["before"]) == ("1", "2")
    _, out, _ = said(capsys, ["history", *where])
    assert [entry["kind"] for entry in json.loads(out)["promotions"]] == ["promotion", "promotion", "rollback"]
    assert json.loads(out)["rolled_back"] == ["2"]
    champion = registry.champion(RegistryConfig(), store=store)
    assert champion is not None
    assert load_model(registry.fetch(champion.uri, store=store)) is not None
    assert said(capsys, ["rollback", *where])[0] == 2


def test_its_report_is_served_and_an_address_without_a_store_is_refused(server: ObjectStore, store: str) -> None:
    with pytest.raises(InputError, match=r"s3://.* is no store: it has no stemline-store\.json"):
        ui.serve_store(store, screen=current())
    claim_store(store, setting="store.root")
    with ui._report(f"{store}/report.html") as address:

        def answer() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(address) as page:
                    return page.status, page.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        assert answer() == (404, b"This store has no report yet: stemline run or stemline demo writes it.")
        storage.write(f"{store}/report.html", b"<p>the report</p>")
        assert answer() == (200, b"<p>the report</p>")
        server.refuse_after = len(server.requests)
        status, text = answer()
        assert status == 502
        assert b"set AWS_ACCESS_KEY_ID" in text


@pytest.mark.slow
def test_listening_pages_are_put_there_once_and_those_of_others_are_left(
    store: str,
    songs: ShardSet,  # noqa: F811
    rivals: tuple[ComparedModel, ComparedModel],  # noqa: F811
    server: ObjectStore,
) -> None:
    pairs = gate.compare(rivals[0].scores, rivals[1].scores, gate.GateConfig())
    place, config = f"{store}/listening", ListenConfig(seconds=1.0, songs=1)
    listening_pages.check(place)
    page = listening_pages.run(config, EvaluateConfig(), rivals, pairs, songs, out=place)
    assert page == f"{place}/index.html"
    assert len([name for name in storage.names(place) if name.endswith(".html")]) == 2
    server.requests.clear()
    listening_pages.run(config, EvaluateConfig(), rivals, pairs, songs, out=place)
    put = {path.rsplit("/", 1)[-1] for method, path, _ in server.requests if method in ("PUT", "POST")}
    assert put == {"index.html", ".stemline-files"}
    storage.write(page, b"mine")
    with pytest.raises(InputError, match=r"holds index\.html, which stemline did not write"):
        listening_pages.check(place)


def test_pages_of_a_model_against_itself_are_refused(store: str) -> None:
    config = settings.load("smoke", [f"store.root={store}"])
    with pytest.raises(InputError, match=r"nothing to hear between models:/stemline/1 and itself"):
        listen.run(config, "models:/stemline/1", "models:/stemline/1", out="", screen=current())


def test_what_may_still_hold_a_forgotten_song_is_named(store: str, tmp_path: Path) -> None:
    storage.write(f"{store}/report.html", b"<p>A &amp; B</p>")
    storage.write(f"{store}/listening/A.html", b"<p>Another</p>")
    storage.write(f"{store}/runs/known/examples/1/a.flac", b"sound")
    training_ancestry.write(f"{store}/runs/known", start="", datasets=[], store=store)
    storage.write(f"{store}/runs/silent/result.json", b"{}")
    (scratch.scratch(store) / "separated" / "A & B").mkdir(parents=True)
    config = settings.load("smoke", [f"store.root={store}"])
    removed = RemovedSong(track_id="train/x", title="A & B", audio="0" * 64, signature="", at="")
    song = SongToForget(track_id="train/x", names={"train/x": "A & B"}, songs={"0" * 64: removed})
    places = list(forget._remaining_audio(config, song))
    assert places[0] == f"{store}/report.html"
    assert places[1].endswith("separated/A & B")
    assert places[2].startswith(f"{store}/runs/known/examples (seconds of a held-out song")
    assert len(places) == 3
    assert forget._stores(config) == [store]
    claim_store(f"{store}/canary", setting="the canary's store")
    assert forget._stores(config) == [store, f"{store}/canary"]


def test_the_songs_of_a_demo_are_brought_there_once(server: ObjectStore, store: str, tmp_path: Path) -> None:
    for name in ("train/a/drums.wav", "test/b/drums.wav"):
        storage.write(tmp_path / "songs" / name, name.encode())
    root = demo._bring(tmp_path / "songs", store)
    assert root == f"{store}/demo-songs"
    assert storage.read(f"{root}/train/a/drums.wav") == b"train/a/drums.wav"
    server.requests.clear()
    demo._bring(tmp_path / "songs", store)
    assert {method for method, _, _ in server.requests} == {"GET"}, "a song that is put again is another song"
    assert demo._bring(tmp_path / "songs", str(tmp_path)) == str(tmp_path / "demo-songs")


def test_the_log_of_retrainings_is_one_object_each_and_the_canary_has_a_store_there(store: str) -> None:
    retrain_log.write(store, replace(ENTRY, machine="another"))
    assert [entry.status for entry in retrain_log.read_log(store).retrainings] == ["crashed"]
    retrain_log.settle(store, alone=True)
    (name,) = storage.names(f"{store}/retrainings")
    assert json.loads(storage.read(f"{store}/retrainings/{name}"))["status"] == "crashed"
    retrain_log.add_canary_score(store, "abc", 6.0)
    assert retrain_log.canary_scores(store, "abc") == [6.0]
    assert len(retrain_log.read_log(store).retrainings) == 1
    config = settings.load("smoke", [f"store.root={store}", "retrain.canary=/songs"])
    assert retrain_model._canary_config(config).store.tables == f"{store}/canary"


def test_a_deployment_names_the_address_and_the_scratch_of_its_workers(store: str) -> None:
    config = settings.load("smoke", [f"store.root={store}", "store.scratch=/nvme/scratch", "store.scratch_gb=5"])
    filled = deploy.filled(deploy.read(), config, "smoke", cron="", pool="stemline", directory="/code")
    for deployment in filled["deployments"]:
        assert deployment["parameters"]["store"] == store
        assert {'store.scratch="/nvme/scratch"', "store.scratch_gb=5.0"} <= set(deployment["parameters"]["overrides"])


def test_models_that_are_compared_are_where_every_machine_reads_them(
    store: str,
    songs: ShardSet,  # noqa: F811
    rivals: tuple[ComparedModel, ComparedModel],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored: list[str] = []

    class Scored(Exception):
        pass

    def score(config: object, songs: object, checkpoint: str, **_: object) -> None:
        scored.append(checkpoint)
        raise Scored

    monkeypatch.setattr(train_model, "score", score)
    config = settings.load("smoke", [f"store.root={store}"])
    with pytest.raises(Scored):
        train_model.score_both(config, songs, rivals[0].checkpoint, rivals[1].checkpoint)
    assert scored[0].startswith(f"{store}/cache/models/")
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "another machine"))
    assert stored_model.on_this_machine(scored[0]).is_relative_to(tmp_path / "another machine")
