"""`make bench-sparse`: what sparse attention leaves out and catches as the context grows, and what a kernel could gain.

Queries and keys are those of the first two layers of an untrained `sparse-htdemucs` on a toy song, and tokens in ten
tight clusters, made to suit the kernel. Pairs and blocks are counted in two heads at 16 evenly spaced blocks of
queries against all keys, recall at 256 queries. A block-sparse kernel can leave out whole blocks of 128 x 128 pairs
only, so exact fused attention's time, times the share of blocks that are occupied, bounds what it can reach; finding
the occupied ones comes on top, and is timed here. CPU seconds of one thread. `make bench-card` has the kernel on a
GPU, by `attention_rows`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks import sparse_htdemucs
from models.networks.catalog import build
from tests.benchmarks.models import SAMPLE_RATE, toy_audio
from tests.benchmarks.table import Row, figure, show

CONTEXTS_S = (7.8, 12.2, 24.4, 48.8)
HEADS = 2  # of eight; untrained heads differ by their random weights only
PROBES = 256  # queries at which recall is measured
QUERY_BLOCKS = 16  # blocks of queries at which pairs are counted
KINDS = ("spectral self", "temporal self", "spectral cross", "temporal cross")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contexts", nargs="*", type=float, default=CONTEXTS_S, help="in seconds")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        rows = [row for context_s in options.contexts for row in context_rows(context_s)]
    return show("Sparse attention", rows, options.out)


def context_rows(context_s: float) -> Iterator[Row]:
    """All that is known of one context."""
    seen = queries_and_keys(context_s)
    for kind, (q, k) in zip(KINDS, seen, strict=True):
        yield from pattern_rows(f"{context_s} s, {kind}", q[:, :HEADS], k[:, :HEADS])
    q, k = seen[0]
    tight = clustered(q.shape[-2])[:, :HEADS]
    yield from pattern_rows(f"{context_s} s, clustered", tight, tight)
    yield from cost_rows(f"{context_s} s, spectral self", q, k)


class Enough(Exception):
    """All attention layers have been reached; the rest of the network is not needed."""


def queries_and_keys(context_s: float) -> list[tuple[Tensor, Tensor]]:
    """(1, H, L, D) of both domains, self-attention of the first layer, then cross-attention of the second."""
    torch.manual_seed(0)
    model = build("sparse-htdemucs", transformer_layers=2, segment_s=context_s).eval()
    found: list[tuple[Tensor, Tensor]] = []

    def record(module: Any, inputs: tuple[Tensor, Tensor]) -> None:
        projected = module.q(inputs[0]), module.k(inputs[1])
        q, k = (x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for x in projected)
        found.append((q, k))
        if len(found) == len(KINDS):
            raise Enough

    for module in model.modules():
        if isinstance(module, sparse_htdemucs.SparseAttention):
            module.register_forward_pre_hook(record)

    def exact(q: Tensor, k: Tensor, v: Tensor, pattern: sparse_htdemucs.Pattern) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)  # a mask of 17000 x 17000 for each head would not fit

    with patch("models.networks.sparse_htdemucs.attend_dense", exact), suppress(Enough):
        model(toy_audio(model.config.segment_samples, seed=1).sum(1))
    return found


def clustered(num_tokens: int, *, batch: int = 1) -> Tensor:
    """Tokens (B, 8, L, 64) in ten tight clusters, neighbours in time in different ones: what suits the kernel best."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(1, 8, 10, 64, generator=generator)
    noise = torch.randn(batch, 8, num_tokens, 64, generator=generator)
    return centres[:, :, torch.arange(num_tokens) % 10] + 0.1 * noise


def pattern_of(q: Tensor, k: Tensor) -> sparse_htdemucs.Pattern:
    projection_DR2 = sparse_htdemucs.draw_projection(q.shape[-1], rounds=32, seed=0)
    return sparse_htdemucs.find_pattern(q, k, sparsity=0.9, projection_DR2=projection_DR2)


def pattern_rows(name: str, q: Tensor, k: Tensor) -> Iterator[Row]:
    pattern = pattern_of(q, k)
    probes = torch.linspace(0, q.shape[-2] - 1, PROBES).round().long()
    probed = sparse_htdemucs.report(q[..., probes, :], k, replace(pattern, query_BHL=pattern.query_BHL[..., probes]))
    yield figure(f"{name}, queries", q.shape[-2], "tokens")
    yield figure(f"{name}, sparsity", 100 * left_out(pattern), "%", baseline=90.0)
    yield figure(f"{name}, recall", 100 * probed.recall, "%", baseline=100 * probed.best_recall)
    yield figure(f"{name}, recall of the best pattern as sparse", 100 * probed.best_recall, "%")
    yield figure(f"{name}, queries without a key", 100 * probed.queries_alone, "%")
    occupied = sparse_htdemucs.occupied_blocks(some_blocks(sparse_htdemucs.by_code(pattern))).float().mean().item()
    yield figure(f"{name}, empty blocks", 100 * (1 - occupied), "%")
    yield figure(f"{name}, most a block-sparse kernel can gain", 1 / max(occupied, 1e-9), "x", baseline=1.0)


def some_blocks(pattern: sparse_htdemucs.Pattern) -> sparse_htdemucs.Pattern:
    """The same with the queries of `QUERY_BLOCKS` blocks only, evenly spaced; the last block may be a short one."""
    blocks = pattern.query_BHL.split(sparse_htdemucs.BLOCK, dim=-1)
    chosen = torch.linspace(0, len(blocks) - 1, min(len(blocks), QUERY_BLOCKS)).round().long().tolist()
    return replace(pattern, query_BHL=torch.cat([blocks[index] for index in chosen], dim=-1))


def left_out(pattern: sparse_htdemucs.Pattern) -> float:
    """Share of pairs that are left out."""
    return 1 - sparse_htdemucs.kept_pairs(some_blocks(pattern)).float().mean().item()


def cost_rows(name: str, q: Tensor, k: Tensor) -> Iterator[Row]:
    """One layer's attention, eight heads, forward only: exact and fused, and a sparse one's preparation."""
    exact_s = cpu_s(lambda: F.scaled_dot_product_attention(q, k, k))
    yield figure(f"{name}, exact fused attention", exact_s, "CPU s")
    search_s = cpu_s(lambda: sparse_htdemucs.by_code(pattern_of(q, k)))
    yield figure(f"{name}, hashing, choosing k and sorting", search_s, "CPU s", baseline=exact_s)
    pattern = sparse_htdemucs.by_code(pattern_of(q[:, :HEADS], k[:, :HEADS]))
    some = some_blocks(pattern)
    share = HEADS * some.query_BHL.shape[-1] / (q.shape[1] * q.shape[-2])
    blocks_s = cpu_s(lambda: sparse_htdemucs.occupied_blocks(some)) / share
    yield figure(f"{name}, finding occupied blocks", blocks_s, "CPU s", baseline=exact_s)
    pairs = q.shape[1] * q.shape[-2] * k.shape[-2]
    fused = 4 * q.shape[-1] * q.shape[1] * (2 * q.shape[-2] + 2 * k.shape[-2])  # q, k, v and out in float32
    codes = 8 * q.shape[1] * (q.shape[-2] + k.shape[-2]) + 4 * pairs / sparse_htdemucs.BLOCK**2
    yield figure(f"{name}, memory of exact fused attention", fused / 2**20, "MiB")
    yield figure(f"{name}, at least, of a sparse kernel", (fused + codes) / 2**20, "MiB", baseline=fused / 2**20)
    yield figure(f"{name}, of the dense mask", pairs / 2**20, "MiB", baseline=fused / 2**20)


def attention_rows(device: str, context_s: float, batch: int) -> Iterator[Row]:
    """Exact fused attention against the sparse one with its kernel, forward and on a GPU backward, on spectral tokens.

    Tokens are random, which is the sparse one's worst case: no block is empty. The clustered ones are its best.
    """
    num_tokens = 8 * -(-round(context_s * SAMPLE_RATE) // 1024)
    name, dtype = f"attention {context_s} s", torch.bfloat16 if device == "cuda" else torch.float32
    noise = torch.randn(batch, 8, num_tokens, 64, generator=torch.Generator().manual_seed(0))
    projection_DR2 = sparse_htdemucs.draw_projection(64, rounds=32, seed=0).to(device)
    for kind, x in (("random", noise), ("clustered", clustered(num_tokens, batch=batch))):
        q, k, v = (x.to(device, dtype).clone().requires_grad_(device == "cuda") for _ in range(3))

        def sparse(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            pattern = sparse_htdemucs.find_pattern(q, k, sparsity=0.9, projection_DR2=projection_DR2)
            return sparse_htdemucs.attend_blocks(q, k, v, pattern)

        exact_ms, exact_gib = _passes(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v), device)  # type: ignore[misc]
        yield figure(f"{name}, {kind}, exact", exact_ms, "ms")
        sparse_ms, sparse_gib = _passes(sparse, device)
        yield figure(f"{name}, {kind}, sparse", sparse_ms, "ms", baseline=exact_ms)
        if device == "cuda":
            yield figure(f"{name}, {kind}, exact, peak", exact_gib, "GiB")
            yield figure(f"{name}, {kind}, sparse, peak", sparse_gib, "GiB", baseline=exact_gib)
        pattern = sparse_htdemucs.find_pattern(q, k, sparsity=0.9, projection_DR2=projection_DR2)
        empty = 1 - sparse_htdemucs.occupied_blocks(sparse_htdemucs.by_code(pattern)).float().mean().item()
        yield figure(f"{name}, {kind}, empty blocks", 100 * empty, "%")


def _passes(run: Callable[[], Tensor], device: str) -> tuple[float, float]:
    """Milliseconds of a forward and backward pass, and on a GPU the peak of memory above what lay there, in GiB."""
    on_card = device == "cuda"

    def once() -> None:
        out = run()
        if out.requires_grad:
            out.backward(torch.ones_like(out))
        if on_card:
            torch.cuda.synchronize()

    for _ in range(2):
        once()
    before = torch.cuda.memory_allocated() if on_card else 0
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(10 if on_card else 1):
        began = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() - before if on_card else 0
    return 1000 * statistics.median(seconds), peak / 2**30


def cpu_s(run: Callable[[], Any]) -> float:
    """CPU seconds of the better of two runs, or of one that takes long."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 2 and seconds[0] < 3):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
