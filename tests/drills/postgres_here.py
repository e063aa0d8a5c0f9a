"""A PostgreSQL of its own for a cluster of services: its folder, its password and its databases."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.drills.service_processes import HOST, Cluster, free_port

DATABASES = ("prefect", "mlflow")


def start_postgres(made: Cluster, protected: bool) -> None:
    """The server with its databases; what Prefect and MLflow are to use is in the environment then."""
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
