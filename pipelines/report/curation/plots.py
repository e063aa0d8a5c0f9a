"""The two plots of the curation page: histograms of measures with a rule's limit, and matrices of shares."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipelines.report.charts import nice_ticks
from pipelines.report.html_page import source_class

Shares = NDArray[np.float64]
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 320, 58, 20, 18, 34
_BARS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One measure of all songs, per source, and the limits outside of which its rule drops a song."""

    title: str
    note: str  # what it is, with its unit
    values: Mapping[str, Sequence[float]]  # source ("" where it is one of the whole song) -> a value per song
    least: float | None = None  # of a song that is kept
    most: float | None = None
    percent: bool = False  # values are shares
    decades: bool = False  # the axis is logarithmic; 0 stands at its left end


def histogram(panel: Panel) -> Markup:
    """How the songs spread over a measure, a row per source on one axis; what the rule drops is shaded."""
    rows = {source: [v for v in values if math.isfinite(v)] for source, values in panel.values.items()}
    rows = {source: values for source, values in rows.items() if values}
    if not rows:
        return Markup()
    limits = [limit for limit in (panel.least, panel.most) if limit is not None]
    axis = _Axis.over([v for values in rows.values() for v in values], limits, panel)
    height = _TOP + _ROW * len(rows) + 24
    marks = [*_outside(panel, axis, bottom=height - 22)]
    for index, (source, values) in enumerate(rows.items()):
        marks.append(_bars(values, axis, source=source, base=_TOP + _ROW * (index + 1) - 3))
    for tick, name in axis.ticks:
        marks.append(f'<text x="{axis.x(tick):.1f}" y="{height - 7}" text-anchor="middle">{name}</text>')
    for limit in limits:
        x = axis.x(limit)
        anchor = "start" if x < _WIDTH / 4 else "end" if x > _WIDTH * 3 / 4 else "middle"
        marks.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height - 22}"/>')
        marks.append(f'<text class="limit-name" x="{x:.1f}" y="10" text-anchor="{anchor}">{axis.name(limit)}</text>')
    beyond = sum(_is_out(value, panel) for values in rows.values() for value in values)
    total = sum(map(len, rows.values()))
    label = f"{panel.title}: {beyond} of {total} values are beyond the limit" if limits else panel.title
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """From values to places, and the numbers below."""

    low: float
    high: float
    percent: bool
    decades: bool
    ticks: tuple[tuple[float, str], ...] = ()

    @classmethod
    def over(cls, values: Sequence[float], limits: Sequence[float], panel: Panel) -> "_Axis":
        if panel.decades:
            least = min((v for v in [*values, *limits] if v > 0), default=1e-3)
            low, high = max(-6, math.floor(math.log10(least))), math.ceil(math.log10(max(*values, *limits, 10 * least)))
            bare = cls(low=low, high=high, percent=panel.percent, decades=True)
            steps = range(low, high + 1, max(1, math.ceil((high - low) / 4)))
            return cls(low=low, high=high, percent=panel.percent, decades=True,
                       ticks=tuple((10.0**step, bare.name(10.0**step)) for step in steps))  # fmt: skip
        ends = [*values, *limits, *((0.0, 1.0) if panel.percent else ())]
        ticks = nice_ticks(ends, at_most=6)
        bare = cls(low=ticks[0], high=ticks[-1], percent=panel.percent, decades=False)
        return cls(low=ticks[0], high=ticks[-1], percent=panel.percent, decades=False,
                   ticks=tuple((tick, bare.name(tick)) for tick in ticks))  # fmt: skip

    def place(self, value: float) -> float:
        """From 0 at the left end to 1 at the right."""
        if self.decades:
            value = math.log10(max(value, 10.0**self.low))
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def x(self, value: float) -> float:
        return _LEFT + self.place(value) * (_WIDTH - _LEFT - _RIGHT)

    def name(self, value: float) -> str:
        name = f"{100 * value:.4g}\u2009%" if self.percent else f"{value:.4g}"
        if value >= 10_000:
            name = f"{value / 1000:g}k"
        return name.replace("-", "\u2212")


def _is_out(value: float, panel: Panel) -> bool:
    return (panel.least is not None and value < panel.least) or (panel.most is not None and value > panel.most)


def _outside(panel: Panel, axis: _Axis, *, bottom: float) -> list[str]:
    """The shading beyond the limits."""
    stretches = []
    if panel.least is not None:
        stretches.append((float(_LEFT), axis.x(panel.least)))
    if panel.most is not None:
        stretches.append((axis.x(panel.most), float(_WIDTH - _RIGHT)))
    return [
        f'<rect class="out" x="{a:.1f}" y="{_TOP - 4}" width="{max(0.0, b - a):.1f}" height="{bottom - _TOP + 4:.1f}"/>'
        for a, b in stretches
    ]


def _bars(values: Sequence[float], axis: _Axis, *, source: str, base: float) -> str:
    """A row of bars; one song alone is still seen."""
    edges = np.linspace(0, 1, _BARS + 1)
    counts, _ = np.histogram([axis.place(value) for value in values], bins=edges)
    width = _WIDTH - _LEFT - _RIGHT
    tallest = max(1, int(counts.max()))
    bars = [
        f'<rect class="tint" x="{_LEFT + a * width + 0.5:.1f}" y="{base - h:.1f}" '
        f'width="{(b - a) * width - 1:.1f}" height="{h:.1f}"/>'
        for count, (a, b) in zip(counts, pairwise(edges), strict=True)
        if (h := max(2.0, (_ROW - 8) * count / tallest) if count else 0.0)
    ]
    name = f'<text class="strong" x="0" y="{base - 1:.1f}">{escape((source or "song").capitalize()[:8])}</text>'
    ground = f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>'
    return f'<g class="{source_class(source) if source else "source-mixture"}">{name}{ground}{"".join(bars)}</g>'


def matrix_plot(
    shares_SS: Shares, sources: Sequence[str], *, min_own: float, max_foreign: float, small: bool = False
) -> Markup:
    """Rows are the labels of stems, columns what the model recognizes; cells that break the rule have a border."""
    cell, left, top = (34, 54, 18) if small else (72, 84, 44)
    size = len(sources)
    width, height = left + cell * size + 4, top + cell * size + 4
    names = [source.capitalize()[: 7 if small else 9] for source in sources]
    marks = []
    for index, name in enumerate(names):
        middle = cell * (index + 0.5)
        marks.append(f'<text x="{left - 8}" y="{top + middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        short = escape(name[:3] if small else name)
        marks.append(f'<text x="{left + middle:.1f}" y="{top - 7}" text-anchor="middle">{short}</text>')
    if not small:
        marks.append(f'<text x="{left - 8}" y="{top - 26}" text-anchor="end">label</text>')
        marks.append(f'<text x="{left + cell * size / 2:.1f}" y="{top - 26}" text-anchor="middle">recognized as</text>')
    for row in range(size):
        for column in range(size):
            share = float(shares_SS[row, column])
            if math.isfinite(share):
                own = row == column
                broken = share <= min_own if own else share >= max_foreign
                marks.append(_cell(share, left + cell * column, top + cell * row, cell, own=own, broken=broken))
    worst = "; ".join(
        f"{sources[i]} as {sources[j]} {shares_SS[i, j]:.0%}"
        for i in range(size)
        for j in range(size)
        if math.isfinite(shares_SS[i, j]) and (shares_SS[i, j] <= min_own if i == j else shares_SS[i, j] >= max_foreign)
    )
    label = f"Shares of seconds, label and what the model recognizes: {worst or 'all within the rule'}"
    kind = "small matrix" if small else "matrix"
    return Markup(
        f'<svg class="{kind}" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(marks)}</svg>'
    )


def _cell(share: float, x: float, y: float, size: int, *, own: bool, broken: bool) -> str:
    """A square whose ink is the share."""
    square = f'x="{x + 1:.0f}" y="{y + 1:.0f}" width="{size - 2}" height="{size - 2}" rx="3"'
    kind, over = "cell own" if own else "cell", " over" if share > 0.55 else ""
    border = f'<rect class="broken" {square}/>' if broken else ""
    ink = f'<rect class="{kind}" {square} fill-opacity="{0.07 + 0.88 * share:.2f}"/>'
    middle = f'x="{x + size / 2:.0f}" y="{y + size / 2 + 4:.0f}" text-anchor="middle"'
    return f'{ink}<text class="value{over}" {middle}>{100 * share:.0f}</text>{border}'
