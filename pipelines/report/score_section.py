"""The scores in the report: one plot, a table per source and one per song; every column says which score it is."""

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from datasets.schema import Score
from pipelines.evaluation.scoring import ILL_CONDITIONED
from pipelines.report.charts import SourceScores, score_plot
from pipelines.report.formatting import decibels
from pipelines.report.page import section, source_class, table, text
from pipelines.report.report_input import ReportInput

NSDR = "nSDR (MDX 2021: one energy ratio over the whole song, mean over songs)"
SDR = "SDR (BSS Eval v4: median over 1 s windows, then median over songs)"


def per_source(scores: Sequence[Score]) -> list[SourceScores]:
    """Means over songs of nSDR, per source in the order met."""
    return [
        SourceScores(
            source=source,
            floor=fmean(row.mixture_nsdr for row in rows),
            model=fmean(row.nsdr for row in rows),
            songs=tuple(row.nsdr for row in rows),
        )
        for source, rows in _by_source(scores).items()
    ]


def scores_section(data: ReportInput) -> str:
    """The plot and the table of scores; every column says which score it is."""
    summary = per_source(data.scores)
    if not summary:
        return ""
    num_songs = len({score.track_id for score in data.scores})
    songs = f"{num_songs} {'song' if num_songs == 1 else 'songs'} of the {text(data.split)} split"
    plot = score_plot(
        summary,
        label="nSDR per source: "
        + "; ".join(
            f"{row.source} {decibels(row.floor)} dB as mixture, {decibels(row.model)} dB separated" for row in summary
        ),
    )
    dots = ", a faint dot is one song" if num_songs > 1 else ""
    caption = f'<p class="note">nSDR in dB. Hollow: the mixture taken as estimate. Filled: the model{dots}.</p>'
    return section(
        "How well it separates",
        plot,
        caption,
        _score_table(data.scores, summary),
        _filtered_table(data.scores),
        _song_table(data.scores) if num_songs > 1 else "",
        lead=f"On {songs}{_training_overlap(data)} Higher is better. Silence as the estimate has an nSDR of 0 dB.",
    )


def _training_overlap(data: ReportInput) -> str:
    """Whether the scored songs were used in training, as far as that is known."""
    if data.split == "valid":
        return ", by which the weights were selected."
    if data.heard is None:
        return (
            ", which was trained on."
            if data.split == "train"
            else "; it is not known whether any was used in training."
        )
    scored = {score.track_id for score in data.scores}
    trained_on = [track_id for track_id in sorted(data.heard.songs) if track_id in scored]
    if trained_on:
        names = ", ".join(trained_on[:3]) + (", ..." if len(trained_on) > 3 else "")
        return f", {len(trained_on)} of them used in training: {text(names)}."
    if not data.heard.known:
        return f"; it is not known whether any was used in training: {text('; '.join(data.heard.gaps))}."
    if not data.heard.by_fingerprint:
        return ", none with the same audio as a training song; other masters were not checked for."
    return ", none used in training."


def _score_table(scores: Sequence[Score], summary: Sequence[SourceScores]) -> str:
    with_sdr = any(score.sdr is not None for score in scores)
    with_oracle = any(score.ceiling_nsdr is not None for score in scores)
    headers = ["Source", "nSDR mixture", "nSDR model", "Improvement"] + (["nSDR IRM2 oracle"] if with_oracle else [])
    headers += (["SDR mixture", "SDR model"] + (["SDR IRM2 oracle"] if with_oracle else [])) if with_sdr else []
    rows = []
    for row in summary:
        of_source = [score for score in scores if score.source == row.source]
        cells = [
            _source_name(row.source),
            decibels(row.floor),
            decibels(row.model),
            decibels(row.model - row.floor, signed=True),
        ]
        cells += [decibels(_mean(score.ceiling_nsdr for score in of_source))] if with_oracle else []
        if with_sdr:
            cells += [
                decibels(_median(score.mixture_sdr for score in of_source)),
                decibels(_median(score.sdr for score in of_source)),
            ]
            cells += [decibels(_median(score.ceiling_sdr for score in of_source))] if with_oracle else []
        rows.append(cells)
    if len(summary) > 1:
        mean = [fmean(row.floor for row in summary), fmean(row.model for row in summary)]
        cells = ["Mean", decibels(mean[0]), decibels(mean[1]), decibels(mean[1] - mean[0], signed=True)]
        cells += [decibels(_mean(score.ceiling_nsdr for score in scores))] if with_oracle else []
        rows.append(cells + [""] * (len(headers) - len(cells)))
    protocols = ", ".join(sorted({score.protocol for score in scores if score.protocol}))
    note = f"All in dB. {NSDR}." + (f" {SDR}." if with_sdr else "") + (f" Protocol: {protocols}." if protocols else "")
    return (
        table(headers, rows, numeric=range(1, len(headers)), totals=len(summary) > 1)
        + f'<p class="note">{text(note)}</p>'
    )


def _filtered_table(scores: Sequence[Score]) -> str:
    """ISR, SIR and SAR, and which songs they leave out; empty where they were not asked for."""
    if not any(score.solver for score in scores):
        return ""
    well_conditioned = [score for score in scores if score.solver != ILL_CONDITIONED]
    rows = []
    for source, rows_of_source in _by_source(well_conditioned).items():
        medians = (_median(getattr(row, name) for row in rows_of_source) for name in ("isr", "sir", "sar"))
        rows.append([_source_name(source), *map(decibels, medians)])
    scores_table = table(["Source", "ISR", "SIR", "SAR"], rows, numeric=(1, 2, 3)) if rows else ""
    parts = [f'{scores_table}<p class="note">BSS Eval v4 in dB: medians over windows, then over songs.</p>']
    if ill_conditioned := sorted({score.title for score in scores if score.solver == ILL_CONDITIONED}):
        parts.append(
            f'<p class="note"><strong>Left out: {text(", ".join(ill_conditioned))}.</strong> '
            "Stems without energy in some band make the equations ill-conditioned: rounding errors dominate ISR, SIR "
            "and SAR.</p>"
        )
    return "".join(parts)


def _song_table(scores: Sequence[Score]) -> str:
    sources = list(_by_source(scores))
    songs: dict[str, dict[str, Score]] = {}
    for score in scores:
        songs.setdefault(score.track_id, {})[score.source] = score
    rows = []
    for by_source in sorted(songs.values(), key=lambda song: fmean(score.nsdr for score in song.values())):
        title = next(iter(by_source.values())).title
        cells = [decibels(by_source[source].nsdr) if source in by_source else "–" for source in sources]
        mean = fmean(score.nsdr - score.mixture_nsdr for score in by_source.values())
        rows.append([text(title), *cells, decibels(mean, signed=True)])
    headers = ["Song, worst first", *(source.capitalize() for source in sources), "Improvement"]
    shown = table(headers, rows, numeric=range(1, len(headers)))
    return f"<details><summary>nSDR of every song, in dB</summary>{shown}</details>"


def _by_source(scores: Sequence[Score]) -> dict[str, list[Score]]:
    rows: dict[str, list[Score]] = {}
    for score in scores:
        rows.setdefault(score.source, []).append(score)
    return rows


def _source_name(source: str) -> str:
    return f'<span class="name {source_class(source)}"><span class="dot"></span>{text(source.capitalize())}</span>'


def _median(values: Any) -> float:
    finite = [value for value in values if value is not None and not math.isnan(value)]
    return median(finite) if finite else math.nan


def _mean(values: Any) -> float:
    present = [value for value in values if value is not None]
    return fmean(present) if present else math.nan
