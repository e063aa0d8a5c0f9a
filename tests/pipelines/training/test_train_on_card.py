"""The whole loop on the pretended card: trained, validated, kept, resumed and scored, with nothing left on the CPU."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datasets.schema import ShardSet
from models.learner_config import QuantizeConfig, SpectralPenaltyConfig
from models.learning.learner import Learner
from models.networks.catalog import build
from models.weights.loading import load_model
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.scoring_job import score_track
from pipelines.runs import run_folder
from pipelines.training import checkpointing, resource_estimate, train, train_result
from pipelines.training.checkpointing import BestWeights
from pipelines.training.train_config import ModelConfig
from pipelines.training.workers import LocalSession
from tests.models.learning.test_learner_on_card import FAMILIES, SMALLER
from tests.pipelines.songs import SOURCES, write_songs
from tests.pipelines.training.test_train import CONFIG, SONGS
from tests.pretended_card import card

ON_CARD = replace(
    CONFIG,
    steps=2,
    checkpoint_every=1,
    valid_s=0.3,
    use_gpu=True,
    learner=replace(
        CONFIG.learner,
        quantize=QuantizeConfig(penalty=1e-4, min_mib=0.001),
        spectral_penalty=SpectralPenaltyConfig(penalty=1e-5, min_mib=0.002, rank=4),
    ),
)


TRANSFORMERS = {"channels": 4, "nfft": 512, "depth": 2, "transformer_layers": 2}
OPTIONS = SMALLER | {
    "demucs-v2-tiny": {"channels": 4, "depth": 4},
    "demucs-v3-tiny": {"channels": 4, "depth": 4},
    "hdemucs-tiny": {"channels": 4, "nfft": 256, "dconv_depth": 1},  # one of each kind of layer
    "htdemucs-tiny": TRANSFORMERS,
    "sparse-htdemucs-tiny": TRANSFORMERS,
}


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), SONGS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", FAMILIES)
def test_a_run_on_the_card_is_validated_kept_resumed_and_scored(
    preset: str, chunks: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(preset=preset, options={"segment_s": 0.25} | OPTIONS[preset])
    reached = []

    def die_once(self: LocalSession, step: int, text: str) -> None:
        reached.append(step)
        if reached.count(2) == 1 and step == 2:
            raise KeyboardInterrupt

    def run() -> train_result.TrainResult:
        return train.run(ON_CARD, model, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path))

    with card() as traffic:
        # The count runs on the meta device, which is the card's here.
        monkeypatch.setattr(resource_estimate, "price", lambda *_, **__: (SimpleNamespace(step_flop=2e12), 0.25))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalSession, "report_progress", die_once)
            with pytest.raises(KeyboardInterrupt):
                run()
        result = run()
        assert [point["step"] for point in train_result.read_history(result)] == [1, 2]
        assert result.best_nsdr is not None
        for row in run_folder.Lines(Path(result.history).parent / run_folder.SPEED).read():
            assert row["tflops"] == pytest.approx(2 * row["rows_per_s"])
            assert row["mfu"] == pytest.approx(row["tflops"] / 67)
        traffic.clear()
        network = load_model(result.checkpoint).to("cuda")
        scores, _ = score_track(EvaluateConfig(split="test", max_song_s=0.5), network, chunks, track_id="d", title="d")
        assert sum(traffic.to_device.values()) > 0
    assert [score.source for score in scores] == list(SOURCES)
    assert all(score.nsdr is not None for score in scores)


@pytest.mark.slow
def test_a_checkpoint_makes_no_second_copy_of_the_model_on_the_device() -> None:
    torch.manual_seed(0)
    network = build("htdemucs-tiny", sources=SOURCES, sample_rate=8000, segment_s=0.25)
    weights_bytes = sum(4 * parameter.numel() for parameter in network.parameters())
    with card() as traffic:
        learner = Learner(network.to("cuda"), CONFIG.learner, sample_rate=8000, total_steps=2)
        learner.averages[0].update(network)
        traffic.clear()
        best = BestWeights.of(learner, network, step=1, name="ema-0.9", nsdr=1.0)
        kept = checkpointing._on_cpu(network)
        state = checkpointing._cpu_copy(learner.state())
        assert sum(traffic.made.values()) < 0.01 * weights_bytes, traffic.made
        assert sum(traffic.to_host.values()) >= 3 * weights_bytes
    assert all(parameter.device.type == "cpu" for model in (best.model, kept) for parameter in model.parameters())
    assert all(value.device.type == "cpu" for value in state["averages"][0]["average"].values())
