"""A separation disturbs nothing else in its process: no other use of the model, no thread's share of the CPUs."""

import copy
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from models.inference.eval_mode_on_device import in_evaluation
from models.inference.separate import separate, separate_stream
from models.inference.threads import can_differ, num_threads_here
from models.networks.catalog import build

RATE = 8000


def network(preset: str = "htdemucs-tiny") -> nn.Module:
    torch.manual_seed(0)
    model = build(preset, sources=("a", "b"), sample_rate=RATE, segment_s=0.5)
    if preset == "htdemucs-tiny":
        model = build(preset, sources=("a", "b"), sample_rate=RATE, segment_s=0.5, dropout=0.3)
        for name, weight in model.named_parameters():
            if "gamma" in name:
                nn.init.constant_(weight, 0.3)  # else dropout would hardly be heard
    return model


@pytest.fixture
def mixture_CT() -> Tensor:
    return 0.1 * torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_streams_of_one_model_in_training_end_in_any_order(mixture_CT: Tensor) -> None:
    model = network().train()
    alone = torch.cat(list(separate_stream(model, mixture_CT.split(3000, dim=-1), mean=0.0, std=0.1)), dim=-1)
    long = separate_stream(model, mixture_CT.split(3000, dim=-1), mean=0.0, std=0.1)
    short = separate_stream(model, [mixture_CT[:, :3000]], mean=0.0, std=0.1)
    first = next(long)
    assert list(short)
    assert model.training
    torch.testing.assert_close(torch.cat([first, *long], dim=-1), alone)


def test_each_module_keeps_its_own_mode_and_a_step_in_between_trains(mixture_CT: Tensor) -> None:
    model = network().train()
    frozen = next(model.children())
    frozen.eval()
    modes = [module.training for module in model.modules()]
    stream = separate_stream(model, mixture_CT.split(1000, dim=-1), mean=0.0, std=0.1)
    next(stream)
    assert [module.training for module in model.modules()] == modes
    random = [model(mixture_CT[None, :, :4000]) for _ in range(2)]
    assert not torch.equal(*random)  # dropout, meanwhile
    stream.close()
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    "preset",
    ["htdemucs-tiny", "hdemucs-tiny", "demucs-v2-tiny", "sparse-htdemucs-tiny", "bs-roformer-tiny"],
)
def test_the_twin_gives_what_the_model_gives_and_shares_its_weights(preset: str, mixture_CT: Tensor) -> None:
    model = network(preset).train()
    expected = separate(copy.deepcopy(model).eval(), mixture_CT)
    assert torch.equal(separate(model, mixture_CT), expected)
    twin = in_evaluation(model)
    assert twin is not model
    assert all(one is other for one, other in zip(twin.parameters(), model.parameters(), strict=True))
    assert in_evaluation(model.eval()) is model


@pytest.mark.parametrize("preset", ["hdemucs-tiny", "demucs-v2-tiny"])
def test_on_another_device_a_copy_computes_and_the_model_stays(preset: str) -> None:
    model = network(preset).eval()
    twin = in_evaluation(model, "meta")
    assert {value.device.type for value in twin.state_dict().values()} == {"meta"}
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    assert [type(value) for value in twin.parameters()] == [type(value) for value in model.parameters()]


def threads_of_a_new_thread() -> int:
    return run(torch.get_num_threads)


def run(function: Callable[[], int]) -> int:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.skipif(not can_differ(), reason="no OpenMP of torch's own here")
def test_a_number_of_threads_is_that_of_one_thread(two_threads: None) -> None:
    with num_threads_here(1):
        assert torch.get_num_threads() == 1
        assert threads_of_a_new_thread() == 2
    assert torch.get_num_threads() == 2


def test_threads_that_start_during_a_separation_are_not_slowed(two_threads: None, mixture_CT: Tensor) -> None:
    seen: list[int] = []

    class Watched(type(network())):  # type: ignore[misc]
        def forward(self, mixture_BCT: Tensor) -> Tensor:
            seen.append(threads_of_a_new_thread())
            return super().forward(mixture_BCT)

    model = network().eval()
    model.__class__ = Watched
    separate(model, mixture_CT)
    assert len(seen) >= 4
    assert set(seen) == {2}
    assert threads_of_a_new_thread() == torch.get_num_threads() == 2
