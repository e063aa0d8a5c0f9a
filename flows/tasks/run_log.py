"""A flow run's log and progress bar on Prefect's page, drawn on as a terminal would be."""

import io
from contextlib import suppress
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console

from flows.console.progress_display import Screen


class RunScreen(Screen):
    """A screen whose lines are a flow run's log, and whose bar is on its page."""

    def __init__(self) -> None:
        super().__init__(Console(file=_Lines(), width=110))
        self._bar: UUID | None = None

    def start(self, name: str, total: float, unit: str) -> None:
        super().start(name, total, unit)
        key = "progress-" + "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        self._bar = None
        with suppress(Exception):  # a server that is away for a moment stops no step
            made = create_progress_artifact(progress=0.0, key=key, description=name) if total else None
            self._bar = made if isinstance(made, UUID) else None

    def finish(self, summary: str) -> None:
        super().finish(summary)
        if summary:
            self._move(100.0)
        self._bar = None

    def _say_now_and_then(self) -> None:
        before = self._said_s
        super()._say_now_and_then()
        if self._total and self._said_s != before:
            self._move(min(100.0, 100 * self._done / self._total))

    def _move(self, percent: float) -> None:
        if self._bar is not None:
            with suppress(Exception):
                update_progress_artifact(self._bar, progress=percent)


class _Lines(io.StringIO):
    """Text that is written becomes lines of the log of the run that is under way."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                get_run_logger().info(line.rstrip())
        return len(text)
