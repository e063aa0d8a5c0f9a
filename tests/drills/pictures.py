"""What the services' own pages show of a run, as small PNGs: `python -m tests.drills.stack --pictures docs/pictures`.

Debian's chromium opens them as a person would, with password and token.
"""

import base64
import io
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

from PIL import Image

from tests.drills.service_processes import Cluster

# Prefect draws a run's timeline with WebGL, which has to do without a graphics card here.
FLAGS = (
    "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-background-networking", "--no-first-run",
)  # fmt: skip
SIZE = {"width": 1360, "height": 860}
ASSISTANT = 354  # pixels on the right, where MLflow offers another product
COLOURS = 48
PATIENCE_MS = 90_000


def pages(made: Cluster, run: str, job: str, book: str) -> dict[str, tuple[str, str]]:
    """Address and words of the pages of a flow run, of its deployment's form, of a job, and of a run in MLflow."""
    prefect = made.environment["PREFECT_API_URL"].removesuffix("/api")
    ray, books = made.environment["RAY_ADDRESS"], made.environment["MLFLOW_TRACKING_URI"]
    form = made.ask("Prefect", "GET", "/deployments/name/full-run/stemline")["id"]
    body = {"flow_runs": {"id": {"any_": [run]}}, "artifacts": {"key": {"any_": ["step-train"]}}, "limit": 1}
    (shown,) = made.ask("Prefect", "POST", "/artifacts/filter", body)
    told = made.ask("MLflow", "GET", f"/api/2.0/mlflow/runs/get?run_id={book}")["run"]["info"]
    return {
        "prefect-run": (f"{prefect}/runs/flow-run/{run}", "Completed"),
        "prefect-artifact": (f"{prefect}/artifacts/artifact/{shown['id']}", "best_step"),
        "prefect-form": (f"{prefect}/deployments/deployment/{form}/run", "overrides"),
        "ray-job": (f"{ray}/#/jobs/{job}", job),
        "mlflow-run": (f"{books}/#/experiments/{told['experiment_id']}/runs/{book}/model-metrics", "rows_per_s"),
        "mlflow-model": (f"{books}/#/models/stemline", "champion"),
    }


def take(made: Cluster, folder: Path, wanted: dict[str, tuple[str, str]]) -> list[int]:
    """Bytes of each picture; `wanted` has the address of each and words that it shows once it is drawn."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium on this machine: apt-get install chromium"
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        context = _let_in(made, running)
        for name, (address, words) in wanted.items():
            page = context.new_page()
            page.goto(address, timeout=PATIENCE_MS)
            page.get_by_text(words).first.wait_for(timeout=PATIENCE_MS)
            page.wait_for_timeout(15_000)  # tables and timelines come after the headings
            width = SIZE["width"] - (ASSISTANT if name.startswith("mlflow") else 0)
            png = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": SIZE["height"]})
            taken.append(_keep(png, folder / f"{name}.png"))
            page.close()
        running.close()
    return taken


def _let_in(made: Cluster, running: Any) -> Any:
    """A browser that has shown its password to Prefect and MLflow, and its token to Ray."""
    books = urllib.parse.urlsplit(made.environment["MLFLOW_TRACKING_URI"])
    context = running.new_context(
        viewport=SIZE,
        color_scheme="light",
        http_credentials={
            "username": "stemline", "password": made.password, "origin": f"{books.scheme}://{books.netloc}"
        },
    )  # fmt: skip
    word = base64.b64encode(f"stemline:{made.password}".encode()).decode()
    context.add_init_script(f"localStorage.setItem('prefect-password', '{word}')")
    context.add_cookies(
        [{"name": "ray-authentication-token", "value": made.token, "url": made.environment["RAY_ADDRESS"]}]
    )
    return context


def _keep(png: bytes, path: Path) -> int:
    """The picture with few colours, which is a tenth of its size."""
    text = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS).save(text, "PNG", optimize=True)
    path.write_bytes(text.getvalue())
    return len(text.getvalue())
