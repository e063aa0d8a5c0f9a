"""Scores of estimates that lie in arrays, by the measures of `stemline evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.errors import InputError
from stemline import audio_arrays

if TYPE_CHECKING:
    from datasets.schema import Score


def score(
    references: Mapping[str, Any],
    estimates: Mapping[str, Any],
    *,
    sample_rate: int,
    window_s: float = 1.0,
    full_bss_eval: bool = False,
    extra_metrics: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> "dict[str, Score]":
    """Scores of each source of one song: nSDR (MDX 2021), SDR (BSS Eval v4, `window_s` long windows) and more, in dB.

    `references` and `estimates` have an array or tensor (C, T) for each source, all of one shape; the references must
    be all sources of the song, since their sum is the mixture. `full_bss_eval` adds ISR, SIR and SAR, `extra_metrics`
    any of si_sir, si_sar, log_wmse, aura_mrstft, bleedless and fullness, `plugins` metrics of plug-ins, by the name of
    their entry point or as "package.module:object", whose scores are in `plugin_scores`. A score that is undefined, as
    where the reference is silent, is None.

    Example:

        scores = stemline.score(stems, model.separate(mixture, sample_rate=44_100), sample_rate=44_100)
        scores["vocals"].nsdr

    Raises:
        InputError: Sources or shapes differ, samples are not finite, or a plug-in is not there or fails.
    """
    import torch

    from models.errors import ModelError
    from pipelines.evaluation import song_scoring
    from pipelines.evaluation.evaluate_config import EvaluateConfig

    sources = tuple(references)
    if not sources or set(sources) != set(estimates):
        raise InputError(
            f"references and estimates must have the same sources, got {', '.join(sources) or 'none'} and "
            f"{', '.join(estimates) or 'none'}"
        )
    config = EvaluateConfig(
        window_s=window_s, full_bss_eval=full_bss_eval, extra_metrics=tuple(extra_metrics), plugins=tuple(plugins)
    )
    stacked = [
        torch.from_numpy(_stacked(stems, sources, name, sample_rate))
        for name, stems in (("references", references), ("estimates", estimates))
    ]
    try:
        result = song_scoring.score_song(
            replace(config.measures, text="arrays"), *stacked, sources=sources, sample_rate=sample_rate,
            track_id="array", title="array", seconds=0.0,
        )  # fmt: skip
    except ModelError as error:
        raise InputError(str(error)) from error
    return {row.source: row for row in result.scores}


def _stacked(stems: Mapping[str, Any], sources: Sequence[str], name: str, sample_rate: int) -> audio_arrays.Samples:
    """Stems (S, C, T) in the order of `sources`."""
    batches = [
        audio_arrays.as_batch(stems[source], sample_rate=sample_rate, name=f"{name}[{source!r}]") for source in sources
    ]
    shapes = {batch_BCT.shape for batch_BCT in batches}
    if len(shapes) > 1:
        raise InputError(f"{name} must have one shape, got {', '.join(str(shape[1:]) for shape in sorted(shapes))}")
    if np.ndim(stems[sources[0]]) != 2:
        raise InputError(f"{name} must be (channels, samples): score the songs of a batch one by one")
    return np.concatenate(batches)
