"""`make bench-remix`: how well songs are heard, planned and rendered into mixes, and at what cost.

Everything is scored against songs whose beats and keys are known: those of `../shared/data` and made-up ones. Speeds
are in processor seconds of one thread, so that they hold on a machine with other work. `--part analysis`, `rendering`
or `planning`, for example, takes one part. `--songs FOLDER` hears other songs of known beats (`remix_songs.py`).
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from datasets.analysis.song_profile import profile
from datasets.corpus.synthetic import compose, perform
from datasets.mixing.mixplan import MixRules, plan
from datasets.schema import SOURCES, Profile
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import read_songs, write_manifest
from datasets.shards.shards import read_song, write_shard
from models.learner_config import AugmentConfig
from models.learning.augment import augment
from pipelines.preparation import automix
from pipelines.runtime.cluster import Resources, connect, map_rows
from tests.benchmarks import remix_songs
from tests.benchmarks.table import Row, figure, show, write

PARTS = ("analysis", "alignment", "rendering", "planning", "augmentation", "workers")
SONGS, MIXES = 3500, 6
STORED_SONGS, SHARDS, BARE = 4, 32, 12  # of the comparison of workers; a shard holds one mix
RATE = 44100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--part", choices=PARTS, action="append", help="one of the parts; again for more")
    parser.add_argument("--songs", type=Path, help="a folder of songs, each with a truth.json: only these are heard")
    arguments = parser.parse_args()
    if arguments.songs:
        return show(f"What is heard in {arguments.songs}", remix_songs.rows(arguments.songs), arguments.out)
    rows: list[Row] = []
    missed = 0
    for part in arguments.part or PARTS:
        load, took = os.getloadavg()[0], time.process_time()
        made = [figure("load before", load, "processes"), *_measure(part)]
        made.append(figure(f"this part of the bench: {part}", time.process_time() - took, "CPU s"))
        missed |= show(f"The remix engine: {part}", made)
        rows += made
        if arguments.out:
            write(rows, arguments.out)
    return missed


def _measure(part: str) -> list[Row]:
    if part == "analysis":
        from tests.benchmarks.remix_analysis import rows

        return rows()
    if part in ("alignment", "rendering"):
        from tests.benchmarks import remix_rendering

        return remix_rendering.alignment() if part == "alignment" else remix_rendering.rendering()
    return {"planning": planning, "workers": workers, "augmentation": augmentation}[part]()


def planning() -> list[Row]:
    """Made-up songs of four minutes, and a tenth of them: time a mix, which should not grow."""
    seconds, whole = {}, 0
    for count in (SONGS // 10, SONGS):
        songs = made_up_profiles(count)
        began = time.process_time()
        plans = plan(songs, seed=0, mixes_per_track=MIXES, rules=MixRules(), sources=SOURCES)
        seconds[count] = time.process_time() - began
        whole = sum(not made.reason for made in plans)
    few, many = (1000 * spent / (count * MIXES) for count, spent in seconds.items())
    return [
        figure(f"planning {SONGS} songs x {MIXES} mixes", seconds[SONGS], "CPU s", target=60.0),
        figure("one mix of 3500 songs, against one of 350", many, "ms", baseline=few, target=1.5 * few),
        figure("plans without a missing part", 100.0 * whole / (SONGS * MIXES), "%"),
    ]


def made_up_profiles(count: int) -> list[Profile]:
    """Songs of four minutes with steady beats, in every tempo from 60 to 180 and every key."""
    rng = np.random.default_rng(0)
    major = np.array([5.0, 0.5, 3.5, 0.5, 4.5, 4.0, 0.5, 4.5, 0.5, 3.5, 0.5, 4.0])
    base = Profile(
        track_id="", split="train", duration_s=240.0, tempo_bpm=0.0, tempo_confidence=0.8, beats_s=(), downbeats_s=(),
        chroma=(), key="", key_confidence=0.5, loudness_db=dict.fromkeys(SOURCES, -20.0),
    )  # fmt: skip
    songs = []
    for number in range(count):
        tempo_bpm, first_s = rng.uniform(60.0, 180.0), rng.uniform(0.0, 0.5)
        beats = np.arange(first_s, 240.0, 60.0 / tempo_bpm)
        beats = beats + rng.normal(0.0, 0.002, beats.size)
        chroma = np.roll(major * rng.uniform(0.7, 1.3, 12), rng.integers(12))
        songs.append(
            replace(
                base,
                track_id=f"song {number:05d}",
                tempo_bpm=float(tempo_bpm),
                beats_s=tuple(beats.tolist()),
                downbeats_s=tuple(beats[::4].tolist()),
                chroma=tuple((chroma / chroma.sum()).tolist()),
            )
        )
    return songs


def workers() -> list[Row]:
    """The same shards of mixes written by one Ray worker after the other, and by two at once.

    By the clock, which asks for two cores with nothing else at work, and by processor seconds: what a worker loses by
    the other's being there. What two cores of this machine can do is what plain processes do with the first mixes.
    """
    clock_s, cpu_s, bare_s = {}, {}, {}
    with patch.dict(os.environ, OMP_NUM_THREADS="1"), tempfile.TemporaryDirectory(prefix="bench-remix-") as folder:
        items = _shards_to_write(Path(folder))
        warm = [{**item, "store": f"{folder}/warm-{place}"} for place, item in enumerate(items[:2])]
        for count in (1, 2):
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                list(pool.map(_timed, warm))
                began = time.monotonic()
                list(pool.map(_timed, [{**item, "store": f"{folder}/bare-{count}"} for item in items[:BARE]]))
                bare_s[count] = time.monotonic() - began
        with connect(num_cpus=2):
            list(map_rows(_timed, warm))
            for count in (1, 2):
                began = time.monotonic()
                there = [{**item, "store": f"{folder}/{count}"} for item in items]
                done = list(map_rows(_timed, there, resources=Resources(num_cpus=2 / count)))
                clock_s[count] = time.monotonic() - began
                cpu_s[count] = sum(one["cpu_s"] for one in done)
    clock, processor, bare = (spent[1] / spent[2] for spent in (clock_s, cpu_s, bare_s))
    return [
        figure("mixes written, a shard each", SHARDS, "mixes"),
        figure("mixes written by one worker", clock_s[1], "s, by the clock", baseline=cpu_s[1]),
        figure("mixes written by two workers", clock_s[2], "s, by the clock", baseline=cpu_s[2] / 2),
        figure("two plain processes against one, by the clock", bare, "times"),
        figure("two workers against one, by the clock", clock, "times", baseline=bare, target=1.8, more=True),
        figure("two workers against one, by processor time", 2 * processor, "times", target=1.8, more=True),
    ]


def _shards_to_write(store: Path) -> list[dict[str, Any]]:
    """Items for the job's own work function, on made-up songs of a minute."""
    rows = []
    for number in range(STORED_SONGS):
        score = replace(compose(7, f"{number}", 120.0), duration_s=60.0, tempo_bpm=110.0 + number, tonic=number % 3)
        header = SongHeader(
            track_id=score.song_id, title=score.song_id, split="train", license="", origin="corpus", sample_rate=RATE
        )
        rows += song_rows(perform(score, RATE), header, sources=SOURCES)
    shard = write_shard(store, "songs", rows, sources=SOURCES)
    songs = {
        song.track_id: song
        for song in read_songs(write_manifest(store, table="chunks", step="ingest", key="x", shards=[shard]))
    }
    heard = [
        profile(read_song(song), track_id=name, split="train", sources=SOURCES, sample_rate=RATE)
        for name, song in songs.items()
    ]
    plans = plan(heard, seed=0, mixes_per_track=8, rules=MixRules(), sources=SOURCES)
    whole = [made for made in plans if not made.reason]
    assert len(whole) >= SHARDS
    return [
        {
            "spec": f"mix-{place}",
            "plans": [asdict(whole[place])],
            "songs": {name: asdict(song) for name, song in songs.items()},
        }
        for place in range(SHARDS)
    ]


def augmentation() -> list[Row]:
    """What each change costs a row of four stereo stems of 7.8 s, on one thread of a CPU."""
    import torch

    torch.set_num_threads(1)
    names = ("repitch", "eq", "saturate", "codec", "width", "mixup")
    plain = AugmentConfig(
        shift_s=0.0, flip_channels=False, flip_sign=False, scale_probability=0.0, remix_probability=0.0, remix_group=2
    )
    rows = []
    for name in names:
        config = replace(plain, **{f"{name}_probability": 1.0})
        excerpts = 0.1 * torch.randn(
            2, 4, 2, config.input_samples(343980, RATE), generator=torch.Generator().manual_seed(0)
        )
        spent = []
        for step in range(3):
            began = time.thread_time()
            augment(excerpts, config, seed=0, step=step, rows=range(2), shift_samples=0)
            spent.append((time.thread_time() - began) / 2)
        rows.append(figure(f"augmentation, {name}: a row in which all stems are changed", min(spent), "CPU s"))
    return rows


def _timed(item: dict[str, Any]) -> dict[str, Any]:
    began = time.process_time()
    automix._write_mixes(item)
    return {"cpu_s": time.process_time() - began}


if __name__ == "__main__":
    sys.exit(main())
