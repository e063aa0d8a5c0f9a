"""Twenty-odd ways in which a song of a corpus can be broken, each with the reason that it must be refused for."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from datasets.schema import SOURCES
from datasets.seeding import row_rng

RATE = 8000


def write_song(folder: Path, *, duration_s: float = 1.5) -> Path:
    """A good song of noise: four stereo stems of 16-bit FLAC."""
    folder.mkdir(parents=True)
    for source in SOURCES:
        noise_TC = row_rng(0, folder.name, source).standard_normal((round(duration_s * RATE), 2)) * 0.1
        soundfile.write(folder / f"{source}.flac", noise_TC, RATE, subtype="PCM_16")
    return folder


def plant(root: Path) -> dict[str, str]:
    """One song broken in each way below `root`; the reason that is due, by the song's title."""
    due = {}
    for name, (reason, damage) in _WAYS.items():
        damage(write_song(root / name, duration_s=0.5 if name == "too short" else 1.5))
        due[name] = reason
    due.update(_stem_files(root))
    (root / os.fsdecode(b"not \xff unicode")).mkdir()
    shutil.copy(root / "longer/drums.flac", root / os.fsdecode(b"not \xff unicode/drums.flac"))
    due["not \\xff unicode"] = "unsafe_name"
    return due


def _replace(folder: Path, content: bytes, suffix: str = ".flac") -> None:
    (folder / "bass.flac").unlink()
    (folder / f"bass{suffix}").write_bytes(content)


def _cut(folder: Path) -> None:
    path = folder / "bass.flac"
    path.write_bytes(path.read_bytes()[:-4000])


def _recoded(folder: Path, suffix: str) -> bytes:
    samples_TC, rate = soundfile.read(folder / "bass.flac")
    soundfile.write(folder / f"whole{suffix}", samples_TC, rate)
    content = (folder / f"whole{suffix}").read_bytes()
    (folder / f"whole{suffix}").unlink()
    return content


def _other(
    folder: Path, samples_TC: "np.typing.NDArray[np.float64]", *, rate: int = RATE, bits: str = "PCM_16"
) -> None:
    (folder / "bass.flac").unlink()
    soundfile.write(folder / "bass.wav", samples_TC, rate, subtype=bits)


def _noise(num_samples: int = 12000, channels: int = 2) -> "np.typing.NDArray[np.float64]":
    return row_rng(0, "other").standard_normal((num_samples, channels)) * 0.1


def _lying(folder: Path) -> bytes:
    """A WAV file whose header promises ten times what follows."""
    content = bytearray(_recoded(folder, ".wav"))
    at = content.index(b"data") + 4
    struct.pack_into("<I", content, at, 10 * struct.unpack_from("<I", content, at)[0])
    return bytes(content)


def _dangling(folder: Path) -> None:
    (folder / "bass.flac").unlink()
    (folder / "bass.flac").symlink_to(folder / "gone.flac")


def _pipe(folder: Path) -> None:
    (folder / "bass.flac").unlink()
    os.mkfifo(folder / "bass.flac")


def _folder(folder: Path) -> None:
    (folder / "bass.flac").unlink()
    (folder / "bass.flac").mkdir()


_WAYS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no file": ("missing_stem", lambda song: (song / "bass.flac").unlink()),
    "a folder instead": ("missing_stem", _folder),
    "two files": ("ambiguous_stem", lambda song: soundfile.write(song / "bass.wav", _noise(11000), RATE)),
    "zero bytes": ("empty_file", lambda song: _replace(song, b"")),
    "text": ("undecodable", lambda song: _replace(song, b"404 not found\n" * 300)),
    "text as wav": ("undecodable", lambda song: _replace(song, b"<html>404</html>" * 300, ".wav")),
    "random bytes": ("undecodable", lambda song: _replace(song, row_rng(0, "x").bytes(9000))),
    "random bytes as mp3": ("undecodable", lambda song: _replace(song, row_rng(1, "x").bytes(9000), ".mp3")),
    "random bytes as m4a": ("undecodable", lambda song: _replace(song, row_rng(2, "x").bytes(9000), ".m4a")),
    "cut flac": ("undecodable", _cut),
    "cut wav": ("undecodable", lambda song: _replace(song, _recoded(song, ".wav")[:-9000], ".wav")),
    "cut ogg": ("undecodable", lambda song: _replace(song, _recoded(song, ".ogg")[:-3000], ".ogg")),
    "only a header": ("undecodable", lambda song: _replace(song, (song / "bass.flac").read_bytes()[:60])),
    "a header that lies": ("undecodable", lambda song: _replace(song, _lying(song), ".wav")),
    "a dangling link": ("unavailable", _dangling),
    "a pipe": ("undecodable", _pipe),
    "nan": ("not_finite", lambda song: _other(song, np.full((12000, 2), np.nan), bits="FLOAT")),
    "one infinite sample": ("not_finite", lambda song: _other(
        song, np.concatenate([_noise(11999), np.full((1, 2), np.inf)]), bits="FLOAT")),
    "longer": ("length_mismatch", lambda song: _other(song, _noise(12001 + 5 * RATE))),
    "other rate": ("rate_mismatch", lambda song: _other(song, _noise(), rate=2 * RATE)),
    "four channels": ("channel_mismatch", lambda song: _other(song, _noise(channels=4))),
    "no samples": ("length_mismatch", lambda song: _other(song, _noise(0))),
    "too short": ("too_short", lambda song: None),
}  # fmt: skip


def _stem_files(root: Path) -> dict[str, str]:
    """Containers that are none, or that end too early."""
    (root / "garbage.stem.mp4").write_bytes(row_rng(3, "x").bytes(9000))
    (root / "empty.stem.mp4").write_bytes(b"")
    return {"garbage": "undecodable", "empty": "empty_file"}
