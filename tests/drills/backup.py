"""Backup of all that cannot be made again, its loss, the way back, and a move: `make drill-operations` walks it.

Two databases as dumps and two buckets as folders. A store's own folder is not in it where tables lie in S3: it holds
trainings that are under way and what may be deleted at any time.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.drills.postgres_here import DATABASES, init_postgres, make_databases
from tests.drills.service_processes import BIN, Cluster
from tests.drills.services_here import BUCKETS, make_buckets

USERS = ("Prefect server", "MLflow server")  # of the databases


def back_up(made: Cluster, to: Path) -> None:
    """Databases first: a version without files would be worse than files without a version."""
    to.mkdir()
    for name in DATABASES:
        made.run("pg_dump", "-Fc", "-f", to / f"{name}.dump", name)
    for name in BUCKETS:
        made.run(sys.executable, "-c", _COPY, "out", name, to / name)


def lose(made: Cluster) -> None:
    """PostgreSQL's disk, the object store's memory and the store's folder are gone, and whoever lived on them."""
    for name in ("PostgreSQL", "S3", *USERS):
        made.services[name].kill()
    shutil.rmtree(made.folder / "postgres" / "data")
    shutil.rmtree(made.folder / "store")


def restore(made: Cluster, kept: Path) -> None:
    """Empty servers at the old addresses, what was kept, and then those who live on it."""
    init_postgres(made)
    made.services["PostgreSQL"].start()
    make_databases(made)
    for name in DATABASES:
        made.run("pg_restore", "-d", name, kept / f"{name}.dump")
    made.services["S3"].start()
    make_buckets(made)
    for name in BUCKETS:
        made.run(sys.executable, "-c", _COPY, "in", name, kept / name)
    for name in USERS:
        made.services[name].start()


def move(made: Cluster, data: str, to: Path, new_data: str) -> None:
    """A store's folder goes to `to`, and what it has in S3 from one address in the bucket to another."""
    (made.folder / "store").rename(to)
    kept = made.folder / "moving"
    made.run(sys.executable, "-c", _COPY, "out", data, kept)
    made.run(sys.executable, "-c", _COPY, "in", new_data, kept)
    made.run(sys.executable, "-c", _DELETE, data)


def listed(made: Cluster, folder: str) -> str:
    """Every file of a folder in S3, with its size and when it was written."""
    return made.run(sys.executable, "-c", _LIST, folder)


def known(made: Cluster, settings: list[str], song: Path, out: Path) -> dict[str, Any]:
    """What a user can see: every promotion, every dataset in order, and how the champion separates a song."""
    asked = {
        verb: json.loads(made.run(BIN / "stemline", verb, "--json", *settings)) for verb in ("history", "datasets")
    }
    made.run(
        *(BIN / "stemline", "separate", song, "--model", "models:/stemline@champion", "--out", out),
        next(setting for setting in settings if setting.startswith("store.root=")),
    )
    for version in asked["datasets"]["versions"]:
        del version["made_at"]  # their order is kept, see _COPY
    stems = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*.wav"))}
    assert stems, f"no stems in {out}"
    return {**asked, "stems": stems}


# S3 dates what comes in anew, and a dataset is as old as its manifest: so the oldest goes in first, seconds apart.
_COPY = """
import os, shutil, sys, time, pyarrow.fs as fs
way, bucket, folder = sys.argv[1:]
there = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
here = fs.LocalFileSystem()
source, at, target, to = (there, bucket, here, folder) if way == "out" else (here, folder, there, bucket)
files = [one for one in source.get_file_info(fs.FileSelector(at, recursive=True)) if one.is_file]
for one in sorted(files, key=lambda one: one.mtime_ns):
    name = to + one.path[len(at):]
    if way == "out":
        os.makedirs(os.path.dirname(name), exist_ok=True)
    elif "/manifests/" in name and name.endswith(".json"):
        time.sleep(1)
    with source.open_input_stream(one.path) as read, target.open_output_stream(name) as write:
        shutil.copyfileobj(read, write)
    if way == "out":
        os.utime(name, ns=(one.mtime_ns, one.mtime_ns))
"""
_DELETE = """
import os, sys, pyarrow.fs as fs
fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"]).delete_dir(sys.argv[1])
"""
_LIST = """
import os, sys, pyarrow.fs as fs
store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
print(*sorted((one.path, one.size, one.mtime_ns) for one in store.get_file_info(fs.FileSelector(sys.argv[1]))))
"""
