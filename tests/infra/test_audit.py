"""`.ci/audit` names what is known to be vulnerable, fails from a severity on, and says so where it could not ask."""

import datetime
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

FOUND, NOT_SCANNED = 1, 3
DAY = datetime.timedelta(days=1)
# As osv.dev has them: two databases name one of Ray's, and only GitHub's says how severe it is.
KNOWN: dict[str, dict[str, Any]] = {
    "GHSA-1": {"aliases": ["CVE-1"], "database_specific": {"severity": "HIGH"}},
    "PYSEC-1": {"aliases": ["CVE-1"]},
    "GHSA-2": {"aliases": ["CVE-2"], "database_specific": {"severity": "MODERATE"}},
    "PYSEC-3": {"aliases": ["CVE-3"]},
}


class Osv(HTTPServer):
    """Knows what it is told of packages."""

    def __init__(self) -> None:
        self.vulnerable: dict[str, list[str]] = {}
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self._say({"results": [self._page(one) for one in asked]})

    def _page(self, query: dict[str, Any]) -> dict[str, Any]:
        """One name a page, as osv.dev pages long answers."""
        names = self.server.vulnerable.get(query["package"]["name"], [])[int(query.get("page_token", 0)) :]
        if not names:
            return {}
        page = {"vulns": [{"id": names[0]}]}
        return page | ({"next_page_token": str(int(query.get("page_token", 0)) + 1)} if names[1:] else {})

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        self._say({"id": name, **KNOWN[name]})

    def _say(self, told: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def osv() -> Iterator[Osv]:
    with Osv() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def audit(repository: Path, tmp_path: Path) -> Any:
    def run(url: str, settings: str = 'fails_from = "HIGH"\n') -> "subprocess.CompletedProcess[str]":
        (tmp_path / "audit.toml").write_text(settings, encoding="utf-8")
        environment = {"OSV_URL": url, "AUDIT_SETTINGS": str(tmp_path / "audit.toml")}
        command = [sys.executable, repository / ".ci" / "audit"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def allowed(name: str, until: datetime.date) -> str:
    return f'fails_from = "HIGH"\n[[allowed]]\nid = "{name}"\nuntil = {until}\nwhy = "a test"\n'


def test_what_is_vulnerable_is_named_once_with_its_version_and_severity(osv: Osv, audit: Any) -> None:
    osv.vulnerable = {"ray": ["GHSA-1", "PYSEC-1"]}
    done = audit(osv.url)
    assert done.returncode == FOUND
    assert f"ray {version('ray')}: CVE-1, GHSA-1, PYSEC-1, high\n" in done.stdout
    assert "1 known vulnerabilities, 1 of them from high on and not allowed" in done.stdout


@pytest.mark.parametrize(
    ("name", "fails_from", "code"),
    [("GHSA-2", "HIGH", 0), ("GHSA-2", "MODERATE", FOUND), ("GHSA-1", "CRITICAL", 0), ("PYSEC-3", "CRITICAL", FOUND)],
)
def test_it_fails_from_a_severity_on_and_for_an_unknown_one(
    osv: Osv, audit: Any, name: str, fails_from: str, code: int
) -> None:
    osv.vulnerable = {"ray": [name]}
    done = audit(osv.url, f'fails_from = "{fails_from}"\n')
    assert done.returncode == code
    assert name in done.stdout


def test_one_is_allowed_until_its_day_under_any_of_its_names(osv: Osv, audit: Any) -> None:
    osv.vulnerable = {"ray": ["GHSA-1"]}
    today = datetime.datetime.now(datetime.UTC).date()
    assert audit(osv.url, allowed("CVE-1", today + DAY)).returncode == 0
    late = audit(osv.url, allowed("CVE-1", today - DAY))
    assert late.returncode == FOUND
    assert f"was allowed until {today - DAY}" in late.stdout


def test_what_is_allowed_and_gone_is_named(osv: Osv, audit: Any) -> None:
    done = audit(osv.url, allowed("CVE-9", datetime.date(2999, 1, 1)))
    assert done.returncode == 0
    assert "CVE-9 is allowed and not found any more" in done.stdout


def test_a_name_from_outside_is_not_printed_as_it_comes(osv: Osv, audit: Any) -> None:
    osv.vulnerable = {"ray": ["\x1b[2J"]}
    done = audit(osv.url)
    assert (done.returncode, "\x1b" in done.stdout) == (NOT_SCANNED, False)


def test_without_a_network_it_says_that_nothing_was_scanned(audit: Any) -> None:
    done = audit("http://127.0.0.1:9")
    assert done.returncode == NOT_SCANNED
    assert "not scanned" in done.stdout


def test_our_own_settings_are_read_and_the_gate_counts_what_was_not_scanned(repository: Path) -> None:
    command = [sys.executable, repository / ".ci" / "audit"]
    done = subprocess.run(command, env={"OSV_URL": "http://127.0.0.1:9"}, capture_output=True, text=True, check=False)
    assert done.returncode == NOT_SCANNED
    gate = (repository / ".ci" / "run").read_text(encoding="utf-8")
    case = gate[gate.index(".ci/audit\n") : gate.index('echo "gate: all passed')]
    script = "failed=() unscanned=\n" + case.replace(".ci/audit", '(exit "$1")') + 'echo "${failed[*]}|$unscanned"'
    said = {
        code: subprocess.run(["bash", "-c", script, "gate", code], capture_output=True, text=True) for code in "013"
    }
    assert said["0"].stdout == "|\n"
    assert "audit" in said["1"].stdout
    assert said["3"].stdout == "|, not scanned for vulnerabilities\n"
