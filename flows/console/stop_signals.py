"""Ctrl-C, SIGTERM and SIGHUP end a command: by KeyboardInterrupt, after a while by force, and at once when repeated.

A command waits in the code of Ray, Prefect and MLflow, which set handlers of their own, swallow exceptions, or do not
come back from C++. So signals are seen by a thread too, by way of a pipe that the kernel's handler writes to.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 10.0  # for Ray and Prefect to be taken down; a busy machine needs more after that, and 20 s are promised
REPEATED_S = 0.2  # within it a second one is no second wish: shell and kernel both send SIGHUP for a closed terminal
FAMILY_EVERY_S = 0.1
KILLED_WITHIN_S = 3.0
STOPPED = "Stopped. Run the same command again to continue."


_CURRENT: list["StopSignals"] = []


def stopped() -> int | None:
    """The exit code of the running command or worker's run, if a signal came; None where none did."""
    return next((stops.exit_code for stops in _CURRENT if stops.first is not None), None)


def end_now() -> None:
    """End the process as a repeated signal does: at once, with all that descends from it."""
    for stops in _CURRENT:
        stops.first = stops.first or signal.SIGTERM
        stops.end_now()


class StopSignals:
    """The signals that came while a command ran."""

    def __init__(self, clean_up: Callable[[], None], *, at_once_if_repeated: bool = True) -> None:
        self.first: int | None = None
        self._at_once_if_repeated = at_once_if_repeated
        self._interrupted = False
        self._clean_up = clean_up
        self._family: set[Any] = set()  # processes that descended from this one since the first signal
        self._stderr = _copy_of_stderr()  # a command sends what others write there into a file

    @property
    def exit_code(self) -> int:
        """What a shell sees of a program that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.first or signal.SIGINT)

    def handle(self, number: int, frame: Any) -> None:
        """In the main thread, where the first one interrupts whatever runs."""
        if not self._interrupted:
            self._interrupted, self.first = True, self.first or number
            raise KeyboardInterrupt

    def watch(self, pipe: int) -> None:
        """In a thread of its own: ends the process when the first one had no effect for a while, or at the second."""
        import psutil  # noqa: F401  # needed when there is no time for it

        came_s: float | None = None
        while numbers := _read(pipe):
            ours = [number for number in numbers if number in SIGNALS]
            self.first = self.first or next(iter(ours), None)  # here too: the main thread may be in C++ for long
            if ours and came_s is None:
                came_s = time.monotonic()
                timer = threading.Timer(GRACE_S, self.end_now)
                timer.daemon = True
                timer.start()
                threading.Thread(target=self._remember_family, name="stop-signals-family", daemon=True).start()
            elif ours and self._at_once_if_repeated and came_s and time.monotonic() - came_s > REPEATED_S:
                self.end_now()

    def _remember_family(self) -> None:
        """Until the end: what a parent leaves when it is stopped first, as Ray's do, descends from nobody then."""
        while True:
            self._family |= _descendants()
            time.sleep(FAMILY_EVERY_S)

    def kill_family(self) -> None:
        """Kill every process that descends from this one, or did when the first signal came; then clean up.

        Only then: one that is still starting writes into folders that are being removed, and makes them anew.
        """
        import psutil

        family = self._family | _descendants()
        for process in family:
            with suppress(psutil.Error):
                process.kill()  # raises where another process has its number by now
        psutil.wait_procs(family, timeout=KILLED_WITHIN_S)
        with suppress(Exception):
            self._clean_up()

    def end_now(self) -> None:
        """Say so, kill what descends from this process, and exit."""
        with suppress(OSError):
            os.write(self._stderr, f"{STOPPED}\n".encode())
        self.kill_family()
        os._exit(self.exit_code)

    def close(self) -> None:
        if self._stderr != 2:
            os.close(self._stderr)


@contextmanager
def stop_signals(clean_up: Callable[[], None]) -> Iterator[None]:
    """Inside, signals end the process as the module says; `clean_up` removes what a kill would leave.

    Signals that are ignored, as SIGHUP is under nohup, stay so. Other code cannot set handlers of these meanwhile: Ray,
    Ray Train and Prefect would, and each ends its own part only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = StopSignals(clean_up)
    ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with _watched(stops):
        before = {number: signal.signal(number, stops.handle) for number in ours}
        set_handler = signal.signal
        signal.signal = _without(ours, stops.handle, set_handler)
        try:
            yield
        finally:
            if stops.first is None:
                signal.signal = set_handler
                for number, handler in before.items():
                    signal.signal(number, handler)


@contextmanager
def ended_in_time(clean_up: Callable[[], None]) -> Iterator[None]:
    """Inside, what others do at a signal is theirs; a while after the first one, the process ends by force.

    For the runs of a worker: Prefect's own handler knows whether a signal means that the run was cancelled, and Prefect
    waits for half a minute before it kills, and then the run's own process alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _watched(StopSignals(clean_up, at_once_if_repeated=False)):
        yield


@contextmanager
def _watched(stops: StopSignals) -> Iterator[None]:
    """Inside, and after a signal until the process is gone, a thread sees the signals that have a handler."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    woken_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = threading.Thread(target=stops.watch, args=(read_end,), name="stop-signals", daemon=True)
    watcher.start()
    _CURRENT.append(stops)
    try:
        yield
    finally:
        if stops.first is None:
            _CURRENT.remove(stops)
            signal.set_wakeup_fd(woken_before)
            os.close(write_end)
            watcher.join()
            os.close(read_end)
            stops.close()


def leave_at_once(code: int) -> NoReturn:
    """Exit after what was registered for the end, which stops Prefect's server, and without Python's own clearing up.

    That takes Ray's and torch's libraries seconds, in which no thread runs that could end it.
    """
    atexit._run_exitfuncs()
    for stops in _CURRENT:  # only where a signal came
        stops.kill_family()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _descendants() -> set[Any]:
    """The processes that this one started, and those that they did."""
    import psutil

    try:
        return set(psutil.Process().children(recursive=True))
    except psutil.Error:
        return set()


def _without(ours: list[signal.Signals], handler: Any, set_handler: Any) -> Any:
    """`signal.signal` for other code: ours can only be set anew, in case that C++ put another in its place."""

    def set_others(number: int, requested: Any) -> Any:
        is_refused = number in ours and requested != handler
        return signal.getsignal(number) if is_refused else set_handler(number, requested)

    return set_others


def _read(pipe: int) -> bytes:
    """What came since; empty where the other end was closed."""
    try:
        return os.read(pipe, 64)
    except OSError:
        return b""


def _copy_of_stderr() -> int:
    try:
        return os.dup(2)
    except OSError:
        return 2
