"""How far one of our models is from a reference that carries the same weights."""

import torch
from torch import Tensor, nn

from models.weights.msst.msst_names import to_our_names
from models.weights.state_dict import load_state


def twin(ours: nn.Module, reference: nn.Module) -> None:
    """Gives our model the reference's weights; every key and shape must be there, and none besides."""
    with torch.no_grad():
        for parameter in reference.parameters():
            # Layer scales of 1e-4, biases of 0 and gains of 1 would hide mistakes around them. Matrices are random
            # already; larger ones would make an LSTM of 2048 units chaotic, and rounding as large as the signal.
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    shapes = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == shapes
    ours.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(ours.state_dict(), strict=True)


def forward_gap(ours: nn.Module, reference: nn.Module, mixture_BCT: Tensor) -> float:
    """Largest difference of the estimates, as a share of their peak."""
    with torch.no_grad():
        expected, found = reference(mixture_BCT), ours(mixture_BCT)
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    return float((found - expected).abs().max() / expected.abs().max())


def gradient_gap(ours: nn.Module, reference: nn.Module, mixture_BCT: Tensor) -> float:
    """Largest relative difference over the parameters of the gradients of an L1 loss, by norm."""
    expected, given = (gradients(model, mixture_BCT, like=reference) for model in (reference, ours))
    return largest_gap(given, expected)


def gradients(model: nn.Module, mixture_BCT: Tensor, *, like: nn.Module) -> dict[str, Tensor]:
    """Of an L1 loss, by parameter."""
    with torch.no_grad():
        estimates = like(mixture_BCT)
        # Targets of random sign far outside the estimates: near them the loss has a kink, and one sample that rounding
        # moves across it changes the gradient by more than 1e-3.
        targets = 10 * estimates.abs().max() * noise(*estimates.shape, seed=1).sign()
    model.zero_grad()
    (model(mixture_BCT).view(targets.shape) - targets).abs().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_gap(given: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative difference of two tables of gradients, by norm."""
    assert given.keys() == expected.keys()
    # Some gradients are zero but for rounding, such as that of a key's bias, which softmax does not see.
    floor = 1e-5 * max(gradient.norm() for gradient in expected.values())
    return float(max((given[name] - there).norm() / (there.norm() + floor) for name, there in expected.items()))


def renamed_twin_gaps(
    ours: nn.Module, reference: nn.Module, patterns: tuple[tuple[str, str], ...], mixture_BCT: Tensor
) -> tuple[float, float]:
    """Both gaps of a model and a reference whose weights go by other names, once ours has the reference's weights."""
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.dim() == 1 and parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    load_state(ours, to_our_names(reference.state_dict(), patterns), origin="the reference")
    ours.eval(), reference.eval()
    with torch.no_grad():
        expected = reference(mixture_BCT)
        estimates = ours(mixture_BCT).view(expected.shape)
    forward = float((estimates - expected).abs().max() / expected.abs().max())
    ours.train(), reference.train()
    there = to_our_names(gradients(reference, mixture_BCT, like=reference), patterns)
    return forward, largest_gap(gradients(ours, mixture_BCT, like=reference), there)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """White noise at a tenth of full scale."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
