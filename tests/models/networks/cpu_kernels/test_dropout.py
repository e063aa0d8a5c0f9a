"""Dropout by gaps is dropout."""

import torch

from models.networks.cpu_kernels.dropout import dropped_positions, sparse_dropout


def test_dropped_positions_are_independent_and_as_many_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(1000)
    for _ in range(2000):
        positions = dropped_positions(1000, 0.02, generator)
        assert (positions.diff() > 0).all()
        counts[positions] += 1
    # 2000 draws of probability 0.02 each: mean 40, deviation 6.3
    assert abs(counts.mean() - 40) < 0.7
    assert abs(counts.std() - 6.26) < 0.6


def test_dropout_keeps_the_mean_and_drops_the_same_gradients() -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 400, requires_grad=True)
    y = sparse_dropout(x, 0.1)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert abs(y.mean() - 1) < 0.01
    assert abs((y == 0).float().mean() - 0.1) < 0.005
    assert sparse_dropout(x, 0.0) is x
