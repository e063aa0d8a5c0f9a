"""A signal ends a command, whatever the command waits for, and everything that it started."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

HEAD = """
import os, pathlib, signal, sqlite3, subprocess, sys, time
from flows.console import stop_signals
stop_signals.GRACE_S = float(sys.argv[1])
folder = pathlib.Path(sys.argv[2])

def main(work):
    with stop_signals.stop_signals(lambda: (folder / "cleaned").touch()):
        try:
            work()
        except KeyboardInterrupt:
            print(stop_signals.STOPPED, file=sys.stderr)
            return stop_signals.stopped()
    return 0

def ready():
    (folder / "ready").touch()
"""
WAITS = """
def work():
    ready()
    time.sleep(600)
"""
TAKES_DOWN = """
def work():
    try:
        ready()
        time.sleep(600)
    finally:
        time.sleep(0.5)
"""
DEAF = """
def work():
    ready()
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""
IN_C = """
def work():
    database = sqlite3.connect(folder / "held.db", timeout=600)
    ready()
    database.execute("begin immediate")
"""
SET_ASIDE = """
def work():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    ready()
    time.sleep(600)
"""
FAMILY = """
SLEEP = "import time; time.sleep(600)"
CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True); {SLEEP}"
def work():
    subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
    while not (folder / "enough").exists():
        time.sleep(0.05)
    ready()
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""


def started(program: str, folder: Path, grace_s: float, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", f"{HEAD}{program}\nsys.exit(main(work))\n", str(grace_s), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def listen_to_ctrl_c() -> None:
    """Also where the tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline_s = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def sent(process: "subprocess.Popen[str]", *numbers: int, apart_s: float = 0.5) -> tuple[int, str, float]:
    """Exit code, messages and seconds after signals."""
    began_s = time.monotonic()
    for place, number in enumerate(numbers):
        time.sleep(apart_s if place else 0)
        process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages, time.monotonic() - began_s


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=str
)
@pytest.mark.parametrize("program", [WAITS, SET_ASIDE], ids=["waits", "handlers of a library"])
def test_the_first_signal_interrupts(tmp_path: Path, program: str, number: int, code: int) -> None:
    def as_in_a_shell() -> None:  # the tests may run under nohup, or in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = started(program, tmp_path, 600, preexec_fn=as_in_a_shell)
    wait_for(tmp_path / "ready", process)
    assert sent(process, number)[:2] == (code, "Stopped. Run the same command again to continue.\n")
    assert not (tmp_path / "cleaned").exists(), "its own end did that"


@pytest.mark.parametrize("program", [DEAF, IN_C], ids=["deaf", "in C"])
@pytest.mark.parametrize(("numbers", "grace_s"), [((signal.SIGTERM,), 1.0), ((signal.SIGTERM, signal.SIGTERM), 600.0)])
def test_what_does_not_listen_is_ended_after_a_while_and_at_the_second_signal_at_once(
    tmp_path: Path, program: str, numbers: tuple[int, ...], grace_s: float
) -> None:
    with sqlite3.connect(tmp_path / "held.db") as holder:
        holder.execute("begin immediate")
        process = started(program, tmp_path, grace_s)
        wait_for(tmp_path / "ready", process)
        time.sleep(0.3)
        code, messages, seconds = sent(process, *numbers)
    assert (code, messages) == (143, "Stopped. Run the same command again to continue.\n")
    assert seconds < 10
    assert (tmp_path / "cleaned").exists()


def test_everything_that_descends_from_it_ends_with_it(tmp_path: Path) -> None:
    process = started(FAMILY, tmp_path, 600, preexec_fn=listen_to_ctrl_c)
    family = list[psutil.Process]()
    deadline_s = time.monotonic() + 120
    while len(family) < 2 and time.monotonic() < deadline_s:
        family = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    assert len(family) == 2
    (tmp_path / "enough").touch()
    wait_for(tmp_path / "ready", process)
    assert sent(process, signal.SIGINT, signal.SIGTERM)[0] in (130, 143)
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    process = started(WAITS, tmp_path, 600, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    assert sent(process, signal.SIGTERM)[0] == 143


def test_afterwards_everything_is_as_before() -> None:
    from flows.console.stop_signals import stop_signals, stopped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    set_handler, open_files = signal.signal, len(os.listdir("/proc/self/fd"))
    with stop_signals(lambda: None):
        assert signal.signal is not set_handler
        assert stopped() is None
    assert signal.signal is set_handler
    assert {number: signal.getsignal(number) for number in before} == before
    assert len(os.listdir("/proc/self/fd")) <= open_files


def test_two_at_once_are_one_as_of_a_terminal_that_closes(tmp_path: Path) -> None:
    process = started(TAKES_DOWN, tmp_path, 600, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    wait_for(tmp_path / "ready", process)
    code, messages, _ = sent(process, signal.SIGHUP, signal.SIGHUP, apart_s=0.01)
    assert (code, messages) == (129, "Stopped. Run the same command again to continue.\n")
    assert not (tmp_path / "cleaned").exists()


WRITES_ON = """
CHILD = f\"\"\"
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
room = pathlib.Path({str(folder)!r}) / "room"
while True:
    room.mkdir(exist_ok=True)
    (room / "log").touch()
    time.sleep(0.002)
\"\"\"
def work():
    subprocess.Popen([sys.executable, "-c", CHILD])
    while not (folder / "room").exists():
        time.sleep(0.05)
    ready()
    time.sleep(600)

import shutil
with stop_signals.stop_signals(lambda: shutil.rmtree(folder / "room", ignore_errors=True)):
    try:
        work()
    except KeyboardInterrupt:
        shutil.rmtree(folder / "room", ignore_errors=True)  # its own end
stop_signals.leave_at_once(stop_signals.stopped())
"""


def test_what_a_child_writes_while_a_folder_is_removed_is_not_left(tmp_path: Path) -> None:
    process = started(WRITES_ON, tmp_path, 600)
    wait_for(tmp_path / "ready", process)
    assert sent(process, signal.SIGTERM)[0] == 143
    assert not (tmp_path / "room").exists()


LEAVES_AN_ORPHAN = """
CHILD = f\"\"\"
import pathlib, subprocess, sys, time
number = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True).pid
pathlib.Path({str(folder)!r}, "orphan").write_text(str(number))
time.sleep(600)
\"\"\"
def work():
    child = subprocess.Popen([sys.executable, "-c", CHILD])
    while not (folder / "orphan").exists() or not (folder / "orphan").read_text():
        time.sleep(0.05)
    try:
        ready()
        time.sleep(600)
    finally:
        time.sleep(1)
        child.terminate()  # as Ray's own end stops what started its workers
        child.wait()

main(work)
stop_signals.leave_at_once(stop_signals.stopped())
"""


def test_what_lost_its_parent_after_the_signal_ends_with_the_command(tmp_path: Path) -> None:
    process = started(LEAVES_AN_ORPHAN, tmp_path, 600)
    wait_for(tmp_path / "ready", process)
    orphan = psutil.Process(int((tmp_path / "orphan").read_text()))
    try:
        assert sent(process, signal.SIGTERM)[0] == 143
        assert not psutil.wait_procs([orphan], timeout=10)[1]
    finally:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()


LEAVES = """
import atexit, threading
atexit.register((folder / "registered").touch)
threading.Thread(target=time.sleep, args=(600,)).start()  # Python would wait for it
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **QUIET)
(folder / "child").write_text(str(child.pid))
sys.stdout.write("the result")
main(lambda: None)
stop_signals.leave_at_once(7)
"""


def test_leaving_at_once_keeps_what_was_said_and_registered_and_waits_for_no_thread(tmp_path: Path) -> None:
    process = started(LEAVES, tmp_path, 600, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert child.is_running(), "no signal came, and it may be meant to go on, as a server is"
    child.kill()
    assert (process.returncode, said) == (7, "the result")
    assert (tmp_path / "registered").exists()


OTHERS_HANDLE = """
def handled(number, frame):
    (folder / "handled").touch()

signal.signal(signal.SIGTERM, handled)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stderr=subprocess.DEVNULL)
(folder / "child").write_text(str(child.pid))
with stop_signals.ended_in_time(lambda: (folder / "cleaned").touch()):
    if {deaf}:
        ready()
        while True:
            time.sleep(600)
    ready()
    while not (folder / "handled").exists():
        time.sleep(0.05)
(folder / "after").touch()
child.kill()
os._exit(0)
"""


def test_a_run_whose_signals_others_handle_ends_by_force_if_they_do_not_end_it(tmp_path: Path) -> None:
    process = started(OTHERS_HANDLE.replace("{deaf}", "True"), tmp_path, 1.5)
    wait_for(tmp_path / "ready", process)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    code, _, seconds = sent(process, signal.SIGTERM, signal.SIGTERM)
    assert (code, (tmp_path / "handled").exists(), (tmp_path / "cleaned").exists()) == (143, True, True)
    assert 1.4 < seconds < 15, "a second signal, as of a worker that is stopped with it, shortens nothing"
    assert not psutil.wait_procs([child], timeout=10)[1]


def test_a_run_whose_signals_others_handle_ends_their_way_if_they_do(tmp_path: Path) -> None:
    process = started(OTHERS_HANDLE.replace("{deaf}", "False"), tmp_path, 600)
    wait_for(tmp_path / "ready", process)
    assert sent(process, signal.SIGTERM)[0] == 0
    assert (tmp_path / "after").exists()
    assert not (tmp_path / "cleaned").exists()
