"""`make bench-scale`: H hours of music in songs of 3 to 8 minutes, from a folder to fifty steps of a training.

Songs are pieces of true stems from `../shared/data`, else of made-up ones, in orders and at gains of their own, so that
none is a copy of another. They go through ingest, curation, analysis and automixes into a training of htdemucs-tiny;
then everything once more, with ten songs more, and with one less. Hours are of songs (of mixes for automixes), per hour
of processor time of all processes, Ray's own among them. An hour takes 1.6 GB of disk, more where many are mixed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.seeding import row_rng
from tests.benchmarks.corpus import _pools, _watched
from tests.benchmarks.table import Row, figure, show

ROOT = Path(__file__).resolve().parents[2]
RATE, FADE = 44100, 2000
LENGTHS_S = (180, 480)
MORE = 10
STEPS = ("ingest", "curate", "analyze", "automix", "train")
GB_PER_HOUR = 1.6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--hours", type=float, default=40.0, help="of music, as songs of 3 to 8 minutes")
    parser.add_argument("--folder", help="where songs and store are made and stay; songs that are there are used again")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        sys.stdout.write(json.dumps(_part(Path(arguments.part))) + "\n")
        return 0
    if arguments.folder:
        Path(arguments.folder).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(Path(arguments.folder) / "store", ignore_errors=True)
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory("-scale") as folder:
        free_gb = (shutil.disk_usage(folder).free + _bytes_below(Path(folder))) / 1e9
        needed_gb = GB_PER_HOUR * (arguments.hours + 1)
        if free_gb < needed_gb:
            print(
                f"--hours {arguments.hours:g} takes about {needed_gb:.0f} GB and {free_gb:.0f} GB are free at {folder}"
            )
            return 2
        rows = [figure("load before", os.getloadavg()[0], "processes"), *measure(Path(folder), hours=arguments.hours)]
    rows.append(figure("load after", os.getloadavg()[0], "processes"))
    return show("Scale", rows, arguments.out)


def measure(folder: Path, *, hours: float) -> list[Row]:
    pools, rng, lengths_s = _pools(), row_rng(0, "lengths"), list[float]()
    while sum(lengths_s) < 3600 * hours:
        lengths_s.append(float(rng.uniform(*LENGTHS_S)))
    for number in range(len(lengths_s) + MORE):
        home = folder / ("corpus" if number < len(lengths_s) else "more")
        length_s = lengths_s[number] if number < len(lengths_s) else float(LENGTHS_S[0])
        _write_song(home / f"Artist {number:05d} - Song", pools, number, length_s)
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--part", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return _figures(json.loads(done.stdout.splitlines()[-1]), len(lengths_s), sum(lengths_s) / 3600)


def _figures(made: Mapping[str, Any], num_songs: int, hours: float) -> list[Row]:
    rows = [figure("songs", num_songs, "songs"), figure("audio, four stems each", hours, "h")]
    rows += [figure("files", made["bytes"]["corpus"] / 1e9, "GB"), figure("store", made["bytes"]["store"] / 1e9, "GB")]
    for step in STEPS:
        cpu_h = made["first"][step]["cpu_s"] / 3600
        of = made["mixed_h"] if step == "automix" else hours
        if step != "train":
            rows.append(figure(f"{step}: hours per core-hour", of / cpu_h, "h/h"))
        rows += [
            figure(f"{step}: time", made["first"][step]["seconds"], "s"),
            figure(f"{step}: peak memory, driver", made["first"][step]["peak_mb"]["driver"], "MB"),
            figure(f"{step}: peak memory, worker", made["first"][step]["peak_mb"]["worker"], "MB"),
        ]
    dropped = made["dropped"]
    rows += [
        figure("dropped as a duplicate", dropped.get("duplicate", 0), "songs", target=0),
        figure("dropped for another reason", sum(dropped.values()) - dropped.get("duplicate", 0), "songs"),
        figure("mixes", made["mixed_h"], "h"),
        figure("again with nothing to do", _total(made["again"]), "s", target=10.0),
    ]
    for what, decoded in (("ten songs more", MORE), ("one song less", 0)):
        found = made[what]
        rows += [
            figure(f"{what}: songs decoded", found["decoded"], "songs", target=decoded),
            figure(f"{what}: to the profiles", _total(found["steps"]), "s"),
        ]
    return rows


def _total(steps: Mapping[str, Mapping[str, Any]]) -> float:
    return sum(float(step["seconds"]) for step in steps.values())


def _write_song(folder: Path, pools: Mapping[str, list[NDArray[np.int16]]], number: int, length_s: float) -> None:
    """Each stem in pieces of other places of other songs, each piece at a gain of its own, faded in and out."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)[:, None]
    for source, pool in pools.items():
        rng, parts, left = row_rng(0, source, number), list[NDArray[np.int16]](), round(length_s * RATE)
        while left > 0:
            stem_TC = pool[int(rng.integers(len(pool)))]
            start = int(rng.integers(len(stem_TC) // 2))
            piece_TC = stem_TC[start : start + int(rng.integers(4 * RATE, 20 * RATE))][:left].astype(np.float32)
            piece_TC *= 10 ** (float(rng.uniform(-6, 0)) / 20)
            if len(piece_TC) > 2 * FADE:
                piece_TC[:FADE] *= ramp
                piece_TC[-FADE:] *= ramp[::-1]
            parts.append(np.round(piece_TC).astype(np.int16))
            left -= len(piece_TC)
        soundfile.write(unfinished / f"{source}.flac", np.concatenate(parts), RATE, subtype="PCM_16")
    unfinished.rename(folder)


# --- the process that is measured -------------------------------------------------------------------------------


def _part(folder: Path) -> dict[str, Any]:
    """Every step in this process, with Ray started beforehand."""
    from datasets.shards.manifests import read_songs
    from flows import config as settings
    from pipelines.runtime.cluster import connect

    corpus, store = folder / "corpus", folder / "store"
    config = settings.load(
        "smoke",
        [
            f"corpus.root={corpus}", f"store.root={store}", "automix.mixes_per_track=1", "train.steps=50",
            "train.num_workers=1", "train.valid_songs=1",
        ],
    )  # fmt: skip
    made: dict[str, Any] = {}
    with _watched() as watch, connect():
        result, made["first"] = _steps(config, watch, STEPS)
        made["dropped"] = dict(result["curate"].summary["dropped"])
        mixes = read_songs(result["automix"].chunks) if result["automix"].chunks.num_rows else []
        made["mixed_h"] = sum(song.num_samples / song.sample_rate for song in mixes) / 3600
        made["bytes"] = {home.name: _bytes_below(home) for home in (corpus, store)}
        made["again"] = _steps(config, watch, STEPS)[1]
        for what in ("ten songs more", "one song less"):
            before = _num_decoded(store)
            if what == "ten songs more":
                shutil.copytree(folder / "more", corpus, copy_function=os.link, dirs_exist_ok=True)
            else:
                shutil.rmtree(min(corpus.iterdir()))
            steps = _steps(config, watch, STEPS[:3])[1]
            made[what] = {"steps": steps, "decoded": _num_decoded(store) - before}
    return made


def _steps(config: Any, watch: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of the steps, and what each cost."""
    from pipelines.preparation import analyze, automix, curate, ingest
    from pipelines.training import train

    done: dict[str, Any] = {}
    store = config.store.tables

    def drawn_from() -> list[tuple[Any, float]]:
        mixes = done["automix"].chunks
        return [(done["curate"].chunks, 1.0), *([(mixes, 1.0)] if mixes.num_rows else [])]

    jobs: dict[str, Callable[[], Any]] = {
        "ingest": lambda: ingest.run(config.corpus, config.ingest, store=store),
        "curate": lambda: curate.run(config.curate, done["ingest"], store=store, home=config.store.root),
        "analyze": lambda: analyze.run(config.analyze, done["curate"].chunks, store=store),
        "automix": lambda: automix.run(config.automix, done["curate"].chunks, done["analyze"], store=store),
        "train": lambda: train.run(
            config.train, config.model, drawn_from(), sources=config.corpus.sources, store=config.store.root
        ),
    }  # fmt: skip
    costs = {}
    for name in names:
        watch.peak_mb.update(driver=0.0, worker=0.0)
        before, began = watch.cpu_s(), time.monotonic()
        done[name] = jobs[name]()
        costs[name] = {"seconds": time.monotonic() - began, "cpu_s": watch.cpu_s() - before}
        costs[name]["peak_mb"] = dict(watch.peak_mb)
        print(name, costs[name], file=sys.stderr, flush=True)
    return done, costs


def _num_decoded(store: Path) -> int:
    """Songs that were decoded into this store so far."""
    return sum(len(json.loads(path.read_text())["songs"]) for path in _sidecars(store))


def _sidecars(store: Path) -> list[Path]:
    """Of shards of songs, not of mixes."""
    paths = (store / "chunks").glob("*.json")
    return [path for path in paths if "origins" in json.loads(path.read_text())["extra"]]


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
