"""`stemline ui`: three pages for this machine until Ctrl-C, and nothing left behind."""

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from datasets.store.ownership import claim_store

# Ctrl-C is heard even where the tests run in the background of a shell, which has it ignored.
NEW_SESSION: Any = {
    "start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
}  # fmt: skip


def status(address: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """What a server answers to a request, and who may read the answer besides its own pages."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json", **named})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.headers.get("Access-Control-Allow-Origin", "")
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Access-Control-Allow-Origin", "")


def takes_no_orders(addresses: dict[str, str], password: str) -> None:
    """From nobody without the password, and from no page of another origin or under another name."""
    flows = f"{addresses['Prefect']}api/flows/filter"
    known = f"Basic {base64.b64encode(password.encode()).decode()}"
    assert status(flows, b"{}")[0] == 401
    assert status(flows, b"{}", Authorization="Basic eDp5")[0] == 401
    assert status(flows, b"{}", Authorization=known) == (200, "")
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert status(flows, b"{}", Authorization=known, Origin=origin)[1] == ""
    assert status(flows, b"{}", Authorization=known, Origin=addresses["Prefect"].rstrip("/"))[1] != ""
    experiments = f"{addresses['MLflow']}api/2.0/mlflow/experiments/create"
    assert status(experiments, b'{"name": "x"}', Origin="https://evil.example")[0] == 403
    for name in ("report", "MLflow"):
        assert status(addresses[name], Host="evil.example")[0] == 403, name
        assert status(addresses[name], Host=f"evil.example:{addresses[name].rsplit(':', 1)[1].strip('/')}")[0] == 403


@pytest.mark.slow
def test_the_pages_answer_until_ctrl_c_and_no_process_is_left_after(tmp_path: Path) -> None:
    claim_store(tmp_path, setting="store.root")
    (tmp_path / "report.html").write_text("<p>the report</p>")
    command = [sys.executable, "-m", "flows", "ui", f"store.root={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **NEW_SESSION) as running:
        try:
            assert running.stderr is not None
            shown: dict[str, str] = {}
            for line in running.stderr:  # ends where the program does
                name, _, rest = line.strip().partition(" ")
                if name == "Ctrl-C":
                    break
                shown[name] = rest.strip()
            addresses = {name: address for name, address in shown.items() if address.startswith("http")}
            assert set(addresses) == {"report", "MLflow", "Prefect"}
            for name, address in addresses.items():
                assert address.startswith("http://127.0.0.1:"), name
                with urllib.request.urlopen(address, timeout=300) as answer:
                    assert answer.status == 200
                    if name == "report":
                        assert answer.read() == b"<p>the report</p>"
            takes_no_orders(addresses, shown["password"])
            page = tmp_path / "cache" / "prefect-ui" / "v2" / "index.html"
            assert page.is_file(), "made beside the code, which may belong to somebody else"
            started = psutil.Process(running.pid).children(recursive=True)
            assert len(started) >= 2
            running.send_signal(signal.SIGINT)
            assert running.wait(300) == 0
            assert not psutil.wait_procs(started, timeout=30)[1]
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
