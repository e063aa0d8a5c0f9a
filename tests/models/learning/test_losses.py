"""The loss: a mean absolute error per source, and its weighted mean; the penalty on singular values."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.learner_config import AugmentConfig, LearnerConfig, SpectralPenaltyConfig
from models.learning.learner import Learner
from models.learning.losses import kept, l1, singular_penalty, weighted_mean
from tests.pretended_card import card


def test_l1_is_the_mean_distance_of_each_row_and_source() -> None:
    sources_BSCT = torch.zeros(3, 2, 2, 10)
    estimates_BSCT = torch.stack([torch.full((3, 2, 10), 1.0), torch.full((3, 2, 10), -4.0)], dim=1)
    assert l1(estimates_BSCT, sources_BSCT).tolist() == [[1.0, 4.0]] * 3
    assert l1(estimates_BSCT.bfloat16(), sources_BSCT).dtype == torch.float32


def test_weights_count_sources() -> None:
    per_source_S = torch.tensor([1.0, 4.0])
    assert weighted_mean(per_source_S, ()).item() == 2.5
    assert weighted_mean(per_source_S, (1.0, 0.0)).item() == 1.0
    assert weighted_mean(per_source_S, (1.0, 3.0)).item() == 3.25
    with pytest.raises(ModelError, match="3 source weights for 2 sources"):
        weighted_mean(per_source_S, (1.0, 1.0, 1.0))


def test_the_worst_rows_of_each_group_and_source_are_left_out_of_the_mean() -> None:
    loss_BS = torch.tensor(
        [[1.0, 8.0], [4.0, 7.0], [2.0, 6.0], [3.0, 5.0], [9.0, 1.0], [9.0, 2.0], [0.0, 3.0], [9.5, 3.5]]
    )
    weights_BS = kept(loss_BS, 0.25, 4)
    third = 4 / 3
    expected = [
        [third, 0],
        [0, third],
        [third, third],
        [third, third],
        [third, third],
        [third, third],
        [third, third],
        [0, 0],
    ]
    torch.testing.assert_close(weights_BS, torch.tensor(expected))
    assert (weights_BS * loss_BS).mean(dim=0).tolist() == pytest.approx(
        [(1 + 2 + 3 + 9 + 9) / 6, (7 + 6 + 5 + 1 + 2 + 3) / 6]
    )
    torch.testing.assert_close(kept(loss_BS, 0.5, 2).sum(dim=0), torch.full((2,), 8.0))
    assert torch.equal(kept(loss_BS, 0.0, 4), torch.ones(8, 2))
    with pytest.raises(ModelError, match=r"8 rows .* groups of 3"):
        kept(loss_BS, 0.3, 3)


def test_matrices_of_the_least_size_count_and_vectors_never() -> None:
    layers = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(500))
    largest = torch.linalg.svdvals(layers[0].weight.detach())[0].item() ** 2
    for min_mib, expected in ((0.0, largest), (128 * 4 / 2**20, largest), (129 * 4 / 2**20, 0.0)):
        found = singular_penalty(layers, replace(SINGULAR, min_mib=min_mib), seed=0, step=0)
        assert found.item() == pytest.approx(expected, rel=1e-3)


class Weights(nn.Module):
    """One matrix of each kind that counts, and what should not."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(60, 40)
        self.conv = nn.Conv1d(8, 24, 5)
        self.transposed = nn.ConvTranspose2d(16, 12, (4, 2))
        self.lstm = nn.LSTM(20, 30)
        self.small = nn.Linear(4, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def matrices(self) -> list[Tensor]:
        transposed = self.transposed.weight.transpose(0, 1).flatten(1)
        lstm = [self.lstm.weight_ih_l0, self.lstm.weight_hh_l0]
        return [self.linear.weight, self.conv.weight.flatten(1), transposed, *lstm]


SINGULAR = SpectralPenaltyConfig(penalty=1.0, min_mib=900 * 4 / 2**20)


def test_the_penalty_is_the_exact_sum_of_squared_largest_singular_values() -> None:
    model = Weights()
    exact = sum(torch.linalg.svdvals(matrix.detach())[0].item() ** 2 for matrix in model.matrices())
    found = singular_penalty(model, SINGULAR, seed=0, step=0)
    assert found.detach().item() == pytest.approx(exact, rel=1e-3)
    rough = singular_penalty(model, replace(SINGULAR, rank=1, iterations=1), seed=0, step=0)
    assert 0.5 * exact < rough.detach().item() <= exact * 1.00001


def test_its_gradient_is_that_of_the_exact_decomposition() -> None:
    ours, theirs = Weights(), Weights()
    singular_penalty(ours, replace(SINGULAR, iterations=12), seed=0, step=0).backward()  # type: ignore[no-untyped-call]
    sum(torch.linalg.svd(matrix).S[0] ** 2 for matrix in theirs.matrices()).backward()  # type: ignore[union-attr]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if other.grad is None:
            assert one.grad is None
        else:
            assert one.grad is not None
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=1e-3 * float(other.grad.abs().max()))


def test_the_penalty_repeats_by_seed_and_step() -> None:
    rough, model = replace(SINGULAR, rank=1, iterations=1), Weights()
    first, again, other = (singular_penalty(model, rough, seed=0, step=step) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_with_the_penalty_lowers_what_it_punishes_and_tells_the_loss_without_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))

        def forward(self, mixture_BCT: Tensor) -> Tensor:
            return self.weight[:2, 0, None, None] * mixture_BCT[:, None]

    def largest(penalty: float) -> tuple[float, Tensor]:
        model = Model()
        config = LearnerConfig(
            learning_rate=0.01,
            ema_decays=(),
            augment=AugmentConfig(shift_s=0.0, remix_group=1),
            spectral_penalty=SpectralPenaltyConfig(penalty=penalty, min_mib=0.0),
        )
        learner = Learner(model, config)
        sources_BSCT = torch.randn(2, 2, 2, 100, generator=torch.Generator().manual_seed(1))
        first = learner.step(sources_BSCT, step=0).loss
        for step in range(1, 20):
            learner.step(sources_BSCT, step=step)
        return torch.linalg.svdvals(model.weight.detach())[0].item(), first

    (free, loss_free), (held, loss_held) = largest(0.0), largest(1e-2)
    assert held < 0.9 * free
    assert torch.equal(loss_free, loss_held)


@pytest.mark.parametrize("changes", [{"penalty": -1.0}, {"rank": 0}, {"iterations": 0}, {"min_mib": -1.0}])
def test_a_knob_of_the_penalty_out_of_range_is_named(changes: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        SpectralPenaltyConfig(**changes)  # type: ignore[arg-type]


def test_where_no_matrix_is_as_large_as_is_asked_the_setting_is_named() -> None:
    with pytest.raises(ModelError, match=r"spectral_penalty\.min_mib"):
        Learner(Weights(), LearnerConfig(spectral_penalty=replace(SINGULAR, penalty=1.0, min_mib=1000.0)))


def test_on_a_card_the_penalty_and_its_gradient_are_exact_and_no_matrix_is_waited_for() -> None:
    exact_model, model = Weights(), Weights()
    exact = sum(torch.linalg.svd(matrix).S[0] ** 2 for matrix in exact_model.matrices())
    exact.backward()  # type: ignore[union-attr]
    with card() as traffic:
        moved = model.to("cuda")
        traffic.clear()
        penalty = singular_penalty(moved, replace(SINGULAR, iterations=12), seed=0, step=0)
        torch.autograd.backward(penalty)
        assert not traffic.waits
        assert penalty.item() == pytest.approx(float(exact.detach()), rel=1e-3)
        for one, other in zip(moved.parameters(), exact_model.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None and other.grad is not None:
                allowed = 1e-3 * float(other.grad.abs().max())
                torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-2, atol=allowed)
