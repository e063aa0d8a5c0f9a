"""What MUSDB18 is, as the package `musdb` states it: validation songs, and the streams of a .stem.mp4.

Its settings file is read and the package is not imported: `import musdb` fails on a machine without an ffmpeg program.
"""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from datasets.schema import SOURCES


def validation_songs() -> frozenset[str]:
    """The 14 songs of MUSDB18's train folder that published results use for validation."""
    return frozenset(_settings()["validation_tracks"])


def stem_streams() -> dict[str, int]:
    """The audio stream of each source in a .stem.mp4 of MUSDB18, in the order of `SOURCES`; stream 0 is the mixture."""
    streams = _settings()["stem_ids"]
    return {source: int(streams[source]) for source in SOURCES}


@functools.cache
def _settings() -> Mapping[str, Any]:
    package = importlib.util.find_spec("musdb")  # finds a top-level package without importing it
    assert package is not None, "musdb is not installed"
    assert package.submodule_search_locations, "musdb is not a package"
    settings: Mapping[str, Any] = yaml.safe_load(
        Path(package.submodule_search_locations[0], "configs", "mus.yaml").read_text(encoding="utf-8")
    )
    return settings
