"""Whose fault it was: turns an exception into one message and an exit code."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from datasets.errors import InputError
from models.errors import ModelError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full", "OutOfDiskError")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    message: str
    exit_code: int


def explain(error: BaseException) -> Failure:
    """2 and the message for what the user can mend, wherever in the chain of causes it lies; else 1."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, InputError | ModelError) and not _is_remote(link):
            return Failure(message=str(link), exit_code=2)
    for link in chain:
        if getattr(link, "errno", None) in NO_ROOM or any(words in str(link) for words in NO_ROOM_WORDS):
            return Failure(
                message="The disk is full. Free some space, or choose another store with store.root=DIR; "
                "the same command then goes on from here.",
                exit_code=2,
            )
    last = chain[-1]
    words = str(last).strip().splitlines()
    return Failure(
        message=f"stemline failed: {type(last).__name__}: {words[0] if words else ''}\n"
        "This is a fault of the program. Run it again with --debug for the stack trace.",
        exit_code=1,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first; Ray keeps the cause of a task's error in `cause`."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        remote = getattr(at, "cause", None)
        at = remote if isinstance(remote, BaseException) else at.__cause__ or at.__context__


def _is_remote(error: BaseException) -> bool:
    """Ray raises a copy that is both its own error and ours, with a stack trace for a message; its cause is clean."""
    return isinstance(getattr(error, "cause", None), BaseException)
