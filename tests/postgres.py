"""A throw-away PostgreSQL cluster on loopback, for tests that keep MLflow's books in one."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_START_WITHIN_S = 60


class Database:
    """A cluster of its own on a free port; it can be stopped and started again."""

    def __init__(self) -> None:
        self._programs = _programs()
        # PostgreSQL refuses to run as root, and pytest's folders can be entered by their owner only.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._server: subprocess.Popen[bytes] | None = None
        if self._user:
            os.chown(self._home, pwd.getpwnam(self._user).pw_uid, -1)
        made = subprocess.run(
            [self._programs / "initdb", "-D", self._home / "data", "-U", "books", "--auth", "trust", "--no-sync"],
            user=self._user, cwd=self._home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"postgresql://books:secret@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._home}", "-c", "fsync=off"]
        with (self._home / "log").open("w") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._home / "data", "-p", str(self._port), *options],
                user=self._user, cwd=self._home, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _START_WITHIN_S
        while "ready to accept connections" not in (said := (self._home / "log").read_text()):
            assert self._server.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def stop(self) -> None:
        """Send its clients away and wait for its end."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait()
            self._server = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._home)


@contextmanager
def database() -> Iterator[Database]:
    """A running one, empty; skips the test where PostgreSQL's server is not installed."""
    made = Database()
    try:
        made.start()
        yield made
    finally:
        made.remove()


def _programs() -> Path:
    """The folder of the server's programs, which Debian does not put on the path."""
    found = [Path(path).parent for path in (shutil.which("postgres"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
