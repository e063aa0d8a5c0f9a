"""A training whose store is in S3 is killed again and again, and each time goes on with another scratch folder.

`make drill-object_store` kills the command and all that it started `--times` times, each time when one more checkpoint
has its list, and starts it again as on a machine that has nothing. In the end weights and losses are held against
those of a training in another store of the bucket that was left in peace. With `--verb run` the model is scored,
registered and reported as well; `--verb retrain` decides first whether to train, and `--verb demo` brings songs of its
own to the bucket.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.store import storage
from tests.drills import drill_road
from tests.drills.termination import clean_up_when_terminated
from tests.s3 import BUCKET, object_store

CONSOLE = Console(highlight=False)


def command(verb: str, store: str, scratch: Path, songs: Path) -> list[str]:
    name = store.rsplit("/", 1)[-1]
    own = [f"store.root={store}", f"store.scratch={scratch}", f"registry.name={name}", f"registry.experiment={name}"]
    if verb == "demo":  # its preset is a part of it, and it composes its songs
        return [sys.executable, "-m", "flows", verb, "--json", *own, "train.checkpoint_every=100"]
    own += [f"corpus.root={songs}", *drill_road.SETTINGS]
    return [sys.executable, "-m", "flows", verb, "--json", "--preset", "smoke", *own]


def steps(store: str) -> list[str]:
    """The lists of checkpoints in a store."""
    paths = storage.files_below(f"{store}/runs")
    return [path for path in paths if path.count("/") == 1 and "/step-" in path and path.endswith(".json")]


def kill_at_next_checkpoint(words: list[str], store: str, log: Path) -> bool:
    """Start a command and kill all of it once one more checkpoint has a list; False if it ended before."""
    before = steps(store)
    with log.open("wb") as said:
        process = subprocess.Popen(words, cwd=drill_road.ROOT, stdout=said, stderr=said, start_new_session=True)
    try:
        while process.poll() is None:
            if set(steps(store)) - set(before):
                return True
            time.sleep(0.3)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, log.read_text()[-3000:]
    return False


def finish(words: list[str]) -> Any:
    done = subprocess.run(words, cwd=drill_road.ROOT, capture_output=True, text=True, timeout=drill_road.TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    for name in {"why", "gain_db"} & answer.keys():
        CONSOLE.print(f"{name}: {answer[name]}")
    return answer.get("model", answer)["trained"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="how often it is killed")
    parser.add_argument("--verb", choices=("train", "run", "retrain", "demo"), default="train")
    options = parser.parse_args()
    clean_up_when_terminated()
    folder = Path(tempfile.mkdtemp(prefix="stemline-drill-"))
    try:
        drill_road.make_songs(folder / "songs")
        with object_store():
            os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
            os.environ["OMP_NUM_THREADS"] = "1"
            killed, peace = f"s3://{BUCKET}/killed", f"s3://{BUCKET}/peace"
            for number in range(options.times):
                words = command(options.verb, killed, folder / f"machine-{number}", folder / "songs")
                struck = kill_at_next_checkpoint(words, killed, folder / "log")
                CONSOLE.print(f"killed with {', '.join(steps(killed))}" if struck else "it ended before it was killed")
            trained = finish(command(options.verb, killed, folder / "machine-last", folder / "songs"))
            expected = finish(command(options.verb, peace, folder / "machine-peace", folder / "songs"))
            losses = [storage.read(one["history"]) for one in (trained, expected)]
            equal = trained["model_digest"] == expected["model_digest"] and losses[0] == losses[1]
            CONSOLE.print(
                f"weights and losses {'equal' if equal else 'DIFFER'}; {trained['interventions'] or 'no event'}"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
