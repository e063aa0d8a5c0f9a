"""`stemline webhook`: changes of aliases in MLflow, whoever makes them, become events of Prefect's server.

MLflow posts what happens in its registry to a web server, and Prefect's server takes events in a form of its own. This
is the web server between the two: it takes what is signed with the secret that both know, and hands on changes of
aliases. What it cannot hand on it answers with an error, and MLflow posts it again.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from cyclopts import Parameter

from datasets.errors import InputError, without_passwords
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen

SECRET = "STEMLINE_WEBHOOK_SECRET"
MIN_SECRET = 16  # characters
MAX_BYTES = 1 << 16  # of a request
MAX_DIGITS = 20  # of a number in a header: Python refuses to read thousands
MAX_AGE_S = 300.0  # of a signature: an older request is somebody's copy
REMEMBERED = 1000  # deliveries, so that none is handed on twice
ENTITY = "model_version_alias"


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasChange:
    """What MLflow said: an alias was set to a version, or taken away."""

    delivery: str  # MLflow's id of it, a UUID
    model: str
    alias: str
    version: str  # "" where it was taken away


def webhook(
    *overrides: Overrides,
    host: Annotated[str, Parameter(help="The address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port to listen on; 0 takes a free one.")] = 8901,
    options: Options = NO_OPTIONS,
) -> int:
    """Make events of Prefect of alias changes in MLflow, also those by hand, until Ctrl-C: for automations.

    Example: `stemline webhook --port 8901`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, host=host, port=port, screen=screen))


def run(config: RunConfig, *, host: str, port: int, screen: Screen) -> dict[str, Any]:
    """Serves until Ctrl-C; InputError where the secret or Prefect's server is not set."""
    from flows.console import notifications

    secret = os.environ.get(SECRET, "")
    if len(secret) < MIN_SECRET:
        raise InputError(
            f"{SECRET} must have >= {MIN_SECRET} characters, got {len(secret)}: the secret of MLflow's webhook"
        )
    if not os.environ.get(notifications.PREFECT):
        raise InputError(f"{notifications.PREFECT} must be set to the address of the Prefect server that takes events")

    def deliver(change: AliasChange) -> None:
        hand_on(change, wait_s=config.notify.wait_s, screen=screen)

    with receiving(secret, deliver, host=host, port=port) as address:
        screen.say(f"webhook  {address}")
        screen.say("Ctrl-C stops it.")
        with suppress(KeyboardInterrupt):  # the normal end
            threading.Event().wait()
    return {"address": address}


def hand_on(change: AliasChange, *, wait_s: float, screen: Screen) -> None:
    """Make it an event of Prefect's server; what goes wrong there is said, and raised."""
    from flows.console import notifications

    moved = f"is version {change.version}" if change.version else "was taken away"
    sentence = f"models:/{change.model}@{change.alias} {moved}"
    try:
        notifications.emit_alias_event(
            change.model, change.alias, change.version, event_id=change.delivery, wait_s=wait_s
        )
    except Exception as error:  # of Prefect's client, in ways of its own
        why = without_passwords((str(error).splitlines() or [""])[0])
        screen.say(f"{sentence}: Prefect does not take it ({type(error).__name__}: {why}); MLflow posts it again")
        raise
    screen.say(f"{sentence}: told Prefect")


@contextmanager
def receiving(
    secret: str, deliver: Callable[[AliasChange], None], *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[str]:
    """Inside, changes that are posted with a signature of this secret are delivered, each once; gives the address."""
    delivered: deque[str] = deque(maxlen=REMEMBERED)
    one_at_a_time = threading.Lock()  # MLflow may post again while the first try is under way

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not _is_number(length) or int(length) > MAX_BYTES:
                return self.send_error(413)
            body = self.rfile.read(int(length))
            signed = {
                name: self.headers.get(f"X-MLflow-{name}", "") for name in ("Delivery-Id", "Timestamp", "Signature")
            }
            if not is_signed(secret, body, signed["Delivery-Id"], signed["Timestamp"], signed["Signature"]):
                return self.send_error(401)
            try:
                change = read_change(signed["Delivery-Id"], body)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                return self.send_error(400)
            with one_at_a_time:
                if change is not None and change.delivery not in delivered:
                    try:
                        deliver(change)
                    except Exception:  # MLflow tries again
                        return self.send_error(502)
                    delivered.append(change.delivery)
            self.send_response(204)
            return self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        why = str(error).rstrip(".") if isinstance(error, OverflowError) else error.strerror
        raise InputError(f"--host {host} --port {port}: {why}; give another") from error
    with server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield f"http://{host}:{server.server_address[1]}/"
        finally:
            server.shutdown()


def is_signed(secret: str, body: bytes, delivery: str, timestamp: str, signature: str) -> bool:
    """Whether a request was signed with the secret, as MLflow does, in the last minutes."""
    if not _is_number(timestamp) or abs(time.time() - int(timestamp)) > MAX_AGE_S:
        return False
    version, _, encoded = signature.partition(",")
    content = f"{delivery}.{timestamp}.".encode() + body
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return version == "v1" and hmac.compare_digest(given, hmac.new(secret.encode(), content, hashlib.sha256).digest())


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= MAX_DIGITS


def read_change(delivery: str, body: bytes) -> AliasChange | None:
    """The change that MLflow posted; None where something else happened, which nobody waits for."""
    content = json.loads(body)
    if content["entity"] != ENTITY:
        return None
    data = content["data"]
    texts = [data["name"], data["alias"], data.get("version") or ""]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("names are text")
    model, alias, version = texts
    return AliasChange(delivery=delivery, model=model, alias=alias, version=version)
