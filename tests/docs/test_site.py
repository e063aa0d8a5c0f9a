"""The built site: no warning, no request to the network, no broken link, and a search that finds settings and verbs."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = [pytest.mark.slow]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
OPTIONS = ["-m", "sphinx", "-W", "--keep-going", "-q", "-a", "-b", "html", "-d", "build/doctrees", "docs", "build/docs"]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "audio": "src", "source": "src", "video": "src"}


@pytest.fixture(scope="module")
def site(repository: Path) -> Path:
    """build/docs, as `make docs` makes it; what was read already is read again only if it changed."""
    made = subprocess.run(
        [sys.executable, *OPTIONS],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "LANG": "C"},
    )
    assert made.returncode == 0, made.stderr
    return repository / "build" / "docs"


def test_it_is_built_as_make_docs_builds_it(repository: Path) -> None:
    """The gate builds it here and nowhere else."""
    recipe = (repository / "Makefile").read_text(encoding="utf-8").partition("\ndocs: ")[2].splitlines()[1]
    assert recipe.split() == ["@$(BIN)/python", *OPTIONS]


class Page(HTMLParser):
    """Names of places on a page, where its links lead, and what a browser fetches for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.fetched.append(given[FETCHED[tag]])
        if tag == "link" and given.get("rel") not in ("author", "canonical", "next", "prev", "index", "search"):
            self.fetched.append(given.get("href", ""))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_a_reader_of_pages_sees_what_would_be_fetched(tmp_path: Path) -> None:
    text = '<link rel="preload" href="https://a/f.woff2"><script src="//b/x.js"></script><a href="https://c">c</a>'
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert Page(tmp_path / "page.html").fetched == ["https://a/f.woff2", "//b/x.js"]


def test_no_page_loads_anything_from_the_network(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 30
    outside = {
        (path.name, address) for path, page in pages.items() for address in page.fetched if urlsplit(address).netloc
    }
    assert outside == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""url\(["']?(https?:|//)""", sheet.read_text(encoding="utf-8")), sheet


def test_examples_are_coloured_as_python_and_commands_are_not(site: Path) -> None:
    guide, reference = (site / name for name in ("how-to/find-outliers.html", "reference/python.html"))
    assert "stemline outliers models:/stemline@champion --preset" in guide.read_text(encoding="utf-8")
    assert '<span class="n">stemline</span><span class="o">.</span>' in reference.read_text(encoding="utf-8")


def test_every_link_between_pages_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.exists() or (parts.fragment and known and unquote(parts.fragment) not in known.places):
                broken.append((path.name, link))
    assert broken == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served; from files it works as well, but for the lines of text below each hit."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.browser
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("evaluate.overlap", "reference/settings.html"),
        ("rollback", "reference/verbs.html"),
        ("champion", "concepts.html"),
    ],
)
def test_the_search_finds_it_without_a_request(browser: Any, address: str, words: str, found: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{address}/search.html?q={words}")
    page.locator("#search-results li a").first.wait_for(timeout=30_000)
    page.wait_for_timeout(500)
    links = [link.get_attribute("href") for link in page.locator("#search-results li > a").all()]
    assert any(found in link for link in links), links
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert complaints == []
    page.close()
