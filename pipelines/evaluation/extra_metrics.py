"""Scores beside nSDR and SDR, for those who ask for them with `evaluate.extra_metrics`: names, and how they are had.

Each is a column of SCORES, a mean over the songs in which a source sounds, and of all of them more is better. The gate
does not look at them. What listening tests say of each: docs/explanation/scoring.md. Those of plug-ins
(`evaluate.plugins`) are a column together.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from datasets.errors import InputError
from datasets.schema import SCORES
from models.plugins import Plugin, PluginKind, require

if TYPE_CHECKING:
    from torch import Tensor

# By the column: what tables call it
LABELS = {
    "si_sdr": "SI-SDR",
    "si_sir": "SI-SIR",
    "si_sar": "SI-SAR",
    "log_wmse": "log-WMSE",
    "aura_mrstft": "Aura MRSTFT",
    "bleedless": "Bleedless",
    "fullness": "Fullness",
}
UNITS = "SI-SDR, SI-SIR and SI-SAR in dB, log-WMSE up to 73.7, the others from 0 to 100; more is better"
_BEGIN = "also "
METRIC = PluginKind(noun="metric", group="stemline.metrics", setting="evaluate.plugins", error=InputError)
OURS = frozenset({*SCORES.names, "nsdr_improvement", "num_songs"})  # what tables and MLflow call our own scores


def in_protocol(names: Collection[str]) -> str:
    """The part of a protocol's text that says which were asked for; empty where none was."""
    requested = [label for name, label in LABELS.items() if name in names]
    return f"{_BEGIN}{', '.join(requested)}" if requested else ""


def of_protocol(protocol: str) -> tuple[str, ...]:
    """The columns that were asked for, from a protocol's text."""
    for part in protocol.split("; "):
        if part.startswith(_BEGIN):
            labels = part.removeprefix(_BEGIN).split(", ")
            return tuple(name for name, label in LABELS.items() if label in labels)
    return ()


def compute(
    names: Collection[str], stems_SCT: "Tensor", estimates_SCT: "Tensor", mixture_CT: "Tensor", sample_rate: int
) -> dict[str, "Tensor"]:
    """Each score that is asked for, by its column, shape (S,), but SI-SDR, which is had without asking."""
    from models.scores.log_wmse import log_wmse
    from models.scores.mel_scores import aura_mrstft, bleedless_fullness
    from models.scores.scale_invariant import scale_invariant

    scores: dict[str, Tensor] = {}
    if "si_sir" in names or "si_sar" in names:
        ratios = scale_invariant(stems_SCT, estimates_SCT)
        scores |= {"si_sir": ratios.sir_S, "si_sar": ratios.sar_S}
    if "log_wmse" in names:
        scores["log_wmse"] = log_wmse(stems_SCT, estimates_SCT, mixture_CT, sample_rate)
    if "aura_mrstft" in names:
        scores["aura_mrstft"] = aura_mrstft(stems_SCT, estimates_SCT, sample_rate)
    if "bleedless" in names or "fullness" in names:
        scores["bleedless"], scores["fullness"] = bleedless_fullness(stems_SCT, estimates_SCT, sample_rate)
    return {name: score_S for name, score_S in scores.items() if name in names}


def plugin_metrics(chosen: Sequence[str]) -> list[Plugin]:
    """The metrics of these names; InputError where one is not there, nothing to call, or has the name of ours."""
    metrics = [metric for name in chosen if (metric := require(METRIC, name))]
    for metric in metrics:
        if metric.name in OURS:
            raise metric.failure(f"has the name of a score of stemline's own: set {METRIC.setting} to {metric.ref}")
    return metrics


def plugins_in_protocol(chosen: Sequence[str]) -> str:
    """The part of a protocol's text that says which were asked for, in which version; empty where none was."""
    return f"plug-ins {', '.join(metric.version for metric in plugin_metrics(chosen))}" if chosen else ""


def compute_plugins(
    chosen: Sequence[str], stems_SCT: "Tensor", estimates_SCT: "Tensor", sample_rate: int
) -> list[dict[str, float]]:
    """For each source the scores that are numbers, by the metric's name; NaN means that a source has none."""
    import torch

    scores: list[dict[str, float]] = [{} for _ in stems_SCT]
    for metric in plugin_metrics(chosen):
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
