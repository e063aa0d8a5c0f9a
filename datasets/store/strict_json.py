"""JSON as RFC 8259 has it: what is no finite number is null, since a strict reader refuses NaN and Infinity.

Everything that a person, a script or another program reads goes through `dumps`; `restored` turns null back into the
float that it stood for where a dataclass is read.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

NULL = "null"  # of a field's metadata: the float that null stands for there, NaN where nothing is said
FORMER_NAME = "former_name"  # of a field's metadata: the name under which older stemlines stored it


def dumps(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """The value as JSON; floats that are not finite become null, dataclasses objects, whatever JSON lacks its `str`."""
    return json.dumps(strict(value), indent=indent, sort_keys=sort_keys, allow_nan=False, default=str)


def strict(value: Any) -> Any:
    """The same value with None for each float that is not finite, at any depth."""
    match value:
        case float():  # NumPy's float64 is one
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {key if isinstance(key, str) else _key(key): strict(below) for key, below in value.items()}
        case list() | tuple() | set() | frozenset():
            items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
            return [strict(below) for below in items]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: strict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy's other scalars and its arrays
        return strict(value.tolist())
    return value


def _key(key: Any) -> Any:
    """JSON's own keys stay what json makes of them; an infinity as a key and anything else is its `str`."""
    plain = key is None or isinstance(key, bool | int) or (isinstance(key, float) and math.isfinite(key))
    return key if plain else str(key)


def restored(kind: Any, tree: Any) -> Any:
    """A tree of JSON for `kind` in which null is a float again, where `kind` has a float that may not be None.

    A field's metadata says which: `field(metadata={NULL: -math.inf})`; NaN where it says nothing. The words that older
    stemlines wrote instead, "inf", "-inf" and "nan", are read too, and so is a field under its `FORMER_NAME`.
    """
    return _restored(kind, tree, null=math.nan)


def _restored(kind: Any, tree: Any, *, null: float) -> Any:
    if kind is float:
        return null if tree is None else float(tree) if tree in ("inf", "-inf", "nan") else tree
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        return tree if tree is None or len(parts) != 1 else _restored(parts[0], tree, null=null)
    if isinstance(tree, Mapping) and isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        tree = _with_current_names(kind, tree)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.name in tree}
        own = {
            name: _restored(hints[name], tree[name], null=field.metadata.get(NULL, math.nan))
            for name, field in fields.items()
        }
        return {**tree, **own}
    inner = typing.get_args(kind)
    if isinstance(tree, Mapping) and len(inner) == 2:
        return {key: _restored(inner[1], below, null=null) for key, below in tree.items()}
    if isinstance(tree, list | tuple) and inner:
        each = inner if len(inner) == len(tree) and inner[-1] is not Ellipsis else (inner[0],) * len(tree)
        return [_restored(own, below, null=null) for own, below in zip(each, tree, strict=True)]
    return tree


def _with_current_names(kind: Any, tree: Mapping[str, Any]) -> Mapping[str, Any]:
    former = {field.metadata.get(FORMER_NAME): field.name for field in dataclasses.fields(kind)}
    return {name if (now := former.get(name)) is None or now in tree else now: value for name, value in tree.items()}
