"""`stemline separate`: which words are songs and which are settings, and what is said of each song."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from flows import config as door
from flows.screen import Screen, duration, table

SETTING = re.compile(r"(separate|store)\.\w+=")


def run(
    words: Sequence[str],
    *,
    model: str,
    out: str,
    two_stems: str,
    preset: str | None,
    screen: Screen,
    print_config: bool = False,
) -> dict[str, Any] | str:
    """Separates every song that can be read; the exit code is 2 if one could not."""
    songs = [word for word in words if not _is_setting(word)]
    config = door.load(preset or "smoke", [word for word in words if _is_setting(word)])
    if two_stems:
        config = replace(config, separate=replace(config.separate, two_stems=two_stems))
    if print_config:
        return door.to_toml(config)
    if not songs:
        raise InputError("No song was given. Example: stemline separate song.mp3 --model models:/stemline@champion")

    from pipelines import registry, stems

    checkpoint = registry.resolve(model, store=config.store.root)
    result = stems.run(config.separate, songs, model=str(checkpoint), out=out, progress=screen)
    door.write(config, Path(out) / "separate.toml")
    rows = [[song.song, f"{duration(song.num_samples / song.sample_rate)}", song.folder] for song in result.songs]
    shown: list[Any] = [table("Separated", ["song", "length", "folder"], rows)] if rows else []
    for failed in result.failed:
        screen.say(f"✗ {failed.song}: {failed.reason}")
    return {**asdict(result), "exit_code": 2 if result.failed else 0, "shown": shown}


def _is_setting(word: str) -> bool:
    return SETTING.match(word) is not None and not Path(word).exists()
