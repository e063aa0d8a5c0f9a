"""The range of a number is declared with its field, and one function checks them all.

    @dataclass(frozen=True)
    class Config:
        rate: Annotated[float, Range(gt=0)] = 3e-4

        def __post_init__(self) -> None:
            check_ranges(self, ModelError)

Standard library only. `models/field_constraints.py` and `datasets/field_constraints.py` are one text, which a test
holds together: neither package may import the other, and there is none below both.
"""

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bounds of a number, or of each number of a tuple; a bound of None is none. `Range()` says that all will do."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    unit: str = ""  # such as "dB", where the name of the field does not end in it

    def holds(self, value: float) -> bool:
        """Whether a value lies inside; NaN never does."""
        return not (
            math.isnan(value)
            or (self.ge is not None and value < self.ge)
            or (self.gt is not None and value <= self.gt)
            or (self.le is not None and value > self.le)
            or (self.lt is not None and value >= self.lt)
        )

    def __str__(self) -> str:
        """What a value must be, such as ">= 0" or "in [0, 1)"."""
        low = self.ge if self.ge is not None else self.gt
        high = self.le if self.le is not None else self.lt
        if low is not None and high is not None:
            return f"in {'[' if self.ge is not None else '('}{low:g}, {high:g}{']' if self.le is not None else ')'}"
        if low is not None:
            return f">{'=' if self.ge is not None else ''} {low:g}"
        return f"<{'=' if self.le is not None else ''} {high:g}" if high is not None else "finite"


AnyNumber = Annotated[float, Range()]
PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
NonPositiveFloat = Annotated[float, Range(le=0)]
Probability = Annotated[float, Range(ge=0, le=1)]
ProperFraction = Annotated[float, Range(ge=0, lt=1)]
Correlation = Annotated[float, Range(ge=-1, le=1)]
Decibels = Annotated[float, Range(unit="dB")]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a field's annotation says of its numbers."""

    kind: type | None  # int or float; None where only choices are declared
    range: Range
    stated: bool  # a Range stands in the annotation; without, all finite numbers pass
    many: bool  # a tuple of such numbers
    optional: bool
    choices: tuple[Any, ...] = ()


def check_ranges(config: Any, error: Callable[[str], Exception], *, section: str = "") -> None:
    """Raises `error` for the first field of a dataclass whose value its annotation does not allow.

    Numbers are finite, whole where the annotation says int, and within their `Range`; a `Literal` is one of its
    choices, and a bool true or false. `section` stands before the name in the message, as in "train.".
    """
    for name, declared in declarations(config.__class__).items():
        if complaint := complain(f"{section}{name}", getattr(config, name), declared):
            raise error(complaint)
    for name in _flags(config.__class__):
        if not isinstance(value := getattr(config, name), bool):  # the text "false" would be true
            raise error(f"{section}{name} must be true or false, got {value!r}")


def complain(name: str, value: Any, declared: Declared) -> str:
    """What is wrong with a value of a field, in words that name it; empty where nothing is."""
    if declared.optional and value is None:
        return ""
    if declared.many and not isinstance(value, tuple | list):
        return f"{name} must be a list of numbers, got {value!r}"
    for number in value if declared.many else (value,):
        if (wanted := _violated(number, declared)) is not None:
            return f"{'each number of ' if declared.many else ''}{name} must be {wanted}, got {number!r}"
    return ""


@functools.cache
def declarations(kind: type) -> dict[str, Declared]:
    """The fields of a dataclass that hold numbers or choices, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    read = {item.name: _read(hints[item.name]) for item in dataclasses.fields(kind)}
    return {name: declared for name, declared in read.items() if declared is not None}


@functools.cache
def _flags(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass that are true or false."""
    hints = typing.get_type_hints(kind)
    return tuple(item.name for item in dataclasses.fields(kind) if hints[item.name] is bool)


def _violated(number: Any, declared: Declared) -> str | None:
    """What the number must be and is not."""
    if declared.kind is None:
        return None if number in declared.choices else f"one of {', '.join(map(repr, declared.choices))}"
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        return "a whole number" if declared.kind is int else "a number"
    if not math.isfinite(number):
        return "a finite number" if str(declared.range) == "finite" else str(declared.range)
    if declared.kind is int and not isinstance(number, numbers.Integral):
        return "a whole number"
    return None if declared.range.holds(float(number)) else str(declared.range)


def _read(hint: Any, bounds: Range | None = None) -> Declared | None:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _read(parts[0], next((part for part in parts[1:] if isinstance(part, Range)), bounds))
    if origin is typing.Literal:
        return Declared(kind=None, range=Range(), stated=True, many=False, optional=False, choices=parts)
    if origin in (typing.Union, types.UnionType) and type(None) in parts and len(parts) == 2:
        inner = _read(next(part for part in parts if part is not type(None)), bounds)
        return None if inner is None else dataclasses.replace(inner, optional=True)
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        inner = _read(parts[0], bounds)
        return None if inner is None or inner.many else dataclasses.replace(inner, many=True)
    if hint not in (int, float):
        return None
    return Declared(kind=hint, range=bounds or Range(), stated=bounds is not None, many=False, optional=False)
