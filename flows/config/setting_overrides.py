"""Overrides, `key=value` in TOML syntax: read, written, and told from other arguments of the command line."""

import os
import re
import tomllib
import typing
from collections.abc import Sequence
from typing import Any

import tomli_w

from datasets.errors import InputError
from flows.config.run_config import RunConfig
from flows.config.setting_names import fields_of, hint_at, is_union


def override(key: str, value: Any) -> str:
    """The override that sets one setting to this value, whatever characters it holds."""
    return f"{key}={_toml_value(value)}"


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and all other arguments; an override begins with a section, and is not the name of a file."""
    sections = fields_of(RunConfig) or {}
    overrides = [
        text
        for text in arguments
        if re.match(r"\w+\.[\w.]+=", text) and text.partition(".")[0] in sections and not os.path.exists(text)
    ]
    return overrides, [text for text in arguments if text not in overrides]


def apply_override(kind: type, tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{override!r} is not an override; write it as key=value, for example train.steps=20.")
    if not _is_unicode(override):
        raise InputError(f"{override!a}: the bytes of this name are not valid UTF-8; rename it, or give another")
    path = key.strip().split(".")
    hint = hint_at(kind, path)
    node = tree
    for name in path[:-1]:
        below = node.setdefault(name, {})
        if not isinstance(below, dict):
            raise InputError(f"{key!r}: {name!r} is a value, not a section.")
        node = below
    value = _parse(text, key=key)
    # A folder named 2024 is still a folder.
    wants_text = hint is str or (is_union(hint) and str in typing.get_args(hint))
    node[path[-1]] = text if wants_text and not isinstance(value, str) else value


def _is_unicode(text: str) -> bool:
    """False for names with bytes that are not UTF-8, which Python reads as surrogates and no TOML file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse(text: str, *, key: str) -> Any:
    """A value in TOML syntax; any other text is a string, so that paths need no quotes."""
    try:
        document = tomllib.loads(f"value = {text}")
        if list(document) == ["value"] and isinstance(document["value"], bool | int | float | str | list | dict):
            return document["value"]
    except tomllib.TOMLDecodeError as error:
        if text.lstrip()[:1] in {"[", "{", '"'}:
            raise InputError(f"{key}={text} is not valid TOML: {error}.") from error
    return text


def _toml_value(value: Any) -> str:
    """One value in one line; tomli-w itself puts each item of an array on its own."""
    text = ""
    for line in tomli_w.dumps({"_": [[value]]}).split("\n"):  # nested, since tables would become sections otherwise
        part = line.strip(" ")
        text = text.removesuffix(",") if part.startswith("]") else text + " " * text.endswith(",")
        text += part
    return text.removeprefix("_ = [[").removesuffix("]]")
