"""Training with learnt widths: the result is packed, what was scored is what ships, and it resumes bit for bit."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.schema import ShardSet
from datasets.shards.manifests import read_songs
from datasets.shards.shards import read_song
from models.inference.separate import separate
from models.learner_config import QuantizeConfig
from models.scores.metrics import nsdr
from models.weights.checkpoint import load_packing
from models.weights.loading import load_model
from models.weights.model_identity import describe
from pipelines.registry.bundle import write_bundle
from pipelines.training import train, train_result
from pipelines.training.train_result import TrainResult
from pipelines.training.workers import LocalSession
from tests.pipelines.songs import SOURCES, write_songs
from tests.pipelines.training.test_train import CONFIG as PLAIN
from tests.pipelines.training.test_train import MODEL, SONGS

CONFIG = replace(
    PLAIN,
    learner=replace(PLAIN.learner, quantize=QuantizeConfig(penalty=0.1, min_mib=0.0005, learning_rate=0.1)),
    valid_s=0.0,
)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), SONGS)


def run(chunks: ShardSet, store: Path) -> TrainResult:
    return train.run(CONFIG, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(store))


@pytest.fixture(scope="module")
def undisturbed(chunks: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(chunks, tmp_path_factory.mktemp("store"))


def test_the_result_is_packed_and_scores_what_validation_said(undisturbed: TrainResult, chunks: ShardSet) -> None:
    checkpoint = Path(undisturbed.checkpoint)
    assert load_packing(checkpoint)
    current = sorted(checkpoint.parent.glob("step-*"))[-1] / "current"
    assert describe(checkpoint).size_bytes < 0.6 * describe(current).size_bytes
    (song,) = (song for song in read_songs(chunks) if song.split == "valid")
    stems_SCT = torch.from_numpy(read_song(song, sources=SOURCES))
    estimates_SCT = separate(load_model(checkpoint), stems_SCT.sum(dim=0))
    assert nsdr(stems_SCT, estimates_SCT).mean().item() == pytest.approx(undisturbed.best_nsdr, abs=1e-4)
    sizes = [point["size_mib"] for point in train_result.read_history(undisturbed)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_a_killed_run_ends_with_the_same_packed_bytes(
    chunks: ShardSet, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_progress = LocalSession.report_progress

    def die(self: LocalSession, step: int, text: str) -> None:
        if step == 5:
            raise KeyboardInterrupt
        report_progress(self, step, text)

    monkeypatch.setattr(LocalSession, "report_progress", die)
    with pytest.raises(KeyboardInterrupt):
        run(chunks, tmp_path)
    monkeypatch.undo()
    resumed = run(chunks, tmp_path)
    assert resumed.model_digest == undisturbed.model_digest
    assert train_result.read_history(resumed) == train_result.read_history(undisturbed)


def test_the_code_that_travels_with_a_registered_model_reads_it(
    undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(Path(undisturbed.checkpoint), tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    travelled = importlib.import_module(f"{bundle.package.name}.weights.loading").load_model(bundle.checkpoint)
    expected = load_model(undisturbed.checkpoint).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in travelled.state_dict().items())
