"""What a training leaves in its folder for the next start: checkpoints, the loss curve, what was done about trouble.

`step-<n>/` is a checkpoint, `history.jsonl` has a point of the curve on each line, `events.jsonl` what was done, and
`speed.jsonl` how fast it went, which is no part of the result. A checkpoint takes its name once it is written whole,
and its `config.json` files hold digests of all others; so one that was cut short or altered is found, set aside, and
the one before it used.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from datasets.store.disk_errors import disk_errors
from pipelines.runs.uploads import Uploads

CURRENT, BEST = "current", "best"
HISTORY, EVENTS, SPEED = "history.jsonl", "events.jsonl", "speed.jsonl"
_LEAVE_S = 10.0  # that a training which is stopped waits for an upload under way
_PREFIX, _UNFINISHED, _DAMAGED = "step-", ".step-", "damaged-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The checkpoints of a folder that matter to a start."""

    newest: Path | None  # whole, every bit as it was written
    damaged: tuple[tuple[Path, str], ...]  # newer ones that are not, and why
    passed: tuple[str, ...] = ()  # the same, of those at the address of the run, in words

    @property
    def step(self) -> int:
        """Steps done in the newest, 0 without one."""
        return 0 if self.newest is None else step_of(self.newest.name)


def find(folder: Path) -> Found:
    """The newest whole checkpoint and what is wrong with newer ones; reads all of their bytes."""
    from models.errors import ModelError
    from models.weights import checkpoint

    damaged = []
    for path in reversed(_steps(folder)):
        try:
            for part in (CURRENT, BEST):
                checkpoint.check(path / part)
        except ModelError as error:
            damaged.append((path, str(error)))
        else:
            return Found(newest=path, damaged=tuple(damaged))
    return Found(newest=None, damaged=tuple(damaged))


def tidy(folder: Path, checkpoints: Found) -> None:
    """Give damaged checkpoints another name, and forget unfinished ones, points and torn lines after the newest."""
    for path, _ in checkpoints.damaged:
        aside = path.with_name(_DAMAGED + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
    Lines(folder / HISTORY).keep(lambda point: point["step"] <= checkpoints.step)
    for name in (EVENTS, SPEED):
        Lines(folder / name).keep(lambda row: True)


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint by name, 0 without one; whether it is whole is not looked at."""
    return max((step_of(path.name) for path in _steps(folder)), default=0)


def checkpoint_name(step: int) -> str:
    return f"{_PREFIX}{step:09d}"


def step_of(name: str) -> int:
    """The step in a name that `checkpoint_name` gave."""
    return int(name.removeprefix(_PREFIX))


def is_checkpoint_name(name: str) -> bool:
    """Whether `checkpoint_name` gives such a name: folders of other names in a run's folder are nobody's to remove."""
    return re.fullmatch(rf"{_PREFIX}\d{{9,}}", name) is not None


def _steps(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder by name, the oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if is_checkpoint_name(path.name))


def remove_others(folder: Path, step: int) -> None:
    """Remove the checkpoints of other steps than this."""
    for path in _steps(folder):
        if step_of(path.name) != step:
            shutil.rmtree(path, ignore_errors=True)


class Writer:
    """Writes checkpoints from a thread, one at a time, and keeps the last few, and those that are to be uploaded."""

    def __init__(
        self, folder: Path, *, keep: int, uploads: Uploads | None = None, upload_wait_s: float | None = None
    ) -> None:
        """Each checkpoint is brought elsewhere by `uploads`, for which the next waits `upload_wait_s` at most."""
        self.folder, self.keep, self.uploads, self.upload_wait_s = folder, keep, uploads, upload_wait_s
        self.waited_s = 0.0  # for uploads
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    @property
    def complaint(self) -> str:
        """Why the last upload failed; empty where it did not."""
        return "" if self.uploads is None else self.uploads.complaint

    def submit(self, step: int, fill: Callable[[Path], None]) -> None:
        """Begin to write; `fill` puts a state that changes no more into a folder. Waits for the one before."""
        self.wait()
        if self.uploads is not None:
            self.waited_s += self.uploads.wait(self.upload_wait_s)
        self._pending = self._pool.submit(self._write, step, fill)

    def wait(self) -> None:
        """Until what was begun is written; an InputError that says so if the disk is full."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
                if self.uploads is not None:
                    self.uploads.finish()
        finally:
            self._pool.shutdown()
            if self.uploads is not None:
                self.uploads.close(min(self.upload_wait_s or 0.0, _LEAVE_S))

    def _write(self, step: int, fill: Callable[[Path], None]) -> None:
        with disk_errors(self.folder):
            temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.folder))
            try:
                fill(temporary)
                target = self.folder / checkpoint_name(step)
                shutil.rmtree(target, ignore_errors=True)  # of this step, from before a rollback
                os.replace(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            if self.uploads is not None:
                self.uploads.offer(step)
            needed = self.uploads.needed() if self.uploads is not None else ()
            for old in _steps(self.folder)[: -self.keep]:
                if step_of(old.name) not in needed:
                    shutil.rmtree(old, ignore_errors=True)


class Lines:
    """Objects of JSON, one a line, appended as they come; a line that a kill cut short does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, row: dict[str, Any]) -> None:
        with disk_errors(self.path.parent), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Leave only the wanted rows, in one step."""
        if not self.path.exists():
            return
        text = "".join(json.dumps(row) + "\n" for row in self.read() if wanted(row))
        if text != self.path.read_text(encoding="utf-8"):
            temporary = self.path.with_name(f".{self.path.name}")
            with disk_errors(self.path.parent):
                temporary.write_text(text, encoding="utf-8")
                os.replace(temporary, self.path)


class Tail:
    """Rows of a file of `Lines` with steps, as they come: each byte is read once, however long the file grows."""

    _BLOCK = 2**16
    _REMEMBERED = 256  # bytes before the place, by which a file that was written anew is known

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = -1  # in bytes; before the first look nowhere
        self._before = b""  # the place

    def look(self, after: int) -> tuple[bool, list[dict[str, Any]]]:
        """Whether what was handed out before no longer counts, and the rows that came since.

        At first, and in a file that was written anew, these are the rows after the last one of a step up to `after`:
        a run that went on from a checkpoint writes later steps than the checkpoint's, so all before it is old.
        """
        try:
            with self.path.open("rb") as file:
                anew = not self._goes_on(file)
                if anew:
                    self._place = self._first(file, after)
                file.seek(self._place)
                text = file.read()
                whole = text[: text.rfind(b"\n") + 1]
                self._place += len(whole)
                file.seek(max(0, self._place - self._REMEMBERED))
                self._before = file.read(min(self._place, self._REMEMBERED))
        except FileNotFoundError:
            anew, whole, self._place, self._before = True, b"", -1, b""
        return anew, [json.loads(line) for line in whole.splitlines()]

    def _goes_on(self, file: BinaryIO) -> bool:
        if self._place < 0:
            return False
        file.seek(self._place - len(self._before))
        return file.read(len(self._before)) == self._before

    def _first(self, file: BinaryIO, after: int) -> int:
        """Where the rows after the last one of a step up to `after` begin; read from the end of the file backwards."""
        end = file.seek(0, os.SEEK_END)
        begin, text = end, b""
        while begin > 0:
            size = min(self._BLOCK, begin)
            begin = file.seek(begin - size)
            text = file.read(size) + text
            stop = text.rfind(b"\n")  # what follows is a line that is being written
            while stop >= 0:
                start = text.rfind(b"\n", 0, stop) + 1
                if start == 0 and begin > 0:
                    break  # this line begins in the block before
                if json.loads(text[start:stop])["step"] <= after:
                    return begin + stop + 1
                stop = start - 1
            text = text[: stop + 1]  # the lines behind it were looked at, or the last is being written
        return 0


def merged(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One point per step: what was learned at a step and how it then scored are written one after the other."""
    by_step: dict[int, dict[str, Any]] = {}
    for point in points:
        by_step.setdefault(point["step"], {}).update(point)
    return [by_step[step] for step in sorted(by_step)]
