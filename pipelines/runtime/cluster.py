"""Where the jobs run: a Ray that lives as long as the command, or the cluster that RAY_ADDRESS names.

`connect` is entered once by whoever owns the command; entered again inside, it changes nothing. `map_rows` is
how jobs spread work: one task per item, errors as rows, results as they come.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from datasets.errors import InputError, without_passwords
from pipelines.runtime.node_resources import affordable
from pipelines.runtime.shared_store import require_seen_by_all
from pipelines.runtime.source_package import source_package
from pipelines.runtime.step_keys import ROOT

_LOG = logging.getLogger(__name__)
_TRIES = 3  # Ray gives a local start 30 s, a constant in its source that a loaded machine exceeds
_PROBE_S = 5.0
_LOOK_S = 0.03, 0.3  # between two looks for finished tasks, at the least and at the most
_LOOK_SHARE = 0.005  # of what a task takes
_HANDSHAKE_S = 15.0
_OBJECT_STORE_BYTES = 512 * 2**20  # songs travel through files; objects are small
_FORWARDED = (
    "AWS_", "MLFLOW_", "OMP_NUM_THREADS", "STEMLINE_", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE",
)  # fmt: skip
_SECRET = ("KEY", "SECRET", "TOKEN", "PASS", "CREDENTIAL", "AUTH", "STEMLINE_NOTIFY")
_FOLDER = "sl-"
_LOCK = ".alive"
_UNLOCKED_S = 60.0  # a younger folder without a lock is just being made, or removed
_SESSION: ContextVar[ExitStack | None] = ContextVar("session", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one task of a job needs, as a value."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0  # as many tasks run on a node as its memory holds; 0: not counted


@contextmanager
def connect(
    *, num_cpus: int | None = None, address: str | None = None, log_level: str = "error", store: str = ""
) -> Iterator[Any]:
    """Ray, started or connected to, as the module `ray`; shut down at the end by whoever entered first.

    `address` is "host:port", "ray://host:port", "auto" or "local", by default that of RAY_ADDRESS, else local.
    An address that does not answer is an InputError within 30 s. A local Ray takes orders from this process only,
    and has at least two CPUs, since training takes two workers. `log_level` "debug" shows what workers write.
    InputError where a node of a cluster does not read what is written to `store`.
    """
    import ray

    if ray.is_initialized():
        require_seen_by_all(ray, store)
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    _quiet(log_level)
    with ExitStack() as own:
        stack = _SESSION.get() or own
        if where == "local":
            _start_local(ray, stack, num_cpus=num_cpus or max(2, os.cpu_count() or 2), log_level=log_level)
        else:
            _join(ray, where, log_level=log_level)
        stack.callback(ray.shutdown)
        require_seen_by_all(ray, store)
        yield ray


@contextmanager
def session() -> Iterator[None]:
    """Inside, a Ray that some `connect` started lives on until the end: steps that follow each other share one.

    Nothing is started here, so a command that finds all its outputs finished never waits for Ray.
    """
    with ExitStack() as stack:
        token = _SESSION.set(stack)
        try:
            yield
        finally:
            _SESSION.reset(token)


def map_rows(
    work: Callable[[dict[str, Any]], Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
    *,
    resources: Resources | None = None,
) -> Iterator[dict[str, Any]]:
    """Results of `work` over `items` as they are finished, in no order: a Ray Data job of one task per item.

    Items and results are JSON-sized values; audio stays in files. `work` may run twice for one item when a
    worker dies, so it must be safe to repeat. InputErrors raised in it come back as InputErrors here.
    """
    if not items:
        return
    import ray.data

    quiet_data()
    need = resources or Resources()
    # As JSON text: Arrow would give every row the union of all rows' keys.
    dataset = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=len(items))
    answers = dataset.map(
        _AsText(work),
        num_cpus=need.num_cpus,
        num_gpus=need.num_gpus or None,
        memory=affordable(need.memory_bytes),
    )
    for answer in answers.iter_rows():
        if answer["input_error"]:
            raise InputError(answer["input_error"])
        _look_as_often_as_pays(answer["seconds"])
        yield json.loads(answer["result"])


def quiet_data() -> None:
    """Ray Data draws bars and logs every execution unless it is told not to; our own progress is drawn elsewhere.

    It also looks for finished tasks ten times a second, twice for each, so a core idles for 0.2 s after every task.
    """
    import ray.data

    _look_as_often_as_pays(0.0)
    context = ray.data.DataContext.get_current()
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # before the next line, which warns
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _AsText:
    """Work on JSON text, with an InputError as text too: tasks' exceptions reach the driver wrapped in Ray's own."""

    def __init__(self, work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        try:
            answer = {"result": json.dumps(self._work(json.loads(row["item"]))), "input_error": ""}
        except InputError as error:
            answer = {"result": "", "input_error": str(error)}
        return {**answer, "seconds": time.monotonic() - began}


def _look_as_often_as_pays(task_s: float) -> None:
    """How often Ray Data looks for finished tasks of this length: a look takes 3 ms, and a core idles up to two."""
    from ray.data._internal.execution import streaming_executor_state

    # Its own name for it, there is no setting. May go when Ray wakes up by itself, which that of 2.60 does not.
    least_s, most_s = _LOOK_S
    look_s = min(most_s, max(least_s, _LOOK_SHARE * task_s))
    streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = look_s


# --- local --------------------------------------------------------------------------------------------------


def _start_local(ray: Any, stack: ExitStack, *, num_cpus: int, log_level: str) -> None:
    # Ray listens on the network, so it asks for a token by default; given none, it would leave one in the home
    # folder. RAY_AUTH_MODE itself cannot be set here: Ray has read it when it was imported.
    _restore_environment(stack, "RAY_AUTH_TOKEN", _token())
    if "RAY_AUTH_MODE" not in os.environ:
        stack.callback(os.environ.pop, "RAY_AUTH_MODE", None)  # Ray sets it
    folder = _session_folder(stack)
    for attempt in range(1, _TRIES + 1):
        try:
            # Workers look for packages first where Ray was started: a user's own models/ there must not be ours.
            with chdir(ROOT), _handlers_kept(), lean_start(log_level):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                    logging_level=log_level.upper(),
                    log_to_driver=log_level == "debug",
                )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == _TRIES:
                raise InputError(
                    f"Ray does not start on this machine ({_first_line(error)}) after {_TRIES} tries; a less loaded "
                    "machine may do, or RAY_ADDRESS=host:port for a cluster that runs"
                ) from error
            _LOG.warning("Ray did not start (%s); trying again", _first_line(error))
            time.sleep(2 * attempt)


@contextmanager
def lean_start(log_level: str = "error") -> Iterator[None]:
    """A Ray that starts inside does without two of its seven processes, a third of the work; if it fails, none is left.

    One scales a cluster, which one machine is not; the other carries what workers write to a driver, which listens
    at `log_level` "debug" only. Ray 2.60 has no setting for either, and forgets the processes of a start that failed:
    they would take what the next try needs.
    """
    from ray._private.node import Node

    nodes: list[Any] = []
    start: Any = Node.start_head_processes

    def remembered(node: Any) -> None:
        nodes.append(node)
        start(node)

    changes: dict[str, Any] = {"start_head_processes": remembered, "start_monitor": lambda node: None}
    if log_level != "debug":
        changes["start_log_monitor"] = lambda node: None
    before = {name: getattr(Node, name) for name in changes}
    try:
        for name, change in changes.items():
            setattr(Node, name, change)
        yield
    except BaseException:
        for node in nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        raise
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _session_folder(stack: ExitStack) -> str:
    """A short-named folder for Ray's sockets and logs, deleted at the end; also deletes those of killed commands.

    Short, since paths of Unix sockets end at 107 characters. A lock that goes with its process tells the
    folders of living commands from the others.
    """
    parent = _sessions()
    for old in parent.glob(f"{_FOLDER}*-*"):
        try:
            if not (old / _LOCK).exists() and time.time() - old.stat().st_mtime < _UNLOCKED_S:
                continue
            with _locked(old / _LOCK):
                shutil.rmtree(old, ignore_errors=True)
        except OSError:
            continue
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=parent)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.enter_context(_locked(Path(folder, _LOCK)))
    return folder


def _sessions() -> Path:
    return Path("/tmp") if os.access("/tmp", os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def remove_session_folders() -> None:
    """Those of this process, whose Ray is no more."""
    for folder in _sessions().glob(f"{_FOLDER}{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """What a process does at SIGTERM stays as it is.

    Ray sets a handler of its own, and its library another one below Python's, which prints a stack trace and aborts the
    process three seconds later, whatever it is doing then. Setting a handler anew takes the place of both.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@cache
def _token() -> str:
    """The same for the whole process, in which Ray reads it once."""
    return secrets.token_hex(32)


def _restore_environment(stack: ExitStack, name: str, value: str) -> None:
    if name in os.environ:
        return
    os.environ[name] = value
    stack.callback(os.environ.pop, name, None)


# --- cluster ------------------------------------------------------------------------------------------------


def _join(ray: Any, address: str, *, log_level: str) -> None:
    _probe(address)
    environment = {"working_dir": source_package(), "env_vars": forwarded()}
    try:
        with _handlers_kept():
            ray.init(
                address=address,
                # A job has an environment already, and Ray refuses a second.
                runtime_env=None if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else environment,
                logging_level=log_level.upper(),
                log_to_driver=log_level == "debug",
            )
    except Exception as error:
        ray.shutdown()
        raise InputError(f"the Ray cluster at {address} cannot be used: {_first_line(error)}") from error


def forwarded() -> dict[str, str]:
    """The variables that workers elsewhere get, without secrets: Ray shows them on its page to whoever asks.

    Machines of a cluster have their own keys, and passwords that stand in addresses.
    """
    return {
        name: value for name, value in os.environ.items() if name.startswith(_FORWARDED) and not _is_secret(name, value)
    }


def _is_secret(name: str, value: str) -> bool:
    return any(part in name for part in _SECRET) or without_passwords(value) != value


def _probe(address: str) -> None:
    """InputError unless something at the address speaks gRPC; Ray itself would wait for minutes."""
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS must be host:port of the cluster for this command, got {address!r}, to which only steps of a "
            "run can be submitted"
        )
    if address == "auto":
        return  # answered at once from files on this machine
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"RAY_ADDRESS must be host:port, ray://host:port or auto, got {address!r}")
    advice = "start the cluster, correct RAY_ADDRESS, or unset it to work on this machine"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"Ray does not answer at {address} ({error}); {advice}") from None
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # a plain channel would be refused
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_HANDSHAKE_S)
        except grpc.FutureTimeoutError:
            raise InputError(f"what answers at {address} is not Ray; {advice}") from None


def _quiet(log_level: str) -> None:
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(log_level.upper())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
