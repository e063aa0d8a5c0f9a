"""The kill test: SIGKILL at every stage of the road, then the same command again; the same shards, byte for byte.

`make drill-road` kills one store at each stage in turn and holds it against a store that was left in peace. Then two
models of it are compared and put on listening pages.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.corpus.synthetic import write_corpus

ROOT = Path(__file__).resolve().parents[2]
# As small as the whole road can be walked to a champion, which must be better than silence.
SETTINGS = (
    "train.steps=40", "train.checkpoint_every=10", "train.log_every=1", "model.options.segment_s=0.5",
    "train.learner.augment.shift_s=0.1", "automix.mixes_per_track=1", "gate.min_improvement=-99.0",
)  # fmt: skip
TIMEOUT_S = 1800.0  # a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the kill strikes: as soon as `reached` is true of the store and of what the command has said."""

    name: str
    reached: Callable[[Path, str], bool]


def _any(folder: str, pattern: str) -> Callable[[Path, str], bool]:
    return lambda store, said: any((store / folder).glob(pattern))


def _after(stage: str) -> Callable[[Path, str], bool]:
    return lambda store, said: f"✓ {stage}" in said


PLACES = (
    Place(name="scan", reached=_any("prefect", "*.db")),
    Place(name="ingest", reached=_any("chunks", "*.parquet")),
    Place(name="curate", reached=_after("ingest")),
    Place(name="analyze", reached=_after("curate")),
    Place(name="automix", reached=_after("analyze")),
    Place(name="train, before its first step", reached=_after("automix")),
    Place(name="train, after a checkpoint", reached=_any("runs", "*/step-*")),
    Place(name="evaluate", reached=_after("train")),
    Place(name="register", reached=_after("evaluate")),
    Place(name="promote", reached=_after("register")),
    Place(name="separate", reached=_after("promote")),
)


def make_songs(folder: Path) -> None:
    """Six toy songs of four seconds, two of them held out."""
    write_corpus(folder, num_songs=6, seed=1, duration_s=4.0, defects=False, splits={"train": 4, "valid": 1, "test": 1})


def command(store: Path, songs: Path, *more: str) -> list[str]:
    roots = (f"store.root={store}", f"corpus.root={songs}")
    return [sys.executable, "-m", "flows", "run", *roots, *SETTINGS, *more]


def start(store: Path, songs: Path, log: Path, *more: str) -> "subprocess.Popen[bytes]":
    """The road in a process of its own; stdout and stderr in `log`.out and `log`.err."""
    environment = {name: value for name, value in os.environ.items() if name not in _SERVERS}
    with open(f"{log}.out", "wb") as out, open(f"{log}.err", "wb") as err:
        return subprocess.Popen(
            command(store, songs, "--json", *more),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )


_SERVERS = ("RAY_ADDRESS", "PREFECT_API_URL", "MLFLOW_TRACKING_URI")


def finish(store: Path, songs: Path, log: Path) -> tuple[Mapping[str, Any], str]:
    """The road to its end: the JSON it answers, and what it said on the way."""
    process = start(store, songs, log)
    code = process.wait(TIMEOUT_S)
    said = Path(f"{log}.err").read_text()
    assert code == 0, f"exit code {code}:\n{said}"
    return json.loads(Path(f"{log}.out").read_text()), said


def ask(store: Path, songs: Path, *words: str) -> Any:
    """What another command answers about a store whose road was walked, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words, f"store.root={store}", f"corpus.root={songs}", *SETTINGS, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**{name: value for name, value in os.environ.items() if name not in _SERVERS}, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def compare_and_listen(store: Path, songs: Path, console: Console) -> None:
    """A model against itself on songs that are scored already: it gains nothing, and both are on the pages."""
    first, second = "models:/stemline/1", "models:/stemline@champion"
    compared = ask(store, songs, "compare", first, second)
    assert compared["gain"]["mean"] == 0
    assert set(compared["songs"].values()) == {0.0}
    made = ask(store, songs, "listen", "--model", first, "--against", second, "listen.songs=1", "listen.seconds=2")
    pages = sorted(path.name for path in Path(made["page"]).parent.iterdir())
    assert len(pages) == 2, pages
    console.print(f"compared on {len(compared['songs'])} songs; pages {', '.join(pages)}")


def kill_at(place: Place, store: Path, songs: Path, log: Path) -> bool:
    """Start the road and kill its driver with SIGKILL at that place; False if it ended before."""
    process = start(store, songs, log)
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if place.reached(store, Path(f"{log}.err").read_text()):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.05)
    if process.poll() is None:
        process.kill()
        process.wait()
    return False


def content(store: Path) -> dict[str, str]:
    """Digest of every file that a finished store keeps for good: shards, tables, and the model's weights."""
    patterns = ("chunks/*.parquet", "tables/*.parquet", "runs/*/model/weights.safetensors")
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(store.glob(pattern))
    }


def drill(places: Sequence[Place], songs: Path, peace: Path, folder: Path, console: Console) -> dict[str, str]:
    """Kill a store in `folder` at each place in turn, finish it, and hold it against one that was left in peace.

    What comes back are the differences, empty if all is well.
    """
    for number, place in enumerate(places):
        began = time.monotonic()
        struck = kill_at(place, folder / "store", songs, folder / f"kill-{number}")
        word = "killed" if struck else "NOT REACHED"
        console.print(f"{word} at {place.name} after {time.monotonic() - began:.0f} s")
        if not struck:
            return {place.name: "never reached"}
    began = time.monotonic()
    finish(folder / "store", songs, folder / "finish")
    console.print(f"finished after that: {time.monotonic() - began:.0f} s")
    expected, seen = content(peace), content(folder / "store")
    return {
        name: f"{expected.get(name, 'absent')[:12]} in peace, {seen.get(name, 'absent')[:12]} after the kills"
        for name in sorted(expected.keys() | seen.keys())
        if expected.get(name) != seen.get(name)
    }


def main() -> int:
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        folder = Path(scratch)
        make_songs(folder / "songs")
        began = time.monotonic()
        finish(folder / "peace", folder / "songs", folder / "peace")
        console.print(f"left in peace: {time.monotonic() - began:.0f} s")
        differences = drill(PLACES, folder / "songs", folder / "peace", folder, console)
        kept = len(content(folder / "store"))
        compare_and_listen(folder / "store", folder / "songs", console)
    for name, words in differences.items():
        console.print(f"{name}: {words}")
    console.print("The stores differ." if differences else f"{kept} files, byte for byte the same.")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
