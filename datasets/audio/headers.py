"""Whether a RIFF, AIFF, Ogg, FLAC or MP3 file is whole and alone, by its header or its last page.

The containers with parts that can be walked along are in `containers.py`.
"""

import io
import os
import re
from pathlib import Path

from datasets.audio.containers import chained
from datasets.errors import AudioError, Unavailable

_UNKNOWN_SIZE = 0x7FFF0000  # what writers into a pipe put into a WAV header, and more
_SCAN_BYTES = 1 << 20
_FLAC_MARKS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")


def check_header(path: Path) -> None:
    """Refuse files whose header or last page shows that the end is missing, which libsndfile hides."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            promised = _chunk_end(file, b"data", "little")
            if _follows(file, head, "little"):
                raise chained(path)
        elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            promised = _chunk_end(file, b"SSND", "big")
            if _follows(file, head, "big"):
                raise chained(path)
        elif head[:4] == b"OggS":
            if _is_chained_ogg(file):
                raise chained(path)
            file.seek(max(0, size - 65536))
            if not _ogg_ends(file.read()):
                raise truncated(path, "its last page is missing")
            return
        else:
            return
    if promised > size:
        raise truncated(path, f"its header promises {promised} bytes and it has {size}")


def truncated(path: Path, detail: str) -> AudioError:
    return AudioError("undecodable", f"{path}: truncated, {detail}")


def is_chained_flac(path: Path) -> bool:
    """Whether a second stream begins in a FLAC file, whose frames do not tell where the first one ends.

    What a stream begins with, its name and the head of a STREAMINFO block, stands in no other place by chance.
    """
    try:
        with path.open("rb") as file:
            file.seek(_after_id3(file, 0) + 1)  # behind the first byte of the first mark
            before = b""
            while block := file.read(_SCAN_BYTES):
                text = before + block
                if any(mark in text for mark in _FLAC_MARKS):
                    return True
                before = text[1 - len(_FLAC_MARKS[0]) :]
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from None
    return False


def is_mp3_without_length(path: Path) -> bool:
    """An MP3 with no Xing or Info header: libsndfile guesses its length from the bit rate and stops there.

    AudioError where more audio follows the end that such a header states.
    """
    if path.suffix.lower() != ".mp3":
        return False
    with path.open("rb") as file:
        start = _after_id3(file, 0)
        file.seek(start)
        head = file.read(4096)
        tag = re.search(rb"Xing|Info", head)
        if tag is None:
            return True
        flags = head[tag.end() + 3 : tag.end() + 4]
        if flags and flags[0] & 2:  # bytes of audio, after the number of frames where that is stated
            at = tag.end() + 4 + 4 * (flags[0] & 1)
            file.seek(_after_id3(file, start + int.from_bytes(head[at : at + 4], "big")))
            follows = file.read(4)
            if len(follows) == 4 and _is_mpeg_frame(follows):
                raise chained(path)
    return False


def is_wav_without_length(path: Path) -> bool:
    """A WAV that says 0 bytes of audio, as of a recorder that lost power, and has more than chunks behind that."""
    with path.open("rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE" or _chunk_end(file, b"data", "little") != file.tell():
            return False
        after = file.read(8)
        is_chunk = after[:4].isascii() and after[:4].decode().isprintable()
        return len(after) > 0 and not (is_chunk and file.tell() + int.from_bytes(after[4:], "little") <= size)


def _is_chained_ogg(file: io.BufferedReader) -> bool:
    """Whether a stream begins after another's first pages: Ogg files that were put one behind the other."""
    file.seek(0)
    under_way = False
    while len(header := file.read(27)) == 27 and header[:4] == b"OggS":
        begins = bool(header[5] & 2)
        if begins and under_way:
            return True
        under_way = under_way or not begins
        file.seek(sum(file.read(header[26])), os.SEEK_CUR)
    return False


def _ogg_ends(tail: bytes) -> bool:
    """Whether the last page in these bytes is marked as the last of its stream and is all there."""
    last = tail.rfind(b"OggS")
    header = tail[last : last + 27]
    if last < 0 or len(header) < 27 or not header[5] & 4:
        return False
    segments = tail[last + 27 : last + 27 + header[26]]
    return len(segments) == header[26] and last + 27 + header[26] + sum(segments) <= len(tail)


def _chunk_end(file: io.BufferedReader, name: bytes, byteorder: str) -> int:
    """Where the named RIFF or AIFF chunk ends; 0 when it is not there or its size is a placeholder."""
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[4:], byteorder)  # type: ignore[arg-type]
        if header[:4] == name:
            return 0 if length >= _UNKNOWN_SIZE else file.tell() + length
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def _follows(file: io.BufferedReader, head: bytes, byteorder: str) -> bool:
    """Whether another file begins where the RIFF or AIFF file with this head says that it ends."""
    end = 8 + int.from_bytes(head[4:8], byteorder)  # type: ignore[arg-type]
    file.seek(end + end % 2)
    after = file.read(12)
    return after[:4] == head[:4] and after[8:] == head[8:]


def _after_id3(file: io.BufferedReader, start: int) -> int:
    """Where an ID3v2 tag that begins at `start` ends; `start` where there is none."""
    file.seek(start)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    return start + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _is_mpeg_frame(header: bytes) -> bool:
    """Whether four bytes are the header of a frame of layer III, with a bit rate and a sample rate."""
    sync = header[0] == 0xFF and header[1] & 0xE6 == 0xE2
    return sync and header[1] & 0x18 != 0x08 and 0 < header[2] >> 4 < 15 and header[2] >> 2 & 3 != 3
