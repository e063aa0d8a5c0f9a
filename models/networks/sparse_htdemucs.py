"""Sparse HT Demucs: attention between tokens that locality-sensitive hashing finds alike, and no others.

Every token falls into one of four buckets in each of 32 rounds; a query sees a key if they share the bucket in at
least k rounds, with k such that 90 % of the pairs go. HT Demucs, arXiv 2211.08553, section 3.2. The kernels behind
the paper were never published and neither were weights; this is our reading of it. Two implementations of one
pattern: a dense mask, on CPUs and as oracle, and torch's flex_attention on CUDA devices, where tokens are sorted by
bucket and blocks of 128 x 128 pairs without a single match are skipped.

State-dict keys: `self_attn.{q,k,v,proj}.{weight,bias}` and `cross_attn.{q,k,v,proj}.{weight,bias}` instead of the
exact model's `in_proj_weight`, `in_proj_bias` and `out_proj`; all others are the same.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..field_constraints import NonNegativeInt, PositiveFloat, Range
from ..host_to_device import upload
from .htdemucs import HTDemucs, HTDemucsConfig

NUM_BUCKETS = 4  # two bits of a code
MAX_ROUNDS = 32  # so that a token's buckets fit into one int64
BLOCK = 128  # tokens per side of what flex_attention computes or skips at once
NUM_PROBES = 256  # queries that k is chosen from
EVEN_BITS = 0x5555555555555555
CHUNK_ELEMENTS = 2**24  # pairs whose matches are held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseHTDemucsConfig(HTDemucsConfig):
    """HT Demucs with sparse attention in every layer, by default the paper's largest."""

    segment_s: PositiveFloat = 12.2  # seconds; what evaluation pads to, and the most it takes
    transformer_layers: NonNegativeInt = 7  # self- and cross-attention in turn, per domain
    attention_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0  # the pattern itself already leaves out most pairs
    # share of pairs that attention leaves out, as near as a whole k allows
    sparsity: Annotated[float, Range(ge=0, lt=1)] = 0.9
    # Rounds of hashing; in each a token falls into one of 4 buckets
    hash_rounds: Annotated[int, Range(ge=1, le=MAX_ROUNDS)] = 32
    # Seed of the hash in evaluation; training draws a new one at every call
    hash_seed: Annotated[int, Range(ge=-(2**63), lt=2**63)] = 0

    def __post_init__(self) -> None:
        HTDemucsConfig.__post_init__(self)
        if self.attention_dropout:
            raise ModelError(f"attention_dropout {self.attention_dropout}: sparse attention has none, give 0")


class SparseHTDemucs(HTDemucs):
    """HTDemucs whose attention is sparse; mixture (B, C, T) to estimates (B, S, C, T)."""

    equal_batches = True  # its kernels are compiled for each size, and torch compiles for eight

    def __init__(self, config: SparseHTDemucsConfig | None = None) -> None:
        config = config or SparseHTDemucsConfig()

        def attention(width: int, num_heads: int, dropout: float) -> nn.Module:
            return SparseAttention(
                width, num_heads, sparsity=config.sparsity, rounds=config.hash_rounds, seed=config.hash_seed
            )

        super().__init__(config, attention=attention)


class SparseAttention(nn.Module):
    """Multi-head attention over the pairs that the hash keeps; (B, L, D) and (B, M, D) to (B, L, D).

    A query without any partner gets zeros. Gradients flow through the kept pairs; the choice itself has none.
    """

    projection_DR2: Tensor  # of the hash in evaluation; no part of the state, since its seed is configuration

    def __init__(self, width: int, num_heads: int, *, sparsity: float = 0.9, rounds: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.num_heads, self.sparsity, self.rounds = num_heads, sparsity, rounds
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        projection_DR2 = draw_projection(width // num_heads, rounds=rounds, seed=seed)
        self.register_buffer("projection_DR2", projection_DR2, persistent=False)

    def forward(self, query_BLD: Tensor, memory_BMD: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q(query_BLD), self.k(memory_BMD), self.v(memory_BMD))
        )
        pattern = find_pattern(q, k, sparsity=self.sparsity, projection_DR2=self._projection())
        attention = attend_blocks if q.device.type == "cuda" else attend_dense
        out: Tensor = self.proj(attention(q, k, v, pattern).transpose(1, 2).flatten(-2))
        return out

    def _projection(self) -> Tensor:
        if self.training:
            width, rounds, _ = self.projection_DR2.shape
            return draw_projection(width, rounds=rounds, seed=int(torch.randint(2**62, ())))
        return self.projection_DR2


def draw_projection(width: int, *, rounds: int, seed: int) -> Tensor:
    """Random directions (D, rounds, 2) that the hash projects on, drawn on the CPU for every device to hash alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, rounds, NUM_BUCKETS // 2, generator=generator, device="cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Which pairs are kept: those whose codes agree in at least `least_BH` rounds."""

    query_BHL: Tensor  # int64, two bits per round
    key_BHM: Tensor
    least_BH: Tensor  # int64
    rounds: int


@torch.no_grad()
def find_pattern(q_BHLD: Tensor, k_BHMD: Tensor, *, sparsity: float, projection_DR2: Tensor) -> Pattern:
    """Hashes queries and keys alike; k for each example and head gets as near to the sparsity as a whole one can."""
    projection_DR2 = upload(projection_DR2, q_BHLD.device)
    rounds = projection_DR2.shape[1]
    query_BHL, key_BHM = (_codes(x, projection_DR2) for x in (q_BHLD, k_BHMD))
    num_queries = query_BHL.shape[-1]
    probes = torch.linspace(0, num_queries - 1, min(num_queries, NUM_PROBES), device=q_BHLD.device).round().long()
    matches_BHPM = count_matches(query_BHL[..., probes, None], key_BHM[..., None, :], rounds)
    # A histogram, and from its end a sum: kept_BHK[k] is the share of pairs that agree in at least k rounds.
    matches = matches_BHPM.flatten(-2)
    counts_BHK = matches.new_zeros(*matches.shape[:2], rounds + 1).scatter_add(-1, matches, torch.ones_like(matches))
    kept_BHK = counts_BHK.flip(-1).cumsum(-1).flip(-1) / matches.shape[-1]
    least_BH = (kept_BHK - (1 - sparsity)).abs().argmin(-1)
    return Pattern(query_BHL=query_BHL, key_BHM=key_BHM, least_BH=least_BH, rounds=rounds)


def _codes(x_BHLD: Tensor, projection_DR2: Tensor) -> Tensor:
    """The buckets of all rounds, two bits each, in one int64: the largest of the projections and their negatives."""
    with torch.autocast(x_BHLD.device.type, enabled=False):
        projected = torch.einsum("bhld,drp->bhlrp", x_BHLD.float(), projection_DR2.float())
    buckets_BHLR = torch.cat([projected, -projected], dim=-1).argmax(-1)
    places_R = 2 * torch.arange(projection_DR2.shape[1], device=x_BHLD.device)
    return torch.bitwise_left_shift(buckets_BHLR, places_R).sum(-1)  # not <<, which has no ONNX operator


def count_matches(query: Tensor, key: Tensor, rounds: int) -> Tensor:
    """Rounds in which two codes name the same bucket; elementwise, int64.

    Written in operations that flex_attention can compile into its kernel.
    """
    differ = query ^ key
    differ = (differ | (differ >> 1)) & EVEN_BITS  # one bit per round that differs
    pairs = (differ & 0x3333333333333333) + ((differ >> 2) & 0x3333333333333333)
    bytes_ = (pairs + (pairs >> 4)) & 0x0F0F0F0F0F0F0F0F
    bytes_ = bytes_ + (bytes_ >> 8)
    bytes_ = bytes_ + (bytes_ >> 16)
    bytes_ = bytes_ + (bytes_ >> 32)
    return rounds - (bytes_ & 0x7F)


@torch.no_grad()
def kept_pairs(pattern: Pattern) -> Tensor:
    """The pattern as a mask (B, H, L, M), True where a pair is kept."""
    rows = pattern.query_BHL.shape[-1]
    if not torch.compiler.is_exporting():  # a graph for any batch has no sizes to choose parts by
        rows = max(1, CHUNK_ELEMENTS // (pattern.least_BH.numel() * pattern.key_BHM.shape[-1]))
    parts = [
        count_matches(query_BHl[..., None], pattern.key_BHM[..., None, :], pattern.rounds)
        >= pattern.least_BH[..., None, None]
        for query_BHl in torch.split(pattern.query_BHL, rows, dim=-1)
    ]
    return torch.cat(parts, dim=-2)


def attend_dense(q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, pattern: Pattern) -> Tensor:
    """Attention over the kept pairs by masking: (B, H, L, D); simple, and as slow as exact attention."""
    mask_BHLM = kept_pairs(pattern)
    alone_BHL1 = ~mask_BHLM.any(-1, keepdim=True)
    mask_BHLM[..., :1] |= alone_BHL1  # a softmax over nothing is no number; the product below takes it out again
    heads = F.scaled_dot_product_attention(q_BHLD, k_BHMD, v_BHMD, attn_mask=mask_BHLM)
    return heads * ~alone_BHL1


def attend_blocks(q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, pattern: Pattern) -> Tensor:
    """The same through flex_attention: tokens sorted by code, empty blocks skipped; compiled on CUDA devices."""
    by_query_BHL, by_key_BHM = pattern.query_BHL.argsort(-1), pattern.key_BHM.argsort(-1)
    q, k, v = (_take(x, by) for x, by in ((q_BHLD, by_query_BHL), (k_BHMD, by_key_BHM), (v_BHMD, by_key_BHM)))
    heads = _flex(q.device.type)(q, k, v, block_mask=_block_mask(by_code(pattern)))
    return _take(heads, by_query_BHL.argsort(-1))


def by_code(pattern: Pattern) -> Pattern:
    """The same with queries and keys in the order of their codes, so that likely partners are neighbours."""
    return replace(pattern, query_BHL=pattern.query_BHL.sort(-1).values, key_BHM=pattern.key_BHM.sort(-1).values)


def occupied_blocks(pattern: Pattern) -> Tensor:
    """Blocks of 128 queries and 128 keys with at least one kept pair, (B, H, L / 128, M / 128), both rounded up."""
    padding = (0, -pattern.key_BHM.shape[-1] % BLOCK)
    parts = []
    for query_BHl in torch.split(pattern.query_BHL, BLOCK, dim=-1):
        kept_BHM = kept_pairs(replace(pattern, query_BHL=query_BHl)).any(-2)
        parts.append(F.pad(kept_BHM, padding).view(*kept_BHM.shape[:2], -1, BLOCK).any(-1))
    return torch.stack(parts, dim=-2)


def _block_mask(pattern: Pattern) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    query, key, least, rounds = pattern.query_BHL, pattern.key_BHM, pattern.least_BH, pattern.rounds

    def kept(b: Tensor, h: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        return count_matches(query[b, h, q_index], key[b, h, k_index], rounds) >= least[b, h]

    occupied = occupied_blocks(pattern)
    return BlockMask.from_kv_blocks(
        occupied.sum(-1, dtype=torch.int32),
        occupied.int().argsort(dim=-1, descending=True, stable=True).int(),
        BLOCK_SIZE=BLOCK,
        mask_mod=kept,
        seq_lengths=(query.shape[-1], key.shape[-1]),
    )


@functools.cache
def _flex(device_type: str) -> Callable[..., Tensor]:
    """flex_attention, compiled where it runs for speed; uncompiled it is a plain reference implementation."""
    from torch.nn.attention.flex_attention import flex_attention

    flex: Callable[..., Tensor] = flex_attention
    return torch.compile(flex, dynamic=False) if device_type == "cuda" else flex


def _take(x_BHLD: Tensor, order_BHL: Tensor) -> Tensor:
    return x_BHLD.gather(-2, order_BHL[..., None].expand(-1, -1, -1, x_BHLD.shape[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternReport:
    """What a pattern left out and what it caught, as means over examples, heads and queries."""

    sparsity: float  # share of pairs left out
    recall: float  # share of exact attention's mass that falls on kept pairs
    recall_of_heaviest: float  # the same for the heaviest tenth of each query's pairs, against all mass of that tenth
    best_recall: float  # what the best pattern of this size, the heaviest pairs of each query, would catch
    queries_alone: float  # share of queries that keep no key
    empty_blocks: float  # share of 128 x 128 blocks, after sorting, that flex_attention skips


@torch.no_grad()
def report(q_BHLD: Tensor, k_BHMD: Tensor, pattern: Pattern) -> PatternReport:
    """The pattern measured against exact attention of the same queries and keys."""
    kept_BHLM = kept_pairs(pattern)
    weights_BHLM = torch.softmax(q_BHLD.float() @ k_BHMD.float().mT / math.sqrt(q_BHLD.shape[-1]), dim=-1)
    heaviest_BHLM = weights_BHLM.sort(-1, descending=True).values
    tenth = max(1, weights_BHLM.shape[-1] // 10)
    heavy_BHLM = weights_BHLM >= heaviest_BHLM[..., tenth - 1 : tenth]
    allowed_BHL1 = kept_BHLM.sum(-1, keepdim=True)
    within = torch.arange(weights_BHLM.shape[-1], device=weights_BHLM.device) < allowed_BHL1
    heavy_mass = (weights_BHLM * heavy_BHLM).sum(-1)
    return PatternReport(
        sparsity=1 - kept_BHLM.float().mean().item(),
        recall=(weights_BHLM * kept_BHLM).sum(-1).mean().item(),
        recall_of_heaviest=((weights_BHLM * (heavy_BHLM & kept_BHLM)).sum(-1) / heavy_mass).mean().item(),
        best_recall=(heaviest_BHLM * within).sum(-1).mean().item(),
        queries_alone=(allowed_BHL1 == 0).float().mean().item(),
        empty_blocks=1 - occupied_blocks(by_code(pattern)).float().mean().item(),
    )
