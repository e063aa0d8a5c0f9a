"""The settings as JSON Schema, by which an editor completes and checks a TOML file of them."""

from typing import Any

from flows.config.run_config import RunConfig
from flows.config.setting_descriptions import Setting, every, summary

DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest that editors of TOML read
_TYPES = {"int": "integer", "float": "number", "text": "string", "true or false": "boolean", "table": "object"}


def settings_schema() -> dict[str, Any]:
    """A schema of a preset file: every section and setting with its type, range, default and meaning.

    It refuses what `stemline` refuses of a file by its form; what settings ask of each other is checked when it runs.
    """
    from models import plugins
    from models.networks.catalog import NETWORK, PRESETS

    whole = _section("")
    for setting in every(RunConfig):
        parent = whole
        *sections, leaf = setting.name.split(".")
        for depth, name in enumerate(sections, start=1):
            parent = parent["properties"].setdefault(name, _section(".".join(sections[:depth])))
        parent["properties"][leaf] = _leaf(setting)
    whole["properties"]["model"]["properties"]["preset"]["anyOf"] = [
        {"enum": sorted({*PRESETS, *plugins.names(NETWORK)})},
        {"pattern": r"^[\w.]+:[\w.]+$"},  # package.module:object
    ]
    return {"$schema": DIALECT, "title": "Settings of stemline", **whole}


def _section(name: str) -> dict[str, Any]:
    return {"type": "object", "description": summary(RunConfig, name), "additionalProperties": False, "properties": {}}


def _leaf(setting: Setting) -> dict[str, Any]:
    described: dict[str, Any] = {"description": meaning(setting)}
    if setting.default is not None:
        described["default"] = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    if setting.type == "choice":
        return described | {"enum": list(setting.declared.choices)}
    kind = setting.type.removeprefix("list of ")
    value: dict[str, Any] = {"type": _TYPES[kind]} | (_bounds(setting.declared.range) if setting.declared else {})
    return described | ({"type": "array", "items": value} if kind != setting.type else value)


def _bounds(allowed: Any) -> dict[str, float]:
    bounds = {
        "minimum": allowed.ge, "exclusiveMinimum": allowed.gt, "maximum": allowed.le, "exclusiveMaximum": allowed.lt,
    }  # fmt: skip
    return {word: bound for word, bound in bounds.items() if bound is not None}


def meaning(setting: Setting) -> str:
    """What a setting does, as a sentence, with its unit."""
    unit = f" [{setting.unit}]" if setting.unit else ""
    return f"{setting.meaning[:1].upper()}{setting.meaning[1:]}{unit}"
