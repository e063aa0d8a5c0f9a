"""One command at a time in a store that is in an object store: claims that are renewed, and void when they are not.

No file can be locked there, and a lock file would outlive a process that is killed. So whoever wants the store writes a
claim of its own and then lists all claims, among which are those of everybody who wrote before: if another is valid, it
takes its own back. Of two who ask at once at least one sees the other, so the store is never given twice. How old a
claim is, the clock of the object store says, those of machines do not matter.
"""

import logging
import os
import random
import signal
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from flows.tasks import process_identity

_LOG = logging.getLogger(__name__)
FOLDER = "claims"
VALID_S = 30.0  # a claim that was not renewed for so long is void
RENEW_S = 5.0
_AGAIN_S = (0.5, 1.5)


class StoreLease:
    """The claim of this command on a store."""

    def __init__(self, root: str, *, verb: str) -> None:
        process = process_identity.this_process()
        self.folder = storage.join(storage.absolute(root), FOLDER)
        self.name = f"{uuid.uuid4().hex}.json"
        self.root = root
        self.content: dict[str, Any] = {
            "verb": verb,
            "machine": process.machine,
            "pid": process.pid,
            "start": process.start,
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "in_use": False,
        }
        self._over = threading.Event()
        self._renewed_s = time.monotonic()
        self._thread: threading.Thread | None = None

    def take(self, patience_s: float) -> None:
        """Returns when the store is this command's alone; InputError that says who has it, once they surely live.

        A command that was killed on this machine holds nothing; one on another machine for `VALID_S` seconds.
        """
        began_s, first = time.monotonic(), dict[str, int]()
        while others := self._ask():
            for name, changed_ns in others.items():
                # Renewed since it was first seen: its command lives, and waits for nobody itself.
                if first.setdefault(name, changed_ns) != changed_ns and time.monotonic() - began_s > patience_s:
                    holder = read_json(storage.join(self.folder, name)) or {}
                    if holder.get("in_use"):
                        raise InputError(
                            f"The store {self.root} is in use by `stemline {holder['verb']}`, process {holder['pid']} "
                            f"on {holder['machine'].split(' ')[0]}, since {holder['since']}. Wait until that ends, or "
                            "use another store with store.root=s3://BUCKET/FOLDER."
                        )
            time.sleep(random.uniform(*_AGAIN_S))
        self._thread = threading.Thread(target=self._renew, name="store-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the store back."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(RENEW_S)  # it may be waiting for a store that is away
        with suppress(InputError):  # it becomes void by itself
            storage.remove(storage.join(self.folder, self.name))

    def _ask(self) -> dict[str, int]:
        """Claim the store; the valid claims of others, with the time of their last renewal, where it is not ours."""
        self._put(in_use=False)
        others, void = self._others()
        if others:
            storage.remove(storage.join(self.folder, self.name))
            return others
        for name in void:
            storage.remove(storage.join(self.folder, name))
        self._put(in_use=True)
        return {}

    def _others(self) -> tuple[dict[str, int], list[str]]:
        """The valid claims of others with the time of their last renewal, and the void ones."""
        claims = {name: seen.changed_ns for name, seen in storage.files_below(self.folder).items()}
        now_ns = claims.pop(self.name, max(claims.values(), default=0))
        void = [name for name, at_ns in claims.items() if now_ns - at_ns > VALID_S * 1e9 or self._is_gone(name)]
        return {name: at_ns for name, at_ns in claims.items() if name not in void}, void

    def _is_gone(self, name: str) -> bool:
        """Whether a claim is that of a process of this machine that has ended."""
        content = read_json(storage.join(self.folder, name)) or {}
        is_here = content.get("machine") == process_identity.this_machine()
        return is_here and not process_identity.is_running(int(content["pid"]), float(content["start"]))

    def _put(self, *, in_use: bool) -> None:
        write_json(storage.join(self.folder, self.name), {**self.content, "in_use": in_use})
        self._renewed_s = time.monotonic()

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            before_s = self._renewed_s
            try:
                self._put(in_use=True)  # which waits for a store that is away
                late = self._renewed_s - before_s > VALID_S
                others = self._others()[0] if late else {}
            except InputError as error:
                _LOG.warning("the claim on the store %s was not renewed: %s", self.root, error)
                continue
            if others:
                _LOG.error("another command took the store %s while it could not be reached; this one ends", self.root)
                os.kill(os.getpid(), signal.SIGINT)
                return
