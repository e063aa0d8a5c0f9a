"""Sparse attention: its two implementations agree, its pattern is what was asked, and it learns."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import ModelError
from models.networks.blocks.residual import LayerScale
from models.networks.catalog import build, from_config, to_config
from models.networks.sparse_htdemucs import (
    SparseAttention,
    SparseHTDemucsConfig,
    attend_blocks,
    attend_dense,
    count_matches,
    draw_projection,
    find_pattern,
    kept_pairs,
    occupied_blocks,
    report,
)
from models.weights.checkpoint import save
from models.weights.loading import load_model


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pattern_of(q: Tensor, k: Tensor, *, sparsity: float = 0.9, rounds: int = 32, seed: int = 7):
    projection = draw_projection(q.shape[-1], rounds=rounds, seed=seed)
    return find_pattern(q, k, sparsity=sparsity, projection_DR2=projection)


def test_matches_count_the_rounds_that_share_a_bucket():
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(4, (2, 500, 32), generator=generator)
    query, key = (buckets << (2 * torch.arange(32))).sum(-1)
    assert torch.equal(count_matches(query, key, 32), (buckets[0] == buckets[1]).sum(-1))
    assert (count_matches(query, query, 32) == 32).all()


def test_a_bucket_is_the_largest_of_a_projection_and_its_negative():
    q, k = vectors(1, 1, 40, 16), vectors(1, 1, 30, 16, seed=1)
    pattern = pattern_of(q, k)
    projection = draw_projection(16, rounds=32, seed=7)
    buckets = [torch.cat([p := torch.einsum("ld,drp->lrp", x[0, 0], projection), -p], -1).argmax(-1) for x in (q, k)]
    agree = (buckets[0][:, None] == buckets[1]).sum(-1)
    assert torch.equal(kept_pairs(pattern)[0, 0], agree >= pattern.least_BH[0, 0])


@pytest.mark.parametrize(("sparsity", "step"), [(0.5, 0.15), (0.9, 0.07), (0.98, 0.02)])
def test_random_vectors_get_the_sparsity_asked_for(sparsity, step):
    """To half a step of k: `step` is the share of pairs that agree in exactly so many rounds."""
    q, k = vectors(1, 4, 512, 64), vectors(1, 4, 384, 64, seed=1)
    reached = report(q, k, pattern_of(q, k, sparsity=sparsity)).sparsity
    assert abs(reached - sparsity) <= step / 2 + 0.005


def test_unrelated_vectors_need_twelve_of_32_rounds():
    q, k = vectors(1, 8, 512, 64), vectors(1, 8, 512, 64, seed=1)
    assert set(pattern_of(q, k).least_BH.flatten().tolist()) <= {11, 12, 13}


@pytest.mark.slow  # torch builds flex_attention's graph the first time; it has no gradients on CPUs
@pytest.mark.parametrize("num_keys", [256, 300])
def test_blocks_and_dense_mask_agree(num_keys):
    q, k, v = vectors(2, 2, 260, 16), vectors(2, 2, num_keys, 16, seed=1), vectors(2, 2, num_keys, 16, seed=2)
    pattern = pattern_of(q, k)
    torch.testing.assert_close(attend_dense(q, k, v, pattern), attend_blocks(q, k, v, pattern), atol=1e-5, rtol=1e-4)


def test_without_sparsity_it_is_exact_attention():
    q, k, v = vectors(1, 2, 50, 16), vectors(1, 2, 70, 16, seed=1), vectors(1, 2, 70, 16, seed=2)
    sparse = attend_dense(q, k, v, pattern_of(q, k, sparsity=0.0))
    torch.testing.assert_close(sparse, F.scaled_dot_product_attention(q, k, v))


def test_clustered_tokens_leave_blocks_empty_once_sorted():
    centres = 5 * vectors(8, 64)
    labels = torch.arange(1024) % 8  # neighbours in time belong to different clusters
    tokens = (centres[labels] + 0.1 * vectors(1024, 64, seed=1))[None, None]
    measured = report(tokens, tokens, pattern_of(tokens, tokens, sparsity=0.85))
    assert measured.empty_blocks > 0.5
    assert measured.recall > 0.98
    assert not occupied_blocks(pattern_of(tokens, tokens, sparsity=0.85)).logical_not().any()  # unsorted: none


def test_heavy_pairs_are_caught_more_often_than_chance():
    tokens = 2 * vectors(1, 2, 512, 64)
    measured = report(tokens, tokens, pattern_of(tokens, tokens))
    kept = 1 - measured.sparsity
    assert measured.recall > 3 * kept
    assert measured.recall <= measured.best_recall + 1e-6


def test_a_query_without_a_partner_gets_zeros_and_finite_gradients():
    q, k, v = vectors(1, 1, 4, 8), vectors(1, 1, 6, 8, seed=1), vectors(1, 1, 6, 8, seed=2)
    pattern = pattern_of(q, k)
    nobody = type(pattern)(
        query_BHL=pattern.query_BHL,
        key_BHM=~pattern.query_BHL[..., :1].expand(1, 1, 6),
        least_BH=pattern.least_BH * 0 + 32,
        rounds=32,
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = attend_dense(*inputs, nobody)
    assert not out[0, 0, 0].any()
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


def test_evaluation_is_reproducible_and_training_draws_a_new_hash():
    module = SparseAttention(32, 2)
    query, memory = vectors(1, 80, 32), vectors(1, 60, 32, seed=1)
    module.eval()
    assert torch.equal(module(query, memory), module(query, memory))
    module.train()
    torch.manual_seed(0)
    assert not torch.equal(module(query, memory), module(query, memory))


def test_a_saved_model_hashes_as_before_and_another_seed_otherwise(tmp_path):
    torch.manual_seed(0)
    model = build("sparse-htdemucs-tiny", sample_rate=8000, segment_s=0.5).eval()
    with torch.no_grad():
        for module in model.modules():  # attention is scaled down at first; here it shall be heard
            if isinstance(module, LayerScale):
                module.scale.fill_(1.0)
    save(tmp_path / "model", model)
    torch.manual_seed(1)
    again, mixture = load_model(tmp_path / "model"), 0.1 * vectors(1, 2, 4000)
    other = from_config(to_config(model) | {"hash_seed": 1}).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(mixture), model(mixture))
        assert not torch.equal(other(mixture), model(mixture))


def test_keys_are_those_documented():
    keys = {key for key in build("sparse-htdemucs-tiny").state_dict() if "attn" in key}
    assert {key.split("attn.")[1] for key in keys} == {
        f"{x}.{y}" for x in ["q", "k", "v", "proj"] for y in ("weight", "bias")
    }


def test_the_paper_size_is_that_of_its_dense_twin():
    with torch.device("meta"):
        model = build("sparse-htdemucs")
    assert sum(parameter.numel() for parameter in model.parameters()) == 54_604_232


def test_the_tiny_preset_learns_a_segment_and_round_trips_its_config():
    torch.manual_seed(0)
    model = build("sparse-htdemucs-tiny").train()
    stems = 0.1 * vectors(1, 4, 2, 6000)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.l1_loss(model(stems.sum(1)), stems)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert to_config(from_config(to_config(model))) == to_config(model)


@pytest.mark.parametrize("change", [{"sparsity": 1.0}, {"hash_rounds": 40}, {"attention_dropout": 0.1}])
def test_a_configuration_that_cannot_be_is_refused(change):
    with pytest.raises(ModelError):
        SparseHTDemucsConfig(**change)


@pytest.mark.gpu
def test_on_cuda_blocks_and_dense_mask_agree_forward_and_backward():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    q, k, v = (vectors(1, 8, 1344, 64, seed=s).cuda() for s in range(3))
    pattern = pattern_of(q, k)
    results = []
    for attend in (attend_dense, attend_blocks):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attend(*inputs, pattern)
        results.append((out, *torch.autograd.grad(out, inputs, torch.ones_like(out))))
    for dense, blocks in zip(*results, strict=True):
        torch.testing.assert_close(dense, blocks, atol=2e-3, rtol=2e-3)
