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
from pipelines.evaluation import gate
from pipelines.evaluation.gate import Pairs
from pipelines.evaluation.summary import ScoreSummary
from pipelines.lineage.contamination import Contamination

MAX_SONGS = 5  # at either end


def compare(
    first: ModelRef,
    second: ModelRef,
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Score two models on the same held-out songs: what the first gains, song by song, and how certain that is.

    Example: `stemline compare models:/stemline/4 models:/stemline@champion corpus.root=songs`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, first, second, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, first: str, second: str, *, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """What differs in settings and songs, scores of both, and what the first gains over the second.

    Songs that a registered one of the two learnt from are left out.
    """
    differing = lineage.differences(config, first, second)
    with prepared(config, verb="compare", screen=screen, debug=debug):
        from flows.build_corpus import build_corpus
        from flows.train_model import compare_models, heard_in, seed_noise_of

        one, two = compare_models(config, first, second)
        songs = build_corpus(config, until="curate").songs
        heard = heard_in(config, songs, lineage.ancestries(config, first, second))
        noise = seed_noise_of(config, one)
        pairs = gate.compare(one, two, gate.with_tags(config.gate), left_out=heard.songs, noise=noise)
    plain = asdict(pairs)
    return {
        "first": first,
        "second": second,
        "digests": [one.model_digest, two.model_digest],
        "protocol": one.protocol,
        "settings": differing["settings"],
        "dataset": differing["dataset"],
        **plain,
        "heard": dict(heard.songs),
        "not_known": list(heard.gaps),
        "shown": [*differing["shown"], *_shown(first, second, one, two, pairs), *_not_known(heard)],
    }


def _shown(first: str, second: str, one: ScoreSummary, two: ScoreSummary, pairs: Pairs) -> Sequence[Any]:
    from flows.cli.result_tables import gain_table

    sources = {**one.sources, "mean": one.overall}
    others = {**two.sources, "mean": two.overall}
    rows = [
        [source, *map(decibels, (score.mixture_nsdr, score.nsdr, others[source].nsdr, score.ceiling_nsdr))]
        for source, score in sources.items()
    ]
    title = f"nSDR in dB over {len(one.songs)} songs; {one.protocol}"
    return [
        Text(f"first   {first}\nsecond  {second}"),
        table(title, ["source", "mixture", "first", "second", "IRM2 oracle"], rows, strong_last=True),
        gain_table("Gain of the first over the second in dB nSDR, song by song", {**pairs.sources, "mean": pairs.gain}),
        *([_slices(pairs)] if pairs.slices else []),
        table("Songs", ["track", "gain"], _extremes(pairs.songs)),
        *(Text(f"left out: {track_id}, which one of them learnt from", style="dim") for track_id in pairs.left_out),
    ]


def _not_known(heard: Contamination) -> list[Any]:
    lines = [
        *heard.gaps,
        *([] if heard.by_fingerprint else ["only equal audio was looked for, no other masters or excerpts"]),
    ]
    return [Text(f"not known: {line}", style="dim", overflow="fold") for line in lines]


def _slices(pairs: Pairs) -> Any:
    rows = [[name, str(gain.num_songs), decibels(gain.mean, sign=True)] for name, gain in pairs.slices.items()]
    return table("Slices", ["", "songs", "gain"], rows)


def _extremes(gains: Mapping[str, float]) -> list[list[str]]:
    """The songs that lost most and those that gained most."""
    ordered = sorted(gains.items(), key=lambda item: (item[1], item[0]))
    chosen = ordered if len(ordered) <= 2 * MAX_SONGS else [*ordered[:MAX_SONGS], *ordered[-MAX_SONGS:]]
    return [[track_id, decibels(gain, sign=True)] for track_id, gain in chosen]
