"""Plots as inline SVG, without a plotting library: pure functions from numbers to markup.

Each plot is drawn twice, for wide and for narrow screens, and the style shows one: letters keep their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pipelines.report.html_page import source_class

WIDTHS = {"wide": 760, "narrow": 350}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScores:
    """What the plot shows of one source, in dB: the mean of the floor, the mean of the model, and every song."""

    source: str
    floor: float
    model: float
    songs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line: points (step, value), and the style class that colours it."""

    name: str
    points: tuple[tuple[float, float], ...]
    style: str


def score_plot(scores: Sequence[SourceScores], *, label: str) -> Markup:
    """Per source a line from the mixture's score (hollow) to the model's (filled), and a faint dot per song."""
    values = [value for row in scores for value in (row.floor, row.model, *row.songs) if math.isfinite(value)]
    if not values:
        return Markup()
    ends = [min(0.0, *values), max(0.0, *values)]
    drawings = [
        _score_svg(scores, nice_ticks(ends, at_most=9 if kind == "wide" else 5), width=width)
        for kind, width in WIDTHS.items()
    ]
    return _both(label, drawings)


def _score_svg(scores: Sequence[SourceScores], ticks: Sequence[float], *, width: int) -> str:
    left, right, top, row_height = (90, 26, 20, 38) if width > 400 else (66, 20, 20, 36)
    height = top + row_height * len(scores) + 26

    def x(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (width - left - right)

    marks = []
    for tick in ticks:
        kind = "zero" if tick == 0 else "grid"
        marks.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 24}"/>')
        marks.append(f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{_short(tick)}</text>')
    if ticks[0] <= 0 <= ticks[-1]:
        marks.append(f'<text x="{x(0):.1f}" y="12" text-anchor="middle">silence</text>')
    for index, row in enumerate(scores):
        y = top + row_height * (index + 0.5)
        marks.append(f'<g class="{source_class(row.source)}">')
        marks.append(f'<text class="strong" x="0" y="{y + 4:.1f}">{escape(row.source.capitalize())}</text>')
        # A lone song would only repeat the mean.
        songs = [song for song in row.songs if math.isfinite(song)] if len(row.songs) > 1 else []
        marks += [f'<circle class="song" cx="{x(song):.1f}" cy="{y:.1f}" r="4"/>' for song in songs]
        if math.isfinite(row.floor) and math.isfinite(row.model):
            span = f'x1="{x(row.floor):.1f}" x2="{x(row.model):.1f}"'
            marks.append(f'<line class="span" {span} y1="{y:.1f}" y2="{y:.1f}"/>')
        for value, style, radius in ((row.floor, "hollow", 5), (row.model, "tint", 6)):
            if math.isfinite(value):
                marks.append(f'<circle class="{style}" cx="{x(value):.1f}" cy="{y:.1f}" r="{radius}"/>')
        marks.append("</g>")
    return _svg(width, height, marks)


def curve_plot(curves: Sequence[Curve], *, label: str) -> Markup:
    """Lines over the training step, on one vertical axis; values that are not finite are left out."""
    finite = [
        Curve(name=curve.name, style=curve.style, points=tuple(p for p in curve.points if math.isfinite(p[1])))
        for curve in curves
    ]
    finite = [curve for curve in finite if curve.points]
    if not finite:
        return Markup()
    return _both(label, [_curve_svg(finite, width=width) for width in (430, 350)])


def _curve_svg(curves: Sequence[Curve], *, width: int) -> str:
    left, right, top, bottom, height = 48, 14, 10, 28, 230
    steps = [step for curve in curves for step, _ in curve.points]
    ys = nice_ticks([value for curve in curves for _, value in curve.points], at_most=6)
    xs = nice_ticks(steps, at_most=5)
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x(step: float) -> float:
        return left + (step - first) / (last - first) * (width - left - right)

    def y(value: float) -> float:
        return top + (ys[-1] - value) / (ys[-1] - ys[0]) * (height - top - bottom)

    marks = []
    for tick in ys:
        marks.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        marks.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in xs:
        if first <= tick <= last:
            marks.append(f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{_short(tick)}</text>')
    for curve in curves:
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in curve.points)
        marks.append(f'<g class="{curve.style}"><polyline class="curve" points="{points}"/>')
        if len(curve.points) <= 12:
            marks += [f'<circle class="tint" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"/>' for s, v in curve.points]
        marks.append("</g>")
    return _svg(width, height, marks)


def nice_ticks(values: Sequence[float], *, at_most: int) -> list[float]:
    """Round numbers from at or below the least value to at or above the greatest; two at least."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = power * factor
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first + 1 <= at_most:
            break
    return [round(index * step, 12) for index in range(first, last + 1)]


def _short(tick: float) -> str:
    return f"{tick / 1000:g}k" if tick >= 10_000 else f"{tick:g}".replace("-", "\u2212")


def _svg(width: int, height: int, marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(marks)}</svg>'


def _both(label: str, drawings: Sequence[str]) -> Markup:
    parts = "".join(f'<div class="{kind}">{drawing}</div>' for kind, drawing in zip(WIDTHS, drawings, strict=True))
    return Markup(f'<div class="chart" role="img" aria-label="{escape(label)}">{parts}</div>')
