"""Metrics of plug-ins: each is called with the stems of one song, and gives a number for every source."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets.errors import InputError
from models.plugins import Plugin, PluginKind, require

if TYPE_CHECKING:
    from torch import Tensor

METRIC = PluginKind(noun="metric", group="stemline.metrics", setting="evaluate.plugins", error=InputError)


def metrics(chosen: Sequence[str]) -> list[Plugin]:
    """The metrics of these names; InputError where one is not there, or nothing to call."""
    return [metric for name in chosen if (metric := require(METRIC, name))]


def in_protocol(chosen: Sequence[str]) -> str:
    """The part of a protocol's text that says which were asked for, in which version; empty where none was."""
    return f"plug-ins {', '.join(metric.version for metric in metrics(chosen))}" if chosen else ""


def compute(
    chosen: Sequence[str], stems_SCT: "Tensor", estimates_SCT: "Tensor", sample_rate: int
) -> list[dict[str, float]]:
    """For each source the scores that are numbers, by the metric's name; NaN means that a source has none."""
    import torch

    scores: list[dict[str, float]] = [{} for _ in stems_SCT]
    for metric in metrics(chosen):
        values = metric.call(stems_SCT.clone(), estimates_SCT.clone(), sample_rate=sample_rate)
        values_S = torch.as_tensor(values, dtype=torch.float64) if _is_numeric(values) else None
        if values_S is None or values_S.shape != (len(stems_SCT),):
            shape = type(values).__name__ if values_S is None else tuple(values_S.shape)
            raise metric.failure(f"returned {shape}: want {len(stems_SCT)} numbers, one for each source")
        for own, value in zip(scores, values_S.tolist(), strict=True):
            if value == value:
                own[metric.name] = value
    return scores


def _is_numeric(values: object) -> bool:
    """Whether torch makes numbers of it."""
    import torch

    try:
        torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True
