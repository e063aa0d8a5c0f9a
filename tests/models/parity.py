"""How far one of our models is from a reference that carries the same weights."""

import torch
from torch import Tensor, nn


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
    with torch.no_grad():
        estimates = reference(mixture_BCT)
        # Targets of random sign far outside the estimates: near them the loss has a kink, and one sample that rounding
        # moves across it changes the gradient by more than 1e-3.
        sources_BSCT = 10 * estimates.abs().max() * noise(*estimates.shape, seed=1).sign()
    gradients = []
    for model in (reference, ours):
        model.zero_grad()
        (model(mixture_BCT) - sources_BSCT).abs().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    # Some gradients are zero but for rounding, such as that of a key's bias, which softmax does not see.
    floor = 1e-5 * max(gradient.norm() for gradient in gradients[0].values())
    gaps = [
        (gradients[1][name] - expected).norm() / (expected.norm() + floor) for name, expected in gradients[0].items()
    ]
    return float(max(gaps))


def noise(*shape: int, seed: int = 0) -> Tensor:
    """White noise at a tenth of full scale."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
