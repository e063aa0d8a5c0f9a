"""What the rules decided on: how the songs spread over each measure, and what the model recognized in the stems."""

from collections.abc import Iterator, Mapping

import numpy as np
from markupsafe import Markup

from pipelines.report.curation.page_input import CurationInput
from pipelines.report.curation.plots import Panel, Shares, histogram, matrix_plot
from pipelines.report.html_page import render


def measures_section(data: CurationInput) -> Markup:
    """How the songs spread over every measure that a rule looks at."""
    drawings = [(panel, drawing) for panel in panels(data) if (drawing := histogram(panel))]
    return render("curation/measures.html.j2", panels=drawings) if drawings else Markup()


def panels(data: CurationInput) -> Iterator[Panel]:
    """The measures of the songs with the limits of their rules."""
    measured = [verdict.measures for verdict in data.verdicts if verdict.measures]
    for suffix, title, note, least, most, off, style in _MEASURES:
        floor = _LEAST_LEVEL if "level" in style else float("-inf")
        values = {
            source: [max(floor, value) for row in measured for value in _measure(row, source, suffix)]
            for source in ("", *data.sources)
        }
        if any(values.values()):
            ends = {"least": least, "most": most}
            limits = {end: _limit(data, field) for end, field in ends.items() if field}
            limits = {end: limit for end, limit in limits.items() if limit != off}
            note += "" if limits else "; no rule" if off is None else "; the rule is off"
            yield Panel(title=title, note=note, values=values, percent="%" in style, decades="log" in style, **limits)


def _limit(data: CurationInput, field: str) -> float:
    """The threshold of a rule: a field of the rules on the signal, or of the label rule."""
    labels = {"min_own": data.min_own, "max_foreign": data.max_foreign}
    return labels[field] if field in labels else float(getattr(data.rules, field))


def _measure(row: Mapping[str, float], source: str, suffix: str) -> list[float]:
    """A source's measure, or the song's own for no source; none where it was not taken."""
    name = f"{source}_{suffix}" if source else suffix
    if suffix in _LOUDEST:  # of what else is in the stem, the most counts
        others = [v for key, v in row.items() if source and key.startswith(f"{name}_") and key != f"{name}_{source}"]
        return [max(others)] if others else []
    if suffix == "heard":
        name = f"{source}_heard_as_{source}"
    return [abs(row[name]) if suffix == "shift_ms" else row[name]] if name in row else []


_LOUDEST = ("bleed", "heard_as")
# Suffix of the measure, title, what it is, the rule's field for the least and the most of a kept song, the setting
# that switches the rule off, style.
_MEASURES: tuple[tuple[str, str, str, str, str, float | None, str], ...] = (
    ("presence", "Presence", "seconds in which the stem sounds", "min_presence", "", 0.0, "%"),
    ("clipped", "Clipping", "clipped samples", "", "max_clipped", 1.0, "% log"),
    ("offset", "DC offset", "mean of a stem, of full scale", "", "max_offset", 1.0, "% log"),
    ("correlation", "Channels", "correlation; 1 is mono, \u22121 cancels", "min_correlation", "", -1.0, ""),
    ("bleed", "Bleed", "dB; the loudest other stem in it", "", "max_bleed_db", 0.0, "level"),
    ("cutoff_hz", "Bandwidth", "Hz where the spectrum ends", "min_cutoff_hz", "", 0.0, ""),
    ("shift_ms", "Shift", "ms against the mixture", "", "max_shift_ms", 1000.0, ""),
    ("residual_db", "Residual", "dB that the stems leave of the mixture", "", "max_residual_db", 0.0, "level"),
    ("heard", "Recognized as itself", "seconds, by the model", "min_own", "", None, "%"),
    ("heard_as", "Taken for another", "seconds, by the model; the most of any source", "", "max_foreign", None, "%"),
    ("lufs", "Loudness", "LUFS over the whole song", "", "", None, "level"),
)
_LEAST_LEVEL = -70.0  # silence stands here


def model_section(data: CurationInput) -> Markup:
    """What the model recognizes in stems, as the mean over all songs that it was given."""
    if not data.matrices:
        return Markup()
    stack = np.stack(list(data.matrices.values()))
    finite = np.isfinite(stack)
    mean_SS = np.where(finite, stack, 0).sum(axis=0) / np.maximum(1, finite.sum(axis=0))
    mean_SS[~finite.any(axis=0)] = np.nan
    return render(
        "curation/model.html.j2",
        model=data.model,
        matrix=confusion_matrix(data, mean_SS),
        below_db=f"{-data.heard_db:g}",
        min_self=f"{data.min_own:.0%}",
        max_other=f"{data.max_foreign:.0%}",
        num_songs=len(data.matrices),
        num_broken=sum(verdict.reason == "mislabelled" for verdict in data.verdicts),
    )


def confusion_matrix(data: CurationInput, shares_SS: Shares, *, small: bool = False) -> Markup:
    return matrix_plot(shares_SS, data.sources, min_own=data.min_own, max_foreign=data.max_foreign, small=small)
