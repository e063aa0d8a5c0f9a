"""The pretended card refuses what CUDA refuses, counts what crosses, and augmentation on it is that of the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.learner_config import AugmentConfig
from models.learning.augment import augment
from models.rng import generator
from tests.pretended_card import CUDA, card

ALL = AugmentConfig(
    shift_s=0.01,
    repitch_probability=0.9,
    eq_probability=0.5,
    saturate_probability=0.5,
    codec_probability=0.5,
    width_probability=0.5,
    mixup_probability=0.5,
    remix_group=2,
)


def _index(on_card: Tensor) -> Tensor:
    return on_card[torch.tensor([1, 0])]


def _gather(on_card: Tensor) -> Tensor:
    return on_card.gather(0, torch.tensor([1, 0]))


def _add(on_card: Tensor) -> Tensor:
    return on_card + torch.ones(2)


@pytest.mark.parametrize("planted", [_index, _gather, _add])
def test_a_tensor_of_the_cpu_on_the_card_is_refused(planted: Callable[[Tensor], Tensor]) -> None:
    with card(), pytest.raises(RuntimeError, match="same device"):
        planted(torch.arange(2.0, device="cuda"))


def test_a_generator_of_the_cpu_is_refused_and_one_of_the_card_taken() -> None:
    with card():
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, device="cuda", generator=generator(0))
        assert torch.rand(2, device="cuda", generator=generator(0, device="cuda")).device == CUDA


def test_numpy_wants_a_copy_on_the_host_first() -> None:
    with card():
        tensor = torch.ones(2).to("cuda")
        with pytest.raises(TypeError, match=r"Tensor.cpu\(\)"):
            tensor.numpy()
        assert tensor.cpu().numpy().tolist() == [1.0, 1.0]


def test_what_crosses_and_what_waits_is_counted() -> None:
    with card() as traffic:
        on_card = torch.ones(4).to("cuda")
        assert sum(traffic.to_device.values()) == 16
        assert sum(traffic.waits.values()) == 1  # from pageable memory
        traffic.clear()
        assert float(on_card.sum()) == 4.0
        assert on_card[on_card > 2].shape == (0,)
        assert sum(traffic.waits.values()) == 2
        assert not traffic.to_device


def test_numbers_and_gradients_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    layer, x = nn.LSTM(3, 4, num_layers=2, bidirectional=True), torch.randn(5, 2, 3)
    expected = layer(x)[0]
    gradients = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    with card():
        moved = layer.to("cuda")
        given = moved(x.to("cuda"))[0]
        given.square().sum().backward()
        torch.testing.assert_close(given.detach().cpu(), expected.detach())
        for parameter, gradient in zip(moved.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad.cpu(), gradient)


def test_augmentation_on_the_card_is_that_of_the_cpu_and_waits_for_nothing() -> None:
    samples = ALL.input_samples(4000, 8000)
    sources_BSCT = 0.1 * torch.randn(4, 2, 2, samples, generator=generator(1))
    options = {"seed": 3, "step": 0, "rows": range(4), "shift_samples": 80}
    expected = augment(sources_BSCT, ALL, **options)  # type: ignore[arg-type]
    with card() as traffic:
        on_card = sources_BSCT.to("cuda")
        traffic.clear()
        given = augment(on_card, ALL, **options)  # type: ignore[arg-type]
        assert not traffic.waits
        assert sum(traffic.to_device.values()) <= 1e6
        torch.testing.assert_close(given.cpu(), expected, atol=1e-5, rtol=1e-4)
