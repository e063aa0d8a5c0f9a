"""Faults that real corpora have, each planted into a folder of good stems."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.io import wavfile

from datasets.audio.audio_types import Samples
from datasets.audio.writers import AudioWriter
from datasets.schema import SOURCES


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One planted fault: its name, the reason to drop the song for, and what spoils a folder of good stems."""

    name: str
    reason: str
    spoil: Callable[[Path, Samples, int], None]


def _silence_vocals(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    soundfile.write(folder / "vocals.flac", np.zeros_like(stems_SCT[3]).T, sample_rate, subtype="PCM_16")


def _lose_a_stem(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "bass.flac").unlink()


def _truncate(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "drums.flac").unlink()
    path = folder / "drums.wav"
    with AudioWriter(path, sample_rate=sample_rate, channels=stems_SCT.shape[1], format="wav16") as writer:
        writer.write(stems_SCT[0])
    os.truncate(path, path.stat().st_size * 6 // 10)


def _lengthen_one(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    """The others end 6 s before it: more than is filled with silence."""
    wanted = stems_SCT.shape[-1] + 6 * sample_rate
    long_CT = np.tile(stems_SCT[2], -(-wanted // stems_SCT.shape[-1]))[:, :wanted]
    soundfile.write(folder / "other.flac", long_CT.T, sample_rate, subtype="PCM_16")


def _halve_rate_of_one(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    soundfile.write(folder / "bass.flac", stems_SCT[1, :, ::2].T, sample_rate // 2, subtype="PCM_16")


def _leave_an_old_version(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    soundfile.write(folder / "bass_OLD.flac", stems_SCT[1, :, ::-1].T, sample_rate, subtype="PCM_16")


def _poison(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "vocals.flac").unlink()
    poisoned_CT = stems_SCT[3].copy()
    middle = poisoned_CT.shape[-1] // 2
    poisoned_CT[:, middle : middle + 64] = np.nan
    # libsndfile stamps float files with the time of writing; scipy does not.
    wavfile.write(folder / "vocals.wav", sample_rate, poisoned_CT.T)


def _write_text(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "other.flac").unlink()
    (folder / "other.wav").write_text("This was a link to a song that has moved.\n" * 40, encoding="utf-8")


def _empty(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "vocals.flac").write_bytes(b"")


def _clip(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        loud_CT = np.clip(stem_CT * 40.0, -1.0, 1.0)
        soundfile.write(folder / f"{source}.flac", loud_CT.T, sample_rate, subtype="PCM_16")


def _cut_short(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        short_CT = stem_CT[:, : int(0.4 * sample_rate)]
        soundfile.write(folder / f"{source}.flac", short_CT.T, sample_rate, subtype="PCM_16")


DEFECTS = (
    Defect(name="silent vocals", reason="silent_source", spoil=_silence_vocals),
    Defect(name="missing stem", reason="missing_stem", spoil=_lose_a_stem),
    Defect(name="truncated file", reason="undecodable", spoil=_truncate),
    Defect(name="length mismatch", reason="length_mismatch", spoil=_lengthen_one),
    Defect(name="rate mismatch", reason="rate_mismatch", spoil=_halve_rate_of_one),
    Defect(name="old version", reason="ambiguous_stem", spoil=_leave_an_old_version),
    Defect(name="not a number", reason="not_finite", spoil=_poison),
    Defect(name="text as audio", reason="undecodable", spoil=_write_text),
    Defect(name="zero bytes", reason="empty_file", spoil=_empty),
    Defect(name="clipped", reason="clipped", spoil=_clip),
    Defect(name="too short", reason="too_short", spoil=_cut_short),
)
