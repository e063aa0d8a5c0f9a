"""An S3 server on loopback that can be told to fail: moto behind a little middleware."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow.fs as fs

BUCKET = "songs"


class ObjectStore:
    """A running server; `requests` lists what it was asked, the other fields say how it misbehaves."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                """Say nothing."""

        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self.failing = 0.0  # share of requests answered with "503 Slow Down"
        self.delay_s = 0.0
        self.refuse_after: int | None = None  # requests until all are refused
        self.refusal = ("ExpiredToken", "The provided token has expired.")  # code and message
        self.read_only = False  # whether whoever writes is told that they may not
        self.sent_bytes = 0  # of what was asked for with GET
        self._dice = random.Random(0)
        self._serve = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        time.sleep(self.delay_s)
        if self.refuse_after is not None and len(self.requests) > self.refuse_after:
            return refusal(start, environ, "403 Forbidden", *self.refusal)
        if self.read_only and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refusal(start, environ, "403 Forbidden", "AccessDenied", "Access Denied")
        if self._dice.random() < self.failing:
            return refusal(start, environ, "503 Service Unavailable", "SlowDown", "Please reduce your request rate.")

        def counted(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if environ["REQUEST_METHOD"] == "GET":
                self.sent_bytes += int(dict(headers).get("Content-Length", 0))
            return start(status, headers, *more)

        return self._serve(environ, counted)  # type: ignore[no-any-return]


Server = TypeVar("Server", bound=ObjectStore)


def refusal(start: Callable[..., Any], environ: dict[str, Any], status: str, code: str, message: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@contextmanager
def object_store(kind: type[Server] = ObjectStore) -> Iterator[Server]:  # type: ignore[assignment]
    """A server with the bucket `BUCKET`, and the environment that leads every S3 client of this process to it."""
    server = kind()
    try:
        with _environment(server.url):
            yield server
    finally:
        server.close()


class StoreApart:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def sent_bytes(self) -> int:
        """What it has sent for GET so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("how much?\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


_APART = """
import sys, tests.s3 as s3
server = s3.ObjectStore()
print(server.url, flush=True)
for question in sys.stdin:
    print(server.sent_bytes, flush=True)
"""


@contextmanager
def object_store_apart() -> Iterator[StoreApart]:
    """The same in a process of its own, so that this one's processor time is that of the asking side alone."""
    command = [sys.executable, "-c", _APART]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with _environment(process.stdout.readline().strip()):
                yield StoreApart(process)
        finally:
            process.kill()


@contextmanager
def _environment(url: str) -> Iterator[None]:
    """What leads every S3 client of this process to a server, in which the bucket is made."""
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key-for-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-for-tests",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    _forget_clients()
    try:
        fs.S3FileSystem(endpoint_override=url, allow_bucket_creation=True).create_dir(BUCKET)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _forget_clients()


def _forget_clients() -> None:
    """A client keeps the address that it was made with; MLflow keeps one for a day."""
    from datasets.store.object_store import client

    client.cache_clear()
    if mlflow := sys.modules.get("mlflow.store.artifact.s3_artifact_repo"):
        mlflow._cached_get_s3_client.cache_clear()
