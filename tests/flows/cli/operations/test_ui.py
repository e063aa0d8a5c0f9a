"""`stemline ui`: three pages for this machine, and nothing left behind."""

import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from flows.cli.operations import ui
from flows.console.progress_display import Screen


class Listening(Screen):
    """Keeps the lines that were said."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_pages_answer_while_it_runs_and_no_process_is_left_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "report.html").write_text("<p>the report</p>")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    screen, over = Listening(), threading.Event()
    thread = threading.Thread(target=ui.serve, args=(tmp_path,), kwargs={"screen": screen, "until": over})
    thread.start()
    deadline = time.monotonic() + 300
    while len(screen.lines) < 4 and time.monotonic() < deadline and thread.is_alive():
        time.sleep(0.2)
    try:
        addresses = dict(line.split() for line in screen.lines[:3])
        assert set(addresses) == {"report", "MLflow", "Prefect"}
        for name, address in addresses.items():
            assert address.startswith("http://127.0.0.1:"), name
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
                if name == "report":
                    assert answer.read() == b"<p>the report</p>"
    finally:
        over.set()
        thread.join(60)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
