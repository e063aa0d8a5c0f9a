"""`make bench-manifest`: what the driver does with the names of 3500 songs, on a disk and in S3.

Songs have as many rows as four minutes take, each a tenth of a second of noise, so that lists and tables have their
true size and audio has none. For each place a fresh process reads the manifest and the verdicts, lists the datasets as
`stemline plan` does, opens the songs as a training does and draws its rows: seconds of each, and the peak of its memory
beside that of a process that has done the same with 35 songs. S3 is a server on this machine in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.schema import SOURCES, VERDICTS, Verdict
from datasets.seeding import row_rng
from datasets.store import storage
from tests.benchmarks.table import figure, show
from tests.s3 import BUCKET, object_store_apart

ROOT = Path(__file__).resolve().parents[2]
RATE, ROWS, CHUNK_S = 44100, 8, 0.1  # a row holds 30 s of a song, were it one
PER_SHARD, FEW = 7, 35  # a shard of 200 MB holds so many songs of four minutes
NUM_DRAWN, NUM_MEASURES = 10_000, 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--songs", type=int, default=3500)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        sys.stdout.write(json.dumps(_part(arguments.part)) + "\n")
        return 0
    rows = [figure("load before", os.getloadavg()[0], "processes")]
    with tempfile.TemporaryDirectory(prefix="bench-manifest-") as folder, object_store_apart():
        whole, few = Path(folder, "whole"), Path(folder, "few")
        _write(whole, arguments.songs)
        _write(few, FEW)
        remote = f"s3://{BUCKET}/whole"
        for name in storage.files_below(str(whole)):
            storage.write(f"{remote}/{name}", (whole / name).read_bytes())
        rows += [figure("songs", arguments.songs, "songs"), figure("shards", _num_shards(whole), "shards")]
        rows.append(figure("lists and tables", _bytes_of_lists(whole) / 1e6, "MB"))
        small = _measured(str(few))
        for where, address in (("disk", str(whole)), ("S3", remote)):
            done = _measured(address)
            rows += [
                figure(f"{what}, {where}", seconds, "s", baseline=small["seconds"][what])
                for what, seconds in done["seconds"].items()
            ]
            rows.append(figure(f"peak memory, {where}", done["peak_mb"], "MB", baseline=small["peak_mb"]))
    rows.append(figure("load after", os.getloadavg()[0], "processes"))
    return show("The driver and many songs; beside it the same with 35", rows, arguments.out)


def _measured(store: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.manifest", "--part", store]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _write(store: Path, num_songs: int) -> None:
    from datasets.shards import manifests, shards
    from datasets.shards.arrow_tables import table_of, write_table
    from datasets.shards.chunks import SongHeader, song_rows

    def rows_of(number: int) -> list[dict[str, Any]]:
        size = round(ROWS * CHUNK_S * RATE)
        noise_SCT = row_rng(0, "manifest", number).integers(-99, 99, (len(SOURCES), 2, size)).astype(np.float32)
        header = SongHeader(
            track_id=f"train/{_title(number)}", title=_title(number), split="train", license="CC BY 4.0",
            origin="corpus", sample_rate=RATE,
        )  # fmt: skip
        return song_rows(noise_SCT / 32768, header, sources=SOURCES, chunk_s=CHUNK_S, bits=16)

    written = [
        shards.write_shard(
            store, f"{first:05d}", [row for number in range(first, min(first + PER_SHARD, num_songs))
                                    for row in rows_of(number)], sources=SOURCES,
        )
        for first in range(0, num_songs, PER_SHARD)
    ]  # fmt: skip
    manifests.write_manifest(store, table="chunks", step="curate", key="songs", shards=written)
    measures = {f"measure {number}": 0.5 for number in range(NUM_MEASURES)}
    verdicts = [
        Verdict(
            track_id=f"train/{_title(number)}", title=_title(number), split="train", keep=True, reason="", detail="",
            duration_s=240.0, measures=measures,
        )
        for number in range(num_songs)
    ]  # fmt: skip
    write_table(store, "verdicts", table_of(verdicts, VERDICTS), key="verdicts", step="curate")


def _title(number: int) -> str:
    return f"Artist {number:05d} - Song"


def _num_shards(store: Path) -> int:
    return len(list((store / "chunks").glob("*.parquet")))


def _bytes_of_lists(store: Path) -> int:
    paths = (path for path in store.rglob("*") if path.is_file() and path.parent.name != "chunks")
    return sum(path.stat().st_size for path in (*paths, *(store / "chunks").glob("*.json")))


# --- the process that is measured -------------------------------------------------------------------------------


def _part(store: str) -> dict[str, Any]:
    from datasets.loading.segment_sampler import SegmentIndex, draw
    from datasets.shards import dataset_versions
    from datasets.shards.arrow_tables import read_objects
    from datasets.shards.manifests import find_manifest, read_songs

    chunks = find_manifest(store, step="curate", key="songs")
    verdicts = find_manifest(store, step="curate", key="verdicts")
    assert chunks is not None
    assert verdicts is not None
    opened = list[SegmentIndex]()

    def drawn() -> None:
        for number in range(NUM_DRAWN):
            draw(opened[0], seed=0, number=number, num_samples=round(CHUNK_S * RATE))

    jobs: dict[str, Callable[[], Any]] = {
        "songs of the manifest": lambda: read_songs(chunks),
        "verdicts": lambda: list(read_objects(verdicts, Verdict)),
        "datasets listed for a plan": lambda: dataset_versions.list_versions(store),
        "opened for a training": lambda: opened.append(
            SegmentIndex.open([(chunks, 1.0)], sources=SOURCES, split="train")
        ),
        f"{NUM_DRAWN} rows drawn": drawn,
    }
    seconds = {}
    for name, job in jobs.items():
        began = time.monotonic()
        job()
        seconds[name] = time.monotonic() - began
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {"seconds": seconds, "peak_mb": int(peak) / 1000}


if __name__ == "__main__":
    sys.exit(main())
