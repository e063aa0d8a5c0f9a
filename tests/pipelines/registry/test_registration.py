import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from datasets.errors import InputError
from datasets.schema import ShardSet
from flows.cli.operations.webhook import AliasChange, receiving
from pipelines.evaluation import model_compatibility
from pipelines.registry import (
    CHAMPION,
    Candidate,
    DatasetUse,
    RegistryConfig,
    address,
    champion,
    decision_of,
    fetch,
    flatten,
    lineage,
    promote,
    read_songs,
    register,
    resolve,
    set_description,
)
from pipelines.registry.bundle import checkpoint_digest, source_digest, write_bundle
from pipelines.registry.connection import check_address, connected

CONFIG = RegistryConfig()
CHUNKS = ShardSet(uri="manifests/ingest-1.json", table="chunks", num_rows=12, digest="d" * 64)

USES: tuple[tuple[Literal["training", "validation", "evaluation"], str, int], ...] = (
    ("training", "train", 8), ("validation", "valid", 2), ("evaluation", "test", 3),
)  # fmt: skip

MLFLOW = pytest.mark.slow  # its import alone takes seconds


def make_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    import torch

    from models.networks import catalog
    from models.weights import checkpoint

    torch.manual_seed(seed)
    return checkpoint.save(folder, catalog.build("htdemucs-tiny", segment_s=1.0, sample_rate=8000))


def make_candidate(folder: Path, *, run_key: str = "a1b2", seed: int = 0) -> Candidate:
    return Candidate(
        run_key=run_key,
        checkpoint=str(make_checkpoint(folder, seed=seed)),
        dataset=CHUNKS,
        config={"train": {"steps": 20, "lr": 3e-4}, "corpus": {"sources": ["drums", "bass"]}},
        history=[{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "per_source": [0.2, 0.3]}],
        scores={"test/nsdr/drums": 5.5},
        lineage={"chunks_digest": CHUNKS.digest, "commit": "0123abc"},
        documents={"config.toml": "[train]\nsteps = 20\n"},
        uses=[
            DatasetUse(
                context=context, table=f"chunks, {split}", digest=CHUNKS.digest, uri=CHUNKS.uri, num_songs=n, hours=0.5
            )
            for context, split, n in USES
        ],
        songs=[{"track_id": "test/<b>A", "nsdr": 5.5, "nsdr/drums": 5.5, "nsdr/bass": None}],
        title="htdemucs-tiny, 8 songs",
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    # A name that would break an address that is pasted together carelessly.
    return str(tmp_path_factory.mktemp("a store, 100% #1"))


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    return make_candidate(tmp_path_factory.mktemp("run") / "checkpoint")


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=address(store), registry_uri=address(store))


@MLFLOW
def test_registering_twice_adds_neither_a_run_nor_a_version(store: str, candidate: Candidate) -> None:
    first = register(CONFIG, candidate, store=store)
    assert register(CONFIG, candidate, store=store) == first
    books = client(store)
    assert len(books.search_model_versions("name = 'stemline'")) == 1
    runs = books.search_runs([books.get_experiment_by_name("stemline").experiment_id])
    assert sorted("run_key" in run.data.tags for run in runs) == [False, True]  # the evaluation, the training


@MLFLOW
def test_the_run_holds_parameters_curve_scores_dataset_config_and_lineage(store: str, candidate: Candidate) -> None:
    version = register(CONFIG, candidate, store=store)
    books = client(store)
    run = books.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "20"
    assert [point.value for point in books.get_metric_history(version.run_id, "train/loss")] == [0.5, 0.25]
    assert run.data.metrics["train/per_source/1"] == 0.3
    assert not [name for name in run.data.metrics if name.startswith("test/")]
    assert run.data.tags["commit"] == "0123abc"
    assert run.info.run_name == "htdemucs-tiny, 8 songs"
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["mlflow.source.git.commit"] == "0123abc"
    assert sorted((use.dataset.name, use.tags[0].value) for use in run.inputs.dataset_inputs) == [
        ("chunks, train", "training"), ("chunks, valid", "validation"),
    ]  # fmt: skip
    assert {use.dataset.digest for use in run.inputs.dataset_inputs} == {CHUNKS.digest[:36]}
    assert [file.path for file in books.list_artifacts(version.run_id)] == ["config.toml"]
    made = books.get_model_version("stemline", version.version)
    assert made.tags["chunks_digest"] == CHUNKS.digest
    assert made.tags["task"] == "music source separation"
    assert made.tags["sources"] == "drums, bass, other, vocals"
    assert made.tags["sample_rate"] == "8000"
    model = books.get_logged_model(made.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics}["test/nsdr/drums"] == 5.5
    (evaluation,) = lineage(version.uri, store=store).evaluations
    scored = books.get_run(evaluation.run_id)
    assert scored.data.metrics == {"test/nsdr/drums": 5.5}
    assert scored.data.tags["mlflow.parentRunId"] == version.run_id
    assert scored.info.status == "FINISHED"
    (evaluated,) = scored.inputs.dataset_inputs
    assert (evaluated.dataset.name, json.loads(evaluated.dataset.profile)["songs"]) == ("chunks, test", 3)
    assert read_songs(evaluation.run_id, store=store) == [dict(candidate.songs[0])]
    with connected(store):
        table = books.load_table(scored.info.experiment_id, "songs.json", run_ids=[evaluation.run_id])
    assert table.to_dict("records")[0]["nsdr/drums"] == 5.5


@MLFLOW
def test_a_version_is_tried_with_its_example_and_described_as_far_as_mlflow_takes_it(
    store: str, candidate: Candidate
) -> None:
    import mlflow

    version = register(CONFIG, candidate, store=store)
    with connected(store):
        model = mlflow.pyfunc.load_model(version.uri)
        example = model.input_example
    assert example.shape == (1, 2, 256)
    assert model.predict(example.astype("float32")).shape == (1, 4, 2, 256)
    set_description(version.uri, "first\n" + "x" * 4990 + "\nlast", store=store)
    assert client(store).get_model_version("stemline", version.version).description == "first\n" + "x" * 4990


@MLFLOW
def test_a_registration_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = make_candidate(tmp_path / "checkpoint", run_key="killed", seed=3)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.registry.registration._ensure_registered", die)
        with pytest.raises(KeyboardInterrupt):
            register(CONFIG, candidate, store=store)
    version = register(CONFIG, candidate, store=store)
    books = client(store)
    assert len(books.get_metric_history(version.run_id, "train/loss")) == 2
    runs = books.search_runs(
        [books.get_experiment_by_name("stemline").experiment_id], filter_string="tags.run_key = 'killed'"
    )
    assert [run.info.status for run in runs] == ["FINISHED"]


@MLFLOW
def test_only_a_yes_moves_the_alias_and_both_decisions_are_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert champion(CONFIG, store=store) is None
    first = register(CONFIG, make_candidate(tmp_path / "1"), store=store)
    promoted = promote(first, {"promote": True, "reason": "the first version"}, store=store)
    assert promoted == replace(first, alias=CHAMPION) == champion(CONFIG, store=store)

    second = register(CONFIG, make_candidate(tmp_path / "2", run_key="c3d4", seed=1), store=store)
    assert promote(second, {"promote": False, "reason": "0.2 dB worse"}, store=store).alias == ""
    assert champion(CONFIG, store=store) == promoted
    assert decision_of(second, store=store) == {"promote": False, "reason": "0.2 dB worse"}

    again = promote(promoted, {"promote": False, "reason": "no better than itself"}, store=store)
    assert again == promoted
    assert decision_of(promoted, store=store) == {"promote": True, "reason": "the first version"}


@MLFLOW
def test_a_reference_is_found_by_alias_by_number_and_by_path(store: str, candidate: Candidate) -> None:
    version = promote(register(CONFIG, candidate, store=store), {"promote": True, "reason": "best"}, store=store)
    for ref in ("models:/stemline@champion", f"models:/stemline/{version.version}", candidate.checkpoint):
        assert checkpoint_digest(resolve(ref, store=store)) == version.digest
        described = model_compatibility.describe(ref, store=store)
        assert described.digest == model_compatibility.describe(str(resolve(ref, store=store)), store=store).digest
        assert described.origins[0] == ref


@MLFLOW
@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("models:/other@champion", "no registered model 'other'; there are: stemline"),
        ("models:/stemline@staging", r"stemline has .*@champion \(version 1\).* and versions 1"),
        ("models:/stemline/99", "does not exist"),
        ("models:/stemline", "write models:/NAME@alias"),
        ("no/such/folder", "not found: give models:/NAME@alias, .* or a file$"),
        (
            "htdemucs_ft",
            "a file. This is the name of a published model; nothing is downloaded here: docs/how-to/use-pub",
        ),
    ],
)
def test_a_reference_that_does_not_exist_says_what_does(
    store: str, candidate: Candidate, ref: str, message: str
) -> None:
    promote(register(CONFIG, candidate, store=store), {"promote": True, "reason": "best"}, store=store)
    with pytest.raises(InputError, match=message):
        resolve(ref, store=store)


def test_looking_for_a_model_in_an_empty_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model is registered in .* yet; `stemline demo`"):
        resolve("models:/stemline@champion", store=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_folder_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint: config\.json and weights\.safetensors not found"):
        resolve(str(tmp_path), store=str(tmp_path))


@MLFLOW
def test_the_environment_is_left_as_it_was(store: str, candidate: Candidate) -> None:
    register(CONFIG, candidate, store=store)
    assert "MLFLOW_TRACKING_URI" not in os.environ


@MLFLOW
def test_a_server_that_never_answers_is_an_input_error_and_no_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.registry.connection.PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(InputError, match="MLflow does not answer at"):
            champion(CONFIG, store=str(tmp_path))
        assert time.monotonic() - start < 60  # MLflow by itself would try for a quarter of an hour


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/books", "ftp://x"])
def test_an_address_without_a_service_is_an_input_error_without_the_password(uri: str) -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI") as caught:
        check_address(uri)
    assert "secret" not in str(caught.value)


def test_a_store_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="MLflow does not answer"):
        register(CONFIG, make_candidate(tmp_path / "1"), store=str(tmp_path / "file"))


def test_nested_tables_become_dotted_parameters() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": (1, 2)}) == {"a.b.c": "1", "d": "(1, 2)"}


def test_a_name_that_would_break_a_reference_is_refused() -> None:
    with pytest.raises(InputError, match="letters, digits"):
        RegistryConfig(name="stem'line")


def test_the_bundle_has_the_code_and_the_model_but_no_learner(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "learner.pt").write_bytes(b"optimizer")
    bundle = write_bundle(checkpoint, tmp_path / "bundle")
    assert {path.name for path in bundle.checkpoint.iterdir()} == {
        "bundle.json", "config.json", "weights.safetensors",
    }  # fmt: skip
    assert bundle.package.name == f"stem_separator_{source_digest()}"
    assert source_digest(bundle.package) == source_digest()
    assert all(path.suffix == ".py" for path in bundle.package.rglob("*") if path.is_file())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real MLflow server on this machine that hands artifacts through, as on a cluster."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/served"),
    ]
    with (tmp_path / "server.log").open("w") as log:
        # It starts helpers of its own: one process group holds them all.
        # Without seven processes that we do not use; its webhooks may call this machine.
        quick = {
            **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        }  # fmt: skip
        process = subprocess.Popen(command, cwd=tmp_path, env=quick, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300  # seconds alone, minutes on a machine that does much else
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@MLFLOW
def test_a_server_keeps_the_books_and_the_store_only_a_checked_copy(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    candidate = make_candidate(tmp_path / "1")
    changes: list[AliasChange] = []
    key = "the secret that MLflow signs with"
    with receiving(key, changes.append) as hook:  # of docs/how-to/get-notified.md
        client(store).create_webhook("aliases", hook, ["model_version_alias.created"], secret=key)
        version = promote(register(CONFIG, candidate, store=store), {"promote": True, "reason": "first"}, store=store)
        until = time.monotonic() + 60
        while CHAMPION not in (aliases := [change.alias for change in changes]):
            assert time.monotonic() < until, aliases
            time.sleep(0.1)
    assert register(CONFIG, candidate, store=store) == version == champion(CONFIG, store=store)
    folder = fetch("models:/stemline@champion", store=store)
    assert folder == Path(store) / "cache" / "models" / version.digest[:16]
    assert checkpoint_digest(folder) == version.digest
    assert not (Path(store) / "mlflow.db").exists()
    assert os.environ["MLFLOW_TRACKING_URI"] == server
    assert capsys.readouterr().out == ""  # that of a verb with --json is a document
