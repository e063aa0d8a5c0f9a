"""The table that every bench prints: one figure a row, beside what it is held against.

Nothing but the standard library is used here: some benches run on hosts that have little else.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

COLUMNS = ("name", "value", "unit", "baseline", "target", "met")
WORDS = {None: "–", True: "yes", False: "NO"}


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    target: float | None = None,
    more: bool = False,
    spread: tuple[float, float] | None = None,
) -> Row:
    """One figure; `baseline` is what it is compared with, `target` what is asked, `more` where more is better.

    `met` is None where nothing was asked. `spread` is the least and the largest over several turns.
    """
    met = None if target is None else bool(value >= target if more else value <= target)
    made: Row = {"name": name, "value": float(value), "unit": unit, "baseline": baseline, "target": target, "met": met}
    return made if spread is None else {**made, "spread": spread}


def show(title: str, rows: Iterable[Row], out: str | None = None, *, decimals: int = 2) -> int:
    """Print the rows, and write them to the JSON file `out`; 1 if a target was missed, as a process' exit code."""
    rows = list(rows)
    columns = [*COLUMNS, *(["spread"] if any("spread" in one for one in rows) else [])]
    lines = [columns, *([_cell(column, one.get(column), decimals) for column in columns] for one in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    print(title)
    for line in lines:
        padded = (cell.ljust(width) if place in (0, 2) else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join(padded).rstrip())
    if out:
        write(rows, out)
    return int(any(one["met"] is False for one in rows))


def write(rows: Iterable[Row], out: str) -> None:
    """The rows as a JSON file."""
    Path(out).write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def _cell(column: str, value: Any, decimals: int) -> str:
    if column == "met":
        return WORDS[value]
    if value is None:
        return "–"
    if column == "spread":
        return "{:.{}f} to {:.{}f}".format(value[0], decimals, value[1], decimals)
    return value if isinstance(value, str) else f"{value:.{decimals}f}"
