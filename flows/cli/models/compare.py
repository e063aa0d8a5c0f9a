"""`stemline compare A B`: two models on the same held-out songs, song by song."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from flows.cli.models import lineage
from flows.cli.options import NO_OPTIONS, ModelRef, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, decibels, table
from pipelines import registry
from pipelines.evaluation import gate
from pipelines.evaluation.gate import Pairs
from pipelines.evaluation.summary import ScoreSummary, extra_scores
from pipelines.lineage.contamination import Contamination

MAX_SONGS = 5  # at either end


def compare(
    first: ModelRef,
    second: ModelRef,
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Score two models on the same held-out songs: the gain of the first, song by song, and its confidence bounds.

    Example: `stemline compare models:/stemline/4 models:/stemline@champion corpus.root=SONGS`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, first, second, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, first: str, second: str, *, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Differences in settings and songs, scores of both, and the gain of the first over the second.

    Songs that one of the two, if registered, learned from are left out.
    """
    require_models(config, first, second)
    differences = lineage.differences(config, first, second)
    with prepared(config, verb="compare", screen=screen, debug=debug):
        a, b, pairs, contaminated = score_both(config, first, second)
    return {
        "first": first,
        "second": second,
        "digests": [a.model_digest, b.model_digest],
        "protocol": a.protocol,
        "settings": differences["settings"],
        "dataset": differences["dataset"],
        **asdict(pairs),
        "extra_metrics": {"first": extra_scores(a), "second": extra_scores(b)}
        if config.evaluate.extra_metrics or config.evaluate.plugins
        else {},
        "heard": dict(contaminated.songs),
        "not_known": list(contaminated.gaps),
        "console_output": [
            *differences["console_output"],
            *_score_tables(first, second, a, b, pairs),
            *_not_known(contaminated),
        ],
    }


def require_models(config: RunConfig, *refs: str) -> None:
    """InputError where one of the models is not there: not after an hour of ingesting."""
    for ref in refs:
        registry.resolve(ref, store=config.store.root)


def score_both(config: RunConfig, first: str, second: str) -> tuple[ScoreSummary, ScoreSummary, Pairs, Contamination]:
    """Scores of both on the held-out songs, the gain of the first, and the songs that were left out of it."""
    from flows.build_corpus import build_corpus
    from flows.gate_decision import contamination_of, seed_noise_of
    from flows.train_model import compare_models

    a, b = compare_models(config, first, second)
    songs = build_corpus(config, until="curate").songs
    contaminated = contamination_of(config, songs, lineage.ancestries(config, first, second))
    noise = seed_noise_of(config, a)
    pairs = gate.compare(a, b, gate.with_tags(config.gate), left_out=contaminated.songs, noise=noise)
    return a, b, pairs, contaminated


def _score_tables(first: str, second: str, a: ScoreSummary, b: ScoreSummary, pairs: Pairs) -> Sequence[Any]:
    from flows.cli.result_tables import extra_tables, gain_table

    scores_a = {**a.sources, "mean": a.overall}
    scores_b = {**b.sources, "mean": b.overall}
    rows = [
        [
            source,
            f"{score.num_songs} of {len(a.songs)}",
            *map(decibels, (score.mixture_nsdr, score.nsdr, scores_b[source].nsdr, score.ceiling_nsdr)),
        ]
        for source, score in scores_a.items()
    ]
    title = f"nSDR in dB over {len(a.songs)} songs; {a.protocol}"
    return [
        Text(f"first   {first}\nsecond  {second}"),
        table(title, ["source", "songs", "mixture", "first", "second", "IRM2 oracle"], rows, strong_last=True),
        gain_table("Gain of the first over the second in dB nSDR, song by song", {**pairs.sources, "mean": pairs.gain}),
        *extra_tables({"the first": a, "the second": b}),
        *([_slices(pairs)] if pairs.slices else []),
        table("Songs", ["track", "gain"], _extremes(pairs.songs)),
        *(Text(f"left out: {track_id}, which one of them learned from", style="dim") for track_id in pairs.left_out),
    ]


def _not_known(contaminated: Contamination) -> list[Any]:
    lines = [
        *contaminated.gaps,
        *([] if contaminated.by_fingerprint else ["only equal audio was looked for, no other masters or excerpts"]),
    ]
    return [Text(f"not known: {line}", style="dim", overflow="fold") for line in lines]


def _slices(pairs: Pairs) -> Any:
    rows = [[name, str(gain.num_songs), decibels(gain.mean, sign=True)] for name, gain in pairs.slices.items()]
    return table("Slices", ["", "songs", "gain"], rows)


def _extremes(gains: Mapping[str, float]) -> list[list[str]]:
    """The songs with the greatest losses and those with the greatest gains."""
    ordered = sorted(gains.items(), key=lambda item: (item[1], item[0]))
    chosen = ordered if len(ordered) <= 2 * MAX_SONGS else [*ordered[:MAX_SONGS], *ordered[-MAX_SONGS:]]
    return [[track_id, decibels(gain, sign=True)] for track_id, gain in chosen]
