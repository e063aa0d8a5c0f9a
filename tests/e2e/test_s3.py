"""A corpus in S3 becomes the same dataset as on a disk, by way of a store in S3 that fails now and then."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets.corpus.synthetic import write_corpus
from datasets.schema import SOURCES
from datasets.store import storage
from pipelines.preparation import curate as curation
from pipelines.preparation import ingest
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.ingest import CorpusConfig, IngestConfig
from tests.s3 import BUCKET, ObjectStore, object_store

pytestmark = pytest.mark.ray
INGEST = IngestConfig(sample_rate=8000, shard_mb=1)
CURATE = CurateConfig(min_presence=0)
SETTINGS = ["ingest.sample_rate=8000", "ingest.shard_mb=1", "curate.min_presence=0"]


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, server: ObjectStore) -> Path:
    """A toy corpus on the disk, and the same in the bucket."""
    folder = tmp_path_factory.mktemp("songs")
    write_corpus(folder, num_songs=3, seed=0, duration_s=3.0, sample_rate=8000, defects=False)
    (folder / "train" / "Broken").mkdir()
    for source in SOURCES:
        (folder / "train" / "Broken" / f"{source}.wav").write_bytes(b"no audio")
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
    ray_local: Any, server: ObjectStore, songs: Path, tmp_path: Path
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
    ingested = ingest.run(CorpusConfig(root=str(songs)), INGEST, store=str(tmp_path / "store"))
    here = curation.run(CURATE, ingested, store=str(tmp_path / "store"))
    assert there["curated"]["chunks"]["digest"] == here.chunks.digest
    assert there["curated"]["summary"] == here.summary
    assert [verdict.reason for verdict in ingested.rejected] == ["undecodable"]
    assert there["curated"]["chunks"]["uri"].startswith(f"{data}/manifests/")
    stored = {name for name in storage.names(f"{data}/chunks") if name.endswith(".parquet")}
    assert stored
    assert not (tmp_path / "home" / "chunks").exists()
