"""A registered version in a process that has MLflow and nothing of ours."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.registry import RegistryConfig, address, fetch, promote, register
from pipelines.registry.bundle import MODELS, write_bundle
from pipelines.runtime.step_keys import ROOT
from tests.pipelines.registry.test_registration import make_candidate

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A champion: where its store is, its address, and the folder of the checkpoint that it was made from."""

    store: str
    uri: str
    checkpoint: str


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

    from models.inference.separate import separate
    from models.weights.loading import load_model

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, store = RegistryConfig(), str(tmp_path / "store")
    candidate = make_candidate(tmp_path / "checkpoint")
    promote(register(config, candidate, store=store), {"promote": True, "reason": "the first"}, store=store)

    # The same weights, but code that gives twice the samples.
    changed = tmp_path / "changed" / "models"
    shutil.copytree(MODELS, changed, ignore=shutil.ignore_patterns("__pycache__"))
    (changed / "inference" / "separate.py").write_text(
        (changed / "inference" / "separate.py").read_text()
        + "\n\n_once = separate\n\ndef separate(*args, **options):\n    return 2 * _once(*args, **options)\n"
    )
    other = make_candidate(tmp_path / "other", run_key="e5f6")
    monkeypatch.setattr("pipelines.registry.run_logging.write_bundle", functools.partial(write_bundle, source=changed))
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


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """One champion in a store of its own, and the checkpoint that it was made from."""
    folder = tmp_path_factory.mktemp("registered")
    config, store = RegistryConfig(), str(folder / "store")
    candidate = make_candidate(folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        version = promote(register(config, candidate, store=store), {"promote": True, "reason": "first"}, store=store)
    return Registered(store=store, uri=version.uri, checkpoint=candidate.checkpoint)


@pytest.fixture
def consumer(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow of this process looks into that store; the import path is put back for the tests that follow."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(registered.store))
    mlflow.set_tracking_uri(address(registered.store))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("consumer")
def test_the_loaded_model_refuses_what_it_cannot_separate(registered: Registered) -> None:
    import mlflow

    served = mlflow.pyfunc.load_model(registered.uri)
    with pytest.raises(ValueError, match=r"unknown stems \['kazoo'\]; this model has"):
        served.predict(mixture(8000), params={"stems": ["kazoo"]})
    with pytest.raises(ValueError, match="NaN or infinite"):
        served.predict(np.full((1, 2, 8000), np.nan, np.float32))
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        served.predict(mixture(8000, channels=3))
    with pytest.raises(mlflow.exceptions.MlflowException, match="overlap"):
        served.predict(mixture(8000), params={"overlap": "half"})


@contextmanager
def serving(store: str, folder: Path) -> Iterator[str]:
    """The address of `mlflow models serve` for the champion of a store."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = ["models", "serve", "-m", "models:/stemline@champion", "--env-manager", "local", "-p", port]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls uvicorn by name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address(store), "OMP_NUM_THREADS": "1", "PATH": path}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300  # seconds alone, minutes on a machine that does much else
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it starts workers of its own
        process.wait()


def asked(address: str, mixture_BCT: np.ndarray, **params: Any) -> np.ndarray:
    """The stems that a server answers with."""
    body = json.dumps({"inputs": mixture_BCT.tolist(), "params": params}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return np.asarray(json.load(answer)["predictions"], np.float32)


def test_a_served_champion_answers_over_http_with_the_stems_that_were_asked_for(
    registered: Registered, tmp_path: Path
) -> None:
    import torch

    from models.inference.separate import separate
    from models.weights.loading import load_model

    song = mixture(8000 * 3 + 17)
    model, song_CT = load_model(registered.checkpoint), torch.from_numpy(song[0])
    with serving(registered.store, tmp_path) as address:
        stems = asked(address, song)
        assert stems.shape == (1, 4, 2, song.shape[-1])
        np.testing.assert_allclose(stems[0], separate(model, song_CT).numpy(), rtol=0, atol=1e-6)
        chosen = asked(address, song, stems=["vocals", "drums"], overlap=0.5, shifts=1, seed=3)
        shifted = separate(model, song_CT, overlap=0.5, shifts=1, seed=3).numpy()
        np.testing.assert_allclose(chosen[0], shifted[[3, 0]], rtol=0, atol=1e-6)
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(address, song, stems=["kazoo"])
        assert b"unknown stems ['kazoo']; this model has" in refused.value.read().replace(b'\\"', b"")


@pytest.mark.usefixtures("consumer")
def test_a_version_whose_weights_were_changed_does_not_load(registered: Registered) -> None:
    import mlflow

    weights = fetch(registered.uri, store=registered.store) / "weights.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"\x01")
    try:
        with pytest.raises(Exception, match=r"weights\.safetensors of this model was changed after it was registered"):
            mlflow.pyfunc.load_model(registered.uri)
    finally:
        weights.write_bytes(before)
