"""Averaged weights: unbiased, swapped in and out without a trace, resumable."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.errors import ModelError
from models.learning.ema import WeightAverage


def set_weight(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def averaged(average: WeightAverage) -> float:
    return average.average["weight"].flatten()[0].item()


def test_early_averages_are_those_of_the_series_seen_so_far() -> None:
    model, decay = nn.Linear(2, 2), 0.9
    average = WeightAverage(model, decay)
    seen = []
    for value in (1.0, 5.0, -2.0, 7.0):
        set_weight(model, value)
        average.update(model)
        seen.append(value)
        weights = [decay**age for age in reversed(range(len(seen)))]
        expected = sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights)
        assert averaged(average) == pytest.approx(expected, rel=1e-5)


def test_an_update_is_one_operation_however_many_weights_there_are() -> None:
    operations = []

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operations.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    average = WeightAverage(model, 0.9)
    with Recording():
        average.update(model)
    assert [name for name in operations if name != "detach"] == ["_foreach_lerp_"]


def test_a_constant_stays_constant() -> None:
    model = nn.Linear(2, 2)
    set_weight(model, 3.0)
    average = WeightAverage(model, 0.999)
    for _ in range(5):
        average.update(model)
    assert averaged(average) == pytest.approx(3.0)


def test_swap_gives_the_model_back_its_own_weights_even_after_an_error() -> None:
    model = nn.Linear(2, 2)
    set_weight(model, 1.0)
    average = WeightAverage(model, 0.5)
    average.update(model)
    set_weight(model, 2.0)

    def fail_inside() -> None:
        with average.swap(model):
            assert model.weight.flatten()[0].item() == 1.0
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert model.weight.flatten()[0].item() == 2.0


def test_an_average_takes_in_every_step_unless_told_otherwise() -> None:
    model = nn.Linear(2, 2)
    plain, per_epoch = WeightAverage(model, 0.999), WeightAverage(model, 0.9, every=2)
    assert (plain.every, plain.name) == (1, "ema-0.999")
    assert (per_epoch.every, per_epoch.name) == (2, "ema-0.9-epoch")


def test_integer_buffers_are_left_alone() -> None:
    average = WeightAverage(nn.BatchNorm1d(3), 0.5)
    assert "num_batches_tracked" not in average.average


def test_a_stored_average_goes_on_as_if_never_stopped() -> None:
    model = nn.Linear(2, 2)
    first = WeightAverage(model, 0.9)
    first.update(model)
    second = WeightAverage(nn.Linear(2, 2), 0.9)
    second.load_state(first.state())
    for average in (first, second):
        set_weight(model, 4.0)
        average.update(model)
    assert torch.equal(first.average["weight"], second.average["weight"])
    with pytest.raises(ModelError, match="other parameters"):
        WeightAverage(nn.Conv1d(1, 1, 1, bias=False), 0.9).load_state(first.state())
