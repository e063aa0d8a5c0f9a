"""Backup of all that cannot be made again, its loss, and the way back: `make drill-operations` walks it.

Two databases as dumps and two buckets as folders. A store's own folder is not in it where tables lie in S3: it holds
trainings that are under way and what may be deleted at any time.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.e2e.services_here import BIN, BUCKETS, DATABASES, Cluster, init_postgres, make_buckets, make_databases

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


def known(made: Cluster, settings: list[str], song: Path, out: Path) -> dict[str, Any]:
    """What a user can see: every promotion, every dataset, and how the champion separates a song."""
    asked = {
        verb: json.loads(made.run(BIN / "stemline", verb, "--json", *settings)) for verb in ("history", "datasets")
    }
    made.run(
        *(BIN / "stemline", "separate", song, "--model", "models:/stemline@champion", "--out", out),
        f"store.root={made.folder / 'store'}",
    )
    stems = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*.wav"))}
    assert stems, f"no stems in {out}"
    return {**asked, "stems": stems}


_COPY = """
import os, sys, pyarrow.fs as fs
way, bucket, folder = sys.argv[1:]
there, here = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"]), fs.LocalFileSystem()
if way == "out":
    os.makedirs(folder)
    fs.copy_files(bucket, folder, source_filesystem=there, destination_filesystem=here)
else:
    fs.copy_files(folder, bucket, source_filesystem=here, destination_filesystem=there)
"""
