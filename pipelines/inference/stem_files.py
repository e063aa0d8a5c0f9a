"""The stems of one song as files: spooled, turned down by one common gain where they must be, and written whole."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import probe
from datasets.corpus.layouts.separated_stems import FIELD, RECORD, Teacher, as_json
from datasets.corpus.scan import MAX_NAME_BYTES, safe_name
from datasets.errors import AudioError, InputError
from datasets.store.ownership import recorded_files
from pipelines.inference.separate_config import FORMATS, SeparateConfig

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
FULL_SCALE = 1 - 2**-15  # the largest positive value that 16 bits hold
SUMMARY = RECORD  # the record of what is ours, from the first stem on; its key, last: the stems are whole


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparatedSong:
    """Where one song's stems are; `gain_db` is 0 unless they had to be turned down to fit the format."""

    song: str
    folder: str
    files: Mapping[str, str]  # stem -> path
    sample_rate: int
    num_samples: int
    gain_db: float
    reused: bool  # found finished, from an earlier run with the same song, model and settings
    notes: tuple[str, ...] = ()  # what was done to the song before it was separated, in words


class Spool:
    """Stems as raw float32 on disk: the common gain is known only when the whole song has been separated."""

    def __init__(self, folder: Path, stems: Sequence[str]) -> None:
        self.paths = {stem: folder / f"{index}.f32" for index, stem in enumerate(stems)}
        self.channels = 0
        self.peak = 0.0

    def write(self, block_SCT: Samples) -> None:
        self.channels = block_SCT.shape[1]
        self.peak = max(self.peak, float(np.abs(block_SCT).max(initial=0.0)))
        for path, stem_CT in zip(self.paths.values(), block_SCT, strict=True):
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(stem_CT.T, dtype=np.float32).tobytes())

    def read(self, stem: str, *, block_samples: int = 1 << 18) -> Iterator[Samples]:
        with self.paths[stem].open("rb") as file:
            while data := file.read(block_samples * self.channels * 4):
                yield np.ascontiguousarray(np.frombuffer(data, dtype=np.float32).reshape(-1, self.channels).T)


def writable_rate(sample_rate: int, format: str) -> int:
    """The song's own rate, or for MP3, which has nine of them, the next higher, at most 48 kHz."""
    if format != "mp3":
        return sample_rate
    return next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])


def exactly(blocks: Iterator[Samples], num_samples: int) -> Iterator[Samples]:
    """The blocks, cut or zero-padded at the end: resampling there and back may be off by a sample."""
    left = num_samples
    channels = 1
    for block_CT in blocks:
        channels = block_CT.shape[0]
        if left <= 0:
            return
        yield block_CT[:, :left]
        left -= min(left, block_CT.shape[-1])
    if left > 0:
        yield np.zeros((channels, left), dtype=np.float32)


def file_name(stem: str, song: Path, config: SeparateConfig) -> str:
    """What a stem's file of a song is called: a name, whatever the song and the source are called."""
    title = safe_name(song.stem)

    def named() -> str:
        return config.filename.format(song=title, stem=safe_name(stem))

    while len(title) > 1 and len(named().encode()) > MAX_NAME_BYTES:  # `safe_name` would cut off the stem
        title = title[:-1].rstrip(" .")
    return f"{safe_name(named())}.{FORMATS[config.format]}"


def is_damaged_stem(path: Path) -> bool:
    """Whether nothing can be heard of a file any more: a stem of ours in pieces is nobody's work."""
    if not path.is_file() or path.is_symlink():
        return False
    try:
        probe(path)
    except AudioError:
        return True
    return False


def clear(folder: Path) -> None:
    """Remove what a killed run left half written, known by the names that `Spool` and `AudioWriter` give."""
    for leftover in folder.glob(".partial-*"):
        if leftover.is_dir() and all(re.fullmatch(r"\d+\.f32", path.name) for path in leftover.iterdir()):
            shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".tmp-*"):
        if re.fullmatch(r"\.tmp-[0-9a-f]+", leftover.name):
            leftover.unlink(missing_ok=True)


def is_of_another_song(folder: Path, song: Path, digest: str) -> bool:
    """Whether a folder holds the stems of a song of other content that lies elsewhere, so that it is not to be reused.

    A song that was changed in its place replaces its stems, and one that was moved finds them.
    """
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if "song_digest" in summary:
            return bool(summary["song_digest"] != digest and summary["song_path"] != str(song.absolute()))
        return Path(summary["song"]).name != song.name  # from before that was noted
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_summary(folder: Path, key: str, result: SeparatedSong, digest: str, teacher: Teacher) -> None:
    """Note what was written, and by which model; `digest` is of the song's file."""
    files = {stem: Path(path).name for stem, path in result.files.items()}
    sizes = {stem: Path(path).stat().st_size for stem, path in result.files.items()}
    whose = {"song_path": str(Path(result.song).absolute()), "song_digest": digest}
    summary = {"key": key, **asdict(result), **whose, "folder": ".", "files": files, "file_bytes": sizes}
    _replace_summary(folder, {**summary, "written": recorded_files(folder, SUMMARY), FIELD: as_json(teacher)})


def note_teacher(folder: Path, teacher: Teacher) -> None:
    """Note which model made stems that are there, as it is called and known today; a file's name replaces no more."""
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    before, now = summary.get(FIELD), json.loads(json.dumps(as_json(teacher)))
    knows_less = isinstance(before, dict) and before.get("weights") == now["weights"] and not teacher.licenses
    if before != now and not knows_less:
        with suppress(OSError):  # a folder that is only read: the stems are good all the same
            _replace_summary(folder, {**summary, FIELD: as_json(teacher)})


def _replace_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    partial = folder / f".{SUMMARY}.partial"
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / SUMMARY)


def find_separated(song: Path, folder: Path, key: str) -> SeparatedSong | None:
    """What an earlier run left in the folder, if it is the same work and still whole."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        whole = summary["key"] == key and all(
            (folder / name).stat().st_size == summary["file_bytes"][stem] for stem, name in summary["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    return SeparatedSong(
        song=str(song),
        folder=str(folder),
        files={stem: str(folder / name) for stem, name in summary["files"].items()},
        sample_rate=summary["sample_rate"],
        num_samples=summary["num_samples"],
        gain_db=summary["gain_db"],
        reused=True,
        notes=tuple(summary.get("notes", ())),
    )


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error.strerror}; choose another --out") from error
    if shutil.disk_usage(folder).free == 0:
        raise InputError(f"no space left for {folder}; free some or choose another --out")
