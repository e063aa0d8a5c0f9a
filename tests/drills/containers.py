"""The image and `infra/compose.yaml`, built and run for real on a machine without an image registry: `make containers`.

Base images are made by debootstrap under the names that the files ask for, with SeaweedFS in MinIO's place. STAGE names
some of the stages: `image` builds ours and searches its layers; `refusals` starts what must not start; `run` is the
whole pipeline through a deployment, with a full volume before it, a Ray worker killed in it and a second `up` after it.

Exit code 2 where containers cannot run here.
"""

import argparse
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from rich.console import Console

from tests.benchmarks.table import Row, figure, show
from tests.drills import drill_road, stack
from tests.drills.compose_services import PAGES, PROJECT, Services
from tests.drills.podman import (
    LIMITS,
    ROOT,
    NoContainersError,
    Podman,
    build,
    compose_file,
    enter_own_mounts,
    make_bases,
    make_tools,
    require_containers,
)
from tests.drills.service_processes import Cluster
from tests.drills.termination import clean_up_when_terminated

CONSOLE = Console(highlight=False, width=140)
CANNOT = 2
WAS_GB, ASKED_GB = 9.14, 9.14 * 2 / 3  # of the image for machines without a GPU
STORE_MIB = 1024
RUN_WITHIN_S, FULL_WITHIN_S = 900.0, 240.0
SETTINGS = ("store.data=s3://stemline/store", "train.num_workers=2", *drill_road.SETTINGS)
# Folders in containers that are searched for secrets, each with a word that is in some file of it.
_SEARCHED = {
    "worker": {"/store": "corpus"},
    "ray-head": {"/tmp/ray": "raylet"},
    "ray-worker": {"/tmp/ray": "raylet"},
}
# What no image holds: tools of tests, and what a checkout has beside its source.
IN_THE_IMAGE = """
import importlib.util, os, pathlib, shutil, tempfile, torch
wrong = [name for name in ("pytest", "moto", "ruff", "mypy", "playwright") if importlib.util.find_spec(name)]
wrong += [name for name in ("wget", "rsync", "ffmpeg", "stemline") if not shutil.which(name)]
wrong += [str(path) for path in pathlib.Path("/app").rglob("*") if path.name in (".env", ".git", "songs", "tests")]
own = ("HOME", "NUMBA_CACHE_DIR", "PREFECT_UI_STATIC_DIRECTORY")
wrong += [name for name in own if not os.access(os.environ[name], os.W_OK)]
wrong += [] if os.getuid() == 1000 else ["its user"]
tempfile.TemporaryFile(dir="/store").close()
assert torch.linalg.solve(torch.eye(3), torch.ones(3)).sum() == 3
assert torch.stft(torch.ones(64), 16, return_complex=True).shape == (9, 17)
print(wrong)
"""


def secrets_of(folder: Path) -> dict[str, str]:
    """Those that compose asks for, made once; the password has what addresses and formats trip over."""
    kept = folder / "secrets.json"
    if not kept.exists():
        password = f"p@ss/w%41rd-{secrets.token_hex(6)}"
        made = {
            "STEMLINE_PASSWORD": password, "PREFECT_AUTH": f"stemline:{password}",
            "S3_KEY": f"key{secrets.token_hex(6)}",
            **{name: secrets.token_hex(24) for name in ("S3_SECRET", "RAY_AUTH_TOKEN", "MLFLOW_SECRET")},
        }  # fmt: skip
        kept.touch(mode=0o600)
        kept.write_text(json.dumps(made), encoding="utf-8")
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def hidden(known: Mapping[str, str]) -> list[str]:
    """What must not be read anywhere: each secret as it is, percent-encoded, and as HTTP sends it."""
    words = {value for name, value in known.items() if name != "S3_KEY"}
    words |= {urllib.parse.quote(word, safe="") for word in words}
    return sorted(words | {base64.b64encode(known["PREFECT_AUTH"].encode()).decode()})


class Drill:
    """The stages, and what they share."""

    def __init__(self, folder: Path) -> None:
        self.podman = Podman(folder)
        self.tools = make_tools(folder / "tools")
        self.secrets = secrets_of(folder)
        self.hidden = hidden(self.secrets)
        self.songs = folder / "songs"
        self.image = str(compose_file()["services"]["worker"]["image"])
        self.services = Services(self.podman, self.tools, self.secrets, self.songs)
        self.made = Cluster(
            folder=folder, mark=PROJECT,
            password=self.secrets["STEMLINE_PASSWORD"], token=self.secrets["RAY_AUTH_TOKEN"],
            environment={
                "PREFECT_API_URL": "http://127.0.0.1:4200/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
                "RAY_ADDRESS": "http://127.0.0.1:8265",
            },
        )  # fmt: skip

    # --- the image ----------------------------------------------------------------------------------------------

    def build(self) -> list[Row]:
        """Bases and image, from a checkout in which secrets and songs lie as compose's user leaves them there."""
        began_s = time.monotonic()
        make_bases(self.podman, self.tools)
        rows = [figure("make the base images", time.monotonic() - began_s, "s")]
        context = self.podman.folder / "checkout"
        self._check_out(context)
        began_s = time.monotonic()
        build(self.podman, self.image, context, self.podman.folder / "build.log", arguments=["ACCELERATOR=cpu"])
        rows.append(figure("build the image", time.monotonic() - began_s, "s"))
        size_gb = int(self.podman("image", "inspect", "--format", "{{.Size}}", self.image)) / 1e9
        rows.append(figure("size of the image", size_gb, "GB", baseline=WAS_GB, target=ASKED_GB))
        wrong = json.loads(
            self.podman("run", "--rm", "--network=none", *LIMITS, self.image, "python", "-c", IN_THE_IMAGE).replace(
                "'", '"'
            )
        )
        rows.append(self._none("wrong in the image", wrong))
        return [*rows, self._none("secrets in layers, history or configuration of the image", self._in_layers())]

    def _check_out(self, folder: Path) -> None:
        """The files that git tracks, as they are now, with an `.env` and a song."""
        shutil.rmtree(folder, ignore_errors=True)
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        for name in ("infra/.env", ".env", "infra/songs/one/vocals.wav"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(
                "".join(f"{key}={value}\n" for key, value in self.secrets.items()), encoding="utf-8"
            )

    def _in_layers(self) -> list[str]:
        told = self.podman("history", "--no-trunc", self.image) + self.podman("image", "inspect", self.image)
        found = ["history or configuration"] if any(word in told for word in self.hidden) else []
        layers = self.podman.layers(self.image)
        assert any((layer / "app" / "flows").is_dir() for layer in layers), "the layers are not where Podman says"
        searched = subprocess.run(
            ["grep", "-rlaF", "-f", "-", *layers],
            input="\n".join(self.hidden).encode(), capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False,
        )  # fmt: skip
        assert searched.returncode in (0, 1), searched.stderr[-1000:]
        return found + searched.stdout.decode().split()

    # --- what must not start ------------------------------------------------------------------------------------

    def refuse(self) -> list[Row]:
        """A secret that is missing and a tag that is not there are named, and nothing runs."""
        rows = []
        unnamed = []
        for name in self.secrets:
            done = self.services.compose("up", "--detach", "--no-build", without=name)
            if done.returncode == 0 or name not in done.stderr + done.stdout or self.services.containers():
                unnamed.append(f"{name}: exit code {done.returncode}: {done.stderr[-300:]}")
        rows.append(self._none("missing secrets that `up` takes, or does not name", unnamed))
        wrong = f"{self.image}-gone"
        done = self.services.compose("up", "--detach", "--no-build", "databases", image=wrong)
        CONSOLE.print(f"{wrong}: {(done.stderr or done.stdout).strip()[-200:]}")
        refused = done.returncode != 0 and wrong in done.stderr + done.stdout
        self.services.down()
        return [*rows, self._none("wrong tags that `up` takes, or does not name", [] if refused else [wrong])]

    # --- the whole pipeline -------------------------------------------------------------------------------------

    def run(self) -> list[Row]:
        """Everything up, a run on a full volume, a run that loses a Ray worker, a second `up`, and everything down."""
        shutil.rmtree(self.songs, ignore_errors=True)
        drill_road.make_songs(self.songs)
        self.services.down()
        options = [
            "--opt",
            "type=tmpfs",
            "--opt",
            "device=tmpfs",
            "--opt",
            f"o=nr_blocks={STORE_MIB * 256},uid=1000,gid=1000",
        ]
        self.podman("volume", "create", *options, f"{PROJECT}_store")  # a volume that can be full
        try:
            with self._arguments() as seen:
                rows = [figure("up: seconds until every page answers 200", self.services.up(), "s")]
                began_s = time.monotonic()
                self._deploy()
                rows.append(figure("deploy", time.monotonic() - began_s, "s"))
                rows += self._full_volume()
                rows += self._road()
                rows += self._second_up()
            rows.append(self._none("services open to strangers", stack.open_to_strangers(self.made)))
            rows.append(self._none("places where a secret can be read", [*sorted(seen), *self._readable()]))
        finally:
            self._keep_logs()
            began_s = time.monotonic()
            self.services.down()
        rows.append(figure("take down", time.monotonic() - began_s, "s"))
        return [*rows, self._none("containers, volumes and networks left", self.services.left())]

    def _deploy(self) -> None:
        roots = ("corpus.root=/songs", "store.root=/store/store")
        done = self.services.inside("worker", "stemline", "deploy", "--preset", "smoke", "--json", *roots, *SETTINGS)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]

    def _full_volume(self) -> list[Row]:
        """A run that finds no room on `/store` ends and says so."""
        ballast = "/store/ballast"
        filled = self.services.inside(
            "worker", "sh", "-c", f"dd if=/dev/zero of={ballast} bs=1M 2>/dev/null; df /store | tail -n 1"
        )
        assert "100%" in filled.stdout, filled.stdout + filled.stderr
        began_s = time.monotonic()
        run = stack.start_run(self.made, "full-run/stemline")
        self._until(
            lambda: stack.watch(self.made, run)["type"] in ("FAILED", "CRASHED", "COMPLETED"),
            "the end of a run on a full volume",
            within_s=FULL_WITHIN_S,
        )
        seconds, seen = time.monotonic() - began_s, stack.watch(self.made, run)
        CONSOLE.print(f"on a full volume: {seen['name']}, {seen['message'][-300:]}")
        named = seen["type"] == "FAILED" and "No space left on device" in seen["message"]
        silent = [] if named else [str(seen), *stack.logs(self.made, run)[-20:]]
        assert self.services.inside("worker", "rm", ballast).returncode == 0
        return [
            figure("a run on a full volume ends after", seconds, "s"),
            self._none("full volumes that are not named", silent),
        ]

    def _road(self) -> list[Row]:
        """Songs to a champion; a container with a Ray worker in it is killed after a checkpoint of the training."""
        store = Path(self.podman("volume", "inspect", "--format", "{{.Mountpoint}}", f"{PROJECT}_store").strip())
        run = stack.start_run(self.made, "full-run/stemline")
        self._until(lambda: any((store / "store" / "runs").glob("*/step-*")), "a checkpoint", run)
        killed = self._kill_a_worker()
        seen = stack.finish(self.made, run, within_s=RUN_WITHIN_S)
        done = stack.jobs(self.made)
        restarts = self.podman("inspect", "--format", "{{.RestartCount}}", self.services.container(killed)).strip()
        best = stack.champion(self.made)
        CONSOLE.print(f"{killed} was killed; {seen['name']}; champion: version {best['version']}, {best['source']}")
        return [
            *(figure(f"step {name}", seconds, "s") for name, seconds in seen["tasks"].items()),
            figure("full-run, seconds to Completed", seen["seconds"], "s"),
            figure("starts of a Ray container that was killed in the training", int(restarts), "", target=1, more=True),
            figure("Ray jobs that succeeded", list(done.values()).count("SUCCEEDED"), "", target=6, more=True),
            figure(
                "champions registered",
                float(best["source"].startswith(("s3://", "models:/", "mlflow-artifacts:/"))),
                "",
                target=1,
                more=True,
            ),
        ]

    def _kill_a_worker(self) -> str:
        """The service whose container trains; SIGKILL to its first process ends all of them, as a lost machine does."""
        inits = {
            self.services.state(name)["Pid"]: name for name in self.services.services if name.startswith("ray-worker")
        }
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                above = [one.pid for one in process.parents()] if words.startswith("ray::") and "Train" in words else []
                for pid in inits.keys() & set(above):
                    CONSOLE.print(f"killed: {inits[pid]}, in which {words[:80]} ran")
                    os.kill(pid, signal.SIGKILL)
                    return inits[pid]
        raise AssertionError("no container of Ray trains")

    def _second_up(self) -> list[Row]:
        """`up` with everything there leaves what runs alone, and the one-shot services find nothing to do."""
        before = self.services.containers()
        done = self.services.compose("up", "--detach", "--no-build")
        after = self.services.containers()
        self.services.wait_for_pages()
        changed = [name for name in before if before[name] != after.get(name)] + (
            [done.stderr[-500:]] if done.returncode else []
        )
        for name in ("databases", "buckets"):
            self._until(lambda name=name: self.services.state(name)["Status"] == "exited", f"the end of {name}")
            changed += [f"{name} failed"] if self.services.state(name)["ExitCode"] else []
        return [
            self._none("containers that a second `up` changed", changed),
            figure("pages that answer 200 after it", len(PAGES), ""),
        ]

    # --- secrets ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _arguments(self) -> Iterator[set[str]]:
        """Processes with a secret among their arguments, looked for all the time.

        Podman's own clients are left out: podman-compose tells them the environment of a container on the command line.
        """
        seen: set[str] = set()
        over = threading.Event()

        def look() -> None:
            while not over.wait(1.0):
                for process in psutil.process_iter():
                    with contextlib.suppress(psutil.Error):
                        if process.name() != "podman" and any(
                            word in " ".join(process.cmdline()) for word in self.hidden
                        ):
                            seen.add(f"arguments of {process.name()}")

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()

    def _readable(self) -> list[str]:
        """Logs of containers and of Ray, what services answer, and files of the store."""
        found = []
        for name in self.services.services:
            if any(word in self.podman.logs(self.services.container(name)) for word in self.hidden):
                found.append(f"the log of {name}")
            for folder, always in _SEARCHED.get(name.rstrip("-12"), {}).items():
                assert self._files_with(name, folder, [always]), f"{name}: no file of {folder} has {always!r} in it"
                found += [f"{name}: {path}" for path in self._files_with(name, folder, self.hidden)]
        runs = self.made.ask("Prefect", "POST", "/flow_runs/filter", {"limit": 10})
        for run in runs:
            answers = stack.answers(self.made, run["id"])
            found += [where for where, said in answers.items() if any(word in json.dumps(said) for word in self.hidden)]
        return found

    def _files_with(self, service: str, folder: str, words: Sequence[str]) -> list[str]:
        return self.services.inside(service, "grep", "-rlaF", "-f", "-", folder, told="\n".join(words)).stdout.split()

    # --- small things -------------------------------------------------------------------------------------------

    def _none(self, name: str, found: Sequence[str]) -> Row:
        for one in found:
            CONSOLE.print(f"{name}: {one}", markup=False)
        return figure(name, len(found), "", target=0)

    def _until(self, true: Callable[[], bool], what: str, run: str = "", within_s: float = RUN_WITHIN_S) -> None:
        deadline_s = time.monotonic() + within_s
        while not true():
            over = run and stack.watch(self.made, run)["type"] in ("FAILED", "CRASHED", "CANCELLED")
            if over or time.monotonic() > deadline_s:
                raise RuntimeError(
                    "\n".join([f"it never came to {what}", *(stack.logs(self.made, run)[-40:] if run else [])])
                )
            time.sleep(1)

    def _keep_logs(self) -> None:
        folder = self.podman.folder / "logs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in self.services.containers():
            (folder / f"{name}.log").write_text(self.podman.logs(name), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "stages", nargs="*", default=["image", "refusals", "run"], help="image, refusals, run; all of them"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp/stemline-containers"), help="where images are kept"
    )
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    try:
        require_containers()
        enter_own_mounts("tests.drills.containers")
        clean_up_when_terminated()
        drill = Drill(options.folder)
        stages = {"image": drill.build, "refusals": drill.refuse, "run": drill.run}
        rows = [row for name in options.stages for row in stages[name]()]
    except NoContainersError as error:
        CONSOLE.print(f"containers: {error}")
        return CANNOT
    return show("Image and compose file, built and run by Podman", rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
