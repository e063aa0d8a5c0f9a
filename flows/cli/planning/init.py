"""`stemline init`: a file of settings to begin with, for one corpus."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.corpus.scan import survey
from datasets.errors import InputError
from datasets.store import storage
from flows.cli.options import NO_OPTIONS, PRESET, Options
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.config.commented_toml import commented_toml
from flows.config.settings_schema import settings_schema

DEFAULT_FILE = "stemline.toml"
Words = Annotated[
    str,
    Parameter(name="FILE", help=f"The file to write, {DEFAULT_FILE} if none is named; KEY=VALUE changes a setting."),
]
Force = Annotated[bool, Parameter(negative="", show_default=False, help="Write over a file that is there.")]


def init(*file_and_overrides: Words, force: Force = False, options: Options = NO_OPTIONS) -> int:
    """Write a file of the settings that matter for a corpus, each explained, and a schema of all for editors.

    The file is a preset of your own: `stemline run --preset stemline.toml`.

    Example: `stemline init corpus.root=SONGS --preset htdemucs-one-gpu`
    """
    files = [word for word in file_and_overrides if "=" not in word]
    given = [word for word in file_and_overrides if "=" in word]
    return run_verb(
        given,
        options,
        lambda config, screen: run(config, files, force=force, preset=options.preset or PRESET),
        preset=PRESET,
    )


def run(config: RunConfig, files: Sequence[str] = (), *, force: bool = False, preset: str = PRESET) -> dict[str, Any]:
    """Write both files, once the songs are seen to be there.

    Raises:
        InputError: More than one file is named, it is no TOML file of this machine or there already, or the corpus
            cannot be read.
    """
    if len(files) > 1:
        raise InputError(f"init writes one file, got {', '.join(files)}; name one")
    target = _target(files[0] if files else DEFAULT_FILE, force=force)
    schema = target.with_suffix(".schema.json")
    songs = _songs(config)
    heading = [
        f":schema ./{schema.name}",
        "",
        f"Settings of stemline, from its preset {preset}. What is not here has its default:",
        "`stemline config SECTION` explains every setting.",
    ]
    storage.write(schema, (json.dumps(settings_schema(), indent=1) + "\n").encode())
    storage.write(target, commented_toml(config, heading).replace("# :schema", "#:schema", 1).encode())
    return {"file": str(target), "schema": str(schema), "songs": songs, "console_output": _output(target, songs)}


def _target(name: str, *, force: bool) -> Path:
    target = storage.local_path(name, "FILE")
    if target.suffix != ".toml":
        raise InputError(f"FILE must end in .toml, got {name}; --preset takes files by that ending")
    if target.exists() and not force:
        raise InputError(f"{name} is there already; name another file, or write over it with --force")
    return target


def _songs(config: RunConfig) -> dict[str, int]:
    """How many were found, and how many can be used by their names; nothing where no corpus is named."""
    corpus = config.corpus
    if not corpus.root:
        return {}
    surveyed = survey(
        corpus.root, sources=corpus.sources, split_seed=corpus.split_seed, valid_fraction=corpus.valid_fraction,
        test_fraction=corpus.test_fraction, rules=corpus.rules,
    )  # fmt: skip
    return {"found": len(surveyed.songs), "usable": sum(not song.reason for song in surveyed.songs)}


def _output(target: Path, songs: dict[str, int]) -> list[Text]:
    name = str(target)
    lines = [Text(f"Wrote {name}, and a schema for editors beside it.")]
    if songs:
        lines.append(Text(f"{songs['found']} songs found, {songs['usable']} usable by their names."))
    else:
        lines.append(Text("Its corpus.root is empty: put the folder with your songs there.", style="yellow"))
    return [
        *lines,
        Text(f"  stemline inspect --preset {name}   how each file would be read"),
        Text(f"  stemline plan --preset {name}      what the training takes"),
        Text(f"  stemline run --preset {name}       from songs to a promoted model"),
    ]
