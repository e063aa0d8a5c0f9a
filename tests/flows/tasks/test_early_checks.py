"""What can be known beforehand is known before a server starts, a song is decoded, or a store is made."""

import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from datasets.errors import InputError
from flows import config as settings
from flows.config import RunConfig
from flows.tasks.early_checks import check_run
from pipelines.registry import address
from tests.flows.command import stemline

STEPS = ("ingest", "curate", "analyze", "automix", "train", "evaluate", "promote", "run", "retrain")
TRAINING = ("train", "evaluate", "promote", "run", "demo", "retrain")


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    (tmp_path / "songs" / "a song").mkdir(parents=True)
    return tmp_path / "songs"


def config(tmp_path: Path, *overrides: str) -> RunConfig:
    roots = [f"corpus.root={tmp_path / 'songs'}", f"store.root={tmp_path / 'store'}"]
    return settings.load("smoke", [*roots, *overrides])


@pytest.mark.parametrize("verb", [*STEPS, "demo", "compare", "listen", "outliers"])
def test_a_run_that_may_begin_is_let_through_and_nothing_is_made(tmp_path: Path, songs: Path, verb: str) -> None:
    check_run(config(tmp_path), verb=verb)
    assert not (tmp_path / "store").exists()


def test_a_service_that_nobody_knows_is_missed_before_there_is_anything_to_tell(
    tmp_path: Path, songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMLINE_NOTIFY", "json://127.0.0.1 slak://tokens")
    with pytest.raises(InputError, match="STEMLINE_NOTIFY: address 2 is none that Apprise knows"):
        check_run(config(tmp_path), verb="ingest")


def test_an_account_is_asked_for_where_the_curve_is_written(
    tmp_path: Path, songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    nobody = SimpleNamespace(login=lambda prompt: False, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", nobody)
    with pytest.raises(InputError, match="there is no account"):
        check_run(config(tmp_path, "train.wandb=lab"), verb="train")
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")  # a job writes it
    check_run(config(tmp_path, "train.wandb=lab"), verb="train")


@pytest.mark.parametrize("verb", STEPS)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("corpus.root=TMP/typo", "typo does not exist; set corpus.root=DIR"),
        ("corpus.root=", "corpus.root is not set"),
        ("corpus.root=TMP/songs/a song", "is empty"),
        ("corpus.root=TMP/file", "is not a folder"),
    ],
)
def test_songs_that_are_not_there_are_missed_at_once(
    tmp_path: Path, songs: Path, verb: str, setting: str, message: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        check_run(config(tmp_path, setting.replace("TMP", str(tmp_path))), verb=verb)


@pytest.mark.parametrize("verb", TRAINING)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.init_from=models:/stemline@champion", "no model is registered"),
        ("model.init_from=/no/such/checkpoint", "'/no/such/checkpoint' not found"),
        ("model.preset=htdemux", "did you mean 'htdemucs'"),
        ("model.fine_tune=true", "model.init_from must name the weights"),
    ],
)
def test_a_model_that_cannot_be_begun_is_refused_at_once(
    tmp_path: Path, songs: Path, verb: str, setting: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_run(config(tmp_path, setting), verb=verb)
    check_run(config(tmp_path, setting), verb="ingest")


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_metric_that_is_not_there_is_missed_at_once(tmp_path: Path, songs: Path, verb: str) -> None:
    with pytest.raises(InputError, match=r"evaluate\.plugins: no metric 'gone'"):
        check_run(config(tmp_path, 'evaluate.plugins=["gone"]'), verb=verb)
    check_run(config(tmp_path, 'evaluate.plugins=["gone"]'), verb="ingest")


def test_a_canary_that_is_not_there_is_missed_before_hours_of_ingesting(tmp_path: Path, songs: Path) -> None:
    with pytest.raises(InputError, match="typo does not exist"):
        check_run(config(tmp_path, f"retrain.canary={tmp_path}/typo"), verb="retrain")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["evaluate", "promote", "run", "demo", "compare", "listen", "retrain"])
def test_a_deleted_experiment_is_told_before_anything_starts(tmp_path: Path, songs: Path, verb: str) -> None:
    (tmp_path / "store").mkdir()
    uri = address(tmp_path / "store")
    client = mlflow.MlflowClient(uri, uri)
    client.delete_experiment(client.create_experiment("stemline"))
    with pytest.raises(InputError, match="was deleted: `mlflow experiments restore --experiment-id 1` brings it back"):
        check_run(config(tmp_path), verb=verb)
    check_run(config(tmp_path, "registry.experiment=another"), verb=verb)


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "corpus.root=TMP/typo"),
        ("run", "corpus.root=TMP/typo"),
        ("retrain", "corpus.root=TMP/songs", "model.init_from=/no/such/checkpoint"),
        ("compare", "models:/stemline/1", "models:/stemline/2", "corpus.root=TMP/songs"),
        ("listen", "corpus.root=TMP/songs"),
        ("listen", "--model", "/no/such/checkpoint", "--against", "/none", "corpus.root=TMP/songs"),
        ("compare", "/no/such/checkpoint", "/none", "corpus.root=TMP/songs"),
        ("outliers", "/no/such/checkpoint", "corpus.root=TMP/songs"),
    ],
)
def test_a_command_that_cannot_work_makes_no_store(tmp_path: Path, songs: Path, words: tuple[str, ...]) -> None:
    given = [word.replace("TMP", str(tmp_path)) for word in words]
    answer = stemline(*given, f"store.root={tmp_path}/store")
    assert answer.code == 2
    assert any(missing in answer.err for missing in ("does not exist", "not found", "no model is registered"))
    assert "starts a temporary server" not in answer.err
    assert not (tmp_path / "store").exists()
