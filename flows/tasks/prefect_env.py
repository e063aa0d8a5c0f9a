"""Prefect for the command line: its home is in the store, its log in a file, and no server is left running.

`prefect_session` must be entered before prefect is first imported, which reads its settings once.
"""

import logging
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.errors import InputError
from flows.tasks.process_identity import is_running, this_process
from pipelines.registry.database.sqlite_files import SPECIAL, sqlite_address

# In the environment of a temporary server: who started it, also after that process was killed.
OWNER = "STEMLINE_SERVER_OF"
ANSWER_WITHIN_S = 10.0
DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"


@contextmanager
def prefect_session(store: Path, *, debug: bool = False) -> Iterator[None]:
    """Flows called inside keep their records in the store, or on the server of PREFECT_API_URL where that is set."""
    stop_leftovers(store)
    _set_environment(store)
    if url := os.environ.get("PREFECT_API_URL"):
        require_answer(f"{url.rstrip('/')}/health", variable="PREFECT_API_URL")
    if not debug:
        _log_to_file(store / "prefect" / "prefect.log")
    yield  # Prefect stops its temporary server when Python exits, after sending its last records


def require_answer(url: str, *, variable: str) -> None:
    """InputError unless an HTTP server answers there within ten seconds; any answer counts."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S):
            return
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"Nothing answers at {url} ({reason}), where {variable} points. Start that server, or unset {variable} "
            "to work without one."
        ) from error


def stop_leftovers(store: Path) -> list[int]:
    """Ends temporary Prefect servers of this store whose starter is gone, as after kill -9; returns their pids."""
    import psutil

    ended = []
    for process in psutil.process_iter():
        try:
            if not any("prefect.server.api.server:create_app" in part for part in process.cmdline()):
                continue
            owner = process.environ().get(OWNER, "")
            pid, _, rest = owner.partition(" ")
            start, _, home = rest.partition(" ")
            if home != str(store) or is_running(int(pid), float(start)):
                continue
            process.terminate()
            ended.append(process.pid)
        except (psutil.Error, ValueError):
            continue
    return ended


def home_environment(store: Path) -> dict[str, str]:
    """Where Prefect keeps its records of a store."""
    home = store / "prefect"
    environment = {"PREFECT_HOME": str(home)}
    if SPECIAL & set(str(home)):  # Prefect makes an address of the plain path
        environment[DATABASE] = sqlite_address(home / "prefect.db", driver="aiosqlite")
    return environment


def closed_environment(origin: str = "none") -> dict[str, str]:
    """For a server that takes orders from who knows a password that was just made up, and from pages of one origin."""
    password = f"stemline:{secrets.token_urlsafe(24)}"
    return {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
    }


def _set_environment(store: Path) -> None:
    home = store / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    os.environ[OWNER] = f"{os.getpid()} {this_process().start} {store}"
    if not os.environ.get("PREFECT_API_URL"):
        # Of the temporary server, which other users of this machine and pages in its browser can reach.
        os.environ.update(home_environment(store) | closed_environment())
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A busy laptop needs more than the 20 s that Prefect gives its temporary server.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)


def _log_to_file(path: Path) -> None:
    """Sends Prefect's log to a file of the store: on import it puts a console handler on the root logger."""
    from prefect.logging.configuration import ensure_logging_setup
    from prefect.logging.handlers import PrefectConsoleHandler

    ensure_logging_setup()
    logging.raiseExceptions = False  # on a full disk, stack traces would follow the message that says so
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("", "uvicorn", "fastapi"):
        logger = logging.getLogger(name)
        for console in [each for each in logger.handlers if isinstance(each, PrefectConsoleHandler)]:
            logger.removeHandler(console)
            logger.addHandler(handler)
