"""`stemline ui`: the report, MLflow and Prefect of one store, served to this machine only, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from datasets.errors import InputError, Unavailable, without_passwords
from datasets.store import storage
from datasets.store.disk_errors import disk_errors
from datasets.store.ownership import require_store
from datasets.store.scratch import hold, scratch
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.console.progress_display import Screen
from flows.tasks.prefect_env import closed_environment, home_environment
from pipelines.registry.connection import address as address_of_registry
from pipelines.registry.connection import own_database
from pipelines.registry.database.moved_artifacts import ARTIFACTS, artifact_folder, bring_along
from pipelines.registry.database.sqlite_files import sqlite_address

HOST = "127.0.0.1"
START_WITHIN_S = 120.0
STOP_WITHIN_S = 4.0  # each of two servers; less than a stopped command has until it is ended by force


def ui(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Serve the report, MLflow and Prefect of a store on this machine until Ctrl-C.

    Example: `stemline ui store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: serve_store(config.store.root, screen=screen))


def serve_store(root: str, *, screen: Screen) -> dict[str, Any]:
    """`serve`, if the folder is a store: MLflow and Prefect would create their databases in any folder."""
    root = storage.absolute(root)
    if not storage.is_remote(root) and not Path(root).is_dir():
        raise InputError(f"There is no store at {root}. `stemline demo` makes one; or name yours with store.root=DIR.")
    require_store(root, setting="store.root")
    return serve(root, screen=screen)


def serve(store: str, *, screen: Screen) -> dict[str, Any]:
    """Starts the servers of a store, prints their addresses, and stops them at Ctrl-C.

    Of a store in an object store Prefect shows what this machine ran.
    """
    tracking, password = address_of_registry(store), ""
    with disk_errors(folder := scratch(store)):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("prefect", "cache/prefect-ui"):
        hold(folder / name)
    with ExitStack() as running:
        addresses = {"report": running.enter_context(_report(storage.join(store, "report.html")))}
        is_server = tracking.startswith("http")
        addresses["MLflow"] = tracking if is_server else running.enter_context(_mlflow(tracking, store, screen))
        if server := os.environ.get("PREFECT_API_URL"):
            addresses["Prefect"] = server
        else:
            addresses["Prefect"], password = running.enter_context(_prefect(folder, screen))
        addresses = {name: without_passwords(address) for name, address in addresses.items()}
        for name, address in addresses.items():
            screen.say(f"{name:<8} {address}")
        if password:
            screen.say(f"password {password}")
            screen.say("Prefect's page asks for it, and scripts give it as PREFECT_API_AUTH_STRING.")
        screen.say("Ctrl-C stops them.")
        with suppress(KeyboardInterrupt):  # the normal end
            threading.Event().wait()
    return {"addresses": addresses}


@contextmanager
def _report(page: str) -> Iterator[str]:
    """Serves the report and nothing else of the store; it is read at each visit."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host", "") not in hosts:  # a page whose name leads here, to read what is ours
                self.send_error(403)
                return
            try:
                body, status = storage.read(page), 200
            except Unavailable as error:
                body, status = str(error).encode(), 502
            except OSError:
                body, status = b"This store has no report yet: stemline run or stemline demo writes it.", 404
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        hosts = [f"{host}:{server.server_address[1]}" for host in (HOST, "localhost")]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}/"
        finally:
            server.shutdown()


@contextmanager
def _mlflow(database: str, store: str, screen: Screen) -> Iterator[str]:
    """MLflow's page of a database; of the store's own, whose files are where the store is now."""
    port, is_remote = _free_port(), storage.is_remote(store)
    if not is_remote and database == sqlite_address(own_database(store)):
        bring_along(own_database(store), store)
    command = [
        "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--default-artifact-root", storage.join(store, ARTIFACTS) if is_remote else artifact_folder(store).as_uri(),
        "--allowed-hosts", f"{HOST}:{port},localhost:{port}", "--cors-allowed-origins", f"http://{HOST}:{port}",
    ]  # fmt: skip
    log = scratch(store) / "cache" / "ui-mlflow.log"
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database,  # not an argument: those are there for all to see
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven helper processes for what we do not use
    }
    with _process(command, log=log, environment=environment):
        _wait_for(f"http://{HOST}:{port}/health", "MLflow", screen, log=log)
        yield f"http://{HOST}:{port}/"


@contextmanager
def _prefect(store: Path, screen: Screen) -> Iterator[tuple[str, str]]:
    """Address and password of Prefect's page. Its files are made in the store: the code's folder may be read-only."""
    port, page = _free_port(), store / "cache" / "prefect-ui"
    page.mkdir(parents=True, exist_ok=True)
    environment = {
        **home_environment(store),
        **closed_environment(f"http://{HOST}:{port}"),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",  # Prefect's page sends its requests there
        "PREFECT_UI_STATIC_DIRECTORY": str(page),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = store / "cache" / "ui-prefect.log"
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with _process(command, log=log, environment=environment, folder=store):
        _wait_for(f"http://{HOST}:{port}/api/health", "Prefect", screen, log=log)
        yield f"http://{HOST}:{port}/", environment["PREFECT_API_AUTH_STRING"]


@contextmanager
def _process(
    command: list[str], *, log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[None]:
    """A server in a process group of its own: its child processes end with it.

    Prefect runs in a folder of ours: it obeys files of the one that it is started in.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        _stop_group(process)


def _stop_group(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, name: str, screen: Screen, *, log: Path) -> None:
    screen.start(f"start {name}", 0, "")
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                screen.finish("")
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise InputError(f"{name} did not start within {START_WITHIN_S:.0f} s; its log is {log}.")
