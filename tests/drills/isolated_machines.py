"""Machines that share nothing but the code: namespaces with a root, processes, memory disks and a name of their own.

Each is Linux's `unshare`: what it sees of this machine's disk are the system's programs, the code and its Python, and
these it cannot write. Everything else stands in its memory and goes when it is lost. All of its processes go with its
first one, and that goes with the drill. Networks are not apart: each machine has an address of its own on loopback.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from tests.drills.service_processes import ROOT, free_port

SCRATCH = "/scratch"
START_WITHIN_S = 180.0
_TRIES = 3  # of a raylet: Ray gives its own start 30 s, which a loaded machine exceeds
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt")
_PRIVATE = ("/tmp", "/var/tmp", "/home", "/dev/shm", SCRATCH)
_BOOT = """
set -e
hostname "$1"
root=$2
shift 2
mount --make-rprivate /
mount -t tmpfs machine "$root"
for path in "$@"; do
  [ -e "$path" ] || continue
  mkdir -p "$root$(dirname "$path")"
  if [ -L "$path" ]; then cp -P "$path" "$root$path"; continue; fi
  mkdir -p "$root$path"
  mount --bind "$path" "$root$path"
  mount -o remount,bind,ro "$root$path"
done
cd "$root"
mkdir -p proc sys dev tmp var/tmp home scratch run old
chmod 1777 tmp var/tmp
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs memory dev/shm
pivot_root . old
umount -l /old
rmdir /old
echo up
read
"""


class NotAllowedError(Exception):
    """This user or system gives no namespaces."""


@dataclass(kw_only=True)
class Machine:
    """One that is up; `address` is its own on loopback."""

    name: str
    address: str
    environment: Mapping[str, str]
    boot: "subprocess.Popen[bytes]"
    logs: Path

    @property
    def first(self) -> psutil.Process:
        """Its process 1."""
        return psutil.Process(self.boot.pid).children()[0]

    @property
    def root(self) -> Path:
        """Its files, as this machine sees them."""
        return Path(f"/proc/{self.first.pid}/root")

    def start(self, words: Sequence[str], out: "IO[bytes]", err: "IO[bytes] | int") -> "subprocess.Popen[bytes]":
        """A command on it, in the folder of the code."""
        inside = ["nsenter", "-t", str(self.first.pid), "-m", "-u", "-p", "env", f"--chdir={ROOT}", *words]
        environment = dict(self.environment)
        return subprocess.Popen(inside, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def ask(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        """What a short command on it comes to."""
        inside = ["nsenter", "-t", str(self.first.pid), "-m", "-u", "-p", "env", f"--chdir={ROOT}", *words]
        return subprocess.run(inside, env=dict(self.environment), capture_output=True, check=False)

    def processes(self, words: str) -> list[psutil.Process]:
        """Those with these words in their command line."""
        found = []
        with suppress(psutil.Error, IndexError, OSError):
            own = os.readlink(f"/proc/{self.first.pid}/ns/pid")
            for process in psutil.process_iter():
                with suppress(psutil.Error, OSError):
                    # Whoever came in from outside is no child of its first process.
                    if os.readlink(f"/proc/{process.pid}/ns/pid") == own and words in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def lose(self) -> None:
        """Power off: every process of it, and every file."""
        with suppress(psutil.Error, IndexError):
            self.first.kill()
        self.boot.wait()


@dataclass(kw_only=True)
class Machines:
    """A Ray of machines that share nothing: a head without CPUs, and others with one each."""

    folder: Path
    environment: Mapping[str, str]
    takes_jobs: bool = False  # whether the head has Ray's page, to which jobs are sent
    head: Machine | None = None
    others: list[Machine] = field(default_factory=list)
    started: int = 0

    @property
    def ray(self) -> str:
        """Where Ray's head answers."""
        assert self.head is not None
        return f"{self.head.address}:{self.head.environment['_RAY_PORT']}"

    @property
    def page(self) -> str:
        """Where Ray's head takes jobs."""
        assert self.head is not None
        return f"http://{self.head.address}:{self.head.environment['_RAY_PAGE']}"

    def add(self) -> Machine:
        """One more machine, with a disk that is empty; it has joined when this returns."""
        if self.head is None:
            page = "true" if self.takes_jobs else "false"
            self.head = self._joined(("--head", "--include-dashboard", page), num_cpus=0)
        machine = self._joined(("--address", self.ray), num_cpus=1)
        self.others.append(machine)
        return machine

    def lose(self, machine: Machine) -> None:
        """For good."""
        self.others.remove(machine)
        machine.lose()

    def close(self) -> None:
        for machine in [*self.others, *([self.head] if self.head else [])]:
            machine.lose()

    def _joined(self, role: Sequence[str], *, num_cpus: int) -> Machine:
        for attempt in range(1, _TRIES + 1):
            machine = self._boot()
            if self._start_ray(machine, role, num_cpus=num_cpus):
                return machine
            machine.lose()
            assert attempt < _TRIES, (machine.logs / f"{machine.name}.log").read_text(errors="replace")[-3000:]
        raise AssertionError

    def _boot(self) -> Machine:
        self.started += 1
        name, address = f"machine-{self.started}", f"127.0.0.{self.started + 1}"
        root = self.folder / name
        root.mkdir()
        command = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "bash", "-c", _BOOT, "boot", name]
        boot = subprocess.Popen(
            [*command, str(root), *_SYSTEM, *_code()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert boot.stdout is not None
        assert boot.stderr is not None
        assert boot.stdout.readline() == b"up\n", boot.stderr.read().decode(errors="replace")
        environment = {
            **self.environment, "HOME": "/home", "TMPDIR": "/tmp", "_RAY_PORT": str(free_port()),
            "_RAY_PAGE": str(free_port()),
            **({"RAY_ADDRESS": self.ray} if self.head else {}),
        }  # fmt: skip
        return Machine(name=name, address=address, environment=environment, boot=boot, logs=self.folder)

    def _start_ray(self, machine: Machine, role: Sequence[str], *, num_cpus: int) -> bool:
        ports = []
        if "--head" in role:
            ports += ["--port", machine.environment["_RAY_PORT"], "--dashboard-host", machine.address]
            ports += ["--dashboard-port", machine.environment["_RAY_PAGE"]]
        for kind in ("node-manager", "object-manager", "dashboard-agent-listen", "dashboard-agent-grpc",
                     "metrics-export", "runtime-env-agent"):  # fmt: skip
            ports += [f"--{kind}-port", str(free_port())]
        log = self.folder / f"{machine.name}.log"
        with log.open("wb") as out:
            raylet = machine.start(
                [
                    sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role, *ports, "--node-ip-address",
                    machine.address, "--num-cpus", str(num_cpus), "--object-store-memory", str(80 * 2**20),
                    "--min-worker-port", "0", "--max-worker-port", "0", "--disable-usage-stats",
                ],
                out, subprocess.STDOUT,
            )  # fmt: skip
        deadline_s = time.monotonic() + START_WITHIN_S
        while raylet.poll() is None and time.monotonic() < deadline_s:
            if b"Ray runtime started" in log.read_bytes():
                return True
            time.sleep(0.1)
        return False


def _code() -> list[str]:
    """Where the code and its Python are."""
    found = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    return [str(path) for path in found if not str(path).startswith("/usr/")]


def shared_paths(machines: Sequence[Machine]) -> list[str]:
    """Folders in which one machine sees what another wrote, and places of the code that one could write to."""
    found = [f"{folder} of {one.name} is writable" for one in machines for folder in _code() if _writes(one, folder)]
    for one in machines:
        for folder in _PRIVATE:
            assert _writes(one, folder), f"{one.name} cannot write to {folder}"
            found += [
                f"{folder} of {one.name} is that of {other.name}"
                for other in machines
                if other is not one and other.ask("test", "-e", f"{folder}/of-{one.name}").returncode == 0
            ]
    return found


def _writes(machine: Machine, folder: str) -> bool:
    return machine.ask("touch", f"{folder}/of-{machine.name}").returncode == 0


def require_namespaces() -> None:
    """NotAllowedError where this user or system gives none."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        raise NotAllowedError("there is no unshare or nsenter (util-linux)")
    tried = ["unshare", "--mount", "--uts", "--pid", "--fork", "mount", "--make-rprivate", "/"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotAllowedError(done.stderr.strip())


@contextmanager
def machines(
    folder: Path, environment: Mapping[str, str], *, count: int, takes_jobs: bool = False
) -> Iterator[Machines]:
    """So many machines beside the head."""
    made = Machines(folder=folder, environment=environment, takes_jobs=takes_jobs)
    try:
        for _ in range(count):
            made.add()
        yield made
    finally:
        made.close()
