"""The S3 client of this process, and what a store refuses as messages that say what to change."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as fs

from datasets.errors import Unavailable
from datasets.store.http_proxies import proxy_for
from datasets.store.outages import persistently

PREFIX = "s3://"
_ATTEMPTS = 10
_COPY_BYTES = 8 << 20
_KEYS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY",
    "INVALID_CLIENT_TOKEN",
    "SIGNATURE",
    "EXPIRED",
    "FORBIDDEN",
    "SKEWED",
    "403",
)


@lru_cache(maxsize=1)
def client() -> fs.S3FileSystem:
    """The one S3 of this process, as the environment describes it."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        proxy_options=proxy_for(endpoint or "https://s3.amazonaws.com"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        allow_delayed_open=True,  # a small object is one request, a put
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        connect_timeout=10,
        request_timeout=60,
    )


def bucket_path(address: str | Path) -> str:
    """BUCKET/FOLDER/NAME, which is what Arrow's client calls a path."""
    return str(address)[len(PREFIX) :].rstrip("/")


@contextmanager
def refusals(address: str | Path) -> Iterator[None]:
    """What an object store refuses, as messages that say what to change; missing files stay FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        said = str(error)
        advice = "see that the store answers (AWS_ENDPOINT_URL, AWS_REGION), then run the same command again"
        if any(word in said.upper() for word in _KEYS):
            advice = (
                "the credentials are missing, wrong, have run out or do not allow this: set AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE (a clock that is more than 15 minutes off "
                "is refused as well), then run the same command again"
            )
        elif "NO_SUCH_BUCKET" in said.upper():
            advice = "there is no such bucket: create it, or name another, s3://BUCKET/FOLDER"
        raise Unavailable(f"{address}: {_without_secrets(said)}; {advice}") from None


def _without_secrets(said: str) -> str:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = os.environ.get(name)
        if secret:
            said = said.replace(secret, "***")
    return said


class ObjectReader(RawIOBase):
    """An object of the store, read in ranges."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._file = persistently(lambda: client().open_input_file(bucket_path(address)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with refusals(self._address):
            return int(persistently(lambda: self._file.readinto(buffer)))

    def close(self) -> None:
        self._file.close()
        super().close()


@lru_cache(maxsize=4096)
def opened(path: str) -> pa.NativeFile:
    """An object whose length is known, so that the next read of it is one request."""
    return client().open_input_file(path)


def upload(file: IO[bytes], path: str) -> None:
    """Make an object of a file, from its first byte."""
    file.seek(0)
    with client().open_output_stream(path) as stream:
        shutil.copyfileobj(file, stream, _COPY_BYTES)
