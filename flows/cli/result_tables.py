"""The one summary at the end of a verb: what became of the songs, what the model scored, where to look."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.text import Text

from datasets.schema import REASONS, MixPlan, Profile, Score, Verdict
from datasets.shards.arrow_tables import read_objects
from flows.build_corpus import Corpus
from flows.console.progress_display import decibels, table
from flows.full_run import FullRun
from flows.train_model import Trained
from pipelines.evaluation.gate import GateDecision
from pipelines.evaluation.paired_bootstrap import Difference
from pipelines.evaluation.scoring import ILL_CONDITIONED
from pipelines.evaluation.summary import ScoreSummary, SourceScore
from pipelines.registry import ModelVersion

MAX_ROWS = 20


def corpus_tables(corpus: Corpus) -> list[Any]:
    """One table for the last step that ran."""
    if corpus.automixes is not None:
        return [_mixes(read_objects(corpus.automixes.plans, MixPlan))]
    if corpus.profiles is not None:
        return [_profiles(read_objects(corpus.profiles, Profile))]
    if corpus.curated is not None:
        return [_verdicts(read_objects(corpus.curated.verdicts, Verdict))]
    rejected = corpus.ingested.rejected
    return [_verdicts(rejected)] if rejected else [Text("No song was refused.")]


def _verdicts(verdicts: Sequence[Verdict]) -> Any:
    kept = Counter(verdict.split for verdict in verdicts if verdict.keep)
    dropped = Counter(verdict.reason for verdict in verdicts if not verdict.keep)
    rows = [[f"kept, {split}", str(count)] for split, count in sorted(kept.items())]
    rows += [[f"dropped: {REASONS.get(reason, reason)}", str(count)] for reason, count in dropped.most_common()]
    return table("Songs", ["verdict", "songs"], rows)


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


def model_tables(model: Trained) -> list[Any]:
    """Scores and the gate's word, as far as the verb went."""
    if model.candidate is None:
        return [Text(f"Checkpoint: {model.trained.checkpoint}", overflow="fold")]
    summary = model.candidate.summary
    sources = {**summary.sources, "mean": summary.overall}
    shown: list[Any] = [
        table(
            f"nSDR (MDX 2021) in dB, {summary.protocol.split(',')[0]} split, mean over {_songs(len(summary.songs))}",
            ["source", "mixture", "model", "improvement", "IRM2 oracle"],
            _score_rows(sources),
            strong_last=True,
        )
    ]
    if summary.overall.sdr is not None:
        shown += _bss_table(summary)
    if model.decision is not None:
        shown += _decision(model.decision, model.version)
    return shown


def _decision(decision: GateDecision, version: ModelVersion | None) -> list[Any]:
    """The gate's word; with a champion, the gains and how sure they are."""
    shown: list[Any] = []
    if decision.gain is not None:
        gains = {**decision.source_gains, "mean": decision.gain}
        title = f"Gain over the champion in dB nSDR, {_songs(decision.num_songs)}, song by song"
        shown.append(gain_table(title, gains))
    return [*shown, outcome(decision, version)]


def outcome(decision: GateDecision, version: ModelVersion | None) -> Text:
    """What became of the candidate, and why; no version: a dry run."""
    if version is None:
        return Text(f"{'Would be promoted' if decision.promote else 'Would not be promoted'}: {decision.reason}")
    if version.alias:
        return Text(f"Promoted: {decision.reason}")
    # The reason goes on with the sentence, unless it begins with a name.
    begins = decision.reason.startswith(("No ", "It "))
    reason = decision.reason[:1].lower() + decision.reason[1:] if begins else decision.reason
    return Text(f"{version.uri} is registered as candidate, not promoted: {reason}")


def gain_table(title: str, gains: Mapping[str, Difference]) -> Any:
    """Gains with the bounds between which they lie; the last row is the mean."""

    def known(value: float) -> float | None:
        return value if math.isfinite(value) else None

    rows = [
        [
            name,
            *(decibels(known(value), sign=True) for value in (gain.mean, gain.low, gain.high)),
            decibels(known(gain.spread)),
        ]
        for name, gain in gains.items()
    ]
    return table(title, ["source", "gain", "at least", "at most", "spread"], rows, strong_last=True)


def _bss_table(summary: ScoreSummary) -> list[Any]:
    """SDR between the mixture's and the IRM2 oracle's, then other scores where they were asked for; what to doubt."""
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
        [source, *(decibels(getattr(score, name)) for name in columns.values())]
        for source, score in {**summary.sources, "mean": summary.overall}.items()
    ]
    title = f"BSS Eval v4 in dB: medians over windows, then over {_songs(num_songs)} (SDR, mean: their mean over songs)"
    shown: list[Any] = [table(title, ["source", *columns], rows, strong_last=True)]
    if doubtful := summary.solvers.get(ILL_CONDITIONED, 0):
        shown.append(
            Text(
                f"ISR, SIR and SAR leave out {doubtful} of {_songs(num_songs)}: stems that lack some band make "
                "the equations ill-conditioned, and rounding errors decide (SCORES has them, solver lu)."
            )
        )
    return shown


def _score_rows(scores: dict[str, SourceScore]) -> list[list[str]]:
    """Floor, model, what it gains over the floor, and the IRM2 oracle."""
    return [
        [source, *_cells(row.mixture_nsdr, row.nsdr, row.improvement, row.ceiling_nsdr)]
        for source, row in scores.items()
    ]


def _cells(floor: float, model: float, gain: float, oracle: float | None) -> list[str]:
    return [decibels(floor), decibels(model), decibels(gain, sign=True), decibels(oracle)]


def run_tables(made: FullRun, *, store: str) -> list[Any]:
    """Everything, and the paths to open."""
    return [*model_tables(made.model), *paths(made, store=store)]


def demo_tables(made: FullRun, *, store: str) -> list[Any]:
    """One table: the toy songs that were held out, and the real song, side by side."""
    candidate, version, decision = made.model.candidate, made.model.version, made.model.decision
    assert candidate is not None
    assert version is not None
    assert decision is not None
    real = {score.source: score for score in made.presented.scores}
    rows = []
    for row in _score_rows({**candidate.summary.sources, "mean": candidate.summary.overall}):
        rows.append([*row, *_real_cells(row[0], real)])
    title = f"nSDR in dB (MDX 2021): {_songs(len(candidate.summary.songs), 'toy song')} held out, and a real song"
    columns = ["source", "toy mixture", "model", "gain", "IRM2", "real mixture", "model", "gain", "IRM2"]
    return [
        table(title, columns, rows, strong_last=True),
        Text(
            "IRM2: the oracle mask of SiSEC 2018, made from the true stems; no bound, models may pass it", style="dim"
        ),
        outcome(decision, version),
        *paths(made, store=store),
    ]


def _real_cells(source: str, real: dict[str, Score]) -> list[str]:
    """The same of one song; of all its sources for "mean"."""
    own = list(real.values()) if source == "mean" else [real[source]] if source in real else []
    if not own:
        return ["–"] * 4
    floor, model = fmean(score.mixture_nsdr for score in own), fmean(score.nsdr for score in own)
    oracles = [score.ceiling_nsdr for score in own if score.ceiling_nsdr is not None]
    return _cells(floor, model, model - floor, fmean(oracles) if oracles else None)


def paths(made: FullRun, *, store: str) -> list[Any]:
    """Where to look next; each on a line of its own, so that a terminal can open it."""
    version = made.model.version
    assert version is not None
    ref = f"models:/{version.name}@{version.alias}" if version.alias else version.uri
    listed = {
        "report": made.presented.report,
        "stems": made.presented.separated.folder,
        "model": ref,
        "pages": f"stemline ui store.root={store}",
    }
    return [Text(f"{name:<7} {value}", overflow="fold") for name, value in listed.items()]


def _songs(count: int, word: str = "song") -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
