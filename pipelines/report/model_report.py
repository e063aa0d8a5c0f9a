"""`report.html`: what went in, what was learned, how well it separates, how it sounds; one file, no network.

Read `run`, then the sections below it in the order of the page; `assets/report/` has their markup, `charts.py` the
plots, `audio_players.py` the players, `score_section.py` the scores.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from datasets.schema import REASONS, Verdict
from datasets.store import storage
from pipelines.report.audio_players import PAGE_RATE, clips_of, players
from pipelines.report.charts import Curve, SourceScores, curve_plot
from pipelines.report.examples.augmentation_examples import augmentation_section
from pipelines.report.examples.automix_examples import mixes_section
from pipelines.report.formatting import decibels, duration
from pipelines.report.html_page import document, source_class
from pipelines.report.html_page import render as render_template
from pipelines.report.report_input import ReportConfig, ReportInput
from pipelines.report.score_section import per_source, scores_section
from pipelines.runtime.progress import Progress, stage


def run(config: ReportConfig, data: ReportInput, *, store: str, progress: Progress | None = None) -> str:
    """Write `report.html` into the store, whole or not at all; its path. The same input gives the same bytes."""
    path = storage.join(store, "report.html")
    with stage(progress, "report") as progress:
        page = render(config, data).encode("utf-8", "replace")
        storage.write(path, page)
        progress.finish(f"{path}, {len(page) / 1e6:.1f} MB")
    return path


def render(config: ReportConfig, data: ReportInput) -> str:
    """The page as text."""
    parts = [
        headline(data),
        scores_section(data),
        listening_section(data, seconds=config.clip_s),
        songs_section(data),
        mixes_section(data.mixes),
        augmentation_section(data.sounds),
        training_section(data),
        lineage_section(data),
    ]
    return document(f"{data.name} {data.version}".strip(), Markup().join(parts))


def headline(data: ReportInput) -> Markup:
    """The outcome of the run, in one sentence and a few numbers."""
    model = f"{data.name}, version {data.version}" if data.version else f"{data.name}, not registered"
    scores = per_source(data.scores)
    return render_template(
        "report/headline.html.j2",
        model=model,
        sentence=_sentence(scores, data.champion_gain_db) or model,
        promoted=data.promoted,
        reason=data.reason,
        facts=_facts(data, scores),
    )


def _facts(data: ReportInput, scores: Sequence[SourceScores]) -> list[tuple[str, str, str]]:
    """Name, value and unit of the numbers in the headline."""
    facts = []
    if scores:
        facts = [
            ("Mean nSDR", decibels(fmean(row.model for row in scores)), "dB"),
            ("Mixture as estimate", decibels(fmean(row.floor for row in scores)), "dB"),
            (f"{data.split.capitalize()} songs", str(len({score.track_id for score in data.scores})), ""),
        ]
    if data.verdicts:
        kept = [verdict for verdict in data.verdicts if verdict.keep]
        facts.append(("Songs kept", str(len(kept)), f"of {len(data.verdicts)}"))
        facts.append(("Music kept", duration(sum(verdict.duration_s for verdict in kept)), ""))
    if data.history:
        facts.append(("Training steps", f"{int(data.history[-1]['step']):,}".replace(",", "\u2009"), ""))
    return facts


def _sentence(scores: Sequence[SourceScores], champion_gain_db: float | None) -> str:
    """How far the model is above the champion, where there is one, and above the two trivial estimates: the mixture,
    and silence, whose nSDR is 0 dB.
    """
    if not scores:
        return ""
    mean = fmean(row.model for row in scores)
    gains = {"the mixture": mean - fmean(row.floor for row in scores), "silence": mean}
    if champion_gain_db is not None:
        gains = {"the champion": champion_gain_db, **gains}
    if not all(map(math.isfinite, gains.values())):
        return ""
    sentence, before = "", 0.0
    for name, gain in gains.items():
        joined = "" if not sentence else ", " if (gain > 0) == (before > 0) else ", but "
        sentence += f"{joined}{abs(gain):.1f} dB {'better' if gain > 0 else 'worse'} than {name}"
        before = gain
    return sentence


def listening_section(data: ReportInput, *, seconds: float) -> Markup:
    """Players of the separated song."""
    if data.song is None:
        return Markup()
    clips = clips_of(data.song, seconds=seconds)
    # Only if this song was scored too
    scores = {
        row.source: f"{decibels(row.nsdr)} dB nSDR"
        for row in data.scores
        if row.title == data.song.title and row.nsdr is not None
    }
    return render_template(
        "report/listening.html.j2",
        title=data.song.title,
        license=data.song.license,
        seconds=f"{clips[0].samples_CT.shape[-1] / PAGE_RATE:.0f}",
        players=[(source, scores.get(source), player) for source, player in players(data.song, clips)],
    )


def songs_section(data: ReportInput) -> Markup:
    """Songs and hours per split, then who was dropped and why."""
    if not data.verdicts:
        return Markup()
    kept = [verdict for verdict in data.verdicts if verdict.keep]
    dropped = [verdict for verdict in data.verdicts if not verdict.keep]
    splits = []
    for split in sorted({verdict.split for verdict in kept}, key=["train", "valid", "test"].index):
        of_split = [verdict for verdict in kept if verdict.split == split]
        splits.append([split, str(len(of_split)), duration(sum(verdict.duration_s for verdict in of_split))])
    splits.append(["All", str(len(kept)), duration(sum(verdict.duration_s for verdict in kept))])
    return render_template(
        "report/songs.html.j2",
        splits=splits,
        num_dropped=len(dropped),
        reasons=_by_reason(dropped),
        licenses=", ".join(f"{name} ({count})" for name, count in sorted(data.licenses.items())),
    )


def _by_reason(dropped: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """What each reason means and the songs it dropped, the most first."""
    counts = Counter(verdict.reason for verdict in dropped)
    return [
        (REASONS.get(reason, reason), [verdict for verdict in dropped if verdict.reason == reason])
        for reason, _ in sorted(counts.items(), key=lambda item: (-item[1], item))
    ]


def training_section(data: ReportInput) -> Markup:
    """The loss, per source where there are several, and the validation score of every kind of weights."""
    points = [point for point in data.history if "loss" in point]
    if not points:
        return Markup()
    losses = [_curve("all sources", "source-mixture", [(point["step"], point["loss"]) for point in points])]
    for index, source in enumerate(data.sources):
        of_source = [
            (point["step"], point["per_source"][index]) for point in points if len(point.get("per_source", ())) > index
        ]
        if of_source and len(data.sources) > 1:
            losses.append(_curve(source, source_class(source), of_source))
    kinds = list(dict.fromkeys(kind for point in data.history for kind in point.get("valid_nsdr", {})))
    styles = ("source-mixture", "source-bass", "source-vocals", "source-other", "source-drums")
    valid = [
        _curve(
            kind, style, [(p["step"], p["valid_nsdr"][kind]) for p in data.history if kind in p.get("valid_nsdr", {})]
        )
        for kind, style in zip(kinds, styles, strict=False)
    ]
    charts = [_chart("Training loss", losses)]
    if valid:
        charts.append(_chart("Mean nSDR on the valid split, dB", valid))
    return render_template("report/training.html.j2", charts=charts)


def _curve(name: str, style: str, points: Sequence[tuple[float, float]]) -> Curve:
    return Curve(name=name, points=tuple(points), style=style)


def _chart(title: str, curves: Sequence[Curve]) -> dict[str, Any]:
    """A chart's title, the style class of each curve by name, and the plot."""
    last = "; ".join(f"{curve.name} ends at {curve.points[-1][1]:.3g}" for curve in curves)
    plot = curve_plot(curves, label=f"{title} over training steps: {last}")
    return {"title": title, "legend": {curve.name: curve.style for curve in curves}, "plot": plot}


def lineage_section(data: ReportInput) -> Markup:
    """What this version was made from, exactly."""
    if not data.lineage and not data.config:
        return Markup()
    return render_template("report/lineage.html.j2", lineage=data.lineage, config=data.config)
