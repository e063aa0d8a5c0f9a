"""Muon: singular values near 1, and the steps of torch's own where it takes a parameter."""

import torch
from torch import Tensor, nn

from models.learning.muon import Muon, orthogonalized


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_singular_values_are_near_one_and_directions_stay() -> None:
    for shape in ((3, 12, 5), (3, 5, 12)):
        matrices = noise(*shape) * torch.tensor([1e-6, 1.0, 1e4])[:, None, None]
        steps = orthogonalized(matrices)
        values = torch.linalg.svdvals(steps)
        assert ((values > 0.6) & (values < 1.3)).all(), values
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        diagonal = u.mT @ steps @ vh.mT
        torch.testing.assert_close(diagonal, torch.diag_embed(diagonal.diagonal(dim1=1, dim2=2)), rtol=0, atol=0.02)
    assert not orthogonalized(torch.zeros(1, 4, 3)).any()


def test_a_matrix_takes_the_steps_of_torchs_own() -> None:
    """Torch's goes through the iteration in bfloat16."""
    ours, theirs = (nn.Parameter(noise(24, 10)) for _ in range(2))
    mine = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.05)
    reference = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1)
    for step in range(4):
        ours.grad, theirs.grad = noise(24, 10, seed=step + 1), noise(24, 10, seed=step + 1)
        mine.step()
        reference.step()
    walked, apart = (ours - noise(24, 10)).norm(), (ours - theirs).norm()
    assert apart < 0.02 * walked


def test_kernels_are_matrices_of_their_outputs_and_one_shape_goes_together() -> None:
    """A kernel, the same one transposed, and a matrix of its numbers; a second one of that shape does not disturb."""
    values, gradient = noise(6, 4, 3), noise(6, 4, 3, seed=1)
    conv, back, matrix = (
        nn.Parameter(values.clone()),
        nn.Parameter(values.transpose(0, 1).clone()),
        nn.Parameter(values.flatten(1).clone()),
    )
    beside = nn.Parameter(noise(6, 4, 3, seed=2))
    conv.grad, back.grad, matrix.grad = gradient, gradient.transpose(0, 1), gradient.flatten(1)
    beside.grad = 100 * noise(6, 4, 3, seed=3)
    Muon([{"params": [conv, back, beside]}], lr=0.1, inputs_first=[back]).step()
    Muon([{"params": [matrix]}], lr=0.1).step()
    torch.testing.assert_close(conv.flatten(1), matrix)
    torch.testing.assert_close(back.transpose(0, 1), conv)
    assert (conv - values).abs().max() > 0.01


def test_a_group_without_gradients_is_left_as_it_is() -> None:
    idle, used = nn.Parameter(noise(4, 3)), nn.Parameter(noise(4, 3))
    used.grad = noise(4, 3, seed=1)
    Muon([{"params": [idle]}, {"params": [used], "weight_decay": 0.1}], lr=0.1).step()
    assert torch.equal(idle, noise(4, 3))
    assert not torch.equal(used, noise(4, 3))
