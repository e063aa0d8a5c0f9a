"""A song to chunk rows and back: cut into stretches of 30 s, every stem of a stretch as FLAC in one row.

`song_rows` is for stems in memory, `track_rows` for files, which it decodes side by side so that memory
holds one stretch of one song, whatever its length. How rows become files is in `shards.py`.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from datasets.audio import Samples, decode_blocks, decode_flac, encode_flac, probe
from datasets.errors import AudioError, InputError
from datasets.schema import SCHEMA_VERSION, StemFile, Track

CHUNK_S = 30
_SILENCE_DB = -120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SongHeader:
    """What all rows of one song have in common."""

    track_id: str
    title: str
    split: str
    license: str
    origin: str  # "corpus" or "automix"
    sample_rate: int


def song_rows(
    stems_SCT: Samples, header: SongHeader, *, sources: Sequence[str], chunk_s: float = CHUNK_S
) -> list[dict[str, Any]]:
    """Rows of table CHUNKS for stems in memory, in the order of `sources`."""
    size = round(chunk_s * header.sample_rate)
    blocks = (stems_SCT[:, :, start : start + size] for start in range(0, stems_SCT.shape[2], size))
    return list(_rows(blocks, header, sources=sources))


def track_rows(
    track: Track,
    *,
    sources: Sequence[str],
    sample_rate: int,
    channels: int = 2,
    chunk_s: float = CHUNK_S,
    min_song_s: float = 1.0,
) -> list[dict[str, Any]]:
    """Rows of table CHUNKS for the files of a track; AudioError with its reason when they are not one whole song."""
    _check_alike(track, sources)
    header = SongHeader(
        track_id=track.track_id,
        title=track.title,
        split=track.split,
        license=track.license,
        origin="corpus",
        sample_rate=sample_rate,
    )
    blocks = _stems_blocks(
        track, sources=sources, sample_rate=sample_rate, channels=channels, block_samples=round(chunk_s * sample_rate)
    )
    with closing(blocks):
        rows = list(_rows(blocks, header, sources=sources))
    num_samples = sum(row["num_samples"] for row in rows)
    if num_samples < min_song_s * sample_rate:
        have_s = num_samples / sample_rate
        raise AudioError("too_short", f"{have_s:.2f} s; the shortest song allowed has {min_song_s} s")
    return rows


def stems_of(
    row: Mapping[str, Any], sources: Sequence[str], *, start: int = 0, num_samples: int | None = None
) -> Samples:
    """Stems_SCT of a row, or a part of them counted from the row's first sample."""
    stems = [decode_flac(row[source], start=start, num_samples=num_samples) for source in sources]
    return np.stack(stems) * np.float32(row["scale"])


def check_row(row: Mapping[str, Any], sources: Sequence[str]) -> None:
    """InputError when the FLAC bytes of a row with all its stems are not those that were written."""
    if _checksum(row[source] for source in sources) != row["checksum"]:
        raise InputError(f"chunk {row['index']} of {row['track_id']!r} does not match its checksum")


def _rows(blocks: Iterable[Samples], header: SongHeader, *, sources: Sequence[str]) -> Iterator[dict[str, Any]]:
    start = 0
    for index, stems_SCT in enumerate(blocks):
        assert stems_SCT.shape[0] == len(sources), stems_SCT.shape
        peaks_S = np.maximum(stems_SCT.max(axis=(1, 2)), -stems_SCT.min(axis=(1, 2)))
        # A power of two moves no mantissa bit, so dividing by it loses nothing.
        scale = float(2.0 ** max(0, np.ceil(np.log2(max(peaks_S.max(), 1e-9)))))
        scaled_SCT = stems_SCT if scale == 1 else stems_SCT / np.float32(scale)
        audio = [encode_flac(stem_CT, sample_rate=header.sample_rate) for stem_CT in scaled_SCT]
        yield {
            "schema_version": SCHEMA_VERSION,
            "track_id": header.track_id,
            "title": header.title,
            "split": header.split,
            "license": header.license,
            "origin": header.origin,
            "index": index,
            "start_samples": start,
            "num_samples": stems_SCT.shape[2],
            "sample_rate": header.sample_rate,
            "channels": stems_SCT.shape[1],
            "scale": scale,
            "checksum": _checksum(audio),
            **{f"{source}_rms_db": _rms_db(stem) for source, stem in zip(sources, stems_SCT, strict=True)},
            **{f"{source}_peak": float(peak) for source, peak in zip(sources, peaks_S, strict=True)},
            **dict(zip(sources, audio, strict=True)),
        }
        start += stems_SCT.shape[2]


def _checksum(audio: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for data in audio:
        digest.update(data)
    return digest.hexdigest()


def _rms_db(stem_CT: Samples) -> float:
    power = float(np.square(stem_CT).mean(axis=1).mean())
    return max(_SILENCE_DB, 10 * float(np.log10(power))) if power > 0 else _SILENCE_DB


def _check_alike(track: Track, sources: Sequence[str]) -> None:
    """AudioError unless all files of a track state one sample rate and one channel count, of at most two."""
    infos = {
        f"{source} ({file.path})": probe(file.path, stream=file.stream)
        for source in sources
        for file in track.stems[source]
    }
    for reason, field, unit in (("rate_mismatch", "sample_rate", "Hz"), ("channel_mismatch", "channels", "channels")):
        seen = {name: getattr(info, field) for name, info in infos.items()}
        if len(set(seen.values())) > 1:
            raise AudioError(reason, ", ".join(f"{name}: {value} {unit}" for name, value in seen.items()))
    for name, info in infos.items():
        if not 1 <= info.channels <= 2:
            raise AudioError("channel_mismatch", f"{name}: {info.channels} channels; one or two would do")


def _stems_blocks(
    track: Track, *, sources: Sequence[str], sample_rate: int, channels: int, block_samples: int
) -> Generator[Samples, None, None]:
    """Stems_SCT of the same stretch from all files at once; the files of one source are summed."""

    def stretches(file: StemFile) -> Iterator[Samples]:
        return decode_blocks(
            file.path, sample_rate=sample_rate, channels=channels, stream=file.stream, block_samples=block_samples
        )

    files = [(position, file) for position, source in enumerate(sources) for file in track.stems[source]]
    with ExitStack() as stack:
        readers = [stretches(file) for _, file in files]
        for reader in readers:
            stack.callback(reader.close)  # type: ignore[attr-defined]
        done = 0
        for blocks in zip_longest(*readers):
            lengths = [0 if block is None else block.shape[1] for block in blocks]
            if len(set(lengths)) > 1:
                names = zip(files, lengths, strict=True)
                ends = ", ".join(f"{sources[position]}: {done + length}" for (position, _), length in names)
                raise AudioError("length_mismatch", f"samples that each stem has at least, at {sample_rate} Hz: {ends}")
            stems_SCT = np.empty((len(sources), channels, lengths[0]), np.float32)
            filled: set[int] = set()
            for (position, _), block in zip(files, blocks, strict=True):
                if position in filled:
                    stems_SCT[position] += block
                else:
                    stems_SCT[position] = block
                filled.add(position)
            done += lengths[0]
            yield stems_SCT
