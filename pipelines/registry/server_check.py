"""Does an MLflow address answer? Asked before MLflow is, which would try for minutes and end in a stack trace."""

import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from socket import create_connection
from urllib.parse import urlsplit

from datasets.errors import InputError

PATIENCE_S = 10.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_address(uri: str) -> None:
    """Raise an InputError within `PATIENCE_S` seconds if nothing answers at this tracking address."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    try:
        if scheme in ("http", "https"):
            _ask(uri)
        elif scheme == "sqlite":
            _open(uri)
        elif scheme in PORTS:
            parts = urlsplit(uri)
            create_connection((parts.hostname or "localhost", parts.port or PORTS[scheme]), PATIENCE_S).close()
            _log_in(uri, scheme)
        else:
            raise InputError(
                f"MLFLOW_TRACKING_URI={without_password(uri)!r}: use http(s)://HOST:PORT, sqlite:///FILE or postgresql://..."
            )
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            f"MLflow does not answer at {without_password(uri)} ({error}); start the server or correct "
            "MLFLOW_TRACKING_URI; without that variable the store's own mlflow.db is used"
        ) from error


def without_password(uri: str) -> str:
    """The same address for people to read."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _ask(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:  # 401 and 404 come from something alive, such as a gateway in front of the server
            raise


def _log_in(uri: str, scheme: str) -> None:
    """A database that has no such user or is not there: MLflow would try again for 100 s."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        engine.connect().close()
    except ModuleNotFoundError as error:
        extra = " (pip install 'stemline[postgres]')" if scheme == "postgresql" else ""
        raise InputError(f"{without_password(uri)} needs the package {error.name}{extra}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise OSError(str(error).splitlines()[0]) from error


def _open(uri: str) -> None:
    path = Path(uri.split("///", 1)[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=PATIENCE_S)
    try:
        # Takes the write lock and gives it back: a folder that is not writable fails here.
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()
