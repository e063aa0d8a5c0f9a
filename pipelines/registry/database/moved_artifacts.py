"""Where MLflow's database looks for the files of a store: where the store is now, not where they were written.

MLflow keeps absolute addresses. A store that was copied, renamed, or is mounted elsewhere brings its files along, so
their addresses are put right in its own database before anybody asks; those of other places are left alone.
"""

import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"  # the folder in a store
OURS = "stemline.artifacts"  # tag of an experiment whose files are in the store
PATIENCE_S = 10.0
_BELOW = "substr({}, 1, ?) = ?"  # an address below a folder; LIKE would give a meaning to `_` and `%`
# Every column of MLflow's tables that holds an address of files.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("model_version_tags", "value"),  # of exports
)


def artifact_folder(store: str | Path) -> Path:
    """Where a store keeps the files of runs and versions."""
    return Path(store).resolve() / ARTIFACTS


def local_folder(address: str, store: str | Path) -> Path:
    """The folder of a `file:` address, or the copy of it that came along with the store.

    A registry that several stores ask keeps the address of the day when the version was registered.
    """
    inside = address.rpartition(f"/{ARTIFACTS}/")[2] if f"/{ARTIFACTS}/" in address else ""
    copy = artifact_folder(store) / url2pathname(inside)
    return copy if inside and copy.is_dir() else Path(url2pathname(urlsplit(address).path))


def bring_along(database: Path, store: str | Path) -> int:
    """Put the addresses of files right that came along with a moved store; how many were changed."""
    if not database.is_file():
        return 0
    connection = sqlite3.connect(database, timeout=PATIENCE_S, isolation_level=None)
    try:
        former = _former_homes(connection, artifact_folder(store))
        if not former:
            return 0
        connection.execute("BEGIN IMMEDIATE")
        changed = sum(_replace(connection, home, artifact_folder(store).as_uri()) for home in former)
        connection.execute("COMMIT")
        return changed
    finally:
        connection.close()


def _former_homes(connection: sqlite3.Connection, present: Path) -> list[str]:
    """Addresses of this very folder from where the store stood before; none in a database that MLflow did not make."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {table for table, _ in _COLUMNS} <= tables:
        return []
    seen: set[str] = set()
    for table, column in _COLUMNS[:3]:
        rows = connection.execute(f"SELECT {column} FROM {table} WHERE {column} LIKE 'file:///%/{ARTIFACTS}%'")
        seen |= {_home(address) for (address,) in rows}
    return sorted(home for home in seen - {present.as_uri()} if _came_along(connection, home, present))


def _home(address: str) -> str:
    """`file:///old/store/mlartifacts` of an address in it; the last folder of that name counts."""
    before, name, _ = f"{address}/".rpartition(f"/{ARTIFACTS}/")
    return before + name.rstrip("/")


def _came_along(connection: sqlite3.Connection, home: str, present: Path) -> bool:
    """Whether the files of that home came along: an experiment says that they are the store's, or some are here."""
    ours = (
        "SELECT 1 FROM experiments JOIN experiment_tags USING (experiment_id) WHERE artifact_location = ? AND key = ?"
    )
    if connection.execute(ours, (home, OURS)).fetchone():
        return True
    for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
        rows = connection.execute(f"SELECT {column} FROM {table} WHERE {_BELOW.format(column)}", _below(home))
        if any((present / url2pathname(address.removeprefix(f"{home}/"))).exists() for (address,) in rows):
            return True
    return False


def _below(home: str) -> tuple[int, str]:
    return len(home) + 1, f"{home}/"


def _replace(connection: sqlite3.Connection, home: str, present: str) -> int:
    changed = 0
    for table, column in _COLUMNS:
        changed += connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {_BELOW.format(column)}",
            (present, len(home) + 1, home, *_below(home)),
        ).rowcount
    return changed
