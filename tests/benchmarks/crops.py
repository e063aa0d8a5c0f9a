"""`make bench-crops`: what a random crop of 7.8 s of four stems costs, in CPU time and in bytes read.

Ours (byte ranges of FLAC frames inside the shard) stands against reading whole row groups through Parquet and seeking
in their FLAC, against soundfile seeking in four FLAC or WAV files, and against the codec alone, with its frames in
memory. The arms take turns, the page cache is warm, times are CPU seconds of one thread: they mean little while other
jobs are at work, and the load is a row of its own. Material: the multitracks of the shared data, each set joined to one
song of 16 bits, and the song that the figures to beat were taken from, looped with other gains; without them, a
synthetic song.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import soundfile

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode
from datasets.audio.flac_frames import frame_offsets, frames_around
from datasets.corpus.synthetic import compose, perform
from datasets.loading.crop_reader import read_crop
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import Song
from tests.benchmarks.table import Row, figure, show

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RATE, CROP_S, SONG_S = 44100, 7.8, 90
SETS = ("cc0_album", "rendered_stems", "lmms_demos")
LOOPED = "The Easton Ellises - Falcon 69.stem.mp4"
TARGET_PER_S, TARGET_MB = 50.0, 1.8


@dataclass(frozen=True, kw_only=True)
class Material:
    """One song in every layout."""

    song: Song
    files: Path  # the folder with `<source>.flac` and `<source>.wav`
    frames: Mapping[str, list[tuple[bytes, np.ndarray[Any, Any]]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--crops", type=int, default=40, help="crops per arm and song")
    arguments = parser.parse_args()
    rows = [figure("load before", os.getloadavg()[0], "processes")]
    with tempfile.TemporaryDirectory(prefix="bench-crops-") as folder:
        for name, stems_SCT in songs():
            rows += measure(name, stems_SCT, Path(folder) / name, num_crops=arguments.crops)
    return show("Crops", rows, arguments.out)


def measure(name: str, stems_SCT: Samples, folder: Path, *, num_crops: int) -> list[Row]:
    material = store(stems_SCT, folder)
    size = round(CROP_S * RATE)
    starts = row_rng(0, "crops", name).integers(0, material.song.num_samples - size, num_crops).tolist()
    arms: dict[str, Callable[[int], int]] = {
        "ours": lambda start: _ours(material, start, size),
        "whole row groups": lambda start: _row_groups(material, start, size),
        "soundfile, 4 flac files": lambda start: seek(material, "flac", start, size),
        "soundfile, 4 wav files": lambda start: seek(material, "wav", start, size),
        "libavcodec alone": lambda start: _codec(material, start, size),
    }
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    megabytes: dict[str, list[float]] = {arm: [] for arm in arms}
    for start in starts:
        for arm, crop in arms.items():
            began = time.process_time()
            num_bytes = crop(start)
            seconds[arm].append(time.process_time() - began)
            megabytes[arm].append(num_bytes / 1e6)
    per_s = {arm: 1 / statistics.median(seconds[arm]) for arm in arms}
    read = {arm: statistics.mean(megabytes[arm]) for arm in arms}
    flac_bytes = material.song.num_bytes / (stems_SCT.size * 2)
    rows = [
        figure(f"{name}: FLAC over 16-bit samples", flac_bytes, "ratio"),
        figure(f"{name}: crops", per_s["ours"], "1/s/core", target=TARGET_PER_S, more=True),
        figure(f"{name}: read per crop", read["ours"], "MB", target=TARGET_MB),
        figure(f"{name}: read over the bytes of its samples", read["ours"] / (size * 16 * flac_bytes / 1e6), "ratio"),
    ]
    rows += [figure(f"{name}: {arm}", per_s[arm], "1/s/core", baseline=per_s["ours"]) for arm in list(arms)[1:]]
    rows += [figure(f"{name}: {arm}, read", read[arm], "MB", baseline=read["ours"]) for arm in list(arms)[1:4]]
    return rows


def _ours(material: Material, start: int, size: int) -> int:
    out_SCT = np.empty((len(SOURCES), 2, size), np.float32)
    return read_crop(out_SCT, material.song, start, SOURCES)


def _row_groups(material: Material, start: int, size: int) -> int:
    song, num_bytes, parts = material.song, 0, []
    with pq.ParquetFile(song.path) as file:
        for chunk, begin, stop in _pieces(song, start, size):
            row = file.read_row_group(song.first_row + chunk, columns=list(SOURCES)).to_pylist()[0]
            num_bytes += sum(len(row[source]) for source in SOURCES)
            parts.append(np.stack([_sought(io.BytesIO(row[source]), begin, stop - begin) for source in SOURCES]))
    np.concatenate(parts, axis=2)
    return num_bytes


def seek(material: Material, kind: str, start: int, size: int) -> int:
    before = bytes_read()
    for source in SOURCES:
        _sought(material.files / f"{source}.{kind}", start, size)
    return bytes_read() - before


def _sought(file: Path | io.BytesIO, start: int, size: int) -> Samples:
    with soundfile.SoundFile(file) as opened:
        opened.seek(start)
        return np.ascontiguousarray(opened.read(size, dtype="float32", always_2d=True).T)


def _codec(material: Material, start: int, size: int) -> int:
    for chunk, begin, stop in _pieces(material.song, start, size):
        first, last, _ = frames_around(begin, stop - begin)
        for source in SOURCES:
            flac, offsets = material.frames[source][chunk]
            av.CodecContext.create("flac", "r").decode(av.Packet(flac[offsets[first] : offsets[last]]))
    return 0


def _pieces(song: Song, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The chunks that a crop touches, and from where to where in each."""
    for chunk in range(start // song.chunk_samples, (start + size - 1) // song.chunk_samples + 1):
        offset = chunk * song.chunk_samples
        yield chunk, max(0, start - offset), min(song.chunk_samples, start + size - offset)


def store(stems_SCT: Samples, folder: Path) -> Material:
    header = SongHeader(track_id="song", title="", split="train", license="", origin="corpus", sample_rate=RATE)
    rows = song_rows(stems_SCT, header, sources=SOURCES, bits=16)
    shard = shards.write_shard(folder, "shard", rows, sources=SOURCES)
    address = manifests.write_manifest(folder, table="chunks", step="bench", key="k", shards=[shard])
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        for kind in ("flac", "wav"):
            soundfile.write(folder / f"{source}.{kind}", stem_CT.T, RATE, subtype="PCM_16")
    frames = {source: [(row[source], frame_offsets(row[source])) for row in rows] for source in SOURCES}
    return Material(song=manifests.read_songs(address)[0], files=folder, frames=frames)


def songs() -> Iterator[tuple[str, Samples]]:
    """Stems_SCT of 90 s or more, of 16 bits."""
    for name in SETS:
        songs = sorted((DATA / name / "train").glob("*/"))
        stems = [[decode(song / f"{source}.flac")[0] for source in SOURCES] for song in songs]
        if stems:
            yield name, _at_least(np.concatenate([np.stack(song) for song in stems], axis=2))
    looped = DATA / "musdb_stem_mp4" / "train" / LOOPED
    if looped.is_file():
        yield "the song of the figures to beat, looped", _looped(looped)
    elif not (DATA / SETS[0]).is_dir():
        yield "synthetic", _rounded(perform(compose(0, "song", SONG_S), RATE))


def _looped(path: Path) -> Samples:
    once_SCT = np.stack([decode(path, stream=1 + k)[0] for k in range(len(SOURCES))])
    gains = row_rng(0, "gains").uniform(0.25, 1, (-(-SONG_S * RATE // once_SCT.shape[2]), len(SOURCES), 2, 1))
    return _rounded(np.concatenate([once_SCT * gain for gain in gains.astype(np.float32)], axis=2))


def _at_least(stems_SCT: Samples) -> Samples:
    times = -(-SONG_S * RATE // stems_SCT.shape[2])
    return _rounded(np.tile(stems_SCT, (1, 1, times)))


def _rounded(stems_SCT: Samples) -> Samples:
    return (np.clip(np.rint(stems_SCT * (1 << 15)), -(1 << 15), (1 << 15) - 1) / (1 << 15)).astype(np.float32)


def bytes_read() -> int:
    """What this process has read by system calls so far."""
    counted = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counted["rchar"])


if __name__ == "__main__":
    sys.exit(main())
