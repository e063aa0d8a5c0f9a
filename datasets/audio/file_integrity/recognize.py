"""What kind of file one is, by its content and never by its name, and whether it is whole and alone.

Decoders stop silently where a file was cut off, and play the first of several that were put one behind the other. What
a file promises is read here, by kind: samples behind a header in `riff_chunks.py`, containers with parts in
`containers.py` and `video_containers.py`, plain frames in `mp3_aac_ac3_frames.py`, Ogg and FLAC in
`ogg_flac_streams.py`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datasets.audio.file_integrity import (
    containers,
    legacy_pcm_headers,
    mp3_aac_ac3_frames,
    ogg_flac_streams,
    riff_chunks,
)
from datasets.audio.file_integrity.tag_bounds import after_tags
from datasets.errors import AudioError

_MAX_HEADER_BYTES = 1 << 24  # of one that has to be mended; samples of hours have some thousand
_MPEG_IN_RIFF = {0x50, 0x55}  # format tags of layer II and layer III
# How late an encoder and its decoder usually put the audio, in samples, the most usual first: what to look for, and
# nothing to rely on. MP3 by LAME, and by encoders after the standard's; AAC by FFmpeg, Apple and others; WMA that
# FFmpeg has encoded is early, as its decoder leaves out what other encoders put before the audio.
_DELAYS = {
    "mp3": (1105, 1057), "mp2": (481,), "aac": (1024, 2112, 2048), "ac3": (256,), "eac3": (256,),
    "wmav1": (2048, -2048), "wmav2": (2048, -2048),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """What a file is; one that no walk knows is left to the decoders."""

    by_pyav: bool = False  # libsndfile does not read it, or not to its end
    extent: riff_chunks.Extent | None = None  # of samples behind a header
    flac_start: int | None = None  # of the stream in a FLAC file, behind tags; None in others
    states_start: bool = True  # where the audio begins that its codec puts off

    def unsaid_delays(self, codec: str) -> tuple[int, ...]:
        """By how many samples a codec usually puts the audio off, the most usual first; none where the file says it."""
        return () if self.states_start else _DELAYS.get(codec, ())


def recognize(path: Path) -> FileKind:
    """The kind of a file; AudioError where its end is missing or another file follows, OSError of the system."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        extent = riff_chunks.extent(file, size)
        if extent is not None:
            return _sound(path, file, extent)
        file.seek(0)
        if kind := containers.kind_of(file.read(600)):
            _check_parts(path, kind, file, size)
            return FileKind(by_pyav=True, states_start=containers.states_start(kind, file, size))
        if (end := legacy_pcm_headers.stated_end(file, size)) > size:
            raise truncated(path, f"its header promises {end} bytes and it has {size}")
        start = after_tags(file, 0)
        file.seek(start)
        head = file.read(4)
        if head == b"OggS":
            if ogg_flac_streams.is_chained_ogg(file):
                raise chained(path)
            if not ogg_flac_streams.ogg_ends(file, size):
                raise truncated(path, "its last page is missing")
            return FileKind()
        if head == b"fLaC":
            return FileKind(flac_start=start)
        return _frames(path, file, size)


def chained(path: Path) -> AudioError:
    """The error of several files in one."""
    return AudioError(
        "undecodable", f"{path}: several files in one, of which decoders read the first; split or join them"
    )


def truncated(path: Path, detail: str) -> AudioError:
    """The error of a file whose end is missing."""
    return AudioError("undecodable", f"{path}: truncated, {detail}")


def check_flac(path: Path, kind: FileKind) -> None:
    """AudioError where a second stream begins in a FLAC file, all of which is read for it; OSError of the system."""
    if kind.flac_start is None:
        return
    with path.open("rb") as file:
        if ogg_flac_streams.is_chained_flac(file, kind.flac_start):
            raise chained(path)


def _sound(path: Path, file: BinaryIO, found: riff_chunks.Extent) -> FileKind:
    sound = found.sound
    if found.missing:
        raise truncated(
            path,
            f"its header promises {sound.start + sound.stated} bytes up to the end of the audio and it has "
            f"{sound.start + found.num_bytes}",
        )
    if found.chained:
        raise chained(path)
    if found.mends and sound.name == "AIFF" and sound.start + found.num_bytes >= 1 << 32:
        raise AudioError(
            "undecodable",
            f"{path}: its header says {sound.stated} bytes of audio and {found.num_bytes} follow, more than AIFF can "
            "state; save it as WAV (RF64), W64 or FLAC",
        )
    if found.mends and sound.start > _MAX_HEADER_BYTES:
        raise AudioError(
            "undecodable", f"{path}: its header takes {sound.start} bytes, and does not say how much follows"
        )
    is_mpeg = sound.name == "RIFF" and riff_chunks.format_tag(file) in _MPEG_IN_RIFF
    return FileKind(by_pyav=is_mpeg, extent=found, states_start=sound.name == "CAF")


def _check_parts(path: Path, kind: str, file: BinaryIO, size: int) -> None:
    for part in containers.parts(kind, file, size):
        if part.begins:
            raise chained(path)
        if part.lost:
            raise truncated(path, f"its header promises {part.lost}")
        if part.end > size:
            raise truncated(path, f"its header promises {part.end} bytes ({part.name}) and it has {size}")


def _frames(path: Path, file: BinaryIO, size: int) -> FileKind:
    """The kind of a file of plain frames. An MP3 that states its length is left to libsndfile, which holds it to it."""
    kind, start = mp3_aac_ac3_frames.first_frame(file, size)
    if not kind:
        return FileKind()
    xing = mp3_aac_ac3_frames.read_xing(file, start) if kind == "mp3" else None
    if xing is not None:
        follows = after_tags(file, start + xing.num_bytes)
        file.seek(follows)
        if xing.num_bytes and mp3_aac_ac3_frames.mpeg_frame(file.read(4)) is not None:
            raise chained(path)
        return FileKind(states_start=xing.has_delay)
    frames = mp3_aac_ac3_frames.walk(kind, file, start, size)
    if frames.is_cut:
        raise truncated(
            path, f"its last frame promises {frames.last} bytes and it has {frames.present}; what followed is unknown"
        )
    return FileKind(by_pyav=True, states_start=False)
