"""SIGTERM while the real servers work: the command ends in time, and nothing of it is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from datasets.corpus.synthetic import write_corpus

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROMISED_S = 20.0


def family(pid: int) -> list[str]:
    """The command lines of processes of its session that live."""
    alive = []
    for process in psutil.process_iter():
        try:
            if process.pid != pid and os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return alive


def test_a_command_that_is_terminated_at_work_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    write_corpus(tmp_path / "songs", num_songs=3, seed=1, duration_s=6.0, defects=False)
    roots = [f"corpus.root={tmp_path / 'songs'}", f"store.root={tmp_path / 'store'}"]
    command = [sys.executable, "-m", "flows", "ingest", *roots]
    told = tmp_path / "told"
    with told.open("w") as output:
        process = subprocess.Popen(command, cwd=repository, stdout=output, stderr=output, start_new_session=True)
    deadline_s = time.monotonic() + 300
    while not any("raylet" in line for line in family(process.pid)) and time.monotonic() < deadline_s:
        assert process.poll() is None, told.read_text()
        time.sleep(0.2)
    assert any("create_app" in line for line in family(process.pid)), "Prefect's temporary server"
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert time.monotonic() - began_s < PROMISED_S
    assert "Stopped. Run the same command again to continue." in told.read_text()
    deadline_s = time.monotonic() + 60  # an agent that Ray had just begun to start sees so once it is up
    while family(process.pid) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert family(process.pid) == []
    assert not list(Path("/tmp").glob(f"sl-{process.pid}-*"))
