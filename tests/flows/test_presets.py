"""Every preset loads, its network can be built, and its recipe takes a step on a small one of the same kind."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from flows import config as door
from flows.config import RunConfig
from models import catalog
from models.learner import Learner

TINY = {"htdemucs": "htdemucs-tiny", "sparse-htdemucs": "sparse-htdemucs-tiny", "hdemucs": "hdemucs-tiny"}
SMALL = {"segment_s": 0.25, "sample_rate": 8000, "nfft": 512, "depth": 2}
RATE = 8000


def small_model(config: RunConfig) -> torch.nn.Module:
    """The recipe's network where it is built without numbers, and a small one of its kind where it must compute."""
    with torch.device("meta"):
        family: dict[str, Any] = catalog.to_config(catalog.build(config.model.preset, **config.model.options))
    preset = TINY.get(family["family"]) or ("demucs-v2-tiny" if family["version"] == 2 else "demucs-v3-tiny")
    known = catalog.to_config(catalog.build(preset))
    options = {"nfft": 1024} if family["family"] == "hdemucs" else {}
    return catalog.build(preset, **{name: SMALL[name] for name in SMALL.keys() & known.keys()} | options)


@pytest.mark.parametrize("name", door.presets())
def test_a_preset_takes_a_step_at_reduced_size(name: str) -> None:
    config = door.load(name)
    learner_config = replace(
        config.train.learner,
        augment=replace(config.train.learner.augment, shift_s=0.05),
        singular=replace(config.train.learner.singular, min_mib=0.001, rank=4, iterations=1),
    )
    torch.manual_seed(0)
    network = small_model(config)
    learner = Learner(network, learner_config, sample_rate=RATE, total_steps=config.train.steps)
    rows = config.train.row_group
    samples = learner_config.augment.input_samples(2000, RATE)
    stems_BSCT = torch.randn(rows, 4, 2, samples, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    seen = learner.step(stems_BSCT, step=0)
    assert not seen.skipped
    assert any(not torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert len(learner.averages) == len(learner_config.ema_decays) + len(learner_config.epoch_ema_decays)


def test_recipes_are_trained_for_as_many_steps_as_their_epochs_hold() -> None:
    epochs = {"demucs-time": 600, "hdemucs-repro": 600, "hdemucs-mmi": 1200, "htdemucs-extra": 1200,
              "sparse-htdemucs": 1200, "htdemucs-musdb": 360, "hdemucs-remix-ft": 4}  # fmt: skip
    for name, number in epochs.items():
        train = door.load(name).train
        assert (name, train.steps) == (name, number * train.learner.epoch_steps)
        assert train.checkpoint_every == train.learner.epoch_steps
