"""How far a training is, from its first worker to the driver."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipelines.runtime.progress import Progress

_POLL_S = 0.5


class ProgressActor:
    """Holds the last report of the first worker."""

    def __init__(self) -> None:
        self._last = (0, "")

    def report(self, step: int, text: str) -> None:
        self._last = (step, text)

    def read(self) -> tuple[int, str]:
        return self._last


class ProgressPoller:
    """Passes the last report on to a `Progress`."""

    def __init__(self, progress: Progress, read: Callable[[], tuple[int, str]]) -> None:
        self.progress, self.read = progress, read
        self.step = 0

    def poll(self) -> None:
        step, text = self.read()
        self.reach(step)
        if text:
            self.progress.note(text)

    def reach(self, step: int) -> None:
        """Show that so many steps are done, if fewer are shown."""
        if step > self.step:
            self.progress.advance(step - self.step)
            self.step = step

    @contextmanager
    def running(self) -> Iterator[None]:
        """Poll from a thread while the body runs, and once at its end."""
        over = threading.Event()

        def poll_until_over() -> None:
            while not over.wait(_POLL_S):
                # An actor that does not answer, on a loaded or a dying cluster, must not stop the training.
                with suppress(Exception):
                    self.poll()

        thread = threading.Thread(target=poll_until_over, name="training-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=10)
            with suppress(Exception):
                self.poll()
