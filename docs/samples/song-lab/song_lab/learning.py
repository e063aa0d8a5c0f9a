"""A loss, an optimizer and an augmentation."""

import torch


def log_l1(estimates: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """(B, S) from estimates and sources, both (B, S, C, T): the mean absolute error in decibels."""
    return 10 * torch.log10((estimates - sources).abs().mean(dim=(2, 3)) + 1e-4)


class SignSGD(torch.optim.Optimizer):
    """Every weight goes one learning rate against the sign of its gradient."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * weight.grad.sign())


def gain_ramp(sources: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """One row of stems (S, C, T), each getting louder or softer by up to 6 dB from its beginning to its end."""
    end_db = 12 * torch.rand(len(sources), generator=generator) - 6
    ramp = torch.linspace(0, 1, sources.shape[-1])
    return sources * 10 ** (end_db[:, None, None] * ramp / 20).to(sources)
