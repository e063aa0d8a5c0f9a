"""A step's result on Prefect's page of its run: a table of figures and addresses, and links to more."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any
from urllib.parse import quote

from datasets.errors import without_user
from flows.console.markdown import literal
from pipelines import registry
from pipelines.runtime import ray_jobs

_LOG = logging.getLogger(__name__)
MAX_ROWS = 40
MAX_CHARACTERS = 300


def show(name: str, result: Any) -> None:
    """Creates the artifact of a step's result, if called in a run of Prefect's.

    A server that cannot be reached is logged and changes nothing of the result.
    """
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import FlowRunContext, TaskRunContext

    if not (FlowRunContext.get() or TaskRunContext.get()):
        return
    try:
        create_markdown_artifact(markdown=_page(name, result), key=f"step-{name}", description=name)
    except Exception as error:  # httpx has a dozen kinds of "unreachable"
        _LOG.warning("%s is not shown on Prefect's page: %s", name, error)


def _page(name: str, result: Any) -> str:
    rows = list(_rows(result))[:MAX_ROWS]
    table = "\n".join(f"| {literal(key)} | {_cell(value)} |" for key, value in rows)
    return "\n\n".join([f"### {name}", f"| what | value |\n|---|---|\n{table}", *_links(result)])


def _rows(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of a result by its dotted name; of lists their length."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _rows(below, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple):
        yield at or "items", f"{len(value)} items"
    elif value is not None:
        yield at or "result", value


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return literal(text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…")


def _links(result: Any) -> Iterator[str]:
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if isinstance(result, registry.ModelVersion) and tracking.startswith("http"):
        version = f"{quote(result.name, safe='')}/versions/{result.version}"
        yield f"[The version in MLflow]({without_user(tracking)}/#/models/{version})"
    if cluster := ray_jobs.server():
        yield f"[Jobs of the Ray cluster]({without_user(cluster)}/#/jobs)"
