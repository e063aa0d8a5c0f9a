"""A corpus in S3 becomes the same dataset as on a disk, by way of a store in S3 that fails now and then."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets import storage
from datasets.synthetic import write_corpus
from tests.s3 import BUCKET, ObjectStore, object_store

pytestmark = pytest.mark.ray
SETTINGS = ["ingest.sample_rate=8000", "curate.min_presence=0", "ingest.shard_mb=1"]


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, server: ObjectStore) -> Path:
    """A toy corpus on the disk, and the same in the bucket."""
    folder = tmp_path_factory.mktemp("songs")
    write_corpus(folder, num_songs=4, seed=0, duration_s=4.0, sample_rate=8000, defects=True)
    for path in folder.rglob("*.*"):
        storage.write(f"s3://{BUCKET}/corpus/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return folder


def curate(root: str, store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "curate", "--json", f"corpus.root={root}", f"store.root={store}"]
    return subprocess.run([*command, *SETTINGS, *more], capture_output=True, text=True, timeout=300, env=os.environ)


def result(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_corpus_and_a_store_in_s3_give_the_dataset_that_disks_give(
    server: ObjectStore, songs: Path, tmp_path: Path
) -> None:
    """Credentials end in the middle first, then every twentieth request fails."""
    data = f"s3://{BUCKET}/data"
    remote = (f"s3://{BUCKET}/corpus", tmp_path / "home", f"store.data={data}")
    server.refuse_after = len(server.requests) + 30
    lost = curate(*remote)
    server.refuse_after = None
    assert lost.returncode == 2, lost.stderr[-3000:]
    assert "AWS_ACCESS_KEY_ID" in lost.stderr
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in lost.stdout + lost.stderr
    server.failing = 0.05
    there = result(curate(*remote))
    server.failing = 0.0
    here = result(curate(str(songs), tmp_path / "store"))
    assert there["curated"]["chunks"]["digest"] == here["curated"]["chunks"]["digest"]
    assert there["curated"]["summary"] == here["curated"]["summary"]
    assert there["curated"]["chunks"]["uri"].startswith(f"{data}/manifests/")
    stored = {name for name in storage.names(f"{data}/chunks") if name.endswith(".parquet")}
    assert stored
    assert not (tmp_path / "home" / "chunks").exists()
