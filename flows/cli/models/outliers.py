"""`stemline outliers MODEL`: songs that the model separates far worse than they could be, the worst first."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.errors import InputError
from datasets.schema import SPLITS, Score
from datasets.shards.arrow_tables import read_objects
from datasets.shards.manifests import read_songs
from flows.cli.options import NO_OPTIONS, ModelRef, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, decibels, table
from pipelines import registry
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.score_tables import score_outliers
from pipelines.evaluation.score_tables.score_outliers import ScoreOutlier

MIN_ROWS, MAX_ROWS = 5, 30  # of the table; between them, a tenth of the songs


def outliers(
    model: ModelRef,
    /,
    *overrides: Overrides,
    split: Annotated[str, Parameter(help="Whose songs: train, valid or test.")] = "train",
    options: Options = NO_OPTIONS,
) -> int:
    """List songs that a model separates far worse than they could be, the worst first: wrong labels, a mix in a stem.

    Example: `stemline outliers models:/stemline@champion corpus.root=SONGS evaluate.max_song_s=60`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, model, split=split, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, model: str, *, split: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Every song of the split with its worst stem; scores are reused where known. Nothing is left out by itself."""
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    config = replace(config, evaluate=_scoring(config.evaluate, split))
    registry.resolve(model, store=config.store.root)
    with prepared(config, verb="outliers", screen=screen, debug=debug):
        from flows.build_corpus import build_corpus
        from flows.train_model import score
        from pipelines.runs import stored_model

        songs = build_corpus(config, until="curate").songs
        score_outliers.require_enough(sum(song.split == split for song in read_songs(songs)), f"the {split} split")
        checkpoint = stored_model.share(registry.resolve(model, store=config.store.root), config.store.root)
        scored = score(config, songs, checkpoint, label=f"{model}: ")
        rows = read_objects(scored.scores, Score)
        ranked, rare = score_outliers.rank(rows), score_outliers.rare_sources(rows)
        quiet = score_outliers.quiet_stems(rows)
    return {
        "model": model,
        "digest": scored.summary.model_digest,
        "protocol": scored.summary.protocol,
        "songs": [asdict(outlier) for outlier in ranked],
        "rare_sources": rare,
        "quiet_stems": [
            {"track_id": stem.track_id, "source": stem.source, "level_db": stem.mixture_nsdr} for stem in quiet
        ],
        "console_output": _console_output(ranked, rare, len(quiet), split),
    }


def _scoring(config: EvaluateConfig, split: str) -> EvaluateConfig:
    """The protocol without what the ranking does not read, which would only cost time."""
    return replace(
        config, split=split, full_bss_eval=False, scorer="stemline", museval_json="", extra_metrics=(), plugins=()
    )


def _console_output(ranked: list[ScoreOutlier], rare: Mapping[str, int], num_quiet: int, split: str) -> list[Any]:
    num_rows = min(max(MIN_ROWS, len(ranked) // 10), MAX_ROWS)
    rows = [
        [
            outlier.track_id, outlier.source, decibels(outlier.nsdr), decibels(outlier.expected_nsdr),
            f"{outlier.deviation:+.1f}",
        ]
        for outlier in ranked[:num_rows]
    ]  # fmt: skip
    title = f"nSDR of the stem that stands out most, in dB; {len(rows)} of {len(ranked)} songs of {split}"
    advice = "Listen to these stems first. A file given as curate.overrides leaves songs out; --json lists all."
    left_out = [
        f"{source} is left out: it can be ranked in {count} songs, and {score_outliers.MIN_SONGS} are needed"
        for source, count in rare.items()
    ]
    if num_quiet:
        left_out.append(
            f"quiet stems are left out, {num_quiet} of them: more than {-score_outliers.MIN_LEVEL_DB:g} dB below the "
            "rest of their song, where leakage decides the score; --json lists them"
        )
    return [
        table(title, ["track", "stem", "nSDR", "expected", "deviations"], rows),
        Text(advice, style="dim", overflow="fold"),
        *(Text(line, style="dim", overflow="fold") for line in left_out),
    ]
