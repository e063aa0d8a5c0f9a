"""The settings of a tree of dataclasses by their dotted names: which exist, and the nearest to a misspelt one."""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from datasets.errors import InputError
from flows.config import setting_descriptions
from pipelines.runtime.renamed_settings import current_name


def fields_of(kind: Any) -> dict[str, Any] | None:
    """Field name to type of a dataclass (or of an optional one); None for everything else."""
    if is_union(kind):
        return next((names for part in typing.get_args(kind) if (names := fields_of(part)) is not None), None)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}


def is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def hint_at(kind: Any, path: Sequence[str]) -> Any:
    for name in path:
        names = fields_of(kind)
        if names is None or name not in names:
            return None
        kind = names[name]
    return kind


def all_keys(kind: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    for name, hint in (fields_of(kind) or {}).items():
        yield ".".join((*at, name))
        yield from all_keys(hint, (*at, name))


def value_at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def refuse_unknown(kind: Any, tree: Mapping[str, Any], *, at: tuple[str, ...], root: Any = None) -> None:
    names = fields_of(kind)
    if names is None:
        return
    for key, value in tree.items():
        here = ".".join((*at, key))
        if key not in names:
            here = ".".join((here, *_first_path(value)))
            if current_name(here) != here:
                raise InputError(f"The setting {here!r} is called {current_name(here)!r} now.")
            raise InputError(f"There is no setting {here!r}{_nearest_setting(root or kind, here)}")
        if isinstance(value, Mapping):
            refuse_unknown(names[key], value, at=(*at, key), root=root or kind)
        elif fields_of(names[key]) is not None:
            raise InputError(f"{here!r} is a section with settings of its own, such as {_example(names[key], here)}.")


def refuse_out_of_range(kind: Any, tree: Mapping[str, Any], *, at: tuple[str, ...]) -> None:
    """InputError for a number out of its range, by its full name; wrong types are left to pydantic."""
    names = fields_of(kind)
    if names is None:
        return
    declared = setting_descriptions.declared(kind) if isinstance(kind, type) else {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            refuse_out_of_range(names[key], value, at=(*at, key))
        elif key in declared and declared[key].stated and _is_number(value):
            complaint = setting_descriptions.complain(".".join((*at, key)), value, declared[key])
            if complaint:
                raise InputError(complaint)


def _is_number(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_number(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first_path(value: Any) -> Iterator[str]:
    """The keys down to the first value: under a misspelt section, they are the better hint."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        yield key


def _example(kind: Any, here: str) -> str:
    return f"{here}.{next(iter(fields_of(kind) or {'...': None}))}"


def _nearest_setting(root: Any, wanted: str) -> str:
    """The nearest key with the same last part, else of all: `steps` and `trian.steps` mean `train.steps`."""
    keys = list(all_keys(root))
    same_leaf = [key for key in keys if key.split(".")[-1] == wanted.split(".")[-1]]
    matches = difflib.get_close_matches(wanted, same_leaf or keys, n=1, cutoff=0.0 if same_leaf else 0.6)
    if not matches:
        section = wanted.rpartition(".")[0]
        near = [key for key in keys if key.startswith(f"{section}.")] if section else []
        near = near or [key for key in keys if "." not in key]
        return f". Known here: {', '.join(near)}."
    return f"; did you mean {matches[0]!r}?"


def nearest(wanted: str, names: Sequence[str]) -> str:
    matches = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else "."
