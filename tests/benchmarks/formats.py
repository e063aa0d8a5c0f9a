"""`make bench-formats`: crops and epochs from our shards, and from the formats that people would pick instead.

The songs of `bench-crops`, as shards, as MosaicML Streaming (MDS), WebDataset, Lance and plain FLAC files; all hold the
same FLAC in samples of 30 s, the files whole songs. Others are decoded by torchcodec. "Crops" are 7.8 s of four
stems from random places; WebDataset, which is read in order only, gives one out of each sample. "Epoch" reads every
song once, in an order drawn anew: ours as the rows that training draws, others sample by sample, each cut into crops.
Times are processor seconds of this process, with all of its threads, the page cache warm. "S3" is a server on this
machine in a process of its own; what is kept on this machine counts as read where it is fetched.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datasets.audio.audio_types import Samples
from datasets.loading.crop_reader import read_crop
from datasets.loading.segment_sampler import SegmentIndex, read_row
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.store import storage
from tests.benchmarks.crops import CROP_S, RATE, bytes_read, songs
from tests.benchmarks.table import Row, figure, show
from tests.s3 import BUCKET, StoreApart, object_store_apart

SIZE, SAMPLE_S = round(CROP_S * RATE), 30
ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "formats"  # an environment with what only this bench uses
PACKAGES = "mosaicml-streaming webdataset pylance torchcodec"
ADVICE = f"""bench-formats compares with packages that stemline does not install. Once, in the checkout:
    .venv/bin/python -m venv {HOME.relative_to(ROOT)}
    echo "$PWD"/.venv/lib/python3.*/site-packages > "$(echo {HOME.relative_to(ROOT)}/lib/python3.*/site-packages)"/base.pth
    {HOME.relative_to(ROOT)}/bin/pip install {PACKAGES}
then the same command again, which finds them there."""  # noqa: E501, lines to copy
Wholes = Mapping[str, Samples]  # the songs as (S, C, T), by name
Numbers = Mapping[tuple[str, int], int]  # of the samples of 30 s, by song and the first of them
Read = Iterator[tuple[str, int, Samples]]  # song, start, and stems as (S, C, T)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way of keeping songs, at one place."""

    crops: Callable[[Sequence[tuple[str, int]]], Read]
    epoch: Callable[[], Read]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--crops", type=int, default=48, help="crops per arm")
    arguments = parser.parse_args()
    if not _has_packages():
        python = HOME / "bin" / "python"
        if not python.is_file() or Path(sys.executable) == python:
            print(ADVICE)
            return 2
        os.execv(python, [str(python), "-m", "tests.benchmarks.formats", *sys.argv[1:]])
    rows = [figure("load before", os.getloadavg()[0], "processes")]
    with tempfile.TemporaryDirectory(prefix="bench-formats-") as folder, object_store_apart() as server:
        wholes = dict(_named(songs()))
        rows += measure(wholes, Path(folder), server, num_crops=arguments.crops)
    rows.append(figure("load after", os.getloadavg()[0], "processes"))
    return show("Formats", rows, arguments.out)


def _has_packages() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) for name in ("streaming", "webdataset", "lance", "torchcodec"))


def _named(found: Iterator[tuple[str, Samples]]) -> Iterator[tuple[str, Samples]]:
    for number, (_, stems_SCT) in enumerate(found):
        yield f"song-{number}", stems_SCT


def measure(wholes: Wholes, folder: Path, server: StoreApart, *, num_crops: int) -> list[Row]:
    rng, names = row_rng(0, "formats"), sorted(wholes)
    places = [
        (name, int(rng.integers(wholes[name].shape[2] - SIZE)))
        for name in (names[int(k)] for k in rng.integers(len(names), size=num_crops))
    ]
    numbers = {(name, start): number for number, (name, start, _) in enumerate(_samples(wholes))}
    rows = []
    for name, (write, opener) in FORMATS.items():
        home, remote = folder / name.replace(" ", "-"), f"s3://{BUCKET}/{name.replace(' ', '-')}"
        home.mkdir()
        write(wholes, home)
        rows.append(figure(f"{name}: on disk", _bytes_below(home) / 1e6, "MB"))
        for path in (path for path in home.rglob("*") if path.is_file()):
            storage.write(storage.join(remote, path.relative_to(home).as_posix()), path.read_bytes())
        for where, address, count in (("disk", str(home), bytes_read), ("S3", remote, server.sent_bytes)):
            fresh = partial(opener, address, folder / f"{home.name}-fetched", numbers)
            rows += _measured(name, where, fresh, count, wholes, places)
    return _beside_ours(rows)


def _measured(
    name: str,
    where: str,
    fresh: Callable[[], Arm],
    count: Callable[[], int],
    wholes: Wholes,
    places: Sequence[tuple[str, int]],
) -> list[Row]:
    """Of crops and of an epoch: crops for each processor second, and megabytes read for each crop."""
    if where == "disk":
        list(fresh().crops(places[:2]))  # imports
    rows, wrong = [], 0
    for what in ("crops", "epoch"):
        arm = fresh()
        num_samples, beside_s = 0, 0.0
        before, began = count(), time.process_time()
        for song, start, stems_SCT in arm.crops(places) if what == "crops" else arm.epoch():
            compared = time.thread_time()
            wrong += not np.array_equal(stems_SCT, wholes[song][:, :, start : start + stems_SCT.shape[2]])
            num_samples += stems_SCT.shape[2]
            beside_s += time.thread_time() - compared
        taken, num_bytes = time.process_time() - began - beside_s, count() - before
        num_crops = num_samples / SIZE
        rows += [
            figure(f"{name}: {what} from {where}", num_crops / taken, "1/CPU s"),
            figure(f"{name}: {what} from {where}, read", num_bytes / num_crops / 1e6, "MB"),
        ]
    return [*rows, figure(f"{name}: from {where}, other samples", wrong, "crops", target=0)]


def _beside_ours(rows: list[Row]) -> list[Row]:
    """Each figure of the others with ours as its baseline, and of ours the best other as baseline and target.

    There is none for what a whole epoch reads, which is what all of them store.
    """
    values = {row["name"]: row["value"] for row in rows}
    beside = []
    for row in rows:
        name, what = row["name"].split(": ")
        others = [values[f"{other}: {what}"] for other in FORMATS if other != "shards"]
        if row["target"] is not None:
            beside.append(row)
        elif name != "shards":
            beside.append({**row, "baseline": values[f"shards: {what}"]})
        else:
            more = row["unit"] == "1/CPU s"
            best = max(others) if more else min(others)
            target = best if more or what.startswith("crops") else None
            beside.append(figure(row["name"], row["value"], row["unit"], baseline=best, target=target, more=more))
    return beside


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- ours -------------------------------------------------------------------------------------------------------


def _write_ours(wholes: Wholes, home: Path) -> None:
    rows = []
    for name, stems_SCT in wholes.items():
        header = SongHeader(track_id=name, title="", split="train", license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(stems_SCT, header, sources=SOURCES, bits=16)
    shard = shards.write_shard(home, "shard", rows, sources=SOURCES)
    manifests.write_manifest(home, table="chunks", step="bench", key="k", shards=[shard])


def _open_ours(address: str, _fetched: Path, _numbers: Numbers) -> Arm:
    chunks = manifests.find_manifest(address, step="bench", key="k")
    assert chunks is not None
    index = SegmentIndex.open([(chunks, 1.0)], sources=SOURCES, split="train")
    by_name = {song.track_id: song for song in index.songs}

    def crops(places: Sequence[tuple[str, int]]) -> Read:
        for name, start in places:
            out_SCT: Samples = np.empty((len(SOURCES), 2, SIZE), np.float32)
            read_crop(out_SCT, by_name[name], start, SOURCES)
            yield name, start, out_SCT

    def epoch() -> Read:
        from datasets.loading.segment_sampler import draw

        for number in range(index.epoch_rows(SIZE)):
            out_SCT: Samples = np.zeros((len(SOURCES), 2, SIZE), np.float32)
            read_row(out_SCT, index, seed=0, number=number)
            ((song, start),) = draw(index, seed=0, number=number, num_samples=SIZE)
            yield song.track_id, start, out_SCT

    return Arm(crops=crops, epoch=epoch)


# --- the others -------------------------------------------------------------------------------------------------


def _samples(wholes: Wholes) -> Iterator[tuple[str, int, dict[str, bytes]]]:
    """Songs in samples of 30 s: name, first sample, and the FLAC of each stem."""
    for name, stems_SCT in wholes.items():
        header = SongHeader(track_id=name, title="", split="train", license="", origin="corpus", sample_rate=RATE)
        start = 0
        for row in song_rows(stems_SCT, header, sources=SOURCES, chunk_s=SAMPLE_S, bits=16):
            yield name, start, {source: row[source] for source in SOURCES}
            start += row["num_samples"]


def _decoded(flacs: Sequence[Any], start: int, stop: int) -> Samples:
    """Samples [start, stop) of FLAC streams, bytes or files, as (S, C, T)."""
    from torchcodec.decoders import AudioDecoder

    def stem(flac: Any) -> Any:
        return AudioDecoder(flac).get_samples_played_in_range(start / RATE, stop / RATE).data.numpy()

    return np.stack([stem(flac) for flac in flacs])


def _crop_of_samples(numbers: Numbers, name: str, start: int, read: Callable[[int], Any]) -> Samples:
    """A crop out of the samples that it touches; `read` gives what `_decoded` takes."""
    size, parts, done = SAMPLE_S * RATE, [], 0
    while done < SIZE:
        sample, skip = divmod(start + done, size)
        take = min(size - skip, SIZE - done)
        parts.append(_decoded(read(numbers[name, sample * size]), skip, skip + take))
        done += take
    return np.concatenate(parts, axis=2)


def _whole_samples(numbers: Numbers, read: Callable[[int], Any]) -> Read:
    places = list(numbers.items())
    for position in row_rng(0, "epoch").permutation(len(places)):
        (name, start), number = places[int(position)]
        yield name, start, _decoded(read(number), 0, SAMPLE_S * RATE)


def _by_number(numbers: Numbers, read: Callable[[int], Any]) -> Arm:
    """An arm that reaches any sample by its number."""

    def crops(places: Sequence[tuple[str, int]]) -> Read:
        for song, start in places:
            yield song, start, _crop_of_samples(numbers, song, start, read)

    return Arm(crops=crops, epoch=lambda: _whole_samples(numbers, read))


def _write_mds(wholes: Wholes, home: Path) -> None:
    from streaming import MDSWriter

    columns = {"song": "str", "start": "int", **dict.fromkeys(SOURCES, "bytes")}
    with MDSWriter(out=str(home), columns=columns, size_limit="64mb") as writer:
        for name, start, flacs in _samples(wholes):
            writer.write({"song": name, "start": start, **flacs})


def _open_mds(address: str, fetched: Path, numbers: Numbers) -> Arm:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    if storage.is_remote(address):
        shutil.rmtree(fetched, ignore_errors=True)
        os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        samples = StreamingDataset(remote=address, local=str(fetched), batch_size=1)
    else:
        samples = StreamingDataset(local=address, batch_size=1)

    def read(number: int) -> list[bytes]:
        sample = samples[number]
        return [sample[source] for source in SOURCES]

    return _by_number(numbers, read)


def _write_webdataset(wholes: Wholes, home: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{home}/%06d.tar", maxsize=64e6, verbose=0) as writer:
        for number, (name, start, flacs) in enumerate(_samples(wholes)):
            num_samples = min(SAMPLE_S * RATE, wholes[name].shape[2] - start)
            about = {"song": name, "start": start, "num_samples": num_samples}
            writer.write({"__key__": f"{number:06d}", "json": about, **{f"{k}.flac": flacs[k] for k in SOURCES}})


def _open_webdataset(address: str, _fetched: Path, _numbers: Numbers) -> Arm:
    import webdataset

    webdataset.gopen_schemes["s3"] = lambda url, mode="rb", bufsize=8192, **more: storage.open_reader(url)
    tars = [storage.join(address, name) for name in storage.names(address)]

    def stream() -> Iterator[tuple[dict[str, Any], list[bytes]]]:
        samples = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0, empty_check=False).shuffle(100, seed=0)
        for sample in samples.decode():
            yield sample["json"], [sample[f"{source}.flac"] for source in SOURCES]

    def crops(places: Sequence[tuple[str, int]]) -> Read:
        rng, left = row_rng(0, "webdataset"), len(places)
        while left:
            for about, flacs in islice(stream(), left):
                at = int(rng.integers(max(1, about["num_samples"] - SIZE)))
                yield about["song"], about["start"] + at, _decoded(flacs, at, at + SIZE)
                left -= 1

    def epoch() -> Read:
        for about, flacs in stream():
            yield about["song"], about["start"], _decoded(flacs, 0, SAMPLE_S * RATE)

    return Arm(crops=crops, epoch=epoch)


def _write_lance(wholes: Wholes, home: Path) -> None:
    import lance
    import pyarrow as pa

    blob = {"lance-encoding:blob": "true"}
    schema = pa.schema(
        [("song", pa.string()), ("start", pa.int64())]
        + [pa.field(source, pa.large_binary(), metadata=blob) for source in SOURCES]
    )
    rows = [{"song": name, "start": start, **flacs} for name, start, flacs in _samples(wholes)]
    lance.write_dataset(pa.Table.from_pylist(rows, schema=schema), f"{home}/songs.lance", data_storage_version="2.1")


def _open_lance(address: str, _fetched: Path, numbers: Numbers) -> Arm:
    import lance

    options = None
    if storage.is_remote(address):
        options = {"aws_endpoint": os.environ["AWS_ENDPOINT_URL"], "allow_http": "true", "aws_region": "us-east-1"}
    table = lance.dataset(storage.join(address, "songs.lance"), storage_options=options)

    def read(number: int) -> list[Any]:
        return [table.take_blobs(source, indices=[number])[0] for source in SOURCES]

    return _by_number(numbers, read)


def _write_files(wholes: Wholes, home: Path) -> None:
    for name, stems_SCT in wholes.items():
        (home / name).mkdir()
        for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
            soundfile.write(home / name / f"{source}.flac", stem_CT.T, RATE, subtype="PCM_16")


def _open_files(address: str, _fetched: Path, _numbers: Numbers) -> Arm:
    names = sorted({path.split("/")[0] for path in storage.files_below(address)})

    def opened(name: str) -> list[Any]:
        paths = [storage.join(address, name, f"{source}.flac") for source in SOURCES]
        return [storage.open_reader(path) for path in paths] if storage.is_remote(address) else paths

    def crops(places: Sequence[tuple[str, int]]) -> Read:
        for name, start in places:
            yield name, start, _decoded(opened(name), start, start + SIZE)

    def epoch() -> Read:
        for position in row_rng(0, "epoch").permutation(len(names)):
            name = names[int(position)]
            yield name, 0, _decoded(opened(name), 0, 1 << 40)

    return Arm(crops=crops, epoch=epoch)


FORMATS: dict[str, tuple[Callable[[Wholes, Path], None], Callable[[str, Path, Numbers], Arm]]] = {
    "shards": (_write_ours, _open_ours),
    "MDS": (_write_mds, _open_mds),
    "WebDataset": (_write_webdataset, _open_webdataset),
    "Lance": (_write_lance, _open_lance),
    "FLAC files": (_write_files, _open_files),
}


if __name__ == "__main__":
    sys.exit(main())
