"""`make bench-loader`: what feeds training, against what else could; and how many cores feed one GPU.

Random crops of 7.8 s of four stems, the songs of `bench-crops`, arms in turns, page cache warm. Times are processor
seconds of this process: other work on the machine stretches them too, so only rates of one run compare, and the
load is a row. By the clock, and so not to be trusted under load, are the rows that say so; for two at once the time
that Linux let them wait for a core is taken off as well. "S3" is a server on this machine in a process of its own,
asked over loopback, with the time of the asking side alone. The reference's own load calls (torchaudio 2.11 with
torchcodec, which is not among our dependencies) were measured elsewhere at 2.2 crops/s and 127 MB.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from datasets.audio.audio_types import Samples
from datasets.loading.crop_reader import read_crop, row_parts
from datasets.loading.loader import Loader, LoaderConfig
from datasets.loading.row_cache import FORMS, RowCache
from datasets.loading.segment_sampler import SegmentIndex
from datasets.loading.shard_layout import ByteRanges, columns_of, decode_parts, layout_of
from datasets.schema import SOURCES, ShardSet
from datasets.seeding import row_rng
from datasets.shards import manifests
from datasets.store import storage
from tests.benchmarks.crops import CROP_S, RATE, Material, bytes_read, seek, songs, store
from tests.benchmarks.table import Row, figure, show
from tests.s3 import BUCKET, object_store_apart

SIZE = round(CROP_S * RATE)
FEEDS = (150, 300, 500)  # crops a second that one H100 may take
REFERENCE_PER_S, REFERENCE_MB = 2.2, 127.0
TARGET_PER_S, TARGET_MB, TARGET_SCALING = 50.0, 1.8, 1.8
Arm = Callable[[int], int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--crops", type=int, default=24, help="crops per arm and song")
    arguments = parser.parse_args()
    rows = [figure("load before", os.getloadavg()[0], "processes")]
    slowest: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder, object_store_apart():
        megabytes, material = [], None
        for name, stems_SCT in songs():
            material = store(stems_SCT, Path(folder) / name)
            per_s, read = rates(material, Path(folder) / name, num_crops=arguments.crops)
            rows += [*_figures(name, per_s, read), *_arithmetic(name, material, read["ours"])]
            slowest = {arm: min(rate, slowest.get(arm, rate)) for arm, rate in per_s.items()}
            megabytes.append(read["ours"])
        assert material is not None
        rows.append(figure("all: read per crop, mean", statistics.mean(megabytes), "MB", target=TARGET_MB))
        rows += [*scaling(material), *stalls(material)]
    rows.append(figure("load after", os.getloadavg()[0], "processes"))
    return show("Loader", [*rows, *_cores(slowest)], arguments.out)


def rates(material: Material, folder: Path, *, num_crops: int) -> tuple[dict[str, float], dict[str, float]]:
    """Crops per processor second of each arm, median, and megabytes that it reads for each, mean."""
    starts = row_rng(0, "crops").integers(0, material.song.num_samples - SIZE, num_crops).tolist()
    arms = _arms(material, folder)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    megabytes: dict[str, list[float]] = {arm: [] for arm in arms}
    for start in [*starts[:2], *starts]:  # the first two warm up, and fill what is kept
        for arm, crop in arms.items():
            began = time.process_time()
            num_bytes = crop(start)
            seconds[arm].append(time.process_time() - began)
            megabytes[arm].append(num_bytes / 1e6)
    per_s = {arm: 1 / statistics.median(taken[2:]) for arm, taken in seconds.items()}
    return per_s, {arm: statistics.mean(read[2:]) for arm, read in megabytes.items()}


def _arms(material: Material, folder: Path) -> Mapping[str, Arm]:
    caches = {
        form: RowCache.open(str(folder / form), [material.song], limit_bytes=1 << 34, form=form) for form in FORMS
    }
    far = _in_s3(material, folder.name)
    for cache in caches.values():
        for start in range(0, material.song.num_samples, SIZE // 2):
            _ours(material.song, start, cache)

    def pcm(start: int) -> int:
        before = bytes_read()
        _ours(material.song, start, caches["pcm"])
        return bytes_read() - before

    return {
        "ours": lambda start: _ours(material.song, start),
        "ours, kept as pcm": pcm,
        "ours, from S3": lambda start: _ours(far, start),
        "whole rows from S3": lambda start: _whole_rows(far, start),
        "ours, from S3, kept as flac": lambda start: _ours(far, start, caches["flac"]),
        "soundfile, 4 flac files": lambda start: seek(material, "flac", start, SIZE),
        "soundfile, 4 wav files, int16": lambda start: _wav_ints(material, start),
        "soundfile, 4 wav files": lambda start: seek(material, "wav", start, SIZE),
    }


def _ours(song: manifests.Song, start: int, cache: RowCache | None = None) -> int:
    return read_crop(np.empty((len(SOURCES), 2, SIZE), np.float32), song, start, SOURCES, cache)


def _whole_rows(song: manifests.Song, start: int) -> int:
    """One request for all of the rows that a crop touches."""
    out_SCT: Samples = np.empty((len(SOURCES), 2, SIZE), np.float32)
    layout, ranges, parts = layout_of(song.path), ByteRanges(song.path), row_parts(out_SCT, song, start)
    ranges.read_ahead([(layout.span(parts[0].row)[0], layout.span(parts[-1].row)[1])])
    decode_parts(parts, layout, ranges, columns=columns_of(layout, song.path, SOURCES))
    return ranges.num_bytes


def _wav_ints(material: Material, start: int) -> int:
    before = bytes_read()
    for source in SOURCES:
        with soundfile.SoundFile(material.files / f"{source}.wav") as opened:
            opened.seek(start)
            opened.read(SIZE, dtype="int16")
    return bytes_read() - before


def _in_s3(material: Material, name: str) -> manifests.Song:
    """The same song in the bucket."""
    near = Path(material.song.path)
    address = storage.join(f"s3://{BUCKET}", name.replace(" ", "-").replace(",", ""), near.name)
    storage.write(address, near.read_bytes())
    return manifests.Song(**{**_fields(material.song), "path": address})


def _fields(song: manifests.Song) -> dict[str, object]:
    return {name: getattr(song, name) for name in song.__dataclass_fields__}


def _figures(name: str, per_s: Mapping[str, float], read: Mapping[str, float]) -> list[Row]:
    rows = [
        figure(f"{name}: ours", per_s["ours"], "1/s/core", baseline=REFERENCE_PER_S, target=TARGET_PER_S, more=True),
        figure(f"{name}: ours, read", read["ours"], "MB", baseline=REFERENCE_MB, target=TARGET_MB),
    ]
    far, whole = "ours, from S3", "whole rows from S3"
    rows += [
        figure(f"{name}: {far}, over whole rows", per_s[far] / per_s[whole], "times", target=1.0, more=True),
        figure(f"{name}: {far}, read over what is read from disk", read[far] / read["ours"], "ratio", target=1.1),
    ]
    others = [arm for arm in per_s if arm != "ours"]
    rows += [figure(f"{name}: {arm}", per_s[arm], "1/s/core", baseline=per_s["ours"]) for arm in others]
    return rows + [figure(f"{name}: {arm}, read", read[arm], "MB", baseline=read["ours"]) for arm in others]


def _arithmetic(name: str, material: Material, megabytes: float) -> list[Row]:
    """What 1.8 MB would ask of the material: its FLAC over its samples, and what that comes to for a crop."""
    share = material.song.num_bytes / (material.song.num_samples * len(SOURCES) * 4)
    crop_mb = SIZE * len(SOURCES) * 4 / 1e6
    return [
        figure(f"{name}: FLAC over 16-bit samples", share, "ratio"),
        figure(f"{name}: samples of a crop times that", share * crop_mb, "MB"),
        figure(f"{name}: read over that", megabytes / (share * crop_mb), "ratio"),
    ]


def scaling(material: Material) -> list[Row]:
    """Two threads, and two processes, against one, each with crops of its own."""
    address, rows = _address(material), []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes, ThreadPoolExecutor(2) as threads:
        for name, pool in (("threads", threads), ("processes", processes)):
            list(pool.map(_burst, [(address, 2)] * 2))  # imports
            turns = [[list(pool.map(_burst, [(address, 16)] * count)) for count in (1, 2)] for _ in range(3)]
            for column, how in enumerate(("by the clock", "less the time in the run queue")):
                one, two = (min(max(taken[column] for taken in turn[k]) for turn in turns) for k in (0, 1))
                target = TARGET_SCALING if column else None
                rows.append(figure(f"two {name} over one, {how}", 2 * one / two, "times", target=target, more=True))
    return rows


def _burst(task: tuple[ShardSet, int]) -> tuple[float, float]:
    """Seconds by the clock for so many crops; and without those in which a core was all that was missing.

    What remains is work, and waiting for locks and files: what two on free cores would take.
    """
    address, count = task
    (song,) = manifests.read_songs(address)
    out_SCT: Samples = np.empty((len(SOURCES), 2, SIZE), np.float32)
    read_crop(out_SCT, song, 0, SOURCES)
    queue = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    began, queued_ns = time.perf_counter(), int(queue.read_text().split()[1])
    for start in row_rng(0, "process").integers(0, song.num_samples - SIZE, count).tolist():
        read_crop(out_SCT, song, start, SOURCES)
    taken = time.perf_counter() - began
    return taken, taken - (int(queue.read_text().split()[1]) - queued_ns) / 1e9


def _clocked(index: SegmentIndex) -> float:
    """Seconds for 36 crops by one thread of a loader."""
    loader = Loader(index, LoaderConfig(threads=1), seed=0, num_samples=SIZE, prefetch_batches=1)
    began = time.perf_counter()
    for _ in loader.batches([range(12 * k, 12 * k + 12) for k in range(3)]):
        pass
    return time.perf_counter() - began


def stalls(material: Material) -> list[Row]:
    """How long a consumer waits that takes crops slower, or faster, than one thread makes them."""
    index, rows = _index(material), []
    crop_s = _clocked(index) / 36
    for share in (0.5, 0.8, 1.5):
        loader = Loader(index, LoaderConfig(threads=1), seed=0, num_samples=SIZE, prefetch_batches=2)
        marks = [time.perf_counter()]
        for _ in loader.batches([range(4 * k, 4 * k + 4) for k in range(10)]):
            time.sleep(4 * crop_s / share)
            marks.append(time.perf_counter())
        busy_s = sum(b - a for a, b in pairwise(marks))
        name = f"stalled, asked for {share:.1f} of what a thread makes, by the clock"
        rows.append(figure(name, loader.stalled_s / busy_s, "of time"))
    return rows


def _address(material: Material) -> ShardSet:
    address = manifests.find_manifest(material.files, step="bench", key="k")
    assert address is not None
    return address


def _index(material: Material) -> SegmentIndex:
    layout_of(material.song.path)
    return SegmentIndex.open([(_address(material), 1.0)], sources=SOURCES, split="train")


def _cores(slowest: Mapping[str, float]) -> list[Row]:
    """Cores that one GPU's crops take, at the rate of the slowest material."""
    arms = ("ours", "ours, kept as pcm", "ours, from S3", "ours, from S3, kept as flac")
    return [figure(f"cores for {feed} crops/s: {arm}", feed / slowest[arm], "cores") for arm in arms for feed in FEEDS]


if __name__ == "__main__":
    sys.exit(main())
