"""Addresses of SQLite files: SQLAlchemy opens the file that is meant, whatever its path has in it."""

from pathlib import Path

import pytest
import sqlalchemy

from datasets.errors import InputError
from pipelines.registry.connection import check_address
from pipelines.registry.database.sqlite_files import sqlite_address, sqlite_file

NAMES = [
    "plain",
    "feature%2Fx",
    "100%",
    "q?m",
    "a#b",
    "with space",
    "ümläut",
    "semi;colon",
    "a+b",
    "it's",
    "a@b:c",
    "dot.",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_address_leads_to_its_file_and_to_no_other(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "books.db"
    file.parent.mkdir()
    address = sqlite_address(file)
    assert sqlite_file(address) == file
    check_address(address)
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE made (x INTEGER)"))
    engine.dispose()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [name, f"{name}/books.db"]
    assert file.stat().st_size > 0


def test_usual_paths_have_the_usual_address(tmp_path: Path) -> None:
    assert sqlite_address(tmp_path / "mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert sqlite_file("postgresql://somebody@example/mlflow") is None
    assert sqlite_file("sqlite:///relative/books.db?timeout=3") == Path("relative/books.db")


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_an_address_without_a_file_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"names no file: write sqlite:////FOLDER/FILE\.db"):
        check_address(address)
