"""Progress in a terminal: a bar per stage with its time left and a note under it, one line when it is done.

Progress goes to stderr, results to stdout, so that `--json` and pipes stay clean.
"""

import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from flows.console.standard_streams import unfailing

NAME_WIDTH = 10
NOTE_EVERY_S = 10.0  # without a terminal, a line at most this often


_CURRENT: "ContextVar[Screen | None]" = ContextVar("screen", default=None)


def current() -> "Screen":
    """The screen of the running command; outside of one, as in tests, a screen that prints nowhere."""
    return _CURRENT.get() or Screen(Console(file=io.StringIO()))


class Screen:
    """A `pipelines.runtime.progress.Progress` in a terminal; as a context it removes the live line at the end."""

    def __init__(self, console: Console, log: Console | None = None) -> None:
        self.console = console
        self.log = log  # a file that has the same as plain lines, whatever the console is
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._began_s = 0.0
        self._done = 0.0
        self._total = 0.0
        self._unit = ""
        self._note = ""
        self._printed_s = 0.0
        self.finished: set[str] = set()  # names of stages that ended well
        self.seconds: dict[str, float] = {}  # spent in each stage
        self._worked_s: dict[str, float] = {}  # of these, since its first sign of work each time
        self._first_s: float | None = None  # when the present stage gave that
        self._first_done = 0.0  # and what was done by then: a training that goes on has steps behind it

    def __enter__(self) -> "Screen":
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        _CURRENT.reset(self._token)

    def start(self, name: str, total: float, unit: str) -> None:
        self._stop()
        self._keep_worked()  # of a stage that was lost, and said no end
        self._name, self._total, self._unit = name, total, unit
        self._done, self._note = 0.0, ""
        self._began_s = self._printed_s = time.monotonic()
        self._first_s = None
        if not self.console.is_terminal:
            return
        self._live = _WithNote(
            SpinnerColumn(style="cyan"),
            TextColumn(f"{{task.description:<{NAME_WIDTH}}}", style="bold"),
            _Bar(bar_width=18, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            _Count(),
            TimeElapsedColumn(),
            _Left(),
            console=self.console,
            transient=True,
        )
        self._task = self._live.add_task(name, total=total or None, unit=unit, note="")
        self._live.start()

    def advance(self, amount: float = 1.0) -> None:
        self._done += amount
        if self._first_s is None:
            self._first_s, self._first_done = time.monotonic(), self._done
        if self._live is not None and self._task is not None:
            self._live.advance(self._task, amount)
        self._print_sometimes()

    def note(self, text: str) -> None:
        self._note = text
        if self._first_s is None:
            self._first_s, self._first_done = time.monotonic(), self._done
        if self._live is not None and self._task is not None:
            self._live.update(self._task, note=text)
        self._print_sometimes()

    def finish(self, summary: str) -> None:
        elapsed_s = time.monotonic() - self._began_s
        self.seconds[self._name] = round(self.seconds.get(self._name, 0.0) + elapsed_s, 3)
        self._keep_worked()
        self._stop()
        if summary:
            self.finished.add(self._name)
            self._line(self._name, summary, elapsed_s)

    def worked_s(self, name: str) -> float:
        """Seconds that the stages of this name worked until now: since each said first that something was done."""
        first_s, before_s = self._first_s, self._worked_s.get(name, 0.0)  # once: another thread may ask
        return before_s if first_s is None or name != self._name else before_s + time.monotonic() - first_s

    def _keep_worked(self) -> None:
        worked_s, self._first_s = self.worked_s(self._name), None
        self._worked_s[self._name] = worked_s

    def cached(self, name: str, summary: str) -> None:
        """A step whose output existed already."""
        self._stop()
        self._line(name, summary, None)

    def detail(self, text: str) -> None:
        """A remark on the step that just ended."""
        self._stop()
        self._keep(f"  {text}")
        self.console.print(
            Padding(Text(text, style="dim"), (0, 0, 0, NAME_WIDTH + 3)), width=min(self.console.width, 100)
        )

    def say(self, text: str) -> None:
        """One plain line, whose paths and addresses no line end breaks."""
        self._stop()
        self._keep(text)
        self.console.print(Text(text), soft_wrap=True)

    @contextmanager
    def alone_on_stderr(self, log: Path) -> Iterator[None]:
        """Meanwhile what others write to stderr or stdout, from C++ or child processes too, goes to `log`.

        Stdout is for the result: Ray, for one, tells there of workers that died.
        """
        if not _is_stream(sys.stderr, 2):
            yield
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        redirected = [2, *([1] if _is_stream(sys.stdout, 1) else [])]
        _flush()
        before = self.console.file
        kept = {number: os.dup(number) for number in redirected}
        ours = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors="replace")
        try:
            with open(log, "ab") as others:
                for number in redirected:
                    os.dup2(others.fileno(), number)
            self.console.file = unfailing(ours)
            yield
        finally:
            self._stop()
            _flush()
            with suppress(OSError):
                ours.flush()
            self.console.file = before
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
            with suppress(OSError):
                ours.close()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = self._task = None

    def log_end(self, message: str) -> None:
        """What ended the command, in the log: the console has it from elsewhere."""
        self._keep(message)

    def _keep(self, text: str) -> None:
        """In the log, with the time of day."""
        if self.log is not None:
            now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
            self.log.print(Text(f"{now} {text}"), soft_wrap=True)

    def _line(self, name: str, summary: str, elapsed_s: float | None) -> None:
        took = "as before" if elapsed_s is None else duration(elapsed_s)
        self._keep(f"✓ {name}: {summary}, {took}")
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(width=1, style="green")
        row.add_column(min_width=NAME_WIDTH, max_width=30, style="bold", no_wrap=True, overflow="ellipsis")
        row.add_column(ratio=1, overflow="fold")
        row.add_column(justify="right", style="dim", no_wrap=True)
        row.add_row("✓", Text(name), Text(summary), took)
        self.console.print(row, width=min(self.console.width, 100))

    def _print_sometimes(self) -> None:
        """For log files: no control characters, and a line only every few seconds."""
        now = time.monotonic()
        if now - self._printed_s < NOTE_EVERY_S or (self._live is not None and self.log is None):
            return
        self._printed_s = now
        of = f"/{self._total:g}" if self._total else ""
        done = f"{self._name} {self._done:g}{of} {self._unit}".rstrip()
        left_s = self._left_s(now)
        parts = [done, duration(now - self._began_s), "" if left_s is None else f"{duration(left_s)} left", self._note]
        line = "  " + " · ".join(filter(None, parts))
        self._keep(line)
        if self._live is None:
            self.console.print(Text(line), soft_wrap=True)

    def _left_s(self, now: float) -> float | None:
        """Seconds left at the speed since the first sign of work; None where nobody can know."""
        done = self._done - self._first_done
        if self._first_s is None or not self._total or done <= 0:
            return None
        return max(0.0, self._total - self._done) * (now - self._first_s) / done


def _is_stream(stream: Any, number: int) -> bool:
    """Whether a standard stream writes to the file of that number, and is neither closed nor captured."""
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):
        return False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


class _WithNote(Progress):
    """The note under the bar, in a line of its own: it may be as long as the terminal is wide."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if note := task.fields["note"]:
                yield Text(f"  {note}", style="dim", no_wrap=True, overflow="ellipsis")


class _Bar(BarColumn):
    """A bar where the total is known; else nothing, the spinner is enough."""

    def render(self, task: Task) -> Text:  # type: ignore[override]
        return super().render(task) if task.total else Text("")  # type: ignore[return-value]


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = str(task.fields.get("unit", ""))
        if not task.total:
            return Text(duration(task.elapsed or 0), style="dim")
        return Text(f"{task.completed:.0f}/{task.total:.0f} {unit}".rstrip())


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if not task.total or left is None else f"{duration(left)} left", style="dim")


def duration(seconds: float) -> str:
    """A length of time as text: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def decibels(value: float | None, *, sign: bool = False) -> str:
    """Two decimals, with a sign where asked; a dash where there is no value."""
    if value is None:
        return "–"
    return f"{value:+.2f}" if sign else f"{value:.2f}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, strong_last: bool = False) -> Table:
    """A plain table, text to the left and numbers to the right; `strong_last` sets the last row, a total, in bold."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right", header_style="dim", overflow="fold")
    for index, row in enumerate(rows):
        grid.add_row(*map(Text, row), style="bold" if strong_last and index == len(rows) - 1 else None)
    return grid
