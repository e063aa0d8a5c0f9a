"""Attention with dropout, dropout, gates, linear layers and convolutions for CPUs, the wide ones in tiles of the cache.

A large intermediate costs more than the arithmetic on it: memory is fetched page by page from the system and given
back after every operation. So the wide tensors before a gate, and the weights of attention with dropout, exist for
one tile at a time here and are computed again for the gradients (as in Dao et al., arXiv 2205.14135). On other
devices, and under a compiler or an export, the networks use plain torch operations, which fuse there: `dispatch.py`
decides.

The line above each says what it was measured to save: CPU seconds of one thread, least of interleaved runs, HT Demucs
on a segment of 7.8 s, on a processor with AVX-512 and bfloat16 units, 2026-11-29.
"""
