"""From trees of TOML and JSON to dataclasses whose every field has its type, and back to TOML.

This is the only user of pydantic, which silently drops unknown keys of plain dataclasses: so the tree is walked first,
and a misspelt key is refused with the nearest real one.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

import tomli_w

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.strict_json import restored
from flows.config.setting_names import refuse_out_of_range, refuse_unknown
from flows.config.setting_overrides import apply_override

T = TypeVar("T")


def build(kind: type[T], tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> T:
    """An instance of a tree of dataclasses, after `key=value` overrides; refuses unknown keys and wrong types."""
    from pydantic import ValidationError

    merged = _copy(tree)
    for override in overrides:
        apply_override(kind, merged, override)
    refuse_unknown(kind, merged, at=())
    refuse_out_of_range(kind, merged, at=())
    try:
        # Strict JSON: lists become tuples and integers become floats, but "20" is not a number and true is not 1.
        instance: T = _adapter(cast(Any, kind)).validate_json(json.dumps(merged, default=str), strict=True)
        return instance
    except ValidationError as error:
        raise InputError(_message(error.errors())) from error


def parse(kind: Any, text: str) -> Any:
    """A value of the annotated type from JSON of `strict_json.dumps`; ValueError if it does not fit the type."""
    return _adapter(kind).validate_json(json.dumps(restored(kind, json.loads(text))), strict=True)


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_toml(config: Any) -> str:
    """The whole configuration as TOML; `build` makes an equal one of it. None is written as absence."""
    return tomli_w.dumps(_without_none(asdict(config)))


def write(config: Any, path: str | Path) -> None:
    """Writes the configuration beside an output; an existing file describes the same output and stays."""
    if storage.stamp(path) is None:
        rewrite(config, path)


def rewrite(config: Any, path: str | Path) -> None:
    """The same where the file tells of the last run that used an output, and not of the first."""
    storage.write(path, to_toml(config).encode())


def _message(errors: Sequence[Any]) -> str:
    lines = []
    for error in errors:
        key = ".".join(map(str, error["loc"]))
        message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if error["type"] == "value_error":
            lines.append(f"{key}: {message}" if key else message)
        else:
            message = message.removeprefix("Input ").rstrip(".")
            given = json.dumps(error["input"], default=str, ensure_ascii=False)
            lines.append(f"{key} is {given}, but {message}.")
    return "\n".join(lines)


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }
