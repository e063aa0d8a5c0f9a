"""Samples out of files: probe, decode, resampled blocks of one length.

`decoder_backends.py` holds the decoders, `writers.py` the way back. Next to read: `shards/chunks.py`, which cuts songs
for storage.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from datasets.audio.audio_types import AudioInfo, Integers, Samples, to_channels
from datasets.audio.decoder_backends import checked_blocks, checked_integers, open_reader
from datasets.audio.mono_mix import means
from datasets.audio.resampling import resample_blocks
from datasets.audio.surround import downmix_gains, downmixed, is_surround


def probe(path: str | Path, *, stream: int | None = None) -> AudioInfo:
    """Rate, channels and length as the header states them; `stream` counts a container's audio streams from 0."""
    with closing(open_reader(path, stream)) as reader:
        return reader.info


def decode(path: str | Path, *, stream: int | None = None) -> tuple[Samples, int]:
    """The whole file as samples_CT at its own rate, and that rate."""
    with closing(open_reader(path, stream)) as reader:
        blocks = list(checked_blocks(reader, path))
        if not blocks:
            return np.zeros((reader.info.channels, 0), np.float32), reader.info.sample_rate
        return np.concatenate(blocks, axis=1), reader.info.sample_rate


def decode_blocks(
    path: str | Path,
    *,
    sample_rate: int,
    channels: int = 2,
    stream: int | None = None,
    block_samples: int = 1 << 18,
    resample_quality: str = "HQ",
    late: int = 0,
) -> Generator[Samples, None, None]:
    """The file in blocks of exactly `block_samples` (the last may be shorter), resampled, in bounded memory.

    More than two channels are mixed down (`surround.py`); AudioError where the file does not say which is which.
    At the file's own rate the samples pass through unchanged; `resample_quality` is one of soxr's names. Where a file
    is `late` by samples of that rate they are left out, and silence is put before it where it is early. AudioError
    after the last block where one channel is asked for and the file's two cancel each other, so that nothing is left.
    """
    with closing(open_reader(path, stream)) as reader:
        blocks = _without_delay(checked_blocks(reader, path), late)
        if is_surround(reader.info) and channels <= 2:
            gains_2C = downmix_gains(reader.info, str(path))
            blocks = (downmixed(block_CT, gains_2C) for block_CT in blocks)
        if channels == 1 < reader.info.channels:
            blocks = means(blocks, str(path))
        else:
            blocks = (to_channels(block, channels) for block in blocks)
        resampled = resample_blocks(
            blocks, source_rate=reader.info.sample_rate, target_rate=sample_rate, quality=resample_quality
        )
        yield from _rebatch(resampled, block_samples)


def integer_blocks(path: str | Path, *, block_samples: int) -> Iterator[Integers]:
    """A file that holds 16-bit integers (`AudioInfo.integers`) in blocks of them, the last one shorter."""
    with closing(checked_integers(path, block_samples)) as blocks:
        yield from map(Integers, blocks)


def _without_delay(blocks: Iterable[Samples], late: int) -> Iterator[Samples]:
    """Blocks without their first `late` samples; with so many of silence before them where it is negative."""
    for block_CT in blocks:
        if late < 0:
            yield np.zeros((len(block_CT), -late), np.float32)
            late = 0
        if block_CT.shape[1] > late:
            yield block_CT[:, late:] if late else block_CT
        late = max(0, late - block_CT.shape[1])


def _rebatch(blocks: Iterable[Samples], block_samples: int) -> Iterator[Samples]:
    """The same samples in blocks of one length, each copied once.

    A reader that waits keeps no whole block: songs of eighty raw files are read side by side.
    """
    out_CT: Samples | None = None
    filled = 0
    for block_CT in blocks:
        taken = 0
        while taken < block_CT.shape[1]:
            if out_CT is None:
                out_CT, filled = np.empty((block_CT.shape[0], block_samples), np.float32), 0
            take = min(block_samples - filled, block_CT.shape[1] - taken)
            out_CT[:, filled : filled + take] = block_CT[:, taken : taken + take]
            filled, taken = filled + take, taken + take
            if filled == block_samples:
                whole_CT, out_CT = out_CT, None
                yield whole_CT
                del whole_CT
    if out_CT is not None:
        yield out_CT[:, :filled].copy()
