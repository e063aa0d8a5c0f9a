"""Brings checkpoints elsewhere from a thread, so that training waits for no network."""

import threading
import time
from collections.abc import Callable

from datasets.errors import InputError

_TRIES_AT_THE_END = 3
_PAUSE_S = 5.0


class Uploads:
    """Sends the checkpoints of steps; while one is under way, only the newest of those offered since waits for it."""

    def __init__(self, send: Callable[[int], None], *, required: bool = False) -> None:
        """`send` may fail, and is called again for the next step; if it is `required`, the last must get through."""
        self.required = required
        self.complaint = ""  # why the last try failed
        self._send = send
        self._turn = threading.Condition()
        self._sending: int | None = None
        self._waiting: int | None = None
        self._failed: int | None = None  # the newest, where it did not get through
        self._fault: Exception | None = None
        self._over = False
        self._thread: threading.Thread | None = None

    def offer(self, step: int) -> None:
        """Send the checkpoint of a step as soon as the one before is sent."""
        with self._turn:
            self._waiting = step
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
                self._thread.start()
            self._turn.notify_all()

    def wait(self, seconds: float | None = None) -> float:
        """Until all is sent or has failed, at most so long; the seconds that it took."""
        began_s = time.monotonic()
        with self._turn:
            self._turn.wait_for(lambda: self._waiting is None and self._sending is None, seconds)
            if self._fault is not None:
                raise self._fault
        return time.monotonic() - began_s

    def needed(self) -> set[int]:
        """The steps whose checkpoints must stay on the disk for now."""
        with self._turn:
            again = self._failed if self.required else None
            return {step for step in (self._sending, self._waiting, again) if step is not None}

    def finish(self) -> None:
        """Until all is sent; InputError where that is required and the newest does not get through."""
        self.wait()
        for _ in range(_TRIES_AT_THE_END if self.required else 0):
            if self._failed is None:
                break
            time.sleep(_PAUSE_S)
            self.offer(self._failed)
            self.wait()
        self.close(0.0)
        if self.required and self._failed is not None:
            raise InputError(
                f"the checkpoint of step {self._failed} could not be brought to the store, and training ended: "
                f"{self.complaint}"
            )

    def close(self, seconds: float) -> None:
        """Begin nothing more, and leave what is under way after so many seconds: without its list it counts not."""
        with self._turn:
            self._over = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._over or self._waiting is not None)
                if self._waiting is None or self._over:
                    return
                step = self._sending = self._waiting
                self._waiting = None
            complaint = self._try(step)
            with self._turn:
                self._sending, self.complaint = None, complaint
                self._failed = step if complaint else None
                self._turn.notify_all()

    def _try(self, step: int) -> str:
        try:
            self._send(step)
        except (InputError, OSError) as error:
            return str(error) or type(error).__name__
        except Exception as error:  # a fault of the program, for whoever waits
            self._fault = error
        return ""
