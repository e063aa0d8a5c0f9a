"""Numbers, lengths and counts as the pages show them."""

import math


def decibels(value: float, *, signed: bool = False) -> str:
    """One decimal is what can be heard, and a real minus sign keeps columns even; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.2f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.0f}\u00a0min" if seconds < 5400 else f"{seconds / 3600:.1f}\u00a0h"


def count_songs(count: int, kind: str = "") -> str:
    """ "1 song", "2 songs"; `kind` is a word before it with a space, such as "more "."""
    return f"{count} {kind}song" if count == 1 else f"{count} {kind}songs"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
