"""A corpus of toy songs on disk, good ones and spoilt ones, and the truth about them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import soundfile

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic.composition import Composition, compose
from datasets.corpus.synthetic.planted_defects import DEFECTS
from datasets.corpus.synthetic.stem_rendering import perform
from datasets.errors import InputError
from datasets.schema import SOURCES

# Raise it when the same arguments give other songs (CONTRIBUTING.md)
VERSION = 3

FIRST_WORDS = ("Amber", "Copper", "Distant", "Early", "Hollow", "Linen", "Northern", "Paper", "Quiet", "Silver")
SECOND_WORDS = ("Harbour", "Letters", "Machine", "Meadow", "Orbit", "River", "Signal", "Station", "Weather", "Window")


@dataclass(frozen=True, slots=True, kw_only=True)
class SongTruth:
    """What is known about one song because we made it so."""

    folder: str  # under the corpus folder, with "/" between split and song
    title: str
    split: str  # empty where the corpus has no split folders
    defect: str  # empty, or what was done to the song
    reason: str  # empty, or the entry of `schema.REASONS` that it should be dropped for
    duration_s: float
    tempo_bpm: float
    key: str
    beats_s: tuple[float, ...]
    downbeats_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTruth:
    """The whole corpus; `folder` is where it was written."""

    folder: str
    songs: tuple[SongTruth, ...]

    @property
    def good(self) -> tuple[SongTruth, ...]:
        return tuple(song for song in self.songs if not song.defect)

    @property
    def bad(self) -> tuple[SongTruth, ...]:
        return tuple(song for song in self.songs if song.defect)


def write_corpus(
    folder: str | os.PathLike[str],
    *,
    num_songs: int,
    seed: int,
    duration_s: float,
    sample_rate: int = 44100,
    splits: Mapping[str, int] | None = None,
    defects: bool = True,
) -> CorpusTruth:
    """Write the corpus and its `truth.json`, and return the truth.

    `splits` says how many songs stand in each split folder; by default about a sixth each in `valid` and
    `test`; an empty mapping puts the songs straight under `folder`. Planted bad songs come on top of
    `num_songs`. The same arguments give the same bytes; a corpus that is already there is left as it is, an
    older one of ours is replaced, and anything else in `folder` is refused.
    """
    root = Path(folder)
    if num_songs < 1 or duration_s < 1.0:
        raise InputError(f"num_songs and duration_s must be >= 1, got {num_songs} and {duration_s}")
    shares = _default_splits(num_songs) if splits is None else dict(splits) or {"": num_songs}
    if sum(shares.values()) != num_songs:
        raise InputError(f"splits {shares} do not sum to {num_songs} songs")
    spec = {
        "num_songs": num_songs,
        "seed": seed,
        "duration_s": duration_s,
        "sample_rate": sample_rate,
        "splits": shares,
        "defects": defects,
        "version": VERSION,
    }
    found = _read_truth(root)
    if found is not None and found["spec"] == json.loads(json.dumps(spec)):
        return _truth(root, found["songs"])
    if foreign := _foreign(root, found):
        more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise InputError(
            f"{root} holds files that are not a synthetic corpus as it was written ({foreign[0]}{more}); nothing was "
            "touched: give an empty or a new folder, or move them away"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        songs = _write_songs(temporary, shares, seed=seed, duration_s=duration_s, sample_rate=sample_rate)
        if defects:
            songs += _plant_defects(temporary, songs, seed=seed, duration_s=duration_s, sample_rate=sample_rate)
        rows = [asdict(song) for song in songs]
        files = {str(path.relative_to(temporary)): path for path in temporary.rglob("*") if path.is_file()}
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}
        document = {"spec": spec, "songs": rows, "files": digests}
        (temporary / "truth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        if root.exists():
            shutil.rmtree(root)
        temporary.replace(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _truth(root, rows)


def read_truth(folder: str | os.PathLike[str]) -> CorpusTruth:
    """The truth of a corpus that `write_corpus` wrote."""
    found = _read_truth(Path(folder))
    if found is None:
        raise InputError(f"{folder} holds no truth.json of a synthetic corpus")
    return _truth(Path(folder), found["songs"])


def _read_truth(root: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((root / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and {"spec", "songs"} <= set(document) else None


def _foreign(root: Path, found: Mapping[str, Any] | None) -> list[str]:
    """What in a folder `write_corpus` did not write as it is now: nothing of it may go when the corpus is replaced.

    Corpora from before their files were listed are known by their songs' folders and the names of stems.
    """
    if root.exists() and not root.is_dir():
        return [root.name]
    if found is None:
        return [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if not path.is_dir()}
    listed, folders = found.get("files"), {song["folder"] for song in found["songs"]}
    stems = {f"{source}.{form}" for source in SOURCES for form in ("flac", "wav")}

    def is_ours(name: str, path: Path) -> bool:
        if name == "truth.json":
            return True
        if listed is None:
            return str(Path(name).parent) in folders and path.name in stems
        return name in listed and hashlib.sha256(path.read_bytes()).hexdigest() == listed[name]

    return [name for name, path in files.items() if path.is_symlink() or not is_ours(name, path)]


def _truth(root: Path, songs: list[dict[str, Any]]) -> CorpusTruth:
    lists = ("beats_s", "downbeats_s")
    rows: list[dict[str, Any]] = [
        {name: tuple(value) if name in lists else value for name, value in song.items()} for song in songs
    ]
    return CorpusTruth(folder=str(root), songs=tuple(SongTruth(**row) for row in rows))


def _default_splits(num_songs: int) -> dict[str, int]:
    if num_songs < 3:
        return {"train": num_songs}
    held_out = max(1, round(num_songs / 6))
    return {"train": num_songs - 2 * held_out, "valid": held_out, "test": held_out}


def _write_songs(
    root: Path, shares: Mapping[str, int], *, seed: int, duration_s: float, sample_rate: int
) -> list[SongTruth]:
    songs: list[SongTruth] = []
    for split, count in shares.items():
        for _ in range(count):
            song_id = f"{len(songs) + 1:02d}"
            score = compose(seed, song_id, duration_s)
            title = _title(score)
            folder = f"{split}/{title}" if split else title
            _write_stems(root / folder, perform(score, sample_rate), sample_rate)
            songs.append(_song_truth(score, folder=folder, title=title, split=split))
    return songs


def _title(score: Composition) -> str:
    rng = score.rng("title")
    return f"Toy {score.song_id} - {rng.choice(FIRST_WORDS)} {rng.choice(SECOND_WORDS)}"


def _song_truth(
    score: Composition, *, folder: str, title: str, split: str, defect: str = "", reason: str = ""
) -> SongTruth:
    return SongTruth(
        folder=folder,
        title=title,
        split=split,
        defect=defect,
        reason=reason,
        duration_s=score.duration_s,
        tempo_bpm=score.tempo_bpm,
        key=score.key,
        beats_s=score.beats_s,
        downbeats_s=score.downbeats_s,
    )


def _write_stems(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    folder.mkdir(parents=True)
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        soundfile.write(folder / f"{source}.flac", stem_CT.T, sample_rate, subtype="PCM_16")


def _plant_defects(
    root: Path, songs: list[SongTruth], *, seed: int, duration_s: float, sample_rate: int
) -> list[SongTruth]:
    """One bad song per defect in the first split, and a copy of its first good song under another name."""
    split = songs[0].split
    score = compose(seed, "spoilt", duration_s)
    stems_SCT = perform(score, sample_rate)  # one song for all defects: none of them should get as far as its music
    planted: list[SongTruth] = []
    for defect in DEFECTS:
        title = f"Spoilt - {defect.name}"
        folder = f"{split}/{title}" if split else title
        _write_stems(root / folder, stems_SCT, sample_rate)
        defect.spoil(root / folder, stems_SCT, sample_rate)
        truth = _song_truth(score, folder=folder, title=title, split=split, defect=defect.name, reason=defect.reason)
        planted.append(truth)
    original, title = songs[0], "Twin - exact duplicate"  # sorts after the original: of two twins the first is kept
    folder = f"{split}/{title}" if split else title
    shutil.copytree(root / original.folder, root / folder)
    copy = replace(original, folder=folder, title=title, defect="exact duplicate", reason="duplicate")
    return [*planted, copy]
