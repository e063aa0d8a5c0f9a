"""What the rules saw: how the songs spread over each measure, and what the model made of their labels."""

from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.report.curation.curation_input import CurationInput
from pipelines.report.curation.plots import Panel, Shares, histogram, matrix_plot
from pipelines.report.formatting import count_songs
from pipelines.report.page import section, text


def measures_section(data: CurationInput) -> str:
    """How the songs spread over every measure that a rule looks at."""
    drawings = "".join(histogram(panel) for panel in panels(data))
    if not drawings:
        return ""
    lead = (
        "One value per song, a row per stem. The dashed line is the rule's limit, "
        "and values in the shaded area beyond it drop a song."
    )
    return section("What was measured", f'<div class="panels">{drawings}</div>', lead=lead)


def panels(data: CurationInput) -> Iterator[Panel]:
    """The measures of the songs with the limits of their rules."""
    measured = [verdict.measures for verdict in data.verdicts if verdict.measures]
    for suffix, title, note, least, most, off, style in _MEASURES:
        least_shown = _LEAST_LEVEL if "level" in style else float("-inf")
        values = {
            source: [max(least_shown, value) for row in measured for value in _measure(row, source, suffix)]
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


def model_section(data: CurationInput) -> str:
    """What the model recognizes in stems, as the mean over all songs that it was given."""
    if not data.matrices:
        return ""
    stack = np.stack(list(data.matrices.values()))
    finite = np.isfinite(stack)
    mean_SS = np.where(finite, stack, 0).sum(axis=0) / np.maximum(1, finite.sum(axis=0))
    mean_SS[~finite.any(axis=0)] = np.nan
    broken = sum(verdict.reason == "mislabelled" for verdict in data.verdicts)
    rule = (
        f"<strong>{text(data.model)}</strong> separated each stem on its own. A number is the percentage of the "
        "stem's sounding seconds in which the model's output for a source is no more than "
        f"{-data.heard_db:g} dB below the stem."
    )
    explanation = (
        f"<p>A song is kept when the model recognizes every stem as itself in more than {data.min_own:.0%} and as any "
        f"other source in less than {data.max_foreign:.0%} of its seconds; cells that break the rule have a border. "
        f"The matrix is the mean over the {count_songs(len(data.matrices))} that passed the rules on the signal; "
        f"{broken} of them {'was' if broken == 1 else 'were'} dropped by this rule. Bright cells off the diagonal that "
        "all songs share are confusions of the model, not wrong labels.</p>"
    )
    return section(
        "What the model recognizes",
        f'<div class="beside">{confusion_matrix(data, mean_SS)}<div>{explanation}</div></div>',
        lead=rule,
    )


def confusion_matrix(data: CurationInput, shares_SS: Shares, *, small: bool = False) -> str:
    return matrix_plot(shares_SS, data.sources, min_own=data.min_own, max_foreign=data.max_foreign, small=small)
