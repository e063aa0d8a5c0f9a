"""`stemline compare A B`: two models on the same held-out songs, song by song."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from flows.config import RunConfig
from flows.road import prepared
from flows.screen import Screen, decibels, table
from pipelines import gate
from pipelines.evaluate import ScoreSummary
from pipelines.gate import Pairs

MAX_SONGS = 5  # at either end


def run(config: RunConfig, first: str, second: str, *, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Scores of both, found again where they are known, and what the first gains over the second."""
    with prepared(config, verb="compare", screen=screen, debug=debug):
        from flows.train_model import compare_models

        one, two = compare_models(config, first, second)
        pairs = gate.compare(one, two, config.gate)
    plain = asdict(pairs)
    return {
        "first": first,
        "second": second,
        "protocol": one.protocol,
        **plain,
        "shown": _shown(first, second, one, two, pairs),
    }


def _shown(first: str, second: str, one: ScoreSummary, two: ScoreSummary, pairs: Pairs) -> Sequence[Any]:
    from flows.tables import gain_table

    rows = [
        [source, decibels(score.mixture_nsdr), decibels(score.nsdr), decibels(two.sources[source].nsdr)]
        for source, score in one.sources.items()
    ]
    rows.append(["mean", decibels(one.overall.mixture_nsdr), decibels(one.overall.nsdr), decibels(two.overall.nsdr)])
    title = f"nSDR in dB over {len(one.songs)} songs; {one.protocol}"
    return [
        Text(f"first   {first}\nsecond  {second}"),
        table(title, ["source", "mixture", "first", "second"], rows, strong_last=True),
        gain_table("Gain of the first over the second in dB nSDR, song by song", {**pairs.sources, "mean": pairs.gain}),
        table("Songs", ["track", "gain"], _extremes(pairs.songs)),
    ]


def _extremes(gains: Mapping[str, float]) -> list[list[str]]:
    """The songs that lost most and those that gained most."""
    ordered = sorted(gains.items(), key=lambda item: (item[1], item[0]))
    chosen = ordered if len(ordered) <= 2 * MAX_SONGS else [*ordered[:MAX_SONGS], *ordered[-MAX_SONGS:]]
    return [[track_id, decibels(gain, sign=True)] for track_id, gain in chosen]
