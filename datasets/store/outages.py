"""Waits for an object store that is away: a minute without it must not end hours of work.

Arrow's client tries a request ten times, but all requests of a process share one budget of tries, which sixteen threads
use up in half a minute. So a store that has answered this process before is asked for longer; one that never did has
the wrong address, and is given up as soon as the client does.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
AWAY_S = 180.0  # after the first try a store counts as gone for good
# What Arrow's client says of a connection that fails and of a server that is busy. Of an answer without a body, as to
# HEAD, it knows the number only, and does not try again.
_PASSING = (
    "NETWORK_CONNECTION", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "REQUEST_TIMEOUT", "INTERNAL_FAILURE",
    "HTTP STATUS 500", "HTTP STATUS 502", "HTTP STATUS 503", "HTTP STATUS 504",
)  # fmt: skip
# Arrow's client gives the answer to a request as much room as it asked for: where a refusal, a page of XML, is longer
# than that, it says this and does not try again.
_NO_ROOM = "Failed to flush response stream"
_TRIES = 10  # where there was no room
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # before the second try, and twice as long before each other, up to this
_ANSWERED = threading.Event()  # whether the store was ever reached from here


def persistently(ask: Callable[[], Answer]) -> Answer:
    """What a request is answered; the error of the last try where it is refused, or was away for `AWAY_S` seconds."""
    began_s, pause_s, tries = time.monotonic(), _PAUSE_S, 1
    while True:
        try:
            answer = ask()
        except OSError as error:
            if not (_lacked_room(error, tries) or _is_away(error, began_s)):
                raise
        else:
            _ANSWERED.set()
            return answer
        time.sleep(pause_s)
        pause_s, tries = min(2 * pause_s, _LONGEST_PAUSE_S), tries + 1


def _lacked_room(error: OSError, tries: int) -> bool:
    return tries < _TRIES and _NO_ROOM in str(error)


def _is_away(error: OSError, began_s: float) -> bool:
    away = any(word in str(error).upper() for word in _PASSING)
    return away and _ANSWERED.is_set() and time.monotonic() - began_s < AWAY_S
