"""Whose fault it was: turns an exception into one message and an exit code."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datasets.errors import InputError
from models.errors import ModelError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full", "OutOfDiskError")
# Raised by a program that is wrong. Nobody wraps what a user can mend in one of these: they stand for themselves.
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    message: str
    exit_code: int


def explain(error: BaseException) -> Failure:
    """2 and the message for what the user can mend, wherever among the declared causes it lies; else 1.

    Declared are `raise ... from`, the `cause` of Ray's errors and the members of an exception group, of which every
    one must be the user's. What merely happened while an InputError was handled is a fault of its own.
    """
    found = [_judged(chain) for chain in _chains(error)]
    ours = next((one for one in found if one.exit_code == 1), None)
    return ours or Failure(message="\n".join(dict.fromkeys(one.message for one in found)), exit_code=2)


def _judged(chain: Sequence[BaseException]) -> Failure:
    for link in chain:
        if isinstance(link, InputError | ModelError) and not _carried(link):
            return Failure(message=str(link), exit_code=2)
    if any(map(_is_full_disk, chain)):
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


def _chains(error: BaseException, before: tuple[BaseException, ...] = ()) -> Iterator[tuple[BaseException, ...]]:
    """The error and what caused it, outermost first; more than one chain where a group holds several."""
    chain = (*before, error)
    causes = [cause for cause in _causes(error) if all(cause is not link for link in chain)]
    if not causes:
        yield chain
    for cause in causes:
        yield from _chains(cause, chain)


def _causes(error: BaseException) -> Sequence[BaseException]:
    """What an error says that it was caused by."""
    if carried := _carried(error):
        return carried
    if isinstance(error, FAULTS):
        return ()
    if error.__cause__ is not None:
        return (error.__cause__,)
    # Cleaning up and closing books fail as well when the disk is full, and nobody declares that.
    context = None if error.__suppress_context__ else error.__context__
    return (context,) if context is not None and _ran_out_of_room(context) else ()


def _carried(error: BaseException) -> Sequence[BaseException]:
    """The errors that one only wraps.

    Ray raises a copy that is both its own error and ours, with a stack trace for a message; its `cause` is clean.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return (cause,)
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _ran_out_of_room(error: BaseException) -> bool:
    return any(_is_full_disk(link) for chain in _chains(error) for link in chain)


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, FAULTS) and not _carried(error):
        return False
    return getattr(error, "errno", None) in NO_ROOM or any(words in str(error) for words in NO_ROOM_WORDS)
