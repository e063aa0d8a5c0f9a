"""The scores in the report: one plot, a table per source and one per song; every column says which score it is."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from markupsafe import Markup

from datasets.schema import Score
from pipelines.evaluation import extra_metrics
from pipelines.evaluation.song_scoring import ILL_CONDITIONED
from pipelines.report.charts import SourceScores, score_plot
from pipelines.report.formatting import count_songs, decibels
from pipelines.report.html_page import render
from pipelines.report.report_input import ReportInput

NSDR = "nSDR (MDX 2021: one energy ratio over the whole song, mean over songs)"
SDR = "SDR (BSS Eval v4: median over 1 s windows, then median over songs)"


def per_source(scores: Sequence[Score]) -> list[SourceScores]:
    """Means of nSDR over the songs in which a source sounds, per source in the order met; those that never do have
    none.
    """
    return [
        SourceScores(
            source=source,
            floor=_mean(row.mixture_nsdr for row in rows),
            model=_mean(row.nsdr for row in rows),
            songs=tuple(row.nsdr for row in rows if row.nsdr is not None),
        )
        for source, rows in _by_source(scores).items()
        if any(row.nsdr is not None for row in rows)
    ]


def scores_section(data: ReportInput) -> Markup:
    """The plot and the tables of scores; every column says which score it is."""
    summary = per_source(data.scores)
    if not summary:
        return Markup()
    num_songs = len({score.track_id for score in data.scores})
    label = "; ".join(
        f"{row.source} {decibels(row.floor)} dB as mixture, {decibels(row.model)} dB separated" for row in summary
    )
    headers, rows = _score_table(data.scores, summary)
    song_headers, song_rows = _song_table(data.scores) if num_songs > 1 else ([], [])
    return render(
        "report/scores.html.j2",
        songs=count_songs(num_songs),
        split=data.split,
        overlap=_training_overlap(data),
        plot=score_plot(summary, label=f"nSDR per source: {label}"),
        dots=num_songs > 1,
        sources=list(_by_source(data.scores)),
        headers=headers,
        rows=rows,
        totals=len(summary) > 1,
        note=_note(data.scores),
        filtered=_filtered_rows(data.scores),
        extra_headers=["Source", "Songs", *(extra_metrics.LABELS[name] for name in _extra_columns(data.scores))],
        extra_rows=_extra_rows(data.scores),
        extra_units=extra_metrics.UNITS,
        ill_conditioned=sorted({score.title for score in data.scores if score.solver == ILL_CONDITIONED}),
        song_headers=song_headers,
        song_rows=song_rows,
    )


def _training_overlap(data: ReportInput) -> str:
    """Whether the scored songs were used in training, as far as that is known."""
    if data.split == "valid":
        return ", by which the weights were selected."
    if data.contamination is None:
        return (
            ", which was trained on."
            if data.split == "train"
            else "; it is not known whether any was used in training."
        )
    scored = {score.track_id for score in data.scores}
    trained_on = [track_id for track_id in sorted(data.contamination.songs) if track_id in scored]
    if trained_on:
        names = ", ".join(trained_on[:3]) + (", ..." if len(trained_on) > 3 else "")
        return f", {len(trained_on)} of them used in training: {names}."
    if not data.contamination.known:
        return f"; it is not known whether any was used in training: {'; '.join(data.contamination.gaps)}."
    if not data.contamination.by_fingerprint:
        return ", none with the same audio as a training song; other masters were not checked for."
    return ", none used in training."


def _score_table(scores: Sequence[Score], summary: Sequence[SourceScores]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the means and medians, one row per source and their mean."""
    with_oracle = any(score.ceiling_nsdr is not None for score in scores)
    with_leakage = any(score.leakage_db is not None for score in scores)
    num_songs = len({score.track_id for score in scores})
    headers = ["Source", "Songs", "nSDR mixture", "nSDR model", "Improvement"]
    headers += ["Leakage"] if with_leakage else []
    headers += ["nSDR IRM2 oracle"] if with_oracle else []
    sdr_columns = _sdr_columns(scores)
    headers += sdr_columns
    rows = []
    for source, of_source in _by_source(scores).items():
        floor, model = (_mean(getattr(score, name) for score in of_source) for name in ("mixture_nsdr", "nsdr"))
        counted = sum(score.nsdr is not None for score in of_source)
        cells = [
            source,
            f"{counted} of {num_songs}",
            decibels(floor),
            decibels(model),
            decibels(model - floor, signed=True),
        ]
        cells += [decibels(_largest(score.leakage_db for score in of_source))] if with_leakage else []
        cells += [decibels(_mean(score.ceiling_nsdr for score in of_source))] if with_oracle else []
        cells += [column(of_source, num_songs) for column in sdr_columns.values()]
        rows.append(cells)
    if len(summary) > 1:
        of_sources = (_mean(row.ceiling_nsdr for row in rows) for rows in _by_source(scores).values())
        oracles = [oracle for oracle in of_sources if not math.isnan(oracle)]
        mean = [fmean(row.floor for row in summary), fmean(row.model for row in summary)]
        counted = len({score.track_id for score in scores if score.nsdr is not None})
        cells = ["Mean", f"{counted} of {num_songs}", *map(decibels, mean), decibels(mean[1] - mean[0], signed=True)]
        cells += [decibels(_largest(score.leakage_db for score in scores))] if with_leakage else []
        cells += [decibels(_mean(oracles))] if with_oracle else []
        rows.append(cells + [""] * (len(headers) - len(cells)))
    return headers, rows


def _sdr_columns(scores: Sequence[Score]) -> dict[str, Callable[[Sequence[Score], int], str]]:
    """Columns of BSS Eval's SDR: what makes a cell of a source's scores and the number of songs."""
    if all(score.sdr is None for score in scores):
        return {}
    columns: dict[str, Callable[[Sequence[Score], int], str]] = {
        "SDR songs": lambda rows, num_songs: f"{sum(row.sdr is not None for row in rows)} of {num_songs}",
        "SDR mixture": lambda rows, _: decibels(_median(row.mixture_sdr for row in rows)),
        "SDR model": lambda rows, _: decibels(_median(row.sdr for row in rows)),
        "SDR IRM2 oracle": lambda rows, _: decibels(_median(row.ceiling_sdr for row in rows)),
    }
    # A song with a stem that is silent throughout has no SDR for its other stems either.
    if all((score.sdr is None) == (score.nsdr is None) for score in scores):
        del columns["SDR songs"]
    if all(score.ceiling_nsdr is None for score in scores):
        del columns["SDR IRM2 oracle"]
    return columns


def _note(scores: Sequence[Score]) -> str:
    """What the columns of the table of scores are."""
    protocols = ", ".join(sorted({score.protocol for score in scores if score.protocol}))
    sdr = f" {SDR}." if any(score.sdr is not None for score in scores) else ""
    note = "All in dB. A song counts for a source that sounds in it (RMS above -60 dBFS). "
    if any(score.leakage_db is not None for score in scores):
        note += "Leakage: the estimate where the stem is silent, relative to the mixture there, in the worst song. "
    return f"{note}{NSDR}.{sdr}" + (f" Protocol: {protocols}." if protocols else "")


def _filtered_rows(scores: Sequence[Score]) -> list[list[str]] | None:
    """ISR, SIR and SAR of each source, without ill-conditioned songs; None where they were not asked for."""
    if not any(score.solver for score in scores):
        return None
    well_conditioned = [score for score in scores if score.solver != ILL_CONDITIONED]
    return [
        [source, *(decibels(_median(getattr(row, name) for row in rows)) for name in ("isr", "sir", "sar"))]
        for source, rows in _by_source(well_conditioned).items()
    ]


def _extra_columns(scores: Sequence[Score]) -> tuple[str, ...]:
    """The columns that `evaluate.extra_metrics` asked for, of all scores."""
    requested = {name for score in scores for name in extra_metrics.of_protocol(score.protocol)}
    return tuple(name for name in extra_metrics.LABELS if name in requested)


def _extra_rows(scores: Sequence[Score]) -> list[list[str]]:
    """Means of the scores that were asked for, a row for each source; none where none was."""
    columns = _extra_columns(scores)
    num_songs = len({score.track_id for score in scores})
    return [
        [
            source,
            f"{sum(row.nsdr is not None for row in rows)} of {num_songs}",
            *(_counted_mean([getattr(row, name) for row in rows if row.nsdr is not None]) for name in columns),
        ]
        for source, rows in _by_source(scores).items()
        if columns
    ]


def _counted_mean(values: Sequence[float | None]) -> str:
    """The mean, with the number of songs that it is over where some have no such score, as of a muted estimate."""
    counted = sum(value is not None for value in values)
    return decibels(_mean(values)) + (f" ({counted})" if counted < len(values) else "")


def _song_table(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of every song's nSDR, the worst song first."""
    sources = list(_by_source(scores))
    songs: dict[str, dict[str, Score]] = {}
    for score in scores:
        songs.setdefault(score.track_id, {})[score.source] = score
    rows = []
    counted = [song for song in songs.values() if any(score.nsdr is not None for score in song.values())]
    for by_source in sorted(counted, key=lambda song: _mean(score.nsdr for score in song.values())):
        title = next(iter(by_source.values())).title
        cells = [decibels(_mean([by_source[source].nsdr])) if source in by_source else "–" for source in sources]
        model, floor = (
            _mean(getattr(score, name) for score in by_source.values()) for name in ("nsdr", "mixture_nsdr")
        )
        rows.append([title, *cells, decibels(model - floor, signed=True)])
    headers = ["Song, worst first", *(source.capitalize() for source in sources), "Improvement"]
    return headers, rows


def _by_source(scores: Sequence[Score]) -> dict[str, list[Score]]:
    rows: dict[str, list[Score]] = {}
    for score in scores:
        rows.setdefault(score.source, []).append(score)
    return rows


def _median(values: Any) -> float:
    finite = [value for value in values if value is not None and not math.isnan(value)]
    return median(finite) if finite else math.nan


def _largest(values: Any) -> float:
    return max((value for value in values if value is not None), default=math.nan)


def _mean(values: Any) -> float:
    present = [value for value in values if value is not None]
    return fmean(present) if present else math.nan
