"""What is sent to a cluster with a job; `make stack` and `make drill-operations` have the cluster."""

import zipfile
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipelines import jobs
from pipelines.cluster import EXCLUDES
from pipelines.jobs import Errand


def test_a_cluster_is_sent_our_code_and_little_else(tmp_path: Path, repository: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(repository), package, include_gitignore=True, excludes=EXCLUDES)
    names = zipfile.ZipFile(package).namelist()
    for needed in ("pipelines/ingest.py", "flows/errand.py", "models/htdemucs.py", "infra/presets/smoke.toml"):
        assert needed in names
    assert not [name for name in names if name.startswith((".", "tests/", "docs/"))]
    assert package.stat().st_size < 10 * 2**20


def test_where_no_cluster_takes_jobs_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    errand = Errand(name="train-1", command=lambda job: f"true {job}", run="run")
    with pytest.raises(InputError, match=r"no Ray cluster takes jobs at http://127\.0\.0\.1:9"):
        jobs.attend("http://127.0.0.1:9", errand, hear=lambda line: None)
