"""`report.html`: what went in, what was learned, how well it separates, how it sounds; one file, no network.

Read `run`, then the sections below it in the order of the page; `page.py` has the look, `charts.py` the plots,
`listening.py` the players, `score_section.py` the scores.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from datasets.schema import REASONS, Verdict
from datasets.store import storage
from pipelines.report.augmentation_examples import augmentation_section
from pipelines.report.charts import Curve, SourceScores, curve_plot, legend
from pipelines.report.formatting import decibels, duration
from pipelines.report.listening import clips_of, players
from pipelines.report.mixes import mixes_section
from pipelines.report.page import document, section, source_class, table, text
from pipelines.report.report_input import ReportConfig, ReportInput
from pipelines.report.score_section import per_source, scores_section
from pipelines.runtime.progress import Progress, stage


def run(config: ReportConfig, data: ReportInput, *, store: str, progress: Progress | None = None) -> str:
    """Write `report.html` into the store, whole or not at all; its path. The same input gives the same bytes."""
    path = Path(store) / "report.html"
    with stage(progress, "report") as progress:
        page = render(config, data).encode("utf-8", "replace")
        storage.write(path, page)
        progress.finish(f"{path}, {len(page) / 1e6:.1f} MB")
    return str(path)


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
    return document(f"{data.name} {data.version}".strip(), "".join(parts))


def headline(data: ReportInput) -> str:
    """The outcome of the run, in one sentence and a few numbers."""
    model = f"{data.name}, version {data.version}" if data.version else f"{data.name}, not registered"
    scores = per_source(data.scores)
    sentence = _sentence(scores, data.champion_gain_db) or model
    kind, outcome = ("yes", "Champion") if data.promoted else ("no", "Candidate, not promoted")
    badge = f'<span class="badge {kind}">{outcome}</span>'
    verdict = f'<p class="verdict">{badge}<span>{text(data.reason)}</span></p>' if data.reason else ""
    facts = {}
    if scores:
        facts["Mean nSDR"] = f"{decibels(fmean(row.model for row in scores))} <small>dB</small>"
        facts["Mixture as estimate"] = f"{decibels(fmean(row.floor for row in scores))} <small>dB</small>"
        facts[f"{data.split.capitalize()} songs"] = str(len({score.track_id for score in data.scores}))
    kept = [verdict for verdict in data.verdicts if verdict.keep]
    if data.verdicts:
        facts["Songs kept"] = f"{len(kept)} <small>of {len(data.verdicts)}</small>"
        facts["Music kept"] = duration(sum(verdict.duration_s for verdict in kept))
    if data.history:
        facts["Training steps"] = f"{int(data.history[-1]['step']):,}".replace(",", "\u2009")
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        f'<header><p class="eyebrow">{text(model)}</p><h1>{text(sentence)}</h1>'
        f'{verdict}<dl class="facts">{listed}</dl></header>'
    )


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


def listening_section(data: ReportInput, *, seconds: float) -> str:
    """Players of the separated song."""
    if data.song is None:
        return ""
    clips = clips_of(data.song, seconds=seconds)
    scores = {
        row.source: f"{decibels(row.nsdr)} dB nSDR" for row in data.scores if row.title == data.song.title
    }  # only if this song was scored too
    length_s = clips[0].samples_CT.shape[-1] / 44_100
    lead = (
        f"<strong>{text(data.song.title)}</strong>, its loudest {length_s:.0f} seconds, all at the same gain. "
        '<span class="hint">A player continues where the last one stopped; click a picture to jump, '
        "or use ← and → beside a button.</span>"
    )
    terms = f'<p class="note">{text(data.song.license)}</p>' if data.song.license else ""
    note = '<p class="note">Spectrograms: 40 Hz to 16 kHz, the 75 dB below the loudest part of the mixture.</p>'
    return section("How it sounds", players(data.song, clips, scores), note, terms, lead=lead)


def songs_section(data: ReportInput) -> str:
    """Songs and hours per split, then who was dropped and why."""
    if not data.verdicts:
        return ""
    kept = [verdict for verdict in data.verdicts if verdict.keep]
    dropped = [verdict for verdict in data.verdicts if not verdict.keep]
    rows = []
    for split in sorted({verdict.split for verdict in kept}, key=["train", "valid", "test"].index):
        own = [verdict for verdict in kept if verdict.split == split]
        rows.append([text(split), str(len(own)), duration(sum(verdict.duration_s for verdict in own))])
    rows.append(["All", str(len(kept)), duration(sum(verdict.duration_s for verdict in kept))])
    parts = [f'<div class="compact">{table(["Split", "Songs", "Length"], rows, numeric=(1, 2), totals=True)}</div>']
    if dropped:
        parts.append(f"<h3>{len(dropped)} {'song was' if len(dropped) == 1 else 'songs were'} dropped</h3>")
        parts.append(_drop_table(dropped))
    else:
        parts.append('<p class="note">No song was dropped.</p>')
    if data.licenses:
        licenses = ", ".join(f"{name} ({count})" for name, count in sorted(data.licenses.items()))
        parts.append(f'<p class="note">License of the songs: {text(licenses)}.</p>')
    return section("What went in", *parts)


def _drop_table(dropped: Sequence[Verdict]) -> str:
    rows = []
    for reason, count in sorted(
        Counter(verdict.reason for verdict in dropped).items(), key=lambda item: (-item[1], item)
    ):
        own = [verdict for verdict in dropped if verdict.reason == reason]
        items = "".join(
            f"<li>{text(verdict.title)}{f': {text(verdict.detail)}' if verdict.detail else ''}</li>" for verdict in own
        )
        names = f"<ul>{items}</ul>"
        if len(own) > 5:
            names = f"<details><summary>{len(own)} songs</summary>{names}</details>"
        rows.append([text(REASONS.get(reason, reason)), str(count), names])
    return table(["Reason", "Songs", "Which"], rows, numeric=(1,))


def training_section(data: ReportInput) -> str:
    """The loss, per source where there are several, and the validation score of every kind of weights."""
    points = [point for point in data.history if "loss" in point]
    if not points:
        return ""
    charts = []
    losses = {"all sources": ("source-mixture", [(point["step"], point["loss"]) for point in points])}
    for index, source in enumerate(data.sources):
        own = [
            (point["step"], point["per_source"][index]) for point in points if len(point.get("per_source", ())) > index
        ]
        if own and len(data.sources) > 1:
            losses[source] = (source_class(source), own)
    charts.append(_chart("Training loss", losses))
    kinds = list(dict.fromkeys(kind for point in data.history for kind in point.get("valid_nsdr", {})))
    styles = ("source-mixture", "source-bass", "source-vocals", "source-other", "source-drums")
    valid = {
        kind: (style, [(p["step"], p["valid_nsdr"][kind]) for p in data.history if kind in p.get("valid_nsdr", {})])
        for kind, style in zip(kinds, styles, strict=False)
    }
    if valid:
        charts.append(_chart("Mean nSDR on the valid split, dB", valid))
    return section("How it learned", f'<div class="charts">{"".join(charts)}</div>')


def _chart(title: str, lines: Mapping[str, tuple[str, list[tuple[float, float]]]]) -> str:
    curves = [Curve(name=name, points=tuple(points), style=style) for name, (style, points) in lines.items()]
    last = "; ".join(f"{curve.name} ends at {curve.points[-1][1]:.3g}" for curve in curves)
    names = legend({name: style for name, (style, _) in lines.items()}) if len(lines) > 1 else ""
    plot = curve_plot(curves, label=f"{title} over training steps: {last}")
    return f"<figure><figcaption>{text(title)}, over steps</figcaption>{names}{plot}</figure>"


def lineage_section(data: ReportInput) -> str:
    """What this version was made from, exactly."""
    if not data.lineage and not data.config:
        return ""
    rows = [[text(name), f'<span class="mono">{text(value)}</span>'] for name, value in data.lineage.items()]
    parts = [table(["What", "Which"], rows)] if rows else []
    if data.config:
        parts.append(
            "<details><summary>Configuration; <code>stemline run --preset FILE.toml</code> with it repeats this run"
            f"</summary><pre>{text(data.config)}</pre></details>"
        )
    return section("Where it comes from", *parts)
