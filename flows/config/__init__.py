"""Configuration: one TOML preset and dotted overrides become a `RunConfig` whose every field has its type.

Each setting is declared in the dataclass beside the code that uses it; here they are only read, checked and written.
"""

from flows.config.presets import (
    PATHS,
    absolute,
    description,
    differences,
    keep_as_last_run,
    load,
    nearest_preset,
    of_last_run,
    presets,
    read_preset,
    with_absolute_paths,
)
from flows.config.run_config import RunConfig, StoreConfig
from flows.config.setting_overrides import override, split_overrides
from flows.config.toml_config import build, parse, rewrite, to_toml, write

__all__ = [
    "PATHS",
    "RunConfig",
    "StoreConfig",
    "absolute",
    "build",
    "description",
    "differences",
    "keep_as_last_run",
    "load",
    "nearest_preset",
    "of_last_run",
    "override",
    "parse",
    "presets",
    "read_preset",
    "rewrite",
    "split_overrides",
    "to_toml",
    "with_absolute_paths",
    "write",
]
