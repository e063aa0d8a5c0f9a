"""A drill that is told to end takes down all that it started, as it does at Ctrl-C."""

import signal
import sys
from typing import Any


def clean_up_when_terminated() -> None:
    """From here on the first SIGTERM or SIGHUP leaves the program by way of every `finally`; others do nothing."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)


def _leave(number: int, frame: Any) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
