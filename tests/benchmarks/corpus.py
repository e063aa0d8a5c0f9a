"""`make bench-corpus`: what building a corpus costs, in time, processor, memory and bytes, and how that grows.

Songs are mixed from true stems where `../shared/data` has them, else from made-up ones, each from other places of
other songs. Every measurement is a process of its own. Processor time is that of all its processes, Ray's own ones
too, since wall clock means little on a machine that others use. `--songs 3500` is the full size,
`--only long` takes one part.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from datasets.schema import SOURCES, ShardSet
from datasets.seeding import row_rng
from flows.console.progress_display import Screen
from tests.benchmarks.table import Row, figure, show
from tests.pipelines.broken import plant

ROOT = Path(__file__).resolve().parents[2]
SETS = ("cc0_album", "lmms_demos", "rendered_stems", "real_small")
RATE = 44100
TENTH = 10
PARTS = ("short", "long", "growth")
SHORT = (48, 60.0)  # songs, and their length in seconds
LONG = (24, (180.0, 200.0, 220.0, 240.0))  # songs as long as real ones; of each length one is made, and linked to
ADDED = 10
ROUNDS = 2  # of everything that is compared by the clock
WARM = (36, 6.0)  # songs that start the workers; fewer would be done before the second one is up
MEMORY = Path("/dev/shm")  # where stores of the comparison lie if there is room: two workers write 80 MB/s
MEMORY_BYTES = 6_000_000_000

Pools = Mapping[str, list[NDArray[np.int16]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--songs", type=int, default=350)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a song")
    parser.add_argument("--only", choices=PARTS, action="append", help="one of the parts; again for more")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        sys.stdout.write(json.dumps(_part(json.loads(arguments.part))) + "\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-corpus-") as folder:
        rows = measure(Path(folder), num_songs=arguments.songs, song_s=arguments.seconds, parts=arguments.only or PARTS)
    return show("The corpus", rows, arguments.out)


def measure(folder: Path, *, num_songs: int, song_s: float, parts: Sequence[str] = PARTS) -> list[Row]:
    pools = _pools()
    rows = [figure("load before", os.getloadavg()[0], "processes")]
    for number in range(WARM[0]):
        _write_song(folder / f"warm/train/Song {number:05d}", pools, -2000 - number, WARM[1])
    if "short" in parts:
        for number in range(SHORT[0]):
            _write_song(folder / f"short/train/Song {number:05d}", pools, -1 - number, SHORT[1])
        rows += _against_the_bare_loop(folder / "short", folder, f"songs of {SHORT[1]:.0f} s")
    if "long" in parts:
        _write_long_songs(folder / "long", pools)
        rows += _against_the_bare_loop(folder / "long", folder, "songs of 3 to 4 minutes")
    if "growth" in parts:
        rows += _growth(folder, pools, num_songs=num_songs, song_s=song_s)
    return [*rows, figure("load after", os.getloadavg()[0], "processes")]


def _write_long_songs(corpus: Path, pools: Pools) -> None:
    """Equal files in several songs are decoded for each: a song is known by its id and its audio together."""
    num_songs, lengths_s = LONG
    for number in range(num_songs):
        song = corpus / f"train/Song {number:05d}"
        if number < len(lengths_s):
            _write_song(song, pools, -1000 - number, lengths_s[number])
        else:
            first = corpus / f"train/Song {number % len(lengths_s):05d}"
            shutil.copytree(first, song, copy_function=os.link)


def _plant(corpus: Path, num_songs: int) -> dict[str, str]:
    """One broken song in twenty, of every kind in turn; the reason that is due, by track id."""
    kinds: dict[str, str] = {}
    for number in range(max(1, round(num_songs / 20 / 28))):
        root = corpus / f"train/Broken {number:02d}"
        kinds |= {f"train/{root.name}/{title}": reason for title, reason in plant(root).items()}
    return kinds


def _against_the_bare_loop(corpus: Path, folder: Path, what: str) -> list[Row]:
    """One worker against the loop, and two workers against one, in turns and with workers that have started.

    The loop in two processes at once says what this machine's second core is worth.
    """
    steps, warm, written = ["warm", "ingest"], folder / "warm", 0
    loop: list[dict[str, Any]] = []
    one: list[dict[str, Any]] = []
    two: list[dict[str, Any]] = []
    both_s: list[float] = []
    for _ in range(ROUNDS):
        loop.append(_run(steps=["bare"], corpus=corpus, store=folder / "none"))
        with ThreadPoolExecutor(2) as pool:
            halves = [pool.submit(_run, steps=["bare"], corpus=corpus, store=folder, half=half) for half in (0, 1)]
            both_s.append(max(half.result()["seconds"]["bare"] for half in halves))
        for runs, num_cpus in ((one, 1), (two, 2)):
            with tempfile.TemporaryDirectory(prefix="bench-corpus-", dir=_roomy(folder)) as fast:
                store = Path(fast, "store")
                runs.append(_run(steps=steps, corpus=corpus, store=store, warm=warm, num_cpus=num_cpus))
                written = _bytes_in(store)
    loop_s = min(done["seconds"]["bare"] for done in loop)
    one_s, two_s = (min(done["seconds"]["ingest"] for done in runs) for runs in (one, two))
    bare_speed = loop[0]["audio_s"] / min(done["cpu_s"]["bare"] for done in loop)
    speed = one[0]["audio_s"] / min(done["cpu_s"]["ingest"] for done in one)
    ratios = [few["seconds"]["ingest"] / many["seconds"]["ingest"] for few, many in zip(one, two, strict=True)]
    return [
        figure(f"{what}: audio", loop[0]["audio_s"] / 3600, "h"),
        figure(f"{what}: bare loop of decoding and encoding, audio-hours per core-hour", bare_speed, "h/h"),
        figure(
            f"{what}: ingest, audio-hours per core-hour", speed, "h/h",
            baseline=bare_speed, target=0.85 * bare_speed, more=True,
        ),
        figure(f"{what}: one worker against the loop, wall clock", loop_s / one_s, "of its speed", target=0.85,
               more=True),
        figure(
            f"{what}: two workers against one, wall clock; beside it the loop's", one_s / two_s, "times",
            baseline=loop_s / min(both_s), target=1.8, more=True, spread=(min(ratios), max(ratios)),
        ),
        figure(
            f"{what}: two workers write; beside it what this disk takes", written / two_s / 1e6, "MB/s",
            baseline=_disk_mb_s(folder),
        ),
        figure(f"{what}: start of Ray", min(done["seconds"]["start"] for done in one), "s"),
    ]  # fmt: skip


def _roomy(folder: Path) -> Path:
    """Memory where there is enough, else the folder: on a slow disk two workers would wait for it."""
    room = MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    return MEMORY if room > MEMORY_BYTES else folder


def _bytes_in(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "chunks").glob("*.parquet"))


def _disk_mb_s(folder: Path) -> float:
    """What the disk below the folder takes, as shards are written: all at once, then waited for."""
    data = row_rng(0, "disk").bytes(128_000_000)
    began = time.monotonic()
    with (folder / "disk").open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    spent = time.monotonic() - began
    (folder / "disk").unlink()
    return len(data) / spent / 1e6


def _growth(folder: Path, pools: Pools, *, num_songs: int, song_s: float) -> list[Row]:
    """The same road for a tenth of the songs and for all of them, then again, then with a few more."""
    whole, tenth, added = (folder / name for name in ("whole", "tenth", "added"))
    for number in range(num_songs + ADDED):
        home = whole if number < num_songs else added
        _write_song(home / f"train/Song {number:05d}", pools, number, song_s)
    due = _plant(whole, num_songs)
    for song in sorted(whole.glob("train/Song*"))[: max(4, num_songs // TENTH)]:
        shutil.copytree(song, tenth / "train" / song.name, copy_function=os.link)
    store = folder / "store"
    small = _run(steps=["ingest", "curate"], corpus=tenth, store=folder / "small")
    large = _run(steps=["ingest", "curate", "again", "more", "plan", "open"], corpus=whole, store=store, added=added)
    right = sum(large["refused"].get(name) == reason for name, reason in due.items())
    seconds, cpu_s = large["seconds"], large["cpu_s"]
    speeds = {step: large["audio_s"] / cpu_s[step] for step in ("ingest", "curate")}
    return [
        figure("songs", large["num_songs"], "songs", baseline=small["num_songs"]),
        figure("audio, four stems each", large["audio_s"] / 3600, "h"),
        figure("broken songs, each with its reason", right, "songs", target=len(due), more=True),
        figure("stored", _bytes_in(store) / 1e6, "MB", baseline=_source_bytes(whole) / 1e6),
        figure("scan", seconds["scan"], "s", baseline=small["seconds"]["scan"]),
        figure("ingest", seconds["ingest"], "s", baseline=small["seconds"]["ingest"]),
        figure("ingest of short songs, audio-hours per core-hour", speeds["ingest"], "h/h"),
        figure("curate", seconds["curate"], "s", baseline=small["seconds"]["curate"]),
        figure("curate of short songs, audio-hours per core-hour", speeds["curate"], "h/h"),
        *_memory(small, large),
        figure("rerun with nothing to do", seconds["again"], "s", target=10.0),
        figure(f"{ADDED} songs more: songs decoded", large["decoded"], "songs", target=ADDED),
        figure(f"{ADDED} songs more", seconds["more"], "s"),
        figure("plan of a training", seconds["plan"], "s"),
        figure("found again and opened for training", seconds["open"], "s"),
    ]  # fmt: skip


def _memory(small: Mapping[str, Any], large: Mapping[str, Any]) -> list[Row]:
    """Peaks, each beside that for a tenth of the songs; flat within a quarter, and 64 MB for the lists of songs."""
    rows = []
    for who in ("driver", "worker"):
        few, many = small["peak_mb"][who], large["peak_mb"][who]
        rows.append(figure(f"peak memory, {who}", many, "MB", baseline=few, target=1.25 * few + 64))
    return rows


# --- songs ----------------------------------------------------------------------------------------------------


def _pools() -> Pools:
    """Stems of true songs by source, 16 bit at 44.1 kHz; made-up ones where there are none."""
    data = ROOT.parent / "shared" / "data"
    songs = [song for name in SETS if (data / name).is_dir() for song in sorted((data / name / "train").iterdir())]
    if songs:
        return {source: [_read(song / f"{source}.flac") for song in songs] for source in SOURCES}
    from datasets.corpus.synthetic import compose, perform

    made = [perform(compose(seed, f"bench {seed}", 12.0), RATE) for seed in range(6)]
    ints = [np.round(stems_SCT.transpose(0, 2, 1) * 32767).astype(np.int16) for stems_SCT in made]
    return {source: [stems[position] for stems in ints] for position, source in enumerate(SOURCES)}


def _read(path: Path) -> NDArray[np.int16]:
    samples_TC: NDArray[np.int16] = soundfile.read(path, dtype="int16", always_2d=True)[0]
    return samples_TC


def _write_song(folder: Path, pools: Pools, number: int, song_s: float) -> None:
    """Each stem from another song and another place, so that no song is another's duplicate."""
    folder.mkdir(parents=True)
    length = round(song_s * RATE)
    for source, pool in pools.items():
        rng = row_rng(0, source, number)
        parts: list[NDArray[np.int16]] = []
        while sum(map(len, parts)) < length:
            stem_TC = pool[int(rng.integers(len(pool)))]
            parts.append(stem_TC[int(rng.integers(len(stem_TC) // 2)) :])
        soundfile.write(folder / f"{source}.flac", np.concatenate(parts)[:length], RATE, subtype="PCM_16")


def _source_bytes(corpus: Path) -> int:
    return sum(path.stat().st_size for path in corpus.glob("train/Song*/*.flac"))


# --- one measurement --------------------------------------------------------------------------------------------


def _run(
    *,
    steps: list[str],
    corpus: Path,
    store: Path,
    num_cpus: int = 2,
    added: Path | None = None,
    warm: Path | None = None,
    half: int | None = None,
) -> dict[str, Any]:
    wanted: dict[str, Any] = {"steps": steps, "corpus": str(corpus), "store": str(store), "num_cpus": num_cpus}
    wanted |= {"added": str(added), "warm": str(warm), "half": half}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.corpus", "--part", json.dumps(wanted)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _part(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Steps of the road in this process, with Ray started beforehand; seconds, processor seconds and peaks."""
    corpus, store = Path(wanted["corpus"]), Path(wanted["store"])
    if wanted["steps"] == ["bare"]:
        return _bare(corpus, wanted["half"])
    from datasets.loading.segment_sampler import SegmentIndex
    from flows import config
    from flows.cli.planning import plan
    from pipelines.preparation import curate, ingest
    from pipelines.preparation.curate_config import CurateConfig
    from pipelines.preparation.ingest import CorpusConfig, IngestConfig, IngestResult
    from pipelines.runtime.cluster import connect

    settings = CorpusConfig(root=str(corpus), split_seed=1)
    screen = Screen(Console(file=io.StringIO()))

    def ingested() -> IngestResult:
        return ingest.run(settings, IngestConfig(), store=str(store), progress=screen)

    def both() -> ShardSet:
        return curate.run(CurateConfig(), ingested(), store=str(store), progress=screen).chunks

    def with_more() -> None:
        shutil.copytree(wanted["added"], corpus, copy_function=os.link, dirs_exist_ok=True)
        both()

    def warm() -> None:
        ingest.run(CorpusConfig(root=wanted["warm"]), IngestConfig(), store=f"{store}-warm")

    def planned() -> None:
        plan.run(
            config.load("smoke", [f"store.root={store}"]), plan.Hardware(gpu="h100"), measured=False, screen=screen
        )

    def opened() -> None:
        """What a training opens: all songs, from the verdicts' table and the manifest."""
        SegmentIndex.open([(both(), 1.0)], sources=SOURCES, split="train")

    jobs: dict[str, Callable[[], Any]] = {
        "warm": warm, "ingest": ingested, "curate": both, "again": both, "more": with_more, "plan": planned,
        "open": opened,
    }  # fmt: skip
    seconds: dict[str, float] = {}
    cpu_s: dict[str, float] = {}
    refused: dict[str, str] = {}
    songs, num_songs, audio_s = 0, len(list(corpus.glob("train/Song*"))), _audio_s(corpus)
    began = time.monotonic()
    with _watched() as watch, connect(num_cpus=wanted["num_cpus"]):
        seconds["start"] = time.monotonic() - began
        for step in wanted["steps"]:
            before, began = watch.cpu_s(), time.monotonic()
            songs, made = _num_stored(store), jobs[step]()
            seconds[step] = time.monotonic() - began
            cpu_s[step] = watch.cpu_s() - before
            if step == "ingest":
                seconds["scan"] = screen.seconds["scan"]
                refused = {verdict.track_id: verdict.reason for verdict in made.rejected}
    return {
        "seconds": seconds, "cpu_s": cpu_s, "peak_mb": watch.peak_mb, "audio_s": audio_s,
        "decoded": _num_stored(store) - songs, "num_songs": num_songs,
        "refused": refused,
    }  # fmt: skip


def _num_stored(store: Path) -> int:
    """Songs that were decoded into this store so far."""
    return sum(len(json.loads(path.read_text())["songs"]) for path in (store / "chunks").glob("*.json"))


def _bare(corpus: Path, half: int | None) -> dict[str, Any]:
    """What no system can do without: every file decoded to floats, and encoded again as it will be stored.

    Of one half of the songs, if asked for it: the two are equally long.
    """
    songs = sorted(corpus.glob("train/Song*"), key=_seconds)
    if half is not None:
        songs = [song for place, song in enumerate(songs) if place % 4 in ((0, 3), (1, 2))[half]]
    began, cpu = time.monotonic(), time.process_time()
    for path in (path for song in songs for path in sorted(song.glob("*.flac"))):
        samples_TC, rate = soundfile.read(path, dtype="float32", always_2d=True)
        for start in range(0, len(samples_TC), 30 * rate):
            soundfile.write(io.BytesIO(), samples_TC[start : start + 30 * rate], rate, format="FLAC", subtype="PCM_16")
    seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
    return {"seconds": {"bare": seconds}, "cpu_s": {"bare": cpu_s}, "audio_s": _audio_s(corpus)}


def _audio_s(corpus: Path) -> float:
    return sum(map(_seconds, corpus.glob("train/Song*")))


def _seconds(song: Path) -> float:
    return float(soundfile.info(song / "drums.flac").duration)


@dataclass
class _Watch:
    """Processor time and peak memory of this process and of all below it, looked at twice a second.

    What looking takes itself, 0.8 % of a core, is left out.
    """

    looking_s: float = 0.0  # of processor time so far
    peak_mb: dict[str, float] = field(default_factory=lambda: {"driver": 0.0, "worker": 0.0})
    _seen: dict[tuple[int, float], float] = field(default_factory=dict)

    def look(self) -> None:
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            try:
                with process.oneshot():
                    times, memory_mb = process.cpu_times(), process.memory_info().rss / 1e6
                    who = "driver" if process == own else "worker" if process.name().startswith("ray::") else ""
                    self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue
            if who:
                self.peak_mb[who] = max(self.peak_mb[who], memory_mb)

    def cpu_s(self) -> float:
        self.look()
        return sum(self._seen.values()) - self.looking_s


@contextmanager
def _watched() -> Iterator[_Watch]:
    watch, over = _Watch(), threading.Event()

    def watching() -> None:
        while not over.wait(0.5):
            watch.look()
            watch.looking_s = time.thread_time()

    thread = threading.Thread(target=watching, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
