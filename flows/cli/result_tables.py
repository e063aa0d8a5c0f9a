"""The tables at the end of a verb: verdicts on songs, scores of models, and paths to open."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.text import Text

from datasets.schema import REASONS, Funnel, MixPlan, Profile, Score, Verdict
from datasets.shards.arrow_tables import read_objects
from flows.console.progress_display import decibels, table
from pipelines.evaluation import extra_metrics
from pipelines.evaluation.gate import GateDecision
from pipelines.evaluation.paired_bootstrap import Difference
from pipelines.evaluation.song_scoring import ILL_CONDITIONED
from pipelines.evaluation.summary import ScoreSummary, SourceScore, extra_scores
from pipelines.registry import ModelVersion

if TYPE_CHECKING:
    from flows.build_corpus import Corpus
    from flows.full_run import FullRun
    from flows.gate_decision import Trained

MAX_ROWS = 20


def corpus_tables(corpus: "Corpus") -> list[Any]:
    """One table for the last step that ran."""
    if corpus.automixes is not None:
        return [_mixes(read_objects(corpus.automixes.plans, MixPlan))]
    if corpus.profiles is not None:
        return [_profiles(read_objects(corpus.profiles, Profile))]
    if corpus.curated is not None:
        return [_verdicts(read_objects(corpus.curated.verdicts, Verdict), corpus.funnel)]
    rejected = corpus.ingested.rejected
    return [_verdicts(rejected, corpus.funnel)] if rejected else [Text(f"Songs: {corpus.funnel.words}.")]


def _verdicts(verdicts: Sequence[Verdict], funnel: Funnel) -> Any:
    kept = Counter(verdict.split for verdict in verdicts if verdict.keep)
    dropped = Counter(verdict.reason for verdict in verdicts if not verdict.keep)
    rows = [[f"kept, {split}", str(count)] for split, count in sorted(kept.items())]
    rows += [[f"dropped: {REASONS.get(reason, reason)}", str(count)] for reason, count in dropped.most_common()]
    return table(f"Songs: {funnel.words}", ["verdict", "songs"], rows)


def _profiles(profiles: Sequence[Profile]) -> Any:
    rows = [
        [item.track_id, f"{item.tempo_bpm:.1f}" if item.tempo_bpm else "–", item.key or "–"]
        for item in profiles[:MAX_ROWS]
    ]
    more = f" (the first {MAX_ROWS} of {len(profiles)})" if len(profiles) > MAX_ROWS else ""
    return table(f"Profiles{more}", ["track", "bpm", "key"], rows)


def _mixes(plans: Sequence[MixPlan]) -> Any:
    whole = [item for item in plans if not item.reason]
    rows = [["rendered", str(len(whole))], ["not rendered: a part fits nowhere", str(len(plans) - len(whole))]]
    return table("Automixes", ["", "mixes"], rows)


def model_tables(model: "Trained") -> list[Any]:
    """Scores and the gate's decision, as far as the verb went."""
    if model.candidate is None:
        return [Text(f"Checkpoint: {model.trained.checkpoint}", overflow="fold")]
    summary = model.candidate.summary
    sources = {**summary.sources, "mean": summary.overall}
    num_songs = len(summary.songs)
    leaks = any(score.leakage_db is not None for score in sources.values())
    rows = [
        [
            *[source, f"{score.num_songs} of {num_songs}"],
            *_cells(score.mixture_nsdr, score.nsdr, score.improvement, score.ceiling_nsdr),
            *([decibels(score.leakage_db)] if leaks else []),
        ]
        for source, score in sources.items()
    ]
    split = summary.protocol.split(",")[0]
    tables: list[Any] = [
        table(
            f"nSDR (MDX 2021) in dB, {split} split, mean over the songs in which the source sounds",
            ["source", "songs", "mixture", "model", "improvement", "IRM2 oracle", *(["leakage"] if leaks else [])],
            rows,
            strong_last=True,
        )
    ]
    if leaks:
        note = "leakage: the estimate where the stem is silent, relative to the mixture there, in the worst song"
        tables.append(Text(note, style="dim"))
    if summary.overall.sdr is not None:
        tables += _bss_table(summary)
    tables += extra_tables({"": summary})
    if model.decision is not None:
        tables += _decision(model.decision, model.version)
    return tables


def _decision(decision: GateDecision, version: ModelVersion | None) -> list[Any]:
    """The gate's decision; with a champion, the gains and their confidence bounds."""
    gain_tables: list[Any] = []
    if decision.gain is not None:
        gains = {**decision.source_gains, "mean": decision.gain}
        title = f"Gain over the champion in dB nSDR, {_songs(decision.num_songs)}, song by song"
        gain_tables.append(gain_table(title, gains))
    return [*gain_tables, outcome(decision, version)]


def outcome(decision: GateDecision, version: ModelVersion | None) -> Text:
    """Whether the candidate was promoted, and why; without a version, of a dry run."""
    if version is None:
        return Text(f"{'Would be promoted' if decision.promote else 'Would not be promoted'}: {decision.reason}")
    if version.alias:
        return Text(f"Promoted: {decision.reason}")
    # The reason goes on with the sentence, unless it begins with a name.
    begins = decision.reason.startswith(("No ", "It "))
    reason = decision.reason[:1].lower() + decision.reason[1:] if begins else decision.reason
    return Text(f"{version.uri} is registered as candidate, not promoted: {reason}")


def gain_table(title: str, gains: Mapping[str, Difference]) -> Any:
    """Gains with their confidence bounds and the songs in which the source sounds; the last row is the mean."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    num_songs = max(gain.num_songs for gain in gains.values())
    rows = [
        [
            name,
            f"{gain.num_songs} of {num_songs}",
            *(decibels(finite(value), sign=True) for value in (gain.mean, gain.low, gain.high)),
            decibels(finite(gain.spread)),
        ]
        for name, gain in gains.items()
    ]
    return table(title, ["source", "songs", "gain", "at least", "at most", "spread"], rows, strong_last=True)


def _bss_table(summary: ScoreSummary) -> list[Any]:
    """SDR beside the mixture's and the IRM2 oracle's, other scores where computed, and a note on doubtful ones."""
    num_songs = len(summary.songs)
    columns = {
        "SDR mixture": "mixture_sdr",
        "SDR": "sdr",
        "SDR IRM2 oracle": "ceiling_sdr",
        "SDR, mean": "sdr_mean",
    }
    if summary.solvers:
        columns |= {"ISR": "isr", "SIR": "sir", "SAR": "sar"}
    rows = [
        [
            source,
            f"{score.num_sdr_songs} of {num_songs}",
            *(decibels(getattr(score, name)) for name in columns.values()),
        ]
        for source, score in {**summary.sources, "mean": summary.overall}.items()
    ]
    title = "BSS Eval v4 in dB: medians over windows, then over songs (SDR, mean: their mean over songs)"
    output: list[Any] = [table(title, ["source", "songs", *columns], rows, strong_last=True)]
    if doubtful := summary.solvers.get(ILL_CONDITIONED, 0):
        output.append(
            Text(
                f"ISR, SIR and SAR leave out {doubtful} of {_songs(num_songs)}: stems that lack some band make "
                "the equations ill-conditioned, and rounding errors decide (SCORES has them, solver lu)."
            )
        )
    return output


def extra_tables(models: Mapping[str, ScoreSummary]) -> list[Any]:
    """Scores beside nSDR and SDR that were asked for, a table for each model by its name; none where none was."""
    tables: list[Any] = []
    for name, summary in models.items():
        scores = extra_scores(summary)
        columns = list(scores["mean"])
        counts = {**summary.sources, "mean": summary.overall}
        rows = [
            [
                source,
                f"{counts[source].num_songs} of {len(summary.songs)}",
                *(_counted(own.get(column), column, counts[source]) for column in columns),
            ]
            for source, own in scores.items()
        ]
        headers = ["source", "songs", *(extra_metrics.LABELS.get(column, column) for column in columns)]
        title = f"Further scores{f' of {name}' if name else ''}, means over the songs in which the source sounds"
        fewer = any(cell.endswith(")") for row in rows for cell in row[2:])
        title += "; (n): over n of them" if fewer else ""
        tables += [table(title, headers, rows, strong_last=True)] if columns else []
    return [*tables, Text(extra_metrics.UNITS, style="dim")] if tables else []


def _counted(value: float | None, column: str, score: SourceScore) -> str:
    """A mean, with the number of its songs where those are fewer than in which the source sounds."""
    counted = score.num_extra_songs.get(column, score.num_songs)
    return decibels(value) + (f" ({counted})" if counted < score.num_songs else "")


def _score_rows(scores: dict[str, SourceScore]) -> list[list[str]]:
    """Scores of the mixture and the model, its gain over the mixture, and the IRM2 oracle."""
    return [
        [source, *_cells(row.mixture_nsdr, row.nsdr, row.improvement, row.ceiling_nsdr)]
        for source, row in scores.items()
    ]


def _cells(mixture: float | None, model: float | None, gain: float | None, oracle: float | None) -> list[str]:
    return [decibels(mixture), decibels(model), decibels(gain, sign=True), decibels(oracle)]


def run_tables(run: "FullRun", *, store: str) -> list[Any]:
    """The model's tables, and the paths to open."""
    return [*model_tables(run.model), *paths(run, store=store)]


def demo_tables(run: "FullRun", *, store: str) -> list[Any]:
    """One table: the held-out toy songs beside the real song."""
    candidate, version, decision = run.model.candidate, run.model.version, run.model.decision
    assert candidate is not None
    assert version is not None
    assert decision is not None
    real = {score.source: score for score in run.presented.scores}
    rows = []
    for row in _score_rows({**candidate.summary.sources, "mean": candidate.summary.overall}):
        rows.append([*row, *_real_cells(row[0], real)])
    title = f"nSDR in dB (MDX 2021): {_songs(len(candidate.summary.songs), 'toy song')} held out, and a real song"
    columns = ["source", "toy mixture", "model", "gain", "IRM2", "real mixture", "model", "gain", "IRM2"]
    return [
        table(title, columns, rows, strong_last=True),
        Text(
            "IRM2: the oracle mask of SiSEC 2018, computed from the true stems; not a bound, models may exceed it",
            style="dim",
        ),
        outcome(decision, version),
        *paths(run, store=store),
    ]


def _real_cells(source: str, real: dict[str, Score]) -> list[str]:
    """The same cells for the real song; "mean" is over its sources."""
    scores = list(real.values()) if source == "mean" else [real[source]] if source in real else []
    if not scores:
        return ["–"] * 4
    columns = [[getattr(score, name) for score in scores] for name in ("mixture_nsdr", "nsdr", "ceiling_nsdr")]
    present = [[value for value in column if value is not None] for column in columns]
    mixture, model, oracle = (fmean(column) if column else None for column in present)
    gain = None if mixture is None or model is None else model - mixture
    return _cells(mixture, model, gain, oracle)


def paths(run: "FullRun", *, store: str) -> list[Any]:
    """Paths and commands, each on a line of its own, so that a terminal can open them."""
    version = run.model.version
    assert version is not None
    ref = f"models:/{version.name}@{version.alias}" if version.alias else version.uri
    listed = {
        "report": run.presented.report,
        "stems": run.presented.separated.folder,
        "model": ref,
        "pages": f"stemline ui store.root={store}",
    }
    return [Text(f"{name:<7} {value}", overflow="fold") for name, value in listed.items()]


def _songs(count: int, word: str = "song") -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
