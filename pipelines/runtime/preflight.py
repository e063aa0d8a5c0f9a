"""Whether everything that a run needs is there: each check says what it saw, and how to mend what it found wrong.

Checks look and try, and leave nothing behind. One that breaks counts as a fault with its error for what was seen.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.ownership import require_claimable
from pipelines.runtime import ray_jobs
from pipelines.runtime.step_keys import ROOT

GIB = 2**30
CODECS = {"flac": "FLAC", "mp3float": "MP3", "aac": "AAC", "vorbis": "Vorbis", "opus": "Opus", "alac": "ALAC"}
PLATFORMS = ("torch", "ray", "prefect", "mlflow", "pyarrow", "av")
LOCK = "requirements.lock"
_ANSWER_S = 5.0
_LOW_DISK_GIB, _LOW_MEMORY_GIB, _LOW_SHARED_GIB = 5.0, 4.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warning", "fault"]
    seen: str
    mend: str = ""  # the remedy; empty where nothing is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the run to come asks for."""

    store: str
    data: str  # where tables go, s3://... or the store
    num_workers: int
    use_gpu: bool


def check(needs: Needs) -> Iterator[Finding]:
    """Every check in turn, the quick ones first."""
    looks: tuple[tuple[str, Callable[[Needs], Finding]], ...] = (
        ("python", _python),
        ("versions", _versions),
        ("processor and memory", _machine),
        ("shared memory", _shared_memory),
        ("store", _store),
        ("tables", _tables),
        ("codecs", _codecs),
        ("MLflow", _mlflow),
        ("Prefect", _prefect),
        ("GPUs", _gpus),
        ("Ray", _ray),
    )
    for name, look in looks:
        try:
            yield look(needs)
        except Exception as error:  # whatever is broken, the other checks are worth having
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            yield Finding(name=name, state="fault", seen=message, mend="see the message; try `make install`")


def _python(needs: Needs) -> Finding:
    version = platform.python_version()
    if not (3, 11) <= tuple(map(int, version.split(".")[:2])) < (3, 15):
        return Finding(
            name="python", state="fault", seen=version, mend="install Python 3.11 to 3.14, then `make install`"
        )
    if sys.dont_write_bytecode and not _is_compiled("torch"):
        seen = f"{version}, which compiles all that it imports anew in every process"
        mend = (
            f"unset PYTHONDONTWRITEBYTECODE, or once: {sys.executable} -m compileall -q {sysconfig.get_path('purelib')}"
        )
        return Finding(name="python", state="warning", seen=seen, mend=mend)
    return Finding(name="python", state="ok", seen=version)


def _is_compiled(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return bool(spec and spec.origin and Path(importlib.util.cache_from_source(spec.origin)).exists())


def _versions(needs: Needs) -> Finding:
    seen = {name: metadata.version(name) for name in PLATFORMS}
    # A wheel has it beside the presets.
    lock = next((path for path in (ROOT / LOCK, ROOT / "infra" / LOCK) if path.is_file()), None)
    pins = dict[str, set[str]]()
    for line in lock.read_text(encoding="utf-8").splitlines() if lock else ():
        if pinned := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", line):
            pins.setdefault(pinned[1], set()).add(pinned[2])
    wrong = {name: has for name, has in seen.items() if name in pins and has.split("+")[0] not in pins[name]}
    installed = ", ".join(f"{name} {version}" for name, version in seen.items())
    if wrong:
        expected = ", ".join(f"{name} {'/'.join(sorted(pins[name]))}" for name in wrong)
        return Finding(
            name="versions", state="warning", seen=installed, mend=f"the lock has {expected}: `make install`"
        )
    return Finding(name="versions", state="ok", seen=installed)


def _machine(needs: Needs) -> Finding:
    import psutil

    free = psutil.virtual_memory().available / GIB
    seen = f"{os.cpu_count()} cores, {free:.1f} GiB of memory free"
    if free < _LOW_MEMORY_GIB:
        mend = "end other programs, or train with smaller train.micro_batch and train.num_workers"
        return Finding(name="processor and memory", state="warning", seen=seen, mend=mend)
    return Finding(name="processor and memory", state="ok", seen=seen)


def _shared_memory(needs: Needs) -> Finding:
    if not os.path.isdir("/dev/shm"):
        return Finding(name="shared memory", state="ok", seen="no /dev/shm on this system; Ray uses files")
    size = shutil.disk_usage("/dev/shm").free / GIB
    seen = f"{size:.1f} GiB free in /dev/shm"
    if size < _LOW_SHARED_GIB:
        mend = "start the container with --shm-size=2g, or make /dev/shm larger: Ray keeps its objects there"
        return Finding(name="shared memory", state="warning", seen=seen, mend=mend)
    return Finding(name="shared memory", state="ok", seen=seen)


def _store(needs: Needs) -> Finding:
    """Whether files can be written, renamed and held where the store is or will be."""
    import fcntl

    if storage.is_remote(needs.store):
        return _probed("store", needs.store)
    folder = Path(needs.store)
    at = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=at, prefix=".stemline-") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        mend = "choose a folder on a local disk that you may write to, store.root=DIR"
        return Finding(name="store", state="fault", seen=f"{at}: {error.strerror}", mend=mend)
    try:
        require_claimable(folder, setting="store.root")
    except InputError as error:
        return Finding(
            name="store", state="fault", seen=str(error), mend="give a new or an empty folder, store.root=DIR"
        )
    free = shutil.disk_usage(at).free / GIB
    seen = f"{folder}, {free:.0f} GiB free" + ("" if folder == at else ", not there yet")
    if free < _LOW_DISK_GIB:
        return Finding(
            name="store", state="warning", seen=seen, mend="free some space, or choose another store.root=DIR"
        )
    return Finding(name="store", state="ok", seen=seen)


def _tables(needs: Needs) -> Finding:
    """Whether an object can be written, read and deleted where tables go."""
    if not storage.is_remote(needs.data):
        return Finding(name="tables", state="ok", seen="in the store")
    return _probed("tables", needs.data)


def _probed(name: str, address: str) -> Finding:
    """Whether an object can be written, read and deleted below an address."""
    probe = storage.join(address, f".stemline-{uuid.uuid4().hex[:8]}")
    storage.write(probe, b"stemline")
    same = storage.read(probe) == b"stemline"
    storage.remove(probe)
    if not same:
        return Finding(name=name, state="fault", seen=f"{address} gives back other bytes", mend="see the server")
    return Finding(name=name, state="ok", seen=f"{address}: written, read and deleted")


def _codecs(needs: Needs) -> Finding:
    import av
    import soundfile

    missing = [description for codec, description in CODECS.items() if codec not in av.codecs_available]
    if missing:
        seen = f"PyAV {av.__version__} decodes no {', '.join(missing)}"
        return Finding(name="codecs", state="fault", seen=seen, mend="`make install` installs PyAV's own wheel")
    if "FLAC" not in soundfile.available_formats():
        seen = f"libsndfile {soundfile.__libsndfile_version__} writes no FLAC"
        return Finding(name="codecs", state="fault", seen=seen, mend="`make install` installs soundfile's own wheel")
    return Finding(name="codecs", state="ok", seen=", ".join(CODECS.values()))


def _mlflow(needs: Needs) -> Finding:
    return _service("MLflow", "MLFLOW_TRACKING_URI", "/health", beside="SQLite and files in the store")


def _prefect(needs: Needs) -> Finding:
    return _service("Prefect", "PREFECT_API_URL", "/health", beside="a temporary server, as long as a command runs")


def _service(name: str, variable: str, path: str, *, beside: str) -> Finding:
    address = os.environ.get(variable, "")
    if not address.startswith("http"):
        return Finding(name=name, state="ok", seen=address or beside)
    try:
        with urllib.request.urlopen(address.rstrip("/") + path, timeout=_ANSWER_S):
            return Finding(name=name, state="ok", seen=f"{address} answers")
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):  # its own client has the password
            return Finding(name=name, state="ok", seen=f"{address} answers")
        mend = f"start the server, correct {variable}, or unset it to work without one"
        return Finding(name=name, state="fault", seen=f"{address}: {error}", mend=mend)


def _gpus(needs: Needs) -> Finding:
    import torch

    from models import mixed_precision

    wanted = max(1, needs.num_workers) if needs.use_gpu else 0
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        if not wanted:
            low = "" if mixed_precision.cpu_computes_bfloat16() else "; this CPU computes precision bfloat16 in float32"
            return Finding(name="GPUs", state="ok", seen=f"none, and none asked for ({built}){low}")
        mend = "install a driver that nvidia-smi answers with, set RAY_ADDRESS to a cluster, or train.use_gpu=false"
        state: Literal["warning", "fault"] = "warning" if os.environ.get("RAY_ADDRESS") else "fault"
        return Finding(name="GPUs", state=state, seen=f"none here, {wanted} asked for ({built})", mend=mend)
    devices = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    seen = ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)
    if len(devices) < wanted and not os.environ.get("RAY_ADDRESS"):
        mend = f"set train.num_workers={len(devices)}: each worker takes a GPU"
        return Finding(name="GPUs", state="fault", seen=f"{seen}; {wanted} asked for", mend=mend)
    return Finding(name="GPUs", state="ok", seen=seen)


def _ray(needs: Needs) -> Finding:
    """Starts nothing: a Ray of one's own is started by every command, a cluster is asked what it has."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address == "local":
        return Finding(name="Ray", state="ok", seen="on this machine, as long as a command runs")
    nodes = ray_jobs.nodes(address) if ray_jobs.server() else _joined()
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    seen = f"{address}: {len(nodes)} nodes, {cpus:.0f} CPUs, {gpus:.0f} GPUs"
    if needs.use_gpu and gpus < max(1, needs.num_workers):
        mend = f"add GPUs, or train.num_workers={gpus:.0f}" if gpus else "train.use_gpu=false"
        return Finding(name="Ray", state="fault", seen=seen, mend=mend)
    return Finding(name="Ray", state="ok", seen=seen)


def _joined() -> list[dict[str, float]]:
    """What each living node has, asked by a driver that joins the cluster."""
    from pipelines.runtime.cluster import connect

    with connect() as ray:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
