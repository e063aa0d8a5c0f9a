"""A flow run's log and progress bar on Prefect's page, written to as a terminal would be."""

import io
from contextlib import suppress
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.console.progress_display import Screen
from flows.console.sanitized_console import Terminal


class RunScreen(Screen):
    """A screen whose lines are a flow run's log, and whose bar is on its page."""

    def __init__(self) -> None:
        super().__init__(Terminal(file=_Lines(), width=110))
        self._bar: UUID | None = None

    def start(self, name: str, total: float, unit: str) -> None:
        super().start(name, total, unit)
        key = "progress-" + "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        self._bar = None
        with suppress(Exception):  # a server that cannot be reached for a moment stops no step
            bar = create_progress_artifact(progress=0.0, key=key, description=name) if total else None
            self._bar = bar if isinstance(bar, UUID) else None

    def finish(self, summary: str) -> None:
        super().finish(summary)
        if summary:
            self._set_bar(100.0)
        self._bar = None

    def _print_sometimes(self) -> None:
        before = self._printed_s
        super()._print_sometimes()
        if self._total and self._printed_s != before:
            self._set_bar(min(100.0, 100 * self._done / self._total))

    def _set_bar(self, percent: float) -> None:
        if self._bar is not None:
            with suppress(Exception):
                update_progress_artifact(self._bar, progress=percent)


class _Lines(io.StringIO):
    """A text stream whose lines go to the log of the current run."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                get_run_logger().info(line.rstrip())
        return len(text)
