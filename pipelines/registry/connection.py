"""Where MLflow is: a server by MLFLOW_TRACKING_URI, or the SQLite file of the store; refused early if not there."""

import os
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from datasets.errors import InputError, without_passwords
from datasets.store import storage
from pipelines.registry.database.mlflow_client import new_client
from pipelines.registry.database.moved_artifacts import bring_along
from pipelines.registry.database.sqlite_files import sqlite_address, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
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
                f"MLFLOW_TRACKING_URI={without_passwords(uri)!r}: use http(s)://HOST:PORT, sqlite:///FILE or postgresql://..."
            )
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            f"MLflow does not answer at {without_passwords(uri)} ({error}); start the server or correct "
            "MLFLOW_TRACKING_URI; without that variable the store's own mlflow.db is used"
        ) from error


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
        raise InputError(f"{without_passwords(uri)} needs the package {error.name}{extra}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise OSError(str(error).splitlines()[0]) from error


def _open(uri: str) -> None:
    path = sqlite_file(uri)
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=PATIENCE_S)
    try:
        # Takes the write lock and gives it back: a folder that is not writable fails here.
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


LOG = "-promotions"  # what the promotion log of a model is called after the model's name
MAX_NAME = 200  # characters; a database keeps 256 of a name, with what is added here


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Names under which versions are kept."""

    name: str = "stemline"  # name of the registered model: consumers load models:/NAME@champion
    experiment: str = "stemline"  # experiment of MLflow that holds the runs
    # Where a new experiment keeps files: s3://BUCKET/FOLDER; empty: the server's choice, or the store
    artifacts: str = ""
    license: str = ""  # licence of the model on its card, as Hugging Face names it: cc-by-4.0, other; empty: unknown

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name == "." or self.name.startswith(".."):
            raise InputError(
                f"registry.name={self.name!r}: use letters, digits, dot, dash and underscore only, not dots alone, and "
                "no two dots to begin with"
            )
        if self.name.endswith(LOG):
            raise InputError(f"registry.name must not end in {LOG}, the name of a promotion log; got {self.name!r}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*|", self.license):
            raise InputError(
                f"registry.license={self.license!r}: use the name of a licence as on Hugging Face, in lower case, such "
                "as cc-by-4.0, mit or other"
            )
        if not self.experiment.strip():
            raise InputError(f"registry.experiment must be a name, got {self.experiment!r}")
        for name in ("name", "experiment"):
            if len(getattr(self, name)) > MAX_NAME:
                raise InputError(f"registry.{name} must have <= {MAX_NAME} characters, got {len(getattr(self, name))}")


def own_database(store: str | Path) -> Path:
    """The file in the store that MLflow keeps its tables in."""
    return Path(store).resolve() / "mlflow.db"


def address(store: str | Path) -> str:
    """Where MLflow keeps its tables: MLFLOW_TRACKING_URI, or a SQLite file in the store.

    InputError without either: a database is no object.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given and storage.is_remote(store):
        raise InputError(
            f"store.root={store} is an object store, where MLflow can keep no database: start an MLflow server and set "
            "MLFLOW_TRACKING_URI=http://HOST:PORT, or the address of a database, such as postgresql://..."
        )
    return given or sqlite_address(own_database(store))


def is_new(store: str) -> bool:
    """Whether the database is a file, the store's own or a named one, that is not there yet: reading makes none."""
    file = sqlite_file(address(store))
    return file is not None and not file.exists()


def ready(store: str | Path) -> str:
    """The address, once it has answered; the store's own database knows its files where the store is now."""
    uri = address(store)
    check_address(uri)
    file = sqlite_file(uri)
    if file is not None and file.resolve() == own_database(store):
        bring_along(file, store)
    return uri


@contextmanager
def connected(store: str) -> Iterator["MlflowClient"]:
    """A client of the registry, with MLflow's global address set meanwhile and put back afterwards."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = ready(store)
    try:
        client = new_client(uri)

        import mlflow

        mlflow.set_tracking_uri(uri)
        yield client
    except Exception as error:
        if not _is_of_servers(error):
            raise
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"MLflow at {without_passwords(uri)} refused, or went away: {message}; when it answers, the same command "
            "goes on"
        ) from error
    finally:
        # MLflow writes its address into the environment, where every later job would take it for the user's.
        if given is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        else:
            os.environ["MLFLOW_TRACKING_URI"] = given


def _is_of_servers(error: Exception) -> bool:
    """Whether MLflow, its database, its object store or the way there raised it; known by their packages alone."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(packages & {"mlflow", "sqlalchemy", "boto3", "botocore", "requests", "urllib3"})


def is_absence(error: Exception) -> bool:
    """Whether MLflow says that there is no such thing; a refusal and a server in trouble say something else."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
