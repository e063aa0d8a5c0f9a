"""What MLflow signs is handed on once, and nothing else; what Prefect does not take MLflow is told to post again.

A real server of MLflow posts to it in `tests/pipelines/registry/test_registration.py`, and a real one of Prefect starts
a flow of it in `tests/flows/console/test_notifications.py`.
"""

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from rich.console import Console

from flows.__main__ import main
from flows.cli.operations.webhook import MAX_BYTES, SECRET, AliasChange, hand_on, receiving
from flows.console.progress_display import Screen

KEY = "a secret of 16 characters and more"
DATA = {"name": "stemline", "alias": "champion", "version": "3"}


def post(
    address: str,
    body: bytes,
    *,
    secret: str = KEY,
    age_s: int = 0,
    delivery: str = "",
    length: str = "",
    **changed: str,
) -> int:
    """The status that a request gets which MLflow's own code signed; headers may be changed afterwards."""
    timestamp, delivery = str(int(time.time()) - age_s), delivery or str(uuid.uuid4())
    signature = _generate_hmac_signature(secret, delivery, timestamp, body.decode())
    headers = {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": timestamp, "X-MLflow-Signature": signature}
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=60)
    headers |= {f"X-MLflow-{name}": text for name, text in changed.items()}
    connection.request("POST", "/", body, headers | {"Content-Length": length or str(len(body))})
    return connection.getresponse().status


def event(entity: str = "model_version_alias", action: str = "created", **data: Any) -> bytes:
    return json.dumps({"entity": entity, "action": action, "timestamp": "now", "data": DATA | data}).encode()


def test_a_signed_change_is_handed_on_once_and_nothing_else() -> None:
    changes: list[AliasChange] = []
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    with receiving(KEY, changes.append) as address:
        assert [post(address, event(), delivery=first) for _ in range(2)] == [204, 204]
        assert post(address, event(action="deleted", version=None), delivery=second) == 204
        assert post(address, event("registered_model")) == 204
        assert post(address, event(), secret="another") == 401
        assert post(address, event(), age_s=301) == 401
        assert post(address, event(), age_s=-301) == 401
        assert post(address, event(), **{"Delivery-Id": "of another"}) == 401
        assert post(address, event(), Signature="v1,é".encode().decode("latin-1")) == 401
        assert post(address, event(), Timestamp="soon") == 401
        assert post(address, event(), Timestamp="1" * 5000) == 401
        assert post(address, event(), **{"Delivery-Id": "of another"}, length="1" * 5000) == 413
        assert post(address, b"no JSON") == 400
        assert post(address, event(name=3)) == 400
        assert post(address, b"[" * 20000) == 400
        assert post(address, b" " * (MAX_BYTES + 1)) == 413
    assert changes == [
        AliasChange(delivery=first, model="stemline", alias="champion", version="3"),
        AliasChange(delivery=second, model="stemline", alias="champion", version=""),
    ]


def test_what_is_not_taken_is_posted_again() -> None:
    changes: list[AliasChange] = []
    delivery = str(uuid.uuid4())

    def deliver(change: AliasChange) -> None:
        changes.append(change)
        if len(changes) == 1:
            raise OSError("Prefect does not answer")

    with receiving(KEY, deliver) as address:
        assert [post(address, event(), delivery=delivery) for _ in range(3)] == [502, 204, 204]
    assert len(changes) == 2


def test_what_is_posted_again_while_it_is_handed_on_is_handed_on_once() -> None:
    changes: list[AliasChange] = []
    under_way, again = threading.Event(), str(uuid.uuid4())

    def deliver(change: AliasChange) -> None:
        changes.append(change)
        under_way.set()
        time.sleep(0.5)  # as a server that takes its time

    with receiving(KEY, deliver) as address, ThreadPoolExecutor(1) as beside:
        first = beside.submit(post, address, event(), delivery=again)
        assert under_way.wait(60)
        assert post(address, event(), delivery=again) == first.result() == 204
    assert len(changes) == 1


def test_what_prefect_does_not_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    change = AliasChange(delivery=str(uuid.uuid4()), model="stemline", alias="champion", version="3")
    written = io.StringIO()
    nobody = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody), pytest.raises(httpx.ConnectError):
        hand_on(change, wait_s=1.0, screen=Screen(Console(file=written, width=300)))
    assert written.getvalue().startswith(
        "models:/stemline@champion is version 3: Prefect does not take it (ConnectError: "
    )


def test_a_missing_secret_server_or_port_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SECRET, "short")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["webhook", "--preset", "smoke"]) == 2
    assert f"{SECRET} must have >= 16 characters, got 5" in capsys.readouterr().err
    monkeypatch.setenv(SECRET, KEY)
    assert main(["webhook", "--preset", "smoke"]) == 2
    assert "PREFECT_API_URL must be set" in capsys.readouterr().err
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with receiving(KEY, print) as address:
        assert main(["webhook", "--preset", "smoke", "--port", address.split(":")[-1].rstrip("/")]) == 2
        assert "give another" in capsys.readouterr().err
    assert main(["webhook", "--preset", "smoke", "--port", "70000"]) == 2
    assert "--port 70000: bind(): port must be 0-65535; give another" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_hands_a_change_to_prefect_until_ctrl_c(prefect_server: None, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, "-m", "flows", "webhook", "--port", "0", "--preset", "smoke", f"store.root={tmp_path}"]
    variables = {**os.environ, SECRET: KEY, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    model = f"m{uuid.uuid4().hex}"
    with subprocess.Popen(
        command, env=variables, stderr=subprocess.PIPE, text=True,
        # As from a terminal: what a script starts in the background is deaf to Ctrl-C, and stays so
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        try:
            assert running.stderr is not None
            address = running.stderr.readline().split()[-1]
            assert post(address, event(name=model)) == 204
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0
        finally:
            running.kill()
    about = {"filter": {"resource": {"id": [f"stemline.model.{model}"]}}}
    until, events = time.monotonic() + 60, list[Any]()
    with get_client(sync_client=True) as client:
        while not events:
            assert time.monotonic() < until, "no event came"
            events = client._client.post("/events/filter", json=about).json()["events"]
            time.sleep(0.2)
    assert [told["event"] for told in events] == ["stemline.alias"]
    assert (events[0]["resource"]["stemline.version"], events[0]["resource"]["stemline.alias"]) == ("3", "champion")
