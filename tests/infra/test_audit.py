"""`.ci/audit` names what is known to be vulnerable, and says so where it could not ask."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest


class Osv(BaseHTTPRequestHandler):
    """Knows one thing about Ray."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        told = [{"vulns": [{"id": "GHSA-1"}]} if one["package"]["name"] == "ray" else {} for one in asked]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": told}).encode())

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def osv() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def audit(repository: Path, url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, repository / ".ci" / "audit"]
    return subprocess.run(command, env={"OSV_URL": url}, capture_output=True, text=True, check=False)


def test_what_is_vulnerable_is_named_with_its_version(repository: Path, osv: str) -> None:
    done = audit(repository, osv)
    assert done.returncode == 1
    assert f"ray {version('ray')}: GHSA-1" in done.stdout
    assert "1 with known vulnerabilities" in done.stdout


def test_without_a_network_it_says_that_nothing_was_scanned(repository: Path) -> None:
    done = audit(repository, "http://127.0.0.1:9")
    assert done.returncode == 0
    assert "not scanned" in done.stdout
