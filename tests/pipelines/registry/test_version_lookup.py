"""A registered model on its way to a machine: the disk that it does not fit on is named."""

from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from datasets.store import scratch
from pipelines.registry import version_lookup
from pipelines.registry.version_lookup import ModelVersion

VERSION = ModelVersion(name="m", version="1", run_id="r", run_key="k", digest="0" * 64)


def test_a_disk_that_fills_up_while_mlflow_downloads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def download(*, dst_path: str, **_: Any) -> str:
        Path(dst_path, "weights").write_bytes(b"half")
        raise RuntimeError("The following failures occurred:\n#### [Errno 28] No space left on device")

    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    target = scratch.scratch("s3://bucket/store") / "cache" / "models" / "0"
    with pytest.raises(InputError, match=r"the disk of .*cache/models is full.*store\.scratch=DIR"):
        version_lookup._download("s3://bucket/m", target, VERSION, uri="sqlite://")
    assert list(target.parent.iterdir()) == []
