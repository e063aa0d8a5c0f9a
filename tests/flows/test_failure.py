"""Whose fault it was: bad input, a full disk, or ours."""

import errno

import pytest

from datasets.errors import AudioError, InputError
from flows.failure import explain
from models.errors import ModelError


class Remote(Exception):
    """Stands for Ray's error, which keeps what happened in `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a long stack trace of a worker")
        self.cause = cause


class RemoteInput(Remote, InputError):
    """Ray's error that is also the error it carries."""


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    "error",
    [
        InputError("give less"),
        AudioError("silent_source", "give less"),
        ModelError("give less"),
        Remote(InputError("give less")),
        RemoteInput(InputError("give less")),
        chained(RuntimeError("the job failed"), Remote(InputError("give less"))),
    ],
)
def test_bad_input_is_found_wherever_it_is_wrapped(error: Exception) -> None:
    failure = explain(error)
    assert (failure.message, failure.exit_code) == ("give less", 2)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        Remote(OSError(errno.EDQUOT, "quota")),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_a_full_disk_is_for_the_user_to_mend(error: Exception) -> None:
    failure = explain(error)
    assert failure.exit_code == 2
    assert "disk is full" in failure.message


def test_anything_else_is_our_fault_and_says_how_to_see_more() -> None:
    failure = explain(chained(RuntimeError("outer"), KeyError("inner")))
    assert failure.exit_code == 1
    assert "KeyError: 'inner'" in failure.message
    assert "--debug" in failure.message


def test_an_error_that_causes_itself_ends() -> None:
    error = RuntimeError("round")
    error.__cause__ = error
    assert explain(error).exit_code == 1
