"""An S3 server with the troubles of real ones: moto behind a middleware that errs, hangs up, or is not there at all."""

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from tests.s3 import ObjectStore, refusal

_AT_ONCE = struct.pack("ii", 1, 0)  # closing a connection resets it


class FailingS3(ObjectStore):
    """The fields say what is wrong now; `delay_s` of every request is one of them."""

    def __init__(self) -> None:
        self.one_in = 0  # of so many requests fails: 503 and a reset connection in turn
        self.gone = False  # every connection is reset
        self.expired = False  # credentials count as expired
        self.cut = ""  # the next upload of a path with this in it ends half way, with the whole server
        self.failed = 0  # requests that got no good answer
        super().__init__()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self.cut and environ["REQUEST_METHOD"] == "PUT" and self.cut in environ["PATH_INFO"]:
            self.cut, self.gone = "", True
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
        if self.gone:
            self._hang_up(environ)
        if self.expired:
            self.failed += 1
            return refusal(start, environ, "403 Forbidden", "ExpiredToken", "The provided token has expired.")
        if self.one_in and len(self.requests) % self.one_in == 0:
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], "failed"))
            self.failed += 1
            if self.failed % 2:
                return refusal(
                    start, environ, "503 Service Unavailable", "SlowDown", "Please reduce your request rate."
                )
            self._hang_up(environ)
        return super()._answer(environ, start)

    def _hang_up(self, environ: dict[str, Any]) -> None:
        self.failed += self.gone
        connection = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        connection.shutdown(socket.SHUT_RDWR)  # else it waits for the next request
        raise ConnectionResetError
