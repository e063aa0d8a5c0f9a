"""Turns an exception into one message and an exit code: 2 for what the user can fix, 1 for a fault of the program."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from datasets.errors import InputError, without_passwords
from flows.console import server_failures
from models.errors import ModelError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full", "OutOfDiskError")
# Raised where the program is wrong: never a wrapper around something that the user can fix.
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    message: str
    exit_code: int


def explain(error: BaseException) -> Failure:
    """Exit code 2 and its message if one of the declared causes is something that the user can fix; else 1.

    Declared are `raise ... from`, the `cause` of Ray's errors and the members of an exception group, all of which must
    be for the user to fix. An error that merely happened while an InputError was handled is a fault of the program.
    """
    failures = [_classify(chain) for chain in _chains(error)]
    fault = next((failure for failure in failures if failure.exit_code == 1), None)
    messages = dict.fromkeys(failure.message for failure in failures)
    whole = fault or Failure(message="\n".join(messages), exit_code=2)
    return replace(whole, message=without_passwords(whole.message))


def _classify(chain: Sequence[BaseException]) -> Failure:
    for link in chain:
        if isinstance(link, InputError | ModelError) and not _wrapped(link):
            return Failure(message=str(link), exit_code=2)
    if any(map(_is_full_disk, chain)):
        return Failure(
            message="The disk is full. Free some space, or choose another store with store.root=DIR; "
            "then run the same command to continue.",
            exit_code=2,
        )
    if of_server := next(filter(None, map(server_failures.message_of, chain)), ""):
        return Failure(message=of_server, exit_code=2)
    # Ray Data raises what happened from an error of its own that says nothing.
    last = next((link for link in reversed(chain) if str(link).strip()), chain[-1])
    lines = str(last).strip().splitlines() or [""]
    # Of an actor that could not begin, Ray's message is its stack trace, which ends with what happened.
    line = lines[-1] if type(last).__module__.startswith("ray.") else lines[0]
    return Failure(
        message=f"stemline failed: {type(last).__name__}: {line}\n"
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
    """The declared causes of an error."""
    if wrapped := _wrapped(error):
        return wrapped
    if isinstance(error, FAULTS):
        return ()
    if error.__cause__ is not None:
        return (error.__cause__,)
    # Cleaning up fails too when the disk is full, and no `from` declares that.
    context = None if error.__suppress_context__ else error.__context__
    return (context,) if context is not None and _filled_the_disk(context) else ()


def _wrapped(error: BaseException) -> Sequence[BaseException]:
    """The errors that one only wraps.

    Ray raises a copy that is both its own error and ours, with a stack trace for a message; its `cause` is clean.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return (cause,)
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _filled_the_disk(error: BaseException) -> bool:
    return any(_is_full_disk(link) for chain in _chains(error) for link in chain)


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, FAULTS) and not _wrapped(error):
        return False
    return getattr(error, "errno", None) in DISK_FULL or any(text in str(error) for text in DISK_FULL_TEXTS)
