"""A registered version in a process that has MLflow and nothing of ours."""

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from pipelines.provenance import ROOT
from pipelines.registry import RegistryConfig, address, promote, register
from pipelines.registry.bundle import MODELS, write_bundle
from tests.pipelines.test_registry import make_candidate

pytestmark = pytest.mark.slow

CONSUMER = """
import json, sys
sys.path.append(sys.argv[1])  # site-packages; -S kept out the editable install of this repository

import models
assert models.OWNER == "the consumer", models

import mlflow
import numpy as np

mlflow.set_tracking_uri(sys.argv[2])
mixture = np.load("mixture.npy")
loaded = {}
for name, (ref, params) in json.load(open("asked.json")).items():
    loaded.setdefault(ref, mlflow.pyfunc.load_model(ref))
    np.save(name + ".npy", loaded[ref].predict(mixture, params=params))

ours = [path for path in sys.path if path and path.rstrip("/") == sys.argv[3]]
assert not ours, ours
assert models.OWNER == "the consumer"
print(json.dumps(sorted(name for name in sys.modules if name.startswith("stem_separator_") and "." not in name)))
"""


def consume(folder: Path, store: str, mixture: np.ndarray, asked: dict[str, tuple[str, dict]]) -> list[str]:
    """Separate in a bare process whose own package is named `models`; the packages that came with the versions."""
    folder.mkdir()
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text('OWNER = "the consumer"\n')
    (folder / "consumer.py").write_text(CONSUMER)
    (folder / "asked.json").write_text(json.dumps(asked))
    np.save(folder / "mixture.npy", mixture)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    }
    done = subprocess.run(
        [sys.executable, "-S", "consumer.py", sysconfig.get_path("purelib"), address(store), str(ROOT)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def mixture(num_samples: int, *, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.1, (1, channels, num_samples)).astype(np.float32)


def test_a_bare_process_separates_a_whole_song_as_we_do_and_two_versions_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from models.checkpoint import load_model
    from models.separate import separate

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, store = RegistryConfig(), str(tmp_path / "store")
    candidate = make_candidate(tmp_path / "checkpoint")
    promote(register(config, candidate, store=store), {"promote": True, "reason": "the first"}, store=store)

    # The same weights, but code that gives twice the samples.
    changed = tmp_path / "changed" / "models"
    shutil.copytree(MODELS, changed, ignore=shutil.ignore_patterns("__pycache__"))
    (changed / "separate.py").write_text(
        (changed / "separate.py").read_text()
        + "\n\n_once = separate\n\ndef separate(*args, **options):\n    return 2 * _once(*args, **options)\n"
    )
    other = make_candidate(tmp_path / "other", run_key="e5f6")
    monkeypatch.setattr("pipelines.registry.write_bundle", functools.partial(write_bundle, source=changed))
    second = register(config, other, store=store)

    song = mixture(8000 * 5 + 123)
    packages = consume(
        tmp_path / "consumer", store, song,
        {
            "champion": ("models:/stemline@champion", {}),
            "second": (second.uri, {}),
            "chosen": ("models:/stemline/1", {"stems": ["vocals", "drums"], "overlap": 0.5, "shifts": 1, "seed": 3}),
        },
    )  # fmt: skip

    model = load_model(candidate.checkpoint)
    ours = separate(model, torch.from_numpy(song[0])).numpy()
    theirs = np.load(tmp_path / "consumer" / "champion.npy")
    assert theirs.shape == (1, 4, 2, song.shape[-1])
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs[0], ours, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "consumer" / "second.npy")[0], 2 * ours, rtol=0, atol=1e-6)
    shifted = separate(model, torch.from_numpy(song[0]), overlap=0.5, shifts=1, seed=3).numpy()
    chosen = np.load(tmp_path / "consumer" / "chosen.npy")[0]
    np.testing.assert_allclose(chosen, shifted[[3, 0]], rtol=0, atol=1e-6)
    assert len(packages) == 2


def test_the_loaded_model_refuses_what_it_cannot_separate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = str(tmp_path / "store")
    version = register(RegistryConfig(), make_candidate(tmp_path / "checkpoint"), store=store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(store))
    mlflow.set_tracking_uri(address(store))
    # One process may load any number of versions; the import path is put back for the tests that follow.
    monkeypatch.setattr(sys, "path", list(sys.path))
    served = mlflow.pyfunc.load_model(version.uri)
    with pytest.raises(ValueError, match=r"unknown stems \['kazoo'\]; this model has"):
        served.predict(mixture(8000), params={"stems": ["kazoo"]})
    with pytest.raises(ValueError, match="NaN or infinite"):
        served.predict(np.full((1, 2, 8000), np.nan, np.float32))
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        served.predict(mixture(8000, channels=3))
    with pytest.raises(mlflow.exceptions.MlflowException, match="overlap"):
        served.predict(mixture(8000), params={"overlap": "half"})


def test_a_version_whose_weights_were_changed_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from pipelines.registry import fetch

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = str(tmp_path / "store")
    version = register(RegistryConfig(), make_candidate(tmp_path / "checkpoint"), store=store)
    weights = fetch(version.uri, store=store) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(store))
    mlflow.set_tracking_uri(address(store))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(Exception, match=r"weights\.safetensors of this model was changed after it was registered"):
        mlflow.pyfunc.load_model(version.uri)
