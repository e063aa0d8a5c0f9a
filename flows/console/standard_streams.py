"""stdin, stdout and stderr as a command finds them: closed, full, a pipe whose reader went away, not UTF-8."""

import codecs
import os
import sys
from contextlib import suppress
from typing import IO, Any, cast

_ESCAPING = "stemline-escape"


def make_usable() -> None:
    """Streams that are closed lead nowhere, and what a stream's encoding lacks is replaced when it is written.

    A file that is opened next would otherwise get the number of the closed one, and whatever a library prints in it.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, so this one
            setattr(sys, name, os.fdopen(nowhere, "r" if number == 0 else "w", encoding="utf-8", errors="replace"))
    for stream in (sys.stdout, sys.stderr):
        if not _is_unicode(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _is_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def write_document(text: str) -> None:
    """Write JSON or TOML to stdout: what its encoding lacks as the escape that both have inside of strings."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    codecs.register_error(_ESCAPING, _escape)
    sys.stdout.write(text if _is_unicode(sys.stdout) else text.encode(encoding, _ESCAPING).decode(encoding))


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = (ord(letter) for letter in error.object[error.start : error.end])
    return "".join(f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}" for code in lacking), error.end


def lost(error: OSError) -> int:
    """The exit code where stdout took no more, after a message that says so.

    0 where its reader went away, as `head` does once it has what it wanted. What was not written goes nowhere: at its
    end Python would try once more, and complain.
    """
    _lead_nowhere()
    if isinstance(error, BrokenPipeError):
        return 0
    with suppress(OSError):
        sys.stderr.write(
            f"The work is done, but its result could not be written to stdout ({error.strerror}). Run the same command "
            "again with another output: finished steps are not repeated.\n"
        )
    return 2


def _lead_nowhere() -> None:
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        sys.stdout.flush()


class Unfailing:
    """A text stream whose errors are nobody's: progress that cannot be written must not end what it tells of."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def unfailing(stream: IO[str]) -> IO[str]:
    """The same stream, whose errors are nobody's."""
    return cast(IO[str], Unfailing(stream))
