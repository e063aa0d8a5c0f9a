"""Values of a published package's options, checked: they come from strangers, and can be of any kind and size."""

import reprlib
from fractions import Fraction
from typing import Any

from ..errors import ModelError
from .bag_file import MAX_SEGMENT_S


class _Brief(reprlib.Repr):
    """A tensor of a few bytes can have so many dimensions that its own repr never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = 100

    def repr_instance(self, x: Any, level: int) -> str:
        plain = x is None or isinstance(x, bool | float | Fraction)
        return super().repr_instance(x, level) if plain else f"<{type(x).__name__}>"


brief = _Brief().repr  # of a value for a message, whatever a stranger's file holds


def names(value: Any) -> list[str]:
    """A list of names, none of them empty."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ModelError(f"has an option of the wrong kind: sources={brief(value)}, want a list of names")
    return list(value)


def whole_number(value: Any, most: int = 10**9) -> int:
    """A whole number, not negative, and not so large that mere arithmetic with it never ends."""
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction) or not 0 <= value <= most:
        raise ModelError(f"has an option {brief(value)}: want a whole number, from 0 to {most}")
    if value != int(value):
        raise ModelError(f"has an option {brief(value)}: want a whole number")
    return int(value)


def num_layers(value: Any) -> int:
    """A whole number of layers, from 0 to 1000."""
    return whole_number(value, most=1000)


def number(value: Any) -> float:
    """A number from 0 to 1e9."""
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction) or not 0 <= value <= 10**9:
        raise ModelError(f"has an option of the wrong kind: {brief(value)}, want a number from 0 to 1000000000")
    return float(value)


def seconds(value: Any) -> float:
    """A length above 0, in seconds, at most that of a bag's segment."""
    if not 0 < (length_s := number(value)) <= MAX_SEGMENT_S:
        raise ModelError(f"has a segment of {length_s:g} s: want above 0, at most {MAX_SEGMENT_S:g}")
    return length_s


def flag(value: Any) -> bool:
    """A truth value; None and whole numbers count as one."""
    if value is not None and not isinstance(value, int):
        raise ModelError(f"has an option of the wrong kind: {brief(value)}, want True or False")
    return bool(value)
