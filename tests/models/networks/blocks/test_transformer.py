import pytest
import torch
from demucs.transformer import (
    CrossTransformerEncoder,
    MyGroupNorm,
    create_2d_sin_embedding,
    create_sin_embedding,
)
from torch import nn

from models.networks.blocks.transformer import Attention, CrossTransformer, WholeNorm, grid_positions, line_positions
from tests.models.parity import noise, twin

CPU = torch.device("cpu")


def test_positions_in_a_line_are_the_references() -> None:
    expected = create_sin_embedding(100, 32)[:, 0]
    torch.testing.assert_close(line_positions(100, 32, device=CPU), expected, rtol=0, atol=1e-5)


def test_positions_in_a_grid_are_the_references() -> None:
    expected = create_2d_sin_embedding(32, 8, 50)[0].permute(2, 1, 0).flatten(0, 1)
    torch.testing.assert_close(grid_positions(50, 8, 32, device=CPU), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_attention_is_torchs_multi_head_attention(same: bool) -> None:
    reference, ours = nn.MultiheadAttention(16, 4, batch_first=True), Attention(16, 4, 0.0)
    twin(ours, reference)
    query = noise(2, 7, 16)
    memory = query if same else noise(2, 11, 16, seed=1)
    torch.testing.assert_close(ours(query, memory), reference(query, memory, memory)[0], rtol=0, atol=1e-6)


def test_whole_norm_is_a_group_norm_over_tokens_and_features() -> None:
    reference, ours = MyGroupNorm(1, 16), WholeNorm(16)
    twin(ours, reference)
    x = 5 * noise(3, 9, 16) + 2
    torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_cross_transformer_is_the_references(num_layers: int) -> None:
    reference = CrossTransformerEncoder(
        16, num_layers=num_layers, num_heads=4, dropout=0.0, norm_out=True, norm_first=True, layer_scale=True
    )
    ours = CrossTransformer(16, num_layers=num_layers, num_heads=4)
    twin(ours, reference)
    x, xt = noise(2, 16, 3, 10), noise(2, 16, 25, seed=1)
    expected, expected_t = reference(x, xt)
    found, found_t = ours(x.permute(0, 3, 2, 1).flatten(1, 2), xt.transpose(1, 2), num_rows=3)
    torch.testing.assert_close(found.view(2, 10, 3, 16).permute(0, 3, 2, 1), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found_t.transpose(1, 2), expected_t, rtol=0, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    ours = CrossTransformer(16, num_layers=2, num_heads=4, dropout=0.5, attention_dropout=0.5)
    nn.init.ones_(ours.layers[0].gamma_1.scale)
    x, xt = noise(1, 30, 16), noise(1, 25, 16, seed=1)
    assert not torch.equal(ours(x, xt, 3)[0], ours(x, xt, 3)[0])
    ours.eval()
    assert torch.equal(ours(x, xt, 3)[0], ours(x, xt, 3)[0])
