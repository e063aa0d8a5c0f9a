"""Resampling by soxr, of whole songs and of songs in blocks."""

from collections.abc import Iterable, Iterator

import numpy as np

from datasets.audio.audio_types import Samples


def resample(samples_CT: Samples, *, source_rate: int, target_rate: int, quality: str = "HQ") -> Samples:
    """The same sound at another rate, by soxr; -136 dB of aliasing at "HQ"."""
    if source_rate == target_rate:
        return samples_CT
    import soxr

    resampled_TC = soxr.resample(np.ascontiguousarray(samples_CT.T), source_rate, target_rate, quality=quality)
    return np.ascontiguousarray(resampled_TC.T, dtype=np.float32)


def resample_blocks(
    blocks: Iterable[Samples], *, source_rate: int, target_rate: int, quality: str = "HQ"
) -> Iterator[Samples]:
    """A song in blocks (C, T) at another rate, as if resampled whole; blocks come out in other lengths."""
    if source_rate == target_rate:
        yield from blocks
        return
    import soxr

    stream = None
    for block_CT in blocks:
        if stream is None:
            stream = soxr.ResampleStream(source_rate, target_rate, len(block_CT), dtype="float32", quality=quality)
            end_TC = np.zeros((0, len(block_CT)), np.float32)
        yield np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(block_CT.T)).T)
    if stream is not None:
        yield np.ascontiguousarray(stream.resample_chunk(end_TC, last=True).T)
