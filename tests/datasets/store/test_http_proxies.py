"""With a proxy in the environment, servers on this machine are asked directly, as every client reads the variables."""

import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import requests

from datasets.store import storage
from datasets.store.http_proxies import bypass_proxies, proxy_for
from datasets.store.object_store import client
from tests.s3 import BUCKET, object_store


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server here, with proxies in the environment at which nobody listens."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()
        thread.join()


def test_clients_reach_a_server_here_past_a_proxy(server: str) -> None:
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(server, timeout=5)
    bypass_proxies()
    assert requests.get(server, timeout=5).status_code == 200
    assert httpx.get(server, timeout=5).status_code == 200
    with urllib.request.urlopen(server, timeout=5) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("lower", "upper", "joined"),
    [
        ("", "", "127.0.0.1,localhost,::1"),
        ("corp.example, 10.0.0.1", "corp.example", "corp.example,10.0.0.1,127.0.0.1,localhost,::1"),
        ("localhost", "", "localhost,127.0.0.1,::1"),
    ],
)
def test_hosts_that_are_named_stay(monkeypatch: pytest.MonkeyPatch, lower: str, upper: str, joined: str) -> None:
    monkeypatch.setenv("no_proxy", lower)
    monkeypatch.setenv("NO_PROXY", upper)
    for _ in range(2):
        bypass_proxies()
        assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (joined, joined)


def test_a_proxy_for_nobody_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("NO_PROXY", raising=False)
    bypass_proxies()
    assert os.environ["no_proxy"] == "*"
    assert "NO_PROXY" not in os.environ


@pytest.mark.parametrize(
    ("endpoint", "proxy"),
    [
        ("https://s3.example", "http://secure:3128"),
        ("http://s3.example:9000", "http://plain:3128"),
        ("s3.example", "http://secure:3128"),
        ("http://127.0.0.1:9000", None),
        ("http://[::1]:9000", None),
        ("https://minio.corp.example", None),
    ],
)
def test_the_proxy_of_an_address(monkeypatch: pytest.MonkeyPatch, endpoint: str, proxy: str | None) -> None:
    for name, value in {
        "http_proxy": "http://plain:3128", "https_proxy": "http://secure:3128", "no_proxy": "corp.example",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert proxy_for(endpoint) == proxy


def test_s3_is_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server elsewhere that answers here: requests go to the proxy, which takes whole addresses."""
    with object_store() as server, monkeypatch.context() as elsewhere:  # undone before the server's own variables are
        elsewhere.setenv("AWS_ENDPOINT_URL", "http://s3.us-east-1.amazonaws.com")
        elsewhere.setenv("http_proxy", server.url)
        elsewhere.setenv("no_proxy", "127.0.0.1")
        client.cache_clear()
        try:
            storage.write(f"s3://{BUCKET}/through/a.bin", b"0123")
            assert storage.read(f"s3://{BUCKET}/through/a.bin") == b"0123"
        finally:
            client.cache_clear()
        assert server.requests
