"""The services of a cluster on loopback: PostgreSQL, S3, Prefect, MLflow, and a Ray of two nodes.

Each is a process group of its own with a log, can be killed and started again at the same place, and carries a mark in
its environment, by which whatever is left of it is found and ended. Nothing else is touched.
"""

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.drills.postgres_here import start_postgres
from tests.drills.service_processes import BIN, HOST, MARK, Cluster, free_port, listens, web

BUCKETS = ("songs", "models")
POOL = "stemline"
# By default both are in memory: a restart ends every run that holds a place, and forgets events that wait for others.
OVER_A_RESTART = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect.server.events.ordering.db",
}


@contextmanager
def cluster(*, say: Callable[[str], None], ray_nodes: int = 2, protected: bool = True) -> Iterator[Cluster]:
    """All services, one after the other; taken down with everything that they started, and their folder removed."""
    # Ray comes last: jobs have the environment of the head that they run on, MLflow's password included.
    starts = [start_postgres, _object_store, _prefect, _mlflow, *[_ray_node] * ray_nodes]
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


def _object_store(made: Cluster, protected: bool) -> None:
    port = free_port()
    made.environment |= {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{HOST}:{port}",
    }
    made.add("S3", [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)], listens(port))
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
    made.add("Prefect server", command, web(f"{url}/health"))


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
    made.add("MLflow server", command, web(f"http://{HOST}:{port}/health"))


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
