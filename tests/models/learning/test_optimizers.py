"""Which optimizer improves what, and at which rate."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.learner_config import LearnerConfig
from models.learning.learner import Learner
from models.learning.optimizers import optimizers
from models.networks.catalog import build
from tests.models.learning.test_learner import PLAIN

MUON = LearnerConfig(
    optimizer="muon", learning_rate=1e-3, matrix_learning_rate=0.02, warmup_steps=4, ema_decays=(), augment=PLAIN
)


class Layers(nn.Module):
    """Estimates of two sources by a kernel, a transposed kernel and gains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 5, padding=2)
        self.back = nn.ConvTranspose1d(6, 4, 5, padding=2)
        self.scale_C = nn.Parameter(torch.ones(6))

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        y: Tensor = self.back(self.conv(mixture_BCT) * self.scale_C[:, None])
        return y.view(len(y), 2, 2, -1)


def stems() -> Tensor:
    return torch.randn(4, 2, 2, 400, generator=torch.Generator().manual_seed(3))


def layers() -> Layers:
    torch.manual_seed(0)
    return Layers()


def test_every_parameter_has_one_optimizer_and_matrices_have_muon() -> None:
    model = build("htdemucs-tiny", sample_rate=8000, segment_s=0.25)
    made = optimizers(model, MUON)
    in_groups = {
        name: {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, optimizer in made.items()
    }
    assert in_groups["muon"] == {id(parameter) for parameter in model.parameters() if parameter.ndim >= 2}
    assert in_groups["optimizer"] == {id(parameter) for parameter in model.parameters() if parameter.ndim < 2}
    assert list(optimizers(model, replace(MUON, optimizer="adam"))) == ["optimizer"]


def test_both_rates_rise_and_fall_together() -> None:
    learner = Learner(layers(), replace(MUON, min_lr_ratio=0.5), total_steps=10)
    for step in range(10):
        metrics = learner.step(stems(), step=step)
        rates = {name: made.param_groups[0]["lr"] for name, made in learner.optimizers.items()}
        assert rates == {"muon": pytest.approx(20 * metrics.learning_rate), "optimizer": metrics.learning_rate}


def test_weight_decay_can_be_kept_to_some_parameters() -> None:
    model = nn.ModuleDict({"inner": layers(), "outer": layers()})
    for name, sizes in (("adam", {"optimizer": (5, 5)}), ("muon", {"muon": (2, 2), "optimizer": (3, 3)})):
        made = optimizers(model, replace(MUON, optimizer=name, weight_decay=0.05, weight_decay_under="inner."))
        groups = {
            key: [(of["weight_decay"], len(of["params"])) for of in each.param_groups] for key, each in made.items()
        }
        assert groups == {key: [(0.05, decayed), (0.0, spared)] for key, (decayed, spared) in sizes.items()}
    with pytest.raises(ModelError, match="weight_decay_under='core'"):
        optimizers(model, replace(MUON, weight_decay=0.05, weight_decay_under="core"))


@pytest.mark.parametrize("stored", ["adam", "muon"])
def test_a_training_goes_on_with_the_optimizer_it_began_with(stored: str) -> None:
    config = replace(MUON, optimizer=stored)
    through, begun = Learner(layers(), config), Learner(layers(), config)
    for step in range(2):
        through.step(stems(), step=step)
        begun.step(stems(), step=step)
    resumed = Learner(layers(), config)
    resumed.model.load_state_dict(begun.model.state_dict())
    resumed.load_state(begun.state())
    for learner in (through, resumed):
        learner.step(stems(), step=2)
    assert all(map(torch.equal, through.model.parameters(), resumed.model.parameters()))
    other = Learner(layers(), replace(MUON, optimizer="adam" if stored == "muon" else "muon"))
    with pytest.raises(ModelError, match=r"another optimizer \(muon\)"):
        other.load_state(begun.state())


@pytest.mark.parametrize("name", ["RMSprop", "SGD"])
def test_a_state_of_another_optimizer_is_refused_where_both_take_all_weights(name: str) -> None:
    begun = Learner(layers(), replace(MUON, optimizer="adam"))
    begun.step(stems(), step=0)
    other = Learner(layers(), replace(MUON, optimizer=f"torch.optim:{name}"))
    with pytest.raises(ModelError, match=f"another optimizer, which has .*; now it is 'torch.optim:{name}'"):
        other.load_state(begun.state())
