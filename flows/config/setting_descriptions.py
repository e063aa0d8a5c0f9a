"""Every setting with its type, range, unit, default and meaning, from which documentation and schemas are written.

Fields of dataclasses say their range in their annotation (`datasets/field_constraints.py`, and its twin in `models`),
their unit there or at the end of their name, and what they mean in the comment on their line or above it.
"""

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import field_constraints
from models import field_constraints as model_ranges

_UNITS = {
    "s": "s", "ms": "ms", "h": "h", "hours": "h", "days": "d", "hz": "Hz", "db": "dB", "mb": "MB", "gb": "GB",
    "mib": "MiB", "gib": "GiB", "semitones": "semitones",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One leaf of a tree of dataclasses."""

    name: str  # with its sections, such as train.learner.beta2
    type: str  # "int", "float", "list of float", "choice", "text", "list of text", "true or false", "table"
    range: (
        str  # what a value must be, such as ">= 0", "in [0, 1)", "finite"; "" for other types than numbers and choices
    )
    unit: str  # "" where it has none
    default: Any
    meaning: str  # "" without a comment
    declared: Any  # of `field_constraints.Declared`, or its twin; None for other types than numbers and choices


def declared(kind: type) -> dict[str, Any]:
    """The fields of one dataclass that hold numbers or choices."""
    room = model_ranges if kind.__module__.startswith("models.") else field_constraints
    return dict(room.declarations(kind))


def complain(name: str, value: Any, about: Any) -> str:
    """What is wrong with the value of a field that was declared so; empty where nothing is."""
    return field_constraints.complain(name, value, about)


def numeric(kind: type) -> Iterator[Setting]:
    """The settings in a tree of dataclasses that hold a number, numbers or one of some choices."""
    return (setting for setting in every(kind) if setting.declared is not None)


def every(kind: type, at: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every leaf of a tree of dataclasses, in the order of its fields."""
    declarations, hints, meant = declared(kind), typing.get_type_hints(kind), meanings(kind)
    for item in dataclasses.fields(kind):
        hint, here = hints[item.name], (*at, item.name)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from every(hint, here)
            continue
        about = declarations.get(item.name)
        yield Setting(
            name=".".join(here),
            type=_type(about) if about else _plain_type(hint),
            range=_range(about) if about else "",
            unit=(about.range.unit or _UNITS.get(item.name.rpartition("_")[2], "")) if about else "",
            default=_default(item),
            meaning=meant.get(item.name, ""),
            declared=about,
        )


def summary(kind: type, section: str = "") -> str:
    """The first paragraph of what the code says of a section, such as `train.learner`, or of the whole tree."""
    for name in filter(None, section.split(".")):
        kind = typing.get_type_hints(kind)[name]
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


@functools.cache
def meanings(kind: type) -> Mapping[str, str]:
    """The meaning of each field of a dataclass: the comment at the end of its line, else the comment above it."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            comments.update(_comments_of_fields(textwrap.dedent(inspect.getsource(base))))
    return comments


def _comments_of_fields(source: str) -> Iterator[tuple[str, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    indented = {line for line, column in comments if not source.splitlines()[line - 1][:column].strip()}
    by_line = {line: text for (line, _), text in comments.items()}
    (body,) = ast.parse(source).body
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            beside = [by_line[line] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in by_line]
            above: list[str] = []
            while (line := node.lineno - 1 - len(above)) in indented:
                above.insert(0, by_line[line])
            yield node.target.id, " ".join(filter(None, beside or above))


def _range(about: Any) -> str:
    return f"one of {', '.join(map(str, about.choices))}" if about.choices else str(about.range)


def _plain_type(hint: Any) -> str:
    """The type of a setting that is not a number."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    names = {str: "text", bool: "true or false", tuple: "list of text"}
    return names.get(typing.get_origin(hint) or hint, "table")


def _type(about: Any) -> str:
    if about.kind is None:
        return "choice"
    return f"list of {about.kind.__name__}" if about.many else str(about.kind.__name__)


def _default(item: "dataclasses.Field[Any]") -> Any:
    factory = item.default_factory
    return item.default if factory is dataclasses.MISSING else factory()
