"""What a job of a Ray cluster writes, as it writes it: over one connection, so that each byte travels once."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_LOG = logging.getLogger(__name__)
_AGAIN_S = (1.0, 300.0)  # between two connections: at first, and after many in vain; each sends the log from its start
_IN_VAIN = 3  # connections in a row that brought nothing; then the log is fetched now and then
_GROWN = 1.1  # times as long as at the fetch before: all fetches together are some ten times the log
_SILENT_S = 600.0  # without a word, before another connection is made
_LAST_S = 10.0  # for what a job wrote at its end to arrive


class JobLog:
    """Follows the log of a job from a thread; `on_log_line` is called with each line once, in order."""

    def __init__(self, client: "JobSubmissionClient", name: str, on_log_line: Callable[[str], None]) -> None:
        self._client, self._name, self._on_log_line = client, name, on_log_line
        self._came: SimpleQueue[str] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._following: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="job-log", daemon=True)
        self._gave_up = False
        self._offset = 0  # characters that came so far, whole lines or not
        self._line = ""  # that has not ended yet
        self._began_s = time.monotonic()
        self._fetch_at_s = 0.0  # since then

    def __enter__(self) -> "JobLog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(lambda: self._following and self._following.cancel())

    def pass_on(self) -> None:
        """Hand on what came since the last call. Where nothing can be followed, it is fetched, less and less often."""
        self._take()
        waited_s = time.monotonic() - self._began_s
        if self._gave_up and waited_s >= self._fetch_at_s:
            self._add(self._client.get_job_logs(self._name)[self._offset :])
            self._fetch_at_s = _GROWN * waited_s

    def end(self) -> None:
        """Hand on all the rest of the log of a job that is over."""
        self._thread.join(timeout=_LAST_S)
        self._take()
        # Once, whole: a connection that was closed on the way looks like the end.
        self._add(self._client.get_job_logs(self._name)[self._offset :])
        if self._line:
            self._on_log_line(self._line)

    def _take(self) -> None:
        with suppress(Empty):
            while True:
                self._add(self._came.get_nowait())

    def _add(self, text: str) -> None:
        self._offset += len(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._on_log_line(line)

    # --- in the thread ---

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._following = self._loop.create_task(self._follow())
                self._loop.run_until_complete(self._following)
        finally:
            self._loop.close()

    async def _texts(self) -> AsyncIterator[str]:
        """The log from its start; TimeoutError where nothing more comes for long."""
        patience_s = max(_SILENT_S, (_GROWN - 1) * (time.monotonic() - self._began_s))
        async with aclosing(self._client.tail_job_logs(self._name)) as texts:  # type: ignore[type-var]
            while True:
                try:
                    async with asyncio.timeout(patience_s):
                        text = await anext(texts)
                except StopAsyncIteration:
                    return
                yield text

    async def _follow(self) -> None:
        come, in_vain, pause_s = 0, 0, _AGAIN_S[0]
        while in_vain < _IN_VAIN:
            sent = 0
            in_vain += 1
            try:
                async for text in self._texts():
                    if new := text[max(0, come - sent) :]:
                        self._came.put(new)
                        come, in_vain, pause_s = come + len(new), 0, _AGAIN_S[0]
                    sent += len(text)
                return
            except TimeoutError:
                in_vain = 0  # a job may well be silent for long, and a connection may be dead without saying so
            except Exception as error:  # of many kinds, by aiohttp and by Ray; none may end a job that goes well
                reason = error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_S[1])
        _LOG.warning("the log of job %s cannot be followed (%s); it is fetched now and then", self._name, reason)
        self._gave_up = True
