"""A store that was copied, renamed or is reached by a link: its versions are where it is; nothing else is touched."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from pipelines import registry
from pipelines.registry import RegistryConfig
from pipelines.registry.database.moved_artifacts import bring_along
from tests.pipelines.registry.test_registration import make_candidate

pytestmark = pytest.mark.slow
CONFIG = RegistryConfig()


def _tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def _outside(store: Path) -> list[str]:
    """Every address of files in the database that is not below the store."""
    connection = sqlite3.connect(store / "mlflow.db")
    queries = (
        "SELECT artifact_location FROM experiments WHERE name != 'Default'",
        "SELECT artifact_uri FROM runs",
        "SELECT artifact_location FROM logged_models",
        "SELECT storage_location FROM model_versions",
    )
    found = [address for query in queries for (address,) in connection.execute(query)]
    connection.close()
    assert found
    return [address for address in found if not address.startswith(f"{store.as_uri()}/")]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two promoted versions of one training each."""
    store = tmp_path_factory.mktemp("former") / "store_a%2Fb"
    for number in range(2):
        candidate = make_candidate(store / "runs" / f"run{number}", run_key=f"run{number}", seed=number)
        version = registry.register(CONFIG, candidate, store=str(store))
        registry.promote(version, {"promote": True, "reason": "better"}, store=str(store))
    return store


@pytest.mark.parametrize("name", ["copy", "q?m", "store a#b", "store_a%2Fb"])
def test_a_copy_reads_and_writes_its_own_files_only(original: Path, tmp_path: Path, name: str) -> None:
    before = _tree(original)
    copy = Path(shutil.copytree(original, tmp_path / name))
    fetched = registry.fetch("models:/stemline@champion", store=str(copy))
    assert fetched.is_relative_to(copy)
    assert registry.rollback(CONFIG, store=str(copy)).version == "1"
    candidate = make_candidate(copy / "runs" / "run2", run_key="run2", seed=2)
    version = registry.register(CONFIG, candidate, store=str(copy))
    assert registry.fetch(version.uri, store=str(copy)).is_relative_to(copy)
    note = tmp_path / "graph.onnx"
    note.write_bytes(b"graph")
    assert registry.attach(version.uri, note, store=str(copy)).startswith(copy.as_uri())
    assert _outside(copy) == []
    assert _tree(original) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "graph.onnx"])


def test_a_renamed_store_goes_on_and_leaves_nothing_at_its_former_place(original: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(original, tmp_path / "first"))
    registry.fetch("models:/stemline@champion", store=str(first))
    second = first.rename(tmp_path / "second")
    assert registry.fetch("models:/stemline/1", store=str(second)).is_relative_to(second)
    assert _outside(second) == []
    assert not first.exists()
    assert bring_along(second / "mlflow.db", second) == 0  # nothing is left to do


def test_a_link_to_a_store_is_the_store(original: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(original)
    before = (original / "mlflow.db").read_bytes()
    assert registry.fetch("models:/stemline@champion", store=str(link)).is_relative_to(original)
    assert (original / "mlflow.db").read_bytes() == before


def test_an_experiment_without_runs_comes_along(tmp_path: Path) -> None:
    from pipelines.registry.connection import connected
    from pipelines.registry.find_or_create import open_run

    first = tmp_path / "first"
    with connected(str(first)) as client:
        client.delete_run(open_run(client, CONFIG, "none", store=str(first)))
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    version = registry.register(CONFIG, make_candidate(tmp_path / "run", run_key="run", seed=3), store=str(copy))
    assert registry.fetch(version.uri, store=str(copy)).is_relative_to(copy)
    assert list((first / "mlartifacts").iterdir()) == []


def test_files_that_a_user_keeps_elsewhere_stay_there(tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "mlartifacts"
    config = RegistryConfig(artifacts=shared.as_uri())
    first = tmp_path / "first"
    candidate = make_candidate(tmp_path / "run", run_key="run", seed=4)
    version = registry.register(config, candidate, store=str(first))
    second = first.rename(tmp_path / "second")
    assert registry.fetch(version.uri, store=str(second)).is_relative_to(shared)
    assert bring_along(second / "mlflow.db", second) == 0


def test_a_database_that_is_not_mlflows_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert bring_along(file, tmp_path) == 0
    assert not file.exists()
    sqlite3.connect(file).close()
    assert bring_along(file, tmp_path) == 0
    assert os.path.getsize(file) == 0
