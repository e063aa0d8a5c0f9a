"""`stemline separate`: separates songs into stems."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from datasets.corpus.file_listing import SUFFIXES, is_audio
from datasets.errors import InputError
from datasets.store import storage
from flows import config as settings
from flows.cli.options import NO_OPTIONS, ModelRef, Options
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, duration, table


def separate(
    *songs: Annotated[
        str,
        Parameter(
            name="SONG",
            help=f"Audio files ({' '.join(SUFFIXES)}) and folders; settings such as separate.shifts=1 may follow.",
        ),
    ],
    model: Annotated[ModelRef, Parameter(name=("--model", "-m", "-n"))],
    out: Annotated[
        str, Parameter(name=("--out", "-o"), help="Folder for the stems: one folder per song in it.")
    ] = "separated",
    stem: Annotated[
        tuple[str, ...], Parameter(show_default=False, negative="", help="Write this source only; may be repeated.")
    ] = (),
    two_stems: Annotated[str, Parameter(show_default=False, help="A source: write it and the sum of the others.")] = "",
    format: Annotated[
        str, Parameter(show_default=False, help="wav16 (the usual), wav24, float (32 bits), flac (24 bits) or mp3.")
    ] = "",
    filename: Annotated[
        str, Parameter(show_default=False, help="Names of the files without ending, such as '{song} ({stem})'.")
    ] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Separate songs into stems with a registered model, a checkpoint folder or a file.

    Of a folder every audio file in it and below is taken. Each song has a folder of its own in the folder for the
    stems, with a file for each stem.

    Example: `stemline separate song.mp3 album/ -m models:/stemline@champion -o stems`
    """
    overrides, files = settings.split_overrides(songs)
    for setting, value in (("format", format), ("filename", filename)):
        if value:
            overrides.append(settings.override(f"separate.{setting}", value))
    if two_stems:
        overrides.append(settings.override("separate.two_stems", two_stems))
    if stem:
        overrides.append(settings.override("separate.stems", list(stem)))
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, files, model=model, out=out, screen=screen, debug=options.debug),
    )


def run(
    config: RunConfig, songs: Sequence[str], *, model: str, out: str, screen: Screen, debug: bool = False
) -> dict[str, Any]:
    """Separates every song that can be read; the exit code is 2 if one cannot.

    What decoders say of a song by themselves is in `out/stderr.log`, if anything; with `debug` on the terminal.
    """
    if not songs:
        raise InputError("No song was given. Example: stemline separate song.mp3 --model models:/stemline@champion")

    folder_of_stems = storage.local_path(out, "--out")
    songs = list(_files(songs, besides=folder_of_stems.absolute()))

    from pipelines import registry
    from pipelines.inference import separate_songs
    from pipelines.lineage import song_licenses
    from pipelines.lineage.training_recordings import Ancestors

    teacher = None
    if model.startswith("models:"):  # once: an alias may move
        model = registry.lineage(model, store=config.store.root).version.uri
        teacher = song_licenses.as_teacher(model, Ancestors(config.store.root, config.store.tables).of_version(model))
    checkpoint = registry.resolve(model, store=config.store.root)
    with tempfile.TemporaryDirectory(prefix="stemline-") as folder:
        log = Path(folder, "stderr.log")
        with nullcontext() if debug else screen.alone_on_stderr(log):
            result = separate_songs.run(
                config.separate, songs, model=str(checkpoint), out=out, teacher=teacher, progress=screen
            )
        if log.is_file() and log.stat().st_size:
            shutil.copyfile(log, folder_of_stems / log.name)
            screen.say(f"What decoders said is in {folder_of_stems / log.name}")
    if result.songs:
        settings.write(config, folder_of_stems / "separate.toml")
    rows = [[song.song, f"{duration(song.num_samples / song.sample_rate)}", song.folder] for song in result.songs]
    output: list[Any] = [table("Separated", ["song", "length", "folder"], rows)] if rows else []
    for song in result.songs:
        for note in song.notes:
            screen.say(f"{song.song}: {note}")
    for failed in result.failed:
        screen.say(f"✗ {failed.song}: {failed.reason}")
    return {**asdict(result), "exit_code": 2 if result.failed else 0, "console_output": output}


def _files(songs: Sequence[str], *, besides: Path) -> Iterator[str]:
    """The songs, for each folder the audio files below it in the order of their names, but for our own stems.

    Raises:
        InputError: A folder holds no audio file.
    """
    for song in songs:
        folder = Path(song)
        if not song or not folder.is_dir():
            yield song
            continue
        inside = [
            str(path)
            for path in sorted(folder.rglob("*"))
            if is_audio(path.name) and path.is_file() and not path.absolute().is_relative_to(besides)
        ]
        if not inside:
            raise InputError(f"{song}: no audio file is in this folder or below it")
        yield from inside
