"""Which process began something, and whether it still runs, also where its number was given to another since."""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """A process, told from every other one."""

    machine: str
    pid: int
    start: float  # as `start_of` has it


def this_process() -> ProcessIdentity:
    """The calling process."""
    return ProcessIdentity(machine=this_machine(), pid=os.getpid(), start=start_of(os.getpid()) or 0.0)


@cache
def this_machine() -> str:
    """A name for where process numbers mean what they mean here: the host, and on Linux its boot and its container."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # another system, or one that hides it: the host's name must do
    return " ".join(parts)


def is_running(pid: int, start: float) -> bool:
    """Whether that very process runs on this machine; a later one with the same number began at another time."""
    return start_of(pid) == start


def start_of(pid: int) -> float | None:
    """When a process of this machine began; None where there is none, or one that has ended and was not waited for.

    On Linux in clock ticks since the boot, which stay the same when somebody sets the clock; elsewhere in seconds
    since the epoch.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else float(fields[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None
