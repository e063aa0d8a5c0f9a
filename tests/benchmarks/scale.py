"""`make bench-scale`: H hours of music in songs of 3 to 8 minutes, from a folder to fifty steps of a training.

Songs are bars of true stems from `../shared/data`, else of made-up ones, brought to one tempo and put together beat on
beat, in orders and at gains of their own, so that none is a copy of another. They go through ingest, curation, analysis
and automixes into a training of htdemucs-tiny; then everything once more, with ten songs more, and with one less. Hours
are of songs (of mixes for automixes), per hour of processor time of all processes, Ray's own among them. An hour takes
1.6 GB of disk, more where many are mixed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from datasets.corpus.synthetic import compose, perform
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from tests.benchmarks.corpus import _read, _watched
from tests.benchmarks.table import Row, figure, show

ROOT = Path(__file__).resolve().parents[2]
SETS = ("cc0_album", "lmms_demos", "rendered_stems")  # whose beats are known
RATE, FADE, AHEAD = 44100, 220, 440  # of samples faded, and from a cut to the beat after it
SPEEDS = (0.88, 1.12)  # at which an excerpt may be played
LENGTHS_S = (180, 480)
MORE = 10
TRAIN_STEPS = 50
STEPS = ("ingest", "curate", "analyze", "automix", "train")
GB_PER_HOUR = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Excerpt:
    """Stems (T, C) in 16 bit by source, and where bars begin."""

    stems: Mapping[str, NDArray[np.int16]]
    bars_s: Sequence[float]

    @property
    def bar_s(self) -> float:
        return float(np.median(np.diff(self.bars_s)))


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
    excerpts, rng, lengths_s = _excerpts(), row_rng(0, "lengths"), list[float]()
    while sum(lengths_s) < 3600 * hours:
        lengths_s.append(float(rng.uniform(*LENGTHS_S)))
    for number in range(len(lengths_s) + MORE):
        home = folder / ("corpus" if number < len(lengths_s) else "more")
        length_s = lengths_s[number] if number < len(lengths_s) else float(LENGTHS_S[0])
        _write_song(home / f"Artist {number:05d} - Song", excerpts, number, length_s)
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
        figure("songs with a steady beat, of those for training", made["steady"], "songs", baseline=made["planned"]),
        figure(
            "mixes made of one planned for each", made["mixes"], "mixes", baseline=made["planned"], target=1, more=True
        ),
        figure("mixes", made["mixed_h"], "h"),
        figure("training, half of it drawn from mixes", made["steps"], "steps", target=TRAIN_STEPS, more=True),
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


def _write_song(folder: Path, excerpts: Sequence[_Excerpt], number: int, length_s: float) -> None:
    """Each stem in bars of several excerpts of nearly one tempo, each piece at a gain of its own, beats on one grid."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True, exist_ok=True)
    rng = row_rng(0, "tempo", number)
    bar = round(excerpts[int(rng.integers(len(excerpts)))].bar_s * float(rng.uniform(*SPEEDS)) * RATE)
    speeds = [_speed(excerpt, bar / RATE) for excerpt in excerpts]
    fitting = [(excerpt, speed) for excerpt, speed in zip(excerpts, speeds, strict=True) if _fits(speed)]
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)[:, None]
    for source in SOURCES:
        pool = [(excerpt, speed, _at_speed(excerpt.stems[source], speed)) for excerpt, speed in fitting]
        rng, parts, left = row_rng(0, source, number), list[NDArray[np.int16]](), round(length_s * RATE)
        while left > 0:
            excerpt, speed, stem_TC = pool[int(rng.integers(len(pool)))]
            start = round(float(rng.choice(excerpt.bars_s)) / speed * RATE) - AHEAD
            num_bars = min(int(rng.integers(1, 5)), (len(stem_TC) - start) // bar)
            piece_TC = stem_TC[max(0, start) :][: num_bars * bar] * 10 ** (float(rng.uniform(-6, 0)) / 20)
            if start < 0 or not num_bars:
                continue
            piece_TC[:FADE] *= ramp
            piece_TC[-FADE:] *= ramp[::-1]
            parts.append(np.round(piece_TC[:left]).astype(np.int16))
            left -= len(piece_TC)
        soundfile.write(unfinished / f"{source}.flac", np.concatenate(parts), RATE, subtype="PCM_16")
    unfinished.rename(folder)


def _speed(excerpt: _Excerpt, bar_s: float) -> float:
    """At which its bars, or halves or pairs of them, are as long as this."""
    ratio = excerpt.bar_s / bar_s
    return float(ratio / 2 ** np.round(np.log2(ratio)))


def _fits(speed: float) -> bool:
    return SPEEDS[0] <= speed <= SPEEDS[1]


def _at_speed(stem_TC: NDArray[np.int16], speed: float) -> NDArray[np.float32]:
    played_TC: NDArray[np.float32] = soxr.resample(stem_TC.astype(np.float32), RATE * speed, RATE, "MQ")
    return played_TC


def _excerpts() -> list[_Excerpt]:
    """True songs with known beats, made-up ones where there are none; bars are four beats where nothing is said."""
    data = ROOT.parent / "shared" / "data"
    paths = [path for name in SETS if (data / name).is_dir() for path in sorted((data / name / "train").iterdir())]
    if not paths:
        songs = [compose(seed, f"bench {seed}", 12.0) for seed in range(6)]
        made = [np.round(perform(song, RATE).transpose(0, 2, 1) * 32767).astype(np.int16) for song in songs]
        return [
            _Excerpt(stems=dict(zip(SOURCES, stems_STC, strict=True)), bars_s=song.downbeats_s)
            for song, stems_STC in zip(songs, made, strict=True)
        ]
    truths = {path: json.loads((path / "truth.json").read_text(encoding="utf-8")) for path in paths}
    return [
        _Excerpt(
            stems={source: _read(path / f"{source}.flac") for source in SOURCES},
            bars_s=truth.get("downbeats_s") or truth["beats_s"][::4],
        )
        for path, truth in truths.items()
        if truth.get("check", {}).get("beats_confident", True)
    ]


# --- the process that is measured -------------------------------------------------------------------------------


def _part(folder: Path) -> dict[str, Any]:
    """Every step in this process, with Ray started beforehand."""
    from datasets.schema import MixPlan
    from datasets.shards.arrow_tables import read_objects
    from datasets.shards.manifests import read_songs
    from flows import config as settings
    from pipelines.runtime.cluster import connect

    corpus, store = folder / "corpus", folder / "store"
    config = settings.load(
        "smoke",
        [
            f"corpus.root={corpus}", f"store.root={store}", "automix.mixes_per_track=1",
            f"train.steps={TRAIN_STEPS}", "train.num_workers=1", "train.valid_songs=1",
        ],
    )  # fmt: skip
    made: dict[str, Any] = {}
    with _watched() as watch, connect():
        result, made["first"] = _steps(config, watch, STEPS)
        made["dropped"] = dict(result["curate"].summary["dropped"])
        mixes = read_songs(result["automix"].chunks) if result["automix"].chunks.num_rows else []
        plans = read_objects(result["automix"].plans, MixPlan)
        made |= {"planned": len(plans), "mixes": len(mixes), "steps": result["train"].steps if mixes else 0}
        made["steady"] = sum("no clear beat" not in plan.reason for plan in plans)
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
