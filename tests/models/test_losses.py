"""The loss: a mean absolute error per source, and its weighted mean."""

import pytest
import torch

from models.errors import ModelError
from models.losses import l1, weighted_mean


def test_l1_is_the_mean_distance_of_each_source() -> None:
    sources_BSCT = torch.zeros(3, 2, 2, 10)
    estimates_BSCT = torch.stack([torch.full((3, 2, 10), 1.0), torch.full((3, 2, 10), -4.0)], dim=1)
    assert l1(estimates_BSCT, sources_BSCT).tolist() == [1.0, 4.0]
    assert l1(estimates_BSCT.bfloat16(), sources_BSCT).dtype == torch.float32


def test_weights_count_sources() -> None:
    per_source_S = torch.tensor([1.0, 4.0])
    assert weighted_mean(per_source_S, ()).item() == 2.5
    assert weighted_mean(per_source_S, (1.0, 0.0)).item() == 1.0
    assert weighted_mean(per_source_S, (1.0, 3.0)).item() == 3.25
    with pytest.raises(ModelError, match="3 source weights for 2 sources"):
        weighted_mean(per_source_S, (1.0, 1.0, 1.0))
