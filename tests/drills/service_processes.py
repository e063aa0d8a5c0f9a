"""Servers that can be killed and started again, each with its process group, and the environment that leads to them."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
MARK = "STEMLINE_STACK"
START_WITHIN_S = 240.0
_BUSY_S = 20.0  # that a server may answer 503


@dataclass(kw_only=True)
class Service:
    """A server that can be killed and started again; `answers` says whether it does its work."""

    name: str
    command: Sequence[str | Path]
    answers: Callable[[], bool]
    log: Path
    environment: Mapping[str, str]
    user: str | None = None
    tries: int = 1
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> float:
        """Seconds until it answered."""
        began_s = time.monotonic()
        for _ in range(self.tries - 1):
            self._launch()
            if self._comes_up():
                return time.monotonic() - began_s
            self.stop()
        self._launch()
        self.wait_until_it_answers()
        return time.monotonic() - began_s

    def _comes_up(self) -> bool:
        """Whether it answers before it ends: Ray gives its own start 30 s, which a loaded machine exceeds."""
        deadline_s = time.monotonic() + START_WITHIN_S
        while self.process is not None and self.process.poll() is None and time.monotonic() < deadline_s:
            if self.answers():
                return True
            time.sleep(0.25)
        return False

    def _launch(self) -> None:
        with open(self.log, "ab") as words:
            self.process = subprocess.Popen(
                [str(part) for part in self.command],
                cwd="/" if self.user else ROOT,
                env=dict(self.environment),
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_it_answers(self) -> None:
        deadline_s = time.monotonic() + START_WITHIN_S
        while not self.answers():
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text(errors='replace')[-2000:]}"
            assert time.monotonic() < deadline_s, f"{self.name} does not answer; its log is {self.log}"
            time.sleep(0.25)

    def kill(self) -> None:
        """SIGKILL to it and all that it started, as when a machine loses power."""
        assert self.process is not None
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def family(self) -> list[psutil.Process]:
        """Its process and all that it started."""
        assert self.process is not None
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left after a while."""
        if self.process is None:
            return
        for number, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        self.process.wait()


@dataclass(kw_only=True)
class Cluster:
    """Everything that runs, and the environment of whoever works with it."""

    folder: Path
    mark: str
    environment: dict[str, str]
    password: str
    token: str
    services: dict[str, Service] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        name: str,
        command: Sequence[str | Path],
        answers: Callable[[], bool],
        *,
        user: str | None = None,
        tries: int = 1,
    ) -> Service:
        """Start a service and wait for it."""
        service = Service(
            name=name,
            command=command,
            answers=answers,
            log=self.folder / "logs" / f"{name.replace(' ', '-')}.log",
            environment=self.environment,
            user=user,
            tries=tries,
        )
        self.services[name] = service
        self.seconds[name] = service.start()
        return service

    def run(self, *command: str | Path, timeout_s: float = 600.0) -> str:
        """What a command says, that has to succeed."""
        done = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=self.environment, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    def ask(self, whom: str, method: str, path: str, body: Any = None) -> Any:
        """The JSON that Prefect, Ray or MLflow answers to a request with this cluster's password or token."""
        variable = {"Prefect": "PREFECT_API_URL", "MLflow": "MLFLOW_TRACKING_URI", "Ray": "RAY_ADDRESS"}[whom]
        root, words = self.environment[variable], f"Bearer {self.token}" if whom == "Ray" else f"Basic {self._basic()}"
        headers = {"Content-Type": "application/json", "Authorization": words}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(root + path, data=data, method=method, headers=headers)
        deadline_s = time.monotonic() + _BUSY_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:  # a server whose database is busy says so, and means: ask again
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline_s:
                    raise
            time.sleep(0.5)

    def _basic(self) -> str:
        return base64.b64encode(f"stemline:{self.password}".encode()).decode()

    def survivors(self, words: str = "") -> list[psutil.Process]:
        """Processes that carry this cluster's mark, and have these words in their command line."""
        return [process for process in psutil.process_iter() if self._is_ours(process, words)]

    def _is_ours(self, process: psutil.Process, words: str) -> bool:
        try:
            ours = process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
            return ours and words in " ".join(process.cmdline())
        except psutil.Error:
            return False

    def family(self) -> list[psutil.Process]:
        """All processes of the cluster, PostgreSQL's too, which hide their environment."""
        return [*{*self.survivors(), *(process for service in self.services.values() for process in service.family())}]

    def take_down(self) -> list[str]:
        """Stops everything, newest first; the names of processes that had to be killed one by one."""
        for service in reversed(self.services.values()):
            service.stop()
        left = self.survivors()
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, 10)
        return [str(process.pid) for process in left]


def memory_mib(processes: Iterable[psutil.Process]) -> float:
    """What they hold, MiB; memory that several share is counted once in all."""
    held = 0.0
    for process in processes:
        with suppress(psutil.Error):
            held += process.memory_full_info().pss / 2**20
    return held


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def web(url: str, *, refused_is_fine: bool = True) -> Callable[[], bool]:
    """Whether an HTTP server answers there, be it that it wants a password."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return refused_is_fine and error.code in (401, 403)
        except OSError:
            return False

    return answers


def listens(port: int) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            return False
        return True

    return answers
