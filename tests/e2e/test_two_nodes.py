"""Two machines, as far as one can play both: two raylets with object stores of their own, and one that dies at work.

Before that, three workers of a training are dealt the GPUs that the two say they have.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from datasets.schema import SOURCES
from datasets.seeding import row_rng
from pipelines.preparation import ingest
from pipelines.preparation.ingest import CorpusConfig, IngestConfig

_TWO_NODES = """
import json, os, sys, threading, time
from dataclasses import asdict
from types import SimpleNamespace
from unittest import mock
import psutil
import ray.train.torch
from datasets.errors import InputError
from pipelines.runtime import shared_store
from pipelines.runtime.cluster import connect
from pipelines.preparation.ingest import CorpusConfig, IngestConfig, run
from pipelines.runs.run_place import RunPlace
from pipelines.training import workers
from pipelines.training.train_config import TrainConfig
from ray.cluster_utils import Cluster

corpus, undisturbed, killed = sys.argv[1:]
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def two_nodes():
    for attempt in range(3):  # Ray gives its own start 30 s, which a loaded machine exceeds
        cluster = Cluster()
        try:
            cluster.add_node(**small, num_gpus=2, include_dashboard=False)
            return cluster, cluster.add_node(**small, num_gpus=1)
        except Exception:
            cluster.shutdown()
            if attempt == 2:
                raise


cluster, second = two_nodes()
raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
seen, enough = [], threading.Event()


def at_work():
    return any("Map" in worker.name() for worker in raylet.children(recursive=True))


def watch(then):
    while not enough.is_set():
        try:
            if at_work():
                seen.append(then.__name__)
                then()
                return
        except psutil.Error:
            pass
        time.sleep(0.02)


def nothing():
    pass


def kill():
    cluster.remove_node(second, allow_graceful=False)


def look(settings):
    context, place = ray.train.get_context(), settings["place"]
    device = workers.RaySession(place, settings["job"].config, None).device
    row = ray.get_runtime_context().get_node_id(), str(device), os.environ["CUDA_VISIBLE_DEVICES"]
    (place.folder / str(context.get_world_rank())).write_text(json.dumps(row))
    return {}


def deal_gpus():
    # What each worker of a training takes for its GPU, by rank, after the backend that they would talk by.
    config = SimpleNamespace(**asdict(TrainConfig(num_workers=3, use_gpu=True)) | {"cpus_per_worker": 0})
    place, asked, torch_config = RunPlace(store=os.path.abspath("store"), name="gpus"), [], ray.train.torch.TorchConfig

    def gloo(backend, **options):
        asked.append(backend)
        return torch_config(backend="gloo", **options)

    with mock.patch("ray.train.torch.TorchConfig", gloo), mock.patch.object(workers, "_worker", look):
        workers._fit(SimpleNamespace(config=config), place, None)
    return [*asked, *(json.loads((place.folder / str(rank)).read_text()) for rank in range(3))]


blind = ""
with connect(address=cluster.address) as ray:
    shared_store.PATIENCE_S = 1.0
    try:  # the same words mean another folder to each process
        shared_store.require_seen_by_all(ray, "/proc/self/cwd/blind")
    except InputError as error:
        blind = str(error)
    dealt = deal_gpus()
    before = [ray.nodes()]
    stores = {node["ObjectStoreSocketName"] for node in before[0]}
    for store, then in ((undisturbed, nothing), (killed, kill)):
        enough.clear()
        watcher = threading.Thread(target=watch, args=(then,))
        watcher.start()
        run(CorpusConfig(root=corpus), IngestConfig(sample_rate=8000, shard_mb=1), store=store)
        enough.set()
        watcher.join()
    alive = sum(node["Alive"] for node in ray.nodes())
    # As in the seconds in which Ray counts a node that is gone.
    late = SimpleNamespace(
        nodes=lambda: before.pop() if before else ray.nodes(), remote=ray.remote, wait=ray.wait, get=ray.get
    )
    shared_store.require_seen_by_all(late, os.path.abspath("seen"))
cluster.shutdown()
told = {"stores": len(stores), "seen": seen, "alive": alive, "blind": blind, "dealt": dealt}
told["left"] = os.listdir("blind/cache")
print(json.dumps(told))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_two_nodes_and_one_that_dies_at_work_give_the_bytes_of_one(
    ray_local: Any, tmp_path: Path, repository: Path
) -> None:
    for number in range(14):
        folder = tmp_path / "c" / f"train/Song {number:02d}"
        folder.mkdir(parents=True)
        for source in SOURCES:
            noise = row_rng(0, number, source).standard_normal((240_000, 2)) * 0.1
            soundfile.write(folder / f"{source}.flac", noise, 8000, subtype="PCM_16")
    corpus, stores = CorpusConfig(root=str(tmp_path / "c")), [tmp_path / name for name in ("one", "two", "killed")]
    ingest.run(corpus, IngestConfig(sample_rate=8000, shard_mb=1), store=str(stores[0]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TWO_NODES, corpus.root, *map(str, stores[1:])],
        env={**os.environ, "PYTHONPATH": str(repository)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    backend, *dealt = told.pop("dealt")
    assert backend == "nccl"
    # Ray shows workers of one node each other's GPUs; which is a worker's own does not follow from its rank among all.
    assert len({node for node, _, _ in dealt}) == 2
    assert sorted((visible, device) for _, device, visible in dealt) == [
        ("0", "cuda:0"), ("0,1", "cuda:0"), ("0,1", "cuda:1"),
    ]  # fmt: skip
    blind = told.pop("blind")
    assert blind.startswith("not every node of the cluster reads what this command writes to the store /proc/self/cwd")
    assert blind.count("there is no /proc/self/cwd/blind/cache/seen-") == 2
    assert "store.root=s3://BUCKET/FOLDER" in blind
    assert told.pop("left") == []
    assert told == {"stores": 2, "seen": ["nothing", "kill"], "alive": 1}
    one, two, killed = (_contents(store) for store in stores)
    assert len(one) > 14
    assert two == one
    assert killed == one


def _contents(store: Path) -> dict[str, bytes]:
    kinds = ("chunks/[!.]*", "manifests/*.json")
    return {str(path.relative_to(store)): path.read_bytes() for kind in kinds for path in store.glob(kind)}
