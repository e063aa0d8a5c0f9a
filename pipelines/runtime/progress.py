"""What a long job says while it runs; the command line draws it, and every job works with None as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """One stage at a time: `start`, any number of `advance` and `note`, then `finish`."""

    def start(self, name: str, total: float, unit: str) -> None:
        """A stage begins that will take `total` units ("songs", "steps", "s"); 0 when nobody can know."""

    def advance(self, amount: float = 1.0) -> None:
        """This much more is done."""

    def note(self, text: str) -> None:
        """A few words beside the bar, such as the present loss; the next note replaces it."""

    def finish(self, summary: str) -> None:
        """The stage is over; one line says what came of it."""


class NullProgress:
    """Shows nothing, so that jobs need not ask whether there is a display."""

    def start(self, name: str, total: float, unit: str) -> None:
        return

    def advance(self, amount: float = 1.0) -> None:
        return

    def note(self, text: str) -> None:
        return

    def finish(self, summary: str) -> None:
        return


def or_null(progress: Progress | None) -> Progress:
    """The given progress, or one that shows nothing."""
    return NullProgress() if progress is None else progress


@contextmanager
def stage(progress: Progress | None, name: str, total: float = 0, unit: str = "") -> Iterator[Progress]:
    """A stage that is closed with an empty summary when its body raises; the body itself calls `finish` otherwise."""
    reporter = or_null(progress)
    reporter.start(name, total, unit)
    try:
        yield reporter
    except BaseException:
        reporter.finish("")
        raise
