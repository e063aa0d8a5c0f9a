"""The services of a cluster on loopback: PostgreSQL, S3, Prefect, MLflow, and a Ray of two nodes.

Each is a process group of its own with a log, can be killed and started again at the same place, and carries a mark in
its environment, by which whatever is left of it is found and ended. Nothing else is touched.
"""

import base64
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
MARK = "STEMLINE_STACK"
BUCKETS = ("songs", "models")
DATABASES = ("prefect", "mlflow")
START_WITHIN_S = 240.0
_BUSY_S = 20.0  # that a server may answer 503
POOL = "stemline"
# By default both are in memory: a restart ends every run that holds a place, and forgets events that wait for others.
OVER_A_RESTART = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect.server.events.ordering.db",
}


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


@contextmanager
def cluster(*, say: Callable[[str], None], ray_nodes: int = 2, protected: bool = True) -> Iterator[Cluster]:
    """All services, one after the other; taken down with everything that they started, and their folder removed."""
    # Ray comes last: jobs have the environment of the head that they run on, MLflow's password included.
    starts = [_postgres, _object_store, _prefect, _mlflow, *[_ray_node] * ray_nodes]
    with _services(starts, say=say, protected=protected) as made:
        yield made


@contextmanager
def prefect_alone(*, say: Callable[[str], None]) -> Iterator[Cluster]:
    """A Prefect server with its database in a file; what it runs uses Ray and MLflow of this machine."""
    with _services([_prefect], say=say, protected=False) as made:
        yield made


@contextmanager
def prefect_and_mlflow(*, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Both with their databases in files, and MLflow's artifacts in the S3 that this process' environment names."""
    with _services([_prefect, _mlflow_in_a_file], say=say, protected=False) as made:
        yield made


@contextmanager
def _services(
    starts: Iterable[Callable[[Cluster, bool], None]], *, say: Callable[[str], None], protected: bool
) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp" if os.path.isdir("/tmp") else None))
    folder.chmod(0o711)  # PostgreSQL's own user has to get through
    for name in ("logs", "tmp"):
        (folder / name).mkdir()
    made = Cluster(folder=folder, mark=folder.name, environment={}, password=secrets.token_hex(12), token="")
    made.environment |= _environment(folder, made.mark)
    if protected:
        made.token = secrets.token_hex(32)
        made.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": made.token}
    else:
        made.environment |= {"RAY_AUTH_MODE": "disabled"}
    try:
        for start in starts:
            start(made, protected)
            name = next(reversed(made.services))
            say(f"{name}: {made.seconds[name]:.1f} s")
        yield made
    finally:
        left = made.take_down()
        if left:
            say(f"killed one by one: {', '.join(left)}")
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path, mark: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PREFECT_", "MLFLOW_"))}
    return {
        **kept,
        MARK: mark,
        "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_METRICS_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven helper processes for what we do not use
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a loaded machine took 100 s
        "AWS_ACCESS_KEY_ID": "key-of-the-stack",
        "AWS_SECRET_ACCESS_KEY": f"s3-{secrets.token_hex(16)}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


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


def _web(url: str, *, refused_is_fine: bool = True) -> Callable[[], bool]:
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


def _listens(port: int) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            return False
        return True

    return answers


def _postgres(made: Cluster, protected: bool) -> None:
    home, port = made.folder / "postgres", free_port()
    home.mkdir()
    if user := _postgres_user():
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
    made.environment |= {
        "PATH": f"{postgres_programs()}:{made.environment['PATH']}",
        "PGPASSWORD": made.password, "PGHOST": HOST, "PGPORT": str(port), "PGUSER": "stemline",
    }  # fmt: skip
    init_postgres(made)
    options = ["-c", f"listen_addresses={HOST}", "-c", f"unix_socket_directories={home}", "-c", "max_connections=200"]
    command = [postgres_programs() / "postgres", "-D", home / "data", "-p", str(port), *options]

    def answers() -> bool:
        return subprocess.run(["pg_isready"], capture_output=True, env=made.environment, check=False).returncode == 0

    made.add("PostgreSQL", command, answers, user=user)
    make_databases(made)
    at = f"stemline:{made.password}@{HOST}:{port}"
    made.environment |= {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{at}/prefect",
        "_MLFLOW_DATABASE": f"postgresql+psycopg://{at}/mlflow",
    }


def _postgres_user() -> str | None:
    return "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root


def init_postgres(made: Cluster) -> None:
    """An empty data folder with the cluster's password."""
    home, user = made.folder / "postgres", _postgres_user()
    word = home / "password"
    word.write_text(made.password)
    if user:
        os.chown(word, pwd.getpwnam(user).pw_uid, -1)
    done = subprocess.run(
        ["initdb", "-D", home / "data", "-U", "stemline", "-A", "scram-sha-256", "--pwfile", word, "-N"],
        user=user, cwd="/", env=made.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    word.unlink()


def make_databases(made: Cluster) -> None:
    """Those of Prefect and MLflow, empty."""
    for name in DATABASES:
        made.run("createdb", name)
    made.run("psql", "-d", "prefect", "-c", "create extension if not exists pg_trgm")


def postgres_programs() -> Path:
    """The newest PostgreSQL of this machine; Debian keeps the server's programs off the path."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    found += [Path(path).resolve().parent for path in (shutil.which("initdb"),) if path]
    assert found, "PostgreSQL's server is not installed (apt-get install postgresql)"
    return max(found, key=lambda path: [int(part) for part in path.parts if part.isdecimal()])


def _object_store(made: Cluster, protected: bool) -> None:
    port = free_port()
    made.environment |= {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{HOST}:{port}",
    }
    made.add("S3", [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)], _listens(port))
    make_buckets(made)


def make_buckets(made: Cluster) -> None:
    """Those of songs and models, empty."""
    made.run(sys.executable, "-c", _BUCKETS, *BUCKETS)


_BUCKETS = """
import os, sys, pyarrow.fs as fs
store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
for name in sys.argv[1:]:
    store.create_dir(name)
"""


def _prefect(made: Cluster, protected: bool) -> None:
    port = free_port()
    url = f"http://{HOST}:{port}/api"
    made.environment |= {"PREFECT_API_URL": url, **OVER_A_RESTART}
    if protected:
        made.environment |= {
            "PREFECT_SERVER_API_AUTH_STRING": f"stemline:{made.password}",
            "PREFECT_API_AUTH_STRING": f"stemline:{made.password}",
        }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    made.add("Prefect server", command, _web(f"{url}/health"))


def _mlflow_in_a_file(made: Cluster, protected: bool) -> None:
    made.environment["_MLFLOW_DATABASE"] = f"sqlite:///{made.folder / 'mlflow.db'}"
    make_buckets(made)
    _mlflow(made, protected)


def _mlflow(made: Cluster, protected: bool) -> None:
    port = free_port()
    # Not among its arguments, which every process of the machine can read.
    made.environment["MLFLOW_BACKEND_STORE_URI"] = made.environment.pop("_MLFLOW_DATABASE")
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--artifacts-destination", "s3://models/mlflow",
    ]  # fmt: skip
    if protected:
        settings = made.folder / "mlflow-auth.ini"
        settings.write_text(
            "[mlflow]\ndefault_permission = READ\nauth_cache_ttl_seconds = 60\nadmin_username = stemline\n"
            f"admin_password = {made.password}\ndatabase_uri = sqlite:///{made.folder / 'mlflow-users.db'}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        settings.chmod(0o600)
        command += ["--app-name", "basic-auth"]
        made.environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_TRACKING_USERNAME": "stemline",
            "MLFLOW_TRACKING_PASSWORD": made.password,
        }
    made.environment |= {"MLFLOW_TRACKING_URI": f"http://{HOST}:{port}"}
    made.add("MLflow server", command, _web(f"http://{HOST}:{port}/health"))


def _ray_node(made: Cluster, protected: bool) -> None:
    """A raylet: the first is the head, which takes jobs on a web address."""
    number = sum(name.startswith("Ray") for name in made.services)
    ports = {
        name: str(free_port())
        for name in (
            "node-manager-port", "object-manager-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
            "metrics-export-port", "runtime-env-agent-port",
        )
    }  # fmt: skip
    command: list[str | Path] = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address", HOST, "--num-cpus",
        "1" if number == 0 else "2", "--object-store-memory", str(100 * 2**20), "--disable-usage-stats",
        "--min-worker-port", "0", "--max-worker-port", "0",
    ]  # fmt: skip
    for name, port in ports.items():
        command += [f"--{name}", port]
    if number:
        made.add(
            f"Ray node {number}", [*command, "--address", made.environment["_RAY_GCS"]], lambda: _alive(made), tries=3
        )
        return
    port, page, client = free_port(), free_port(), free_port()
    made.environment |= {"RAY_ADDRESS": f"http://{HOST}:{page}", "_RAY_GCS": f"{HOST}:{port}"}
    head = [
        "--head", "--port", str(port), "--dashboard-host", HOST, "--dashboard-port", str(page), "--include-dashboard",
        "true", "--ray-client-server-port", str(client), "--temp-dir", str(made.folder / "ray"),
    ]  # fmt: skip
    made.add("Ray head", [*command, *head], lambda: _alive(made), tries=3)


def _alive(made: Cluster) -> bool:
    """Whether as many raylets are alive as were started."""
    try:
        said = json.dumps(made.ask("Ray", "GET", "/nodes?view=summary"))
    except (OSError, ValueError):
        return False
    return said.count('"ALIVE"') >= sum(name.startswith("Ray") for name in made.services)
