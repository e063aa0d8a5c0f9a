"""Every setting as it is declared beside the code that it turns: what documentation and schemas are written from.

Fields of dataclasses say their range in their annotation (`datasets/ranges.py`, and its twin in `models`), their unit
there or at the end of their name.
"""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import ranges
from models import ranges as model_ranges

_UNITS = {
    "s": "s", "ms": "ms", "h": "h", "hours": "h", "days": "d", "hz": "Hz", "db": "dB", "mb": "MB", "gb": "GB",
    "mib": "MiB", "gib": "GiB", "semitones": "semitones",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One leaf of a tree of dataclasses that holds a number, numbers or one of some choices."""

    name: str  # with its sections, such as train.learner.beta2
    type: str  # "int", "float", "list of float", "choice"
    range: str  # what a value must be, such as ">= 0", "in [0, 1)", "finite"
    unit: str  # "" where it has none
    default: Any
    declared: Any  # of `ranges.Declared`, or its twin


def declared(kind: type) -> dict[str, Any]:
    """The fields of one dataclass that hold numbers or choices."""
    room = model_ranges if kind.__module__.startswith("models.") else ranges
    return dict(room.declarations(kind))


def complain(name: str, value: Any, about: Any) -> str:
    """What is wrong with the value of a field that was declared so; empty where nothing is."""
    return ranges.complain(name, value, about)


def numeric(kind: type, at: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every such setting in a tree of dataclasses, in the order of its fields."""
    known, hints = declared(kind), typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint, here = hints[item.name], (*at, item.name)
        if item.name in known:
            about = known[item.name]
            yield Setting(
                name=".".join(here),
                type=_type(about),
                range=f"one of {', '.join(map(str, about.choices))}" if about.choices else str(about.range),
                unit=about.range.unit or _UNITS.get(item.name.rpartition("_")[2], ""),
                default=_default(item),
                declared=about,
            )
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from numeric(hint, here)


def _type(about: Any) -> str:
    if about.kind is None:
        return "choice"
    return f"list of {about.kind.__name__}" if about.many else str(about.kind.__name__)


def _default(item: "dataclasses.Field[Any]") -> Any:
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()
