"""Activations that are computed again: the same gradients, less kept, and nothing of it in the state or in copies."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.inference.eval_mode_on_device import in_evaluation
from models.learning.activation_checkpointing import recompute_activations
from models.networks.catalog import build


def network(preset: str) -> nn.Module:
    torch.manual_seed(0)
    return build(preset, sources=("a", "b"), sample_rate=8000, segment_s=0.25).train()


def gradients_and_kept(model: nn.Module) -> tuple[list[Tensor], int]:
    """Gradients by one seed of dropout, and the bytes that autograd held between the passes."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    mixture_BCT = 0.1 * torch.randn(2, 2, 2000, generator=torch.Generator().manual_seed(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(mixture_BCT).abs().mean()
    torch.autograd.backward(loss)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], sum(kept.values())


@pytest.mark.parametrize("preset", ["htdemucs-tiny", "hdemucs-tiny", "demucs-v2-tiny"])
def test_gradients_are_the_same_and_less_is_kept(preset: str) -> None:
    plain, recomputed = network(preset), network(preset)
    assert recompute_activations(recomputed) >= 8
    assert recomputed.state_dict().keys() == plain.state_dict().keys()
    expected, kept = gradients_and_kept(plain)
    given, kept_less = gradients_and_kept(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
    assert kept_less < 0.6 * kept


def test_copies_of_the_model_keep_what_they_need() -> None:
    model = network("htdemucs-tiny")
    recompute_activations(model)
    for other in (copy.deepcopy(model), in_evaluation(model)):
        assert all(layer._compiled_call_impl is None for layer in other.modules())
    assert any(layer._compiled_call_impl is not None for layer in model.modules())
