"""The same registry in SQLite, in PostgreSQL, and with its files in S3: real servers, one story."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import pytest

from datasets.errors import InputError
from datasets.store.ownership import is_store
from pipelines import registry
from pipelines.registry import Candidate, RegistryConfig
from pipelines.registry.bundle import checkpoint_digest
from pipelines.registry.connection import address
from tests.pipelines.registry.test_registration import make_candidate
from tests.postgres import Database, database
from tests.s3 import BUCKET, ObjectStore, object_store

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one registry keeps its books and its files."""

    config: RegistryConfig
    store: str
    objects: ObjectStore | None


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> list[Candidate]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_candidate(folder / str(seed), run_key=f"run{seed}", seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Database]:
    with database() as server:
        yield server


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with object_store() as server:  # one for all: MLflow keeps its client for S3
        yield server


@pytest.fixture(params=["sqlite and s3", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "postgresql":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("postgres").url)
    objects = request.getfixturevalue("objects") if "s3" in request.param else None
    config = RegistryConfig(artifacts=f"s3://{BUCKET}/models" if objects else "")
    return Place(config=config, store=str(tmp_path / "store"), objects=objects)


def test_versions_are_registered_promoted_read_back_and_rolled_back(place: Place, candidates: list[Candidate]) -> None:
    config, store = place.config, place.store
    assert registry.champion(config, store=store) is None
    first, second = (registry.register(config, candidate, store=store) for candidate in candidates)
    assert registry.register(config, candidates[0], store=store) == first
    for version in (first, second):
        registry.promote(version, {"promote": True, "reason": f"better, says {version.version}"}, store=store)
    assert registry.champion(config, store=store) == replace(second, alias="champion")
    assert registry.decision_of(first, store=store) == {"promote": True, "reason": "better, says 1"}

    back = registry.rollback(config, store=store)
    assert (back.version, back.before) == ("1", "2")
    done = registry.history(config, store=store)
    assert [(entry.kind, entry.version) for entry in done] == [
        ("promotion", "1"), ("promotion", "2"), ("rollback", "1"),
    ]  # fmt: skip
    assert [version.version for version in registry.versions(config, store=store)] == ["1", "2"]

    folder = registry.fetch("models:/stemline@champion", store=store)
    assert checkpoint_digest(folder) == first.digest
    if place.objects is not None:
        _spoil_a_copy_and_then_the_object(folder, place.objects, store=store)
        return
    weights = folder / "weights.safetensors"
    weights.write_bytes(_changed(weights.read_bytes()))
    with pytest.raises(InputError, match="was changed after it was registered"):
        registry.fetch("models:/stemline@champion", store=store)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="are gone from"):
        registry.fetch("models:/stemline@champion", store=store)


def test_a_new_folder_into_which_a_model_is_fetched_is_a_store(
    objects: ObjectStore, candidates: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    books, new = str(tmp_path / "books"), tmp_path / "new"
    version = registry.register(RegistryConfig(artifacts=f"s3://{BUCKET}/others"), candidates[0], store=books)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(books))
    assert registry.fetch(version.uri, store=str(new)).is_relative_to(new)
    assert is_store(new)  # the next command must not take the copy in it for somebody's


def _spoil_a_copy_and_then_the_object(folder: Path, objects: ObjectStore, *, store: str) -> None:
    assert not (Path(store) / "mlartifacts").exists()
    weights = folder / "weights.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(_changed(before))
    assert registry.fetch("models:/stemline@champion", store=store) == folder
    assert weights.read_bytes() == before  # fetched again
    bucket = fs.S3FileSystem(endpoint_override=objects.url)
    for found in bucket.get_file_info(fs.FileSelector(f"{BUCKET}/models", recursive=True)):
        if found.base_name == weights.name:
            with bucket.open_output_stream(found.path) as file:
                file.write(_changed(before))
    assert registry.fetch("models:/stemline@champion", store=store) == folder  # the copy is whole
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="was changed after it was registered"):
        registry.fetch("models:/stemline@champion", store=store)
    assert not folder.exists()


def _changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_database_that_goes_away_in_the_middle_is_told_and_the_next_try_finishes(
    postgres: Database, candidates: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.url)
    config, store = RegistryConfig(name="other", experiment="other"), str(tmp_path / "store")
    log_model = registry.run_logging.log_model

    def stop_first(*arguments: Any, **options: Any) -> str:
        postgres.stop()
        return log_model(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(registry.run_logging, "log_model", stop_first)
        with pytest.raises(InputError, match=r"books:\*\*\*@.* refused, or went away: .*; when it answers, the same"):
            registry.register(config, candidates[0], store=store)
    with pytest.raises(InputError, match=r"MLflow does not answer at .*; start the server"):
        registry.champion(config, store=store)
    postgres.start()
    assert registry.register(config, candidates[0], store=store).version == "1"
    assert len(registry.versions(config, store=store)) == 1


def test_a_database_that_is_not_there_and_files_that_nobody_takes_are_told(
    postgres: Database,
    objects: ObjectStore,
    candidates: list[Candidate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = str(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.url.replace("/postgres", "/none"))
    with pytest.raises(InputError, match=r'books:\*\*\*@.*database "none" does not exist'):
        registry.champion(RegistryConfig(), store=store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match=r"refused, or went away: .*bucket does not exist"):
        registry.register(RegistryConfig(artifacts="s3://none/models"), candidates[0], store=store)
