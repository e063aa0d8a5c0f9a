"""SIGTERM while a drill has its services and a machine up: nothing of them is left."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from tests.drills.isolated_machines import NotAllowedError, require_namespaces
from tests.drills.service_processes import MARK

pytestmark = [pytest.mark.ray, pytest.mark.slow]
OURS = "STEMLINE_DRILL_OF_TEST"  # in the environment of all that the drill starts


def of_the_drill(mark: str) -> dict[psutil.Process, tuple[str, str]]:
    """Its processes, each with its name and the mark of the services that it is of; many live for a moment only."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(OURS) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process] = process.name(), environment.get(MARK, "")
        except psutil.Error:
            continue
    return found


def has_a_machine(processes: dict[psutil.Process, tuple[str, str]]) -> bool:
    return any("raylet" in name for name, _ in processes.values())


def test_a_drill_that_is_terminated_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    try:
        require_namespaces()
    except NotAllowedError as error:
        pytest.skip(str(error))
    mark, told = uuid.uuid4().hex, tmp_path / "told"
    environment = {**os.environ, OURS: mark, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.drills.drill_cluster", "--accidents"]
    with told.open("w") as output:
        process = subprocess.Popen(command, cwd=repository, env=environment, stdout=output, stderr=output)
    try:
        deadline_s = time.monotonic() + 300
        while not has_a_machine(of_the_drill(mark)) and time.monotonic() < deadline_s:
            assert process.poll() is None, told.read_text()
            time.sleep(0.2)
        started = of_the_drill(mark)
        services = {of_services for _, of_services in started.values() if of_services}
        assert has_a_machine(started)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGHUP)  # does not interrupt the cleaning up
        assert process.wait(120) == 143
        psutil.wait_procs(list(started), 10)
        assert of_the_drill(mark) == {}
        assert [name for name in services if Path("/tmp", name).exists()] == []
        assert list(tmp_path.glob("drill-*")) == []
    finally:
        process.kill()
        for one in of_the_drill(mark):
            one.kill()
