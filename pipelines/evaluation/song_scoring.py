"""How one song is scored: the stems, the estimates and a protocol go in, a score per source comes out.

Beside the estimates stand the unprocessed mixture (the floor) and the IRM2 oracle (a mask), scored alike. A
result is a file of its own, named by model, song and protocol, so that an evaluation that was killed goes on after
the songs it had. `evaluate.py` separates and sums up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.schema import Score
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.evaluation import extra_metrics

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "scored"  # in the store
METRICS = ("sdr", "isr", "sir", "sar")
SCORERS = ("stemline", "museval")
ILL_CONDITIONED = "lu"  # `models.scores.bsseval`'s word, without importing torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What is measured, and how."""

    text: str  # all that scores depend on beside model and song, in a line for tables
    window_s: float
    full_bss_eval: bool
    scorer: str  # of `SCORERS`
    extra_metrics: tuple[str, ...] = ()  # of `extra_metrics.LABELS`
    plugins: tuple[str, ...] = ()  # metrics of plug-ins


@dataclass(frozen=True, slots=True, kw_only=True)
class SongResult:
    """What is known of one song under one protocol."""

    scores: tuple[Score, ...]  # in the order of sources
    windows: Mapping[str, Mapping[str, Sequence[float | None]]]  # source -> metric -> dB per window; None: no score
    window_s: float
    seconds: float  # that separating took


def address(store: str, key: str) -> str:
    """Where the result of a song lies; `key` digests model, song and protocol."""
    return storage.join(store, FOLDER, f"{key}.json")


def keep(store: str, key: str, result: SongResult) -> None:
    """Write a result, whole or not at all."""
    write_json(address(store, key), {**asdict(result), "scores": [asdict(score) for score in result.scores]})


def find(store: str, key: str, *, track_id: str, title: str) -> SongResult | None:
    """The result of an earlier run, under the name that the song has now; None where there is none that is whole."""
    content = read_json(address(store, key))
    try:
        scores = (
            [Score(**{**row, "track_id": track_id, "title": title}) for row in content.pop("scores")] if content else ()
        )
        return SongResult(**content, scores=tuple(scores)) if scores and content else None
    except (TypeError, KeyError):  # of other columns
        return None


def score_song(
    protocol: Protocol,
    stems_SCT: "Tensor",
    estimates_SCT: "Tensor",
    *,
    sources: Sequence[str],
    sample_rate: int,
    track_id: str,
    title: str,
    seconds: float,
) -> SongResult:
    """Scores of one song; InputError where an estimate has another length, or is not finite."""
    from models.scores.metrics import ideal_ratio_mask, leakage, nsdr, sdr_windows, si_sdr, silent

    _require_sound(stems_SCT, estimates_SCT, sources, title)
    window_samples = round(protocol.window_s * sample_rate)
    mixture_CT = stems_SCT.sum(dim=0)
    outer = {"mixture": mixture_CT.expand_as(stems_SCT), "ceiling": ideal_ratio_mask(stems_SCT)}
    columns: dict[str, Sequence[Any]] = {
        "nsdr": nsdr(stems_SCT, estimates_SCT).tolist(),
        "si_sdr": _known(si_sdr(stems_SCT, estimates_SCT)),
    }
    extra = extra_metrics.compute(protocol.extra_metrics, stems_SCT, estimates_SCT, mixture_CT, sample_rate)
    columns |= {name: _known(score_S) for name, score_S in extra.items()}
    for name, made_SCT in outer.items():
        columns[f"{name}_nsdr"] = nsdr(stems_SCT, made_SCT).tolist()
        columns[f"{name}_sdr"] = _medians(sdr_windows(stems_SCT, made_SCT, window_samples))
    windows, about = _windows(protocol, stems_SCT, estimates_SCT, window_samples)
    columns |= {name: _medians(score_SW) for name, score_SW in windows.items()}
    silent_S = silent(stems_SCT).tolist()  # whose ratios say nothing of the model
    columns = {
        name: [None if is_silent else value for value, is_silent in zip(values, silent_S, strict=True)]
        for name, values in columns.items()
    }
    columns["leakage_db"] = _known(leakage(stems_SCT, estimates_SCT, mixture_CT, window_samples))
    power = float(mixture_CT.double().square().mean())
    common = {
        "track_id": track_id,
        "title": title,
        "protocol": protocol.text,
        "duration_s": mixture_CT.shape[-1] / sample_rate,
        "level_db": 10 * math.log10(power) if power > 1e-12 else -120.0,
        **about,
    }
    own = extra_metrics.compute_plugins(protocol.plugins, stems_SCT, estimates_SCT, sample_rate)
    columns["plugin_scores"] = [{} if is_silent else scores for is_silent, scores in zip(silent_S, own, strict=True)]
    scores = [
        Score(source=source, **common, **{name: values[place] for name, values in columns.items()})
        for place, source in enumerate(sources)
    ]
    by_source = {
        source: {name: _known(score_SW[place]) for name, score_SW in windows.items()}
        for place, source in enumerate(sources)
    }
    return SongResult(scores=tuple(scores), windows=by_source, window_s=protocol.window_s, seconds=seconds)


def _require_sound(stems_SCT: "Tensor", estimates_SCT: "Tensor", sources: Sequence[str], title: str) -> None:
    if stems_SCT.shape != estimates_SCT.shape:
        raise InputError(
            f"{title}: a model must return as many samples as it gets; estimates have the shape "
            f"{tuple(estimates_SCT.shape)}, stems {tuple(stems_SCT.shape)} (sources, channels, samples)"
        )
    broken = [source for source, made_CT in zip(sources, estimates_SCT, strict=True) if not made_CT.isfinite().all()]
    if broken:
        raise InputError(
            f"{title}: the model's estimate of {', '.join(broken)} holds NaN or infinite samples; use weights that "
            "were saved before training diverged, or evaluate.precision=float32"
        )


def _windows(
    protocol: Protocol, stems_SCT: "Tensor", estimates_SCT: "Tensor", window_samples: int
) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Decibels (S, W) by metric, and what solved the equations behind them, how well conditioned they were."""
    from models.scores.bsseval import bss_eval
    from models.scores.metrics import sdr_windows

    if protocol.scorer == "museval":
        metrics = METRICS if protocol.full_bss_eval else METRICS[:1]
        return {
            name: score_SW
            for name, score_SW in _by_museval(stems_SCT, estimates_SCT, window_samples).items()
            if name in metrics
        }, {}
    if not protocol.full_bss_eval:
        return {"sdr": sdr_windows(stems_SCT, estimates_SCT, window_samples)}, {}
    scores = bss_eval(stems_SCT, estimates_SCT, window_samples)
    windows = {name: getattr(scores, f"{name}_SW") for name in METRICS}
    return windows, {"solver": scores.solver, "conditioning": scores.conditioning}


def _by_museval(stems_SCT: "Tensor", estimates_SCT: "Tensor", window_samples: int) -> dict[str, "Tensor"]:
    """The four scores as museval itself computes them; no numbers where it refuses, a source being silent."""
    import numpy as np
    import torch

    try:
        from museval.metrics import bss_eval
    except RuntimeError as error:  # its loader of songs looks for ffmpeg when it is imported
        raise InputError(f"evaluate.scorer='museval' cannot be had: {error}; 'stemline' scores the same") from None
    true, estimated = (signal_SCT.double().numpy().transpose(0, 2, 1) for signal_SCT in (stems_SCT, estimates_SCT))
    if any(not signal.sum(axis=2).any(axis=1).all() for signal in (true, estimated)):
        num_windows = max(1, true.shape[1] // window_samples)
        return dict.fromkeys(METRICS, torch.full((len(true), num_windows), torch.nan, dtype=torch.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = bss_eval(true, estimated, window=window_samples, hop=window_samples)
    return {name: torch.from_numpy(score_SW) for name, score_SW in zip(METRICS, scores[:4], strict=True)}


def _medians(scores_SW: "Tensor") -> list[float | None]:
    """Median over windows; None where every window was dropped."""
    from models.scores.metrics import sdr_median

    return _known(sdr_median(scores_SW))


def _known(values: "Tensor") -> list[float | None]:
    """None where there is no number."""
    return [None if value != value else value for value in values.tolist()]
