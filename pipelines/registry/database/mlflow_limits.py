"""MLflow's limits, met by construction: characters and lengths of keys and values, sizes of requests, pages of results.

The figures are those of `mlflow/utils/validation.py` and of the REST API, which every kind of server keeps.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MAX_KEY = 250  # characters of the name of a parameter, a metric or a tag
MAX_PARAM = 6000  # of a parameter's value
MAX_TAG = 5000  # of a tag's value: SQL stores take more, others do not
MAX_PARAMS, MAX_METRICS = 100, 1000  # in one request; tags count as parameters
MAX_REQUEST = 900_000  # bytes of a request, below the million that a server takes
PAGE = 1000  # results asked for at once; a server gives at most so many registered models


def key(name: str) -> str:
    """The name as MLflow takes it; one that had to be changed ends in a digest of what it was, so no two meet."""
    parts = [part if part not in ("", ".", "..") else "_" for part in re.sub(r"[^/\w.\- ]", "_", name).split("/")]
    safe = "/".join(parts)
    if safe == name and len(safe) <= MAX_KEY and posixpath.normpath(safe) == safe:
        return name
    mark = "-" + _digest(name)
    return safe[: MAX_KEY - len(mark)] + mark


def value(text: str, limit: int = MAX_PARAM) -> str:
    """The text where it is short enough; else its beginning and a digest of all of it."""
    if len(text) <= limit:
        return text
    mark = f"... ({len(text)} characters, sha256 {_digest(text)})"
    return text[: limit - len(mark)] + mark


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def batches(items: Sequence[T], count: int, plain: Callable[[T], Any]) -> Iterator[list[T]]:
    """The items in order, at most `count` at once and no more than a request may hold; `plain` is what JSON makes."""
    batch: list[T] = []
    size = 0
    for item in items:
        own = len(json.dumps(plain(item))) + 64
        if batch and (len(batch) == count or size + own > MAX_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += own
    if batch:
        yield batch


def pages(search: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """Every result of one of MLflow's searches, page by page."""
    token = None
    while True:
        batch = search(max_results=PAGE, page_token=token, **options)
        yield from batch
        token = batch.token
        if not token:
            return
