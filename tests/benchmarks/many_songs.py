"""`make bench-many_songs`: what a second node is worth to `separate` and to `evaluate` of many songs.

A node is a core here: its processes are pinned to it and it says that it has one CPU. A cluster of one node, which the
driver and Ray's own processes share, stands against one of two, in turns, each in a process of its own, with workers
that have started; a job starts those that hold the model anew, which 48 songs make a small part of it. Each worker has
one thread. The stems and scores of both are compared bit for bit. By the clock, so other work on the machine takes from
the second node what it is worth: the load is a row, and so is what a second process that does the same is worth
without Ray, each on a core of its own. Linux alone pins processes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datasets.schema import SOURCES
from datasets.seeding import row_rng
from tests.benchmarks.table import Row, figure, show

ROOT = Path(__file__).resolve().parents[2]
RATE = 44100
TARGET = 1.8
STARTS = 3  # tries: Ray gives a node 30 s, a constant in its source that a loaded machine exceeds
STORE_BYTES = 512 * 2**20  # of objects, on each node
VERBS = ("separate", "evaluate")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--songs", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a song")
    parser.add_argument("--model", default="htdemucs-tiny", help="of the catalog, with random weights")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        sys.stdout.write(json.dumps(_part(json.loads(arguments.part))) + "\n")
        return 0
    if len(_cores()) < 2:
        parser.error("two cores are needed, one for each node")
    rows = [figure("load before", os.getloadavg()[0], "processes")]
    with tempfile.TemporaryDirectory(prefix="bench-many-songs-") as folder:
        _prepare(Path(folder), arguments.songs, arguments.seconds, arguments.model)
        rows += measure(Path(folder), rounds=arguments.rounds)
    rows.append(figure("load after", os.getloadavg()[0], "processes"))
    return show("Many songs", rows, arguments.out)


def measure(folder: Path, *, rounds: int) -> list[Row]:
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    bare: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for num_nodes, done in runs.items():
            cores = _cores()[:num_nodes]
            done.append(_run({"folder": str(folder), "cores": cores})[0])
            halves = _run(*(
                {"folder": str(folder), "cores": [core], "half": half, "of": num_nodes}
                for half, core in enumerate(cores)
            ))  # fmt: skip
            bare[num_nodes].append(max(half["seconds"] for half in halves))
    rows = []
    for verb in VERBS:
        one, two = ([done["seconds"][verb] for done in runs[count]] for count in (1, 2))
        ratios = [few / many for few, many in zip(one, two, strict=True)]
        same = {done["digests"][verb] for count in runs for done in runs[count]}
        rows += [
            figure(
                f"{verb}: two nodes against one; beside it two processes without Ray", min(one) / min(two), "times",
                baseline=min(bare[1]) / min(bare[2]), target=TARGET, more=True, spread=(min(ratios), max(ratios)),
            ),
            figure(f"{verb}: one node", min(one), "s"),
            figure(f"{verb}: different results", len(same) - 1, "results", target=0),
        ]  # fmt: skip
    return rows


def _cores() -> list[int]:
    """Those that this process may use, where processes can be pinned."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def _pin(core: int) -> None:
    """This thread, and what it starts from here on, on one core."""
    os.sched_setaffinity(0, [core])


def _prepare(folder: Path, num_songs: int, song_s: float, model: str) -> None:
    """Songs, a store that holds them, and a model."""
    import torch

    from datasets.shards import manifests, shards
    from datasets.shards.chunks import SongHeader, song_rows
    from models.networks import catalog
    from models.weights import checkpoint

    rows = []
    for number in range(num_songs):
        rng = row_rng(0, "many songs", number)
        stems_SCT = rng.integers(-3000, 3000, (len(SOURCES), 2, round(song_s * RATE))).astype(np.float32) / 32768
        (folder / "songs").mkdir(exist_ok=True)
        soundfile.write(folder / f"songs/{number:03d}.wav", stems_SCT.sum(axis=0).T, RATE, subtype="FLOAT")
        header = SongHeader(
            track_id=f"{number:03d}", title=f"{number}", split="test", license="", origin="corpus", sample_rate=RATE
        )
        rows += song_rows(stems_SCT, header, sources=SOURCES, bits=16)
    shard = shards.write_shard(folder / "store", "k", rows, sources=SOURCES)
    manifests.write_manifest(folder / "store", table="chunks", step="bench", key="k", shards=[shard])
    torch.manual_seed(0)
    checkpoint.save(folder / "model", catalog.build(model))


def _run(*wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Parts in processes that run at the same time."""
    command = [sys.executable, "-m", "tests.benchmarks.many_songs", "--part"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, json.dumps(part)], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for part in wanted
    ]
    answers = [process.communicate()[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def _part(wanted: dict[str, Any]) -> dict[str, Any]:
    folder = Path(wanted["folder"])
    _pin(wanted["cores"][0])  # before a library has threads
    return _bare(folder, wanted["half"], wanted["of"]) if "half" in wanted else _through_ray(folder, wanted["cores"])


def _bare(folder: Path, half: int, of: int) -> dict[str, Any]:
    """Seconds of separating every second song, or all, in one process with one thread."""
    import torch

    from pipelines.inference import separate_songs
    from pipelines.inference.separate_config import SeparateConfig

    torch.set_num_threads(1)
    songs = sorted(map(str, (folder / "songs").iterdir()))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        separate_songs.run(SeparateConfig(device="cpu"), songs[:1], model=str(folder / "model"), out=f"{out}/warm")
        began = time.monotonic()
        separate_songs.run(SeparateConfig(device="cpu"), songs[half::of], model=str(folder / "model"), out=out)
        return {"seconds": time.monotonic() - began}


@contextmanager
def _nodes(cores: Sequence[int]) -> Iterator[str]:
    """The address of a cluster with a node on each core, the head on the first."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    for attempt in range(STARTS):
        cluster = Cluster()
        try:
            for core in cores:
                _pin(core)
                cluster.add_node(**size)
            break
        except Exception:
            cluster.shutdown()
            if attempt + 1 == STARTS:
                raise
        finally:
            _pin(cores[0])
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def _through_ray(folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    from datasets.schema import Score
    from datasets.shards.arrow_tables import read_objects
    from datasets.shards.manifests import find_manifest
    from pipelines.evaluation import evaluate
    from pipelines.evaluation.evaluate_config import EvaluateConfig
    from pipelines.inference import separate_songs
    from pipelines.inference.separate_config import SeparateConfig
    from pipelines.runtime.cluster import connect

    chunks = find_manifest(folder / "store", step="bench", key="k")
    assert chunks is not None
    songs, model = sorted(map(str, (folder / "songs").iterdir())), folder / "model"
    seconds, digests = {}, {}
    with _nodes(cores) as address, connect(address=address), tempfile.TemporaryDirectory(dir=folder) as out:
        config = SeparateConfig(device="cpu", num_workers=0)  # as many as the nodes hold
        separate_songs.run(config, songs[:2], model=str(model), out=f"{out}/warm")
        began = time.monotonic()
        made = separate_songs.run(config, songs, model=str(model), out=f"{out}/stems")
        seconds["separate"] = time.monotonic() - began
        files = sorted(path for song in made.songs for path in song.files.values())
        digests["separate"] = hashlib.sha256(b"".join(Path(path).read_bytes() for path in files)).hexdigest()
        began = time.monotonic()
        scored = evaluate.run(EvaluateConfig(), str(model), chunks, store=f"{out}/scores")
        seconds["evaluate"] = time.monotonic() - began
        scores = [repr(score) for score in read_objects(scored.scores, Score)]
        digests["evaluate"] = hashlib.sha256("\n".join(scores).encode()).hexdigest()
    return {"seconds": seconds, "digests": digests}


if __name__ == "__main__":
    sys.exit(main())
