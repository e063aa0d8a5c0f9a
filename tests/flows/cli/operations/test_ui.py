"""`stemline ui`: three pages for this machine until Ctrl-C, and nothing left behind."""

import os
import signal
import subprocess
import sys
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


@pytest.mark.slow
def test_the_pages_answer_until_ctrl_c_and_no_process_is_left_after(tmp_path: Path) -> None:
    claim_store(tmp_path, setting="store.root")
    (tmp_path / "report.html").write_text("<p>the report</p>")
    command = [sys.executable, "-m", "flows", "ui", f"store.root={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **NEW_SESSION) as running:
        try:
            assert running.stderr is not None
            addresses: dict[str, str] = {}
            for line in running.stderr:  # ends where the program does
                name, _, address = line.strip().partition(" ")
                if name == "Ctrl-C":
                    break
                if address.strip().startswith("http"):
                    addresses[name] = address.strip()
            assert set(addresses) == {"report", "MLflow", "Prefect"}
            for name, address in addresses.items():
                assert address.startswith("http://127.0.0.1:"), name
                with urllib.request.urlopen(address, timeout=300) as answer:
                    assert answer.status == 200
                    if name == "report":
                        assert answer.read() == b"<p>the report</p>"
            started = psutil.Process(running.pid).children(recursive=True)
            assert len(started) >= 2
            running.send_signal(signal.SIGINT)
            assert running.wait(300) == 0
            assert not psutil.wait_procs(started, timeout=30)[1]
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
