"""Songs in, stem files out, in memory that does not grow with the song: what `stemline separate` runs.

A song is read twice: once for its loudness statistics, once through the network. Stems have the song's own sample
rate and exactly its length, so they lie on the original in any editor; they have the model's channel count.

Nothing is clipped silently: when a stem would pass full scale in a fixed-point format, all stems of that song are
turned down by one common gain, so that they keep their balance, and the gain is reported. Float files are never
touched.

Where stems go is settled for all songs first, in their order. So it does not depend on how many workers there are.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import audio
from datasets.audio.decoding import probe
from datasets.corpus.layouts.separated_stems import Teacher
from datasets.corpus.scan import distinct_names, safe_name
from datasets.errors import InputError
from models import inference, networks
from pipelines.inference.separate_config import SeparateConfig
from pipelines.inference.separation_job import separate_on_nodes
from pipelines.inference.song_separation import PlannedSong, SongQueue, SongSeparator, separate_song
from pipelines.inference.stem_files import (
    SeparatedSong,
    find_separated,
    is_of_another_song,
    make_folder,
    note_teacher,
)
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

# Raise it when the same song, model and settings give other stems (CONTRIBUTING.md)
VERSION = 1
STEP = Step(
    name="separate_songs",
    version=VERSION,
    uses={"audio": audio.VERSION, "inference": inference.VERSION, "networks": networks.VERSION},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateInputs:
    """All that decides on the stems of a song besides the settings."""

    model: str  # the digest of its weights and configuration
    song: str  # the digest of its file


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSong:
    """A song that could not be separated, and why."""

    song: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateResult:
    """What came of every song, in the order given."""

    songs: tuple[SeparatedSong, ...]
    failed: tuple[FailedSong, ...]


def run(
    config: SeparateConfig,
    songs: Sequence[str],
    *,
    model: str,
    out: str,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> SeparateResult:
    """Separate every song into `out/<song>/<stem>.<ext>` with the checkpoint at `model` (a folder or a file).

    A song that cannot be read becomes a `FailedSong`, and the others go on. `teacher` is what is noted of the model
    beside the stems; without it that is its file and its weights.
    """
    if not songs:
        raise InputError("no song given: name at least one audio file")
    return separate_all(SongSeparator.load(config, model, teacher=teacher), songs, out=out, progress=progress)


def separate_all(
    separator: SongSeparator, songs: Sequence[str], *, out: str, progress: Progress | None = None
) -> SeparateResult:
    """The same with a model that is loaded."""
    make_folder(Path(out))
    planned = _planned(separator, songs, Path(out))
    left = {place: song for place, song in enumerate(planned) if isinstance(song, PlannedSong)}
    answers = dict(enumerate(planned)) | dict(_separated(separator, left, progress))
    done, failed = list[SeparatedSong](), list[FailedSong]()
    for song, answer in zip(songs, (answers[place] for place in range(len(songs))), strict=True):
        if isinstance(answer, SeparatedSong):
            done.append(answer)
        elif isinstance(answer, OSError):  # a song that cannot be read is an InputError: this is its output folder
            failed.append(FailedSong(song=song, reason=f"cannot write to {out}: {answer.strerror or answer}"))
        else:
            failed.append(FailedSong(song=song, reason=_without_path(str(answer), song)))
    return SeparateResult(songs=tuple(done), failed=tuple(failed))


def _planned(
    separator: SongSeparator, songs: Sequence[str], out: Path
) -> list[PlannedSong | SeparatedSong | InputError]:
    """Where the stems of each song go; the stems where they are there, or why there will be none."""
    planned, taken = list[PlannedSong | SeparatedSong | InputError](), list[str]()
    for song in map(Path, songs):
        try:
            if not song.is_file():
                raise InputError(f"{song}: {'a folder, not a song' if song.is_dir() else 'no such file'}")
            digest = _content_digest(song)
        except InputError as error:
            planned.append(error)
            continue
        taken.append(folder_name(song, digest, out, taken))
        folder = out / taken[-1]
        key = STEP.key(SeparateInputs(model=separator.digest, song=digest), _decisive(separator.config))
        finished = find_separated(song, folder, key)
        if finished is not None:
            note_teacher(folder, separator.teacher)
        planned.append(finished or PlannedSong(song=str(song), folder=str(folder), key=key, digest=digest))
    return planned


def _decisive(config: SeparateConfig) -> dict[str, Any]:
    """The settings that decide on the stems; those that came later count where they are set."""
    usual = SeparateConfig()
    added_later = {"stems", "mixture_consistency", "filename", "precision"}
    return {
        name: value
        for name, value in asdict(config).items()
        if name != "num_workers" and (name not in added_later or value != getattr(usual, name))
    }


def _separated(
    separator: SongSeparator, songs: Mapping[int, PlannedSong], progress: Progress | None
) -> Iterator[tuple[int, SeparatedSong | InputError | OSError]]:
    """What came of each song, by its place."""
    if separator.config.num_workers == 1 or len(songs) < 2:
        queues = _queues(list(songs.values()))
        for (place, song), queue in zip(songs.items(), queues, strict=True):
            try:
                yield place, separate_song(separator, song, progress, queue)
            except (InputError, OSError) as error:
                yield place, error
        return
    # The longest first, so that no worker is left with one at the end while the others have nothing to do.
    longest_first = sorted(songs, key=lambda place: -_length_s(songs[place].song))
    with stage(progress, "separate", total=len(songs), unit="songs") as songs_stage:
        for place, answer in separate_on_nodes(separator, {place: songs[place] for place in longest_first}):
            songs_stage.advance()
            songs_stage.note(Path(songs[place].song).name)
            yield place, answer
        songs_stage.finish(f"{len(songs)} songs in {Path(next(iter(songs.values())).folder).parent}")


def _queues(songs: Sequence[PlannedSong]) -> list[SongQueue]:
    """Where each song stands in their order."""
    seconds = [_length_s(song.song) if len(songs) > 1 else 0.0 for song in songs]
    return [
        SongQueue(number=place + 1, num_songs=len(songs), seconds_after=sum(seconds[place + 1 :]))
        for place in range(len(songs))
    ]


def _length_s(song: str) -> float:
    """As the header has it; 0 where that says nothing, or the song cannot be read, which is told in its turn."""
    try:
        info = probe(song)
    except InputError:
        return 0.0
    return info.num_samples / info.sample_rate


def _without_path(reason: str, song: str) -> str:
    """A reason without the path of the song before it, as it stands beside the song."""
    for path in (song, str(Path(song))):
        reason = reason.removeprefix(f"{path}: ").removeprefix(f"{path} ")
    return reason


def folder_name(song: Path, digest: str, out: Path, taken: Sequence[str]) -> str:
    """The name of the folder for a song's stems: its own, with " (2)", " (3)" where another song of this name has it.

    `taken` are those of this call; they count also where only upper and lower case differ.
    """
    others = list(taken)
    while is_of_another_song(out / (name := distinct_names([safe_name(song.stem)], taken=others)[0]), song, digest):
        others.append(name)
    return name


def _content_digest(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
