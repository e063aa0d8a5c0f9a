"""Whether a file holds all that its container promises, and nothing of a second file behind it.

Decoders stop silently where a file was cut off, and play the first of several that were put one behind the other. One
table tells the containers apart by their first bytes; each has a walk along its outermost parts, which believes no
size beyond the file's end. What is no part of the container, such as tags at the end, ends a walk. Ogg, MP3 and FLAC,
which have no such parts, are looked at in `headers.py`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from datasets.errors import AudioError

# Where a part ends, its name, and whether it begins another file; the end is 0 where none is promised.
_Parts = Iterator[tuple[int, str, bool]]

_LARGE = 1 << 62  # sizes from here on are placeholders of writers that could not go back
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs of wave, data and most other chunks
_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid", b"meta",
          b"udta", b"pnot", b"emsg", b"prft", b"pdin", b"ssix"}  # fmt: skip
_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"


def check(path: Path) -> None:
    """AudioError where the container's end is missing, or another file follows; OSError of the system."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        for (start, magic), walk in _WALKS.items():
            if head[start : start + len(magic)] == magic:
                for end, name, begins in walk(file, size):
                    if begins:
                        raise chained(path)
                    if end > size:
                        raise AudioError(
                            "undecodable",
                            f"{path}: truncated, its header promises {end} bytes ({name}) and it has {size}",
                        )
                return


def chained(path: Path) -> AudioError:
    """The error of several files in one."""
    return AudioError(
        "undecodable", f"{path}: several files in one, of which decoders read the first; split or join them"
    )


def _rf64(file: BinaryIO, size: int) -> _Parts:
    """RF64 and BW64: RIFF whose sizes beyond 4 GiB stand in the chunk ds64."""
    file.seek(12)
    header = file.read(24)
    if header[:4] != b"ds64" or len(header) < 24:
        return
    whole, data = (int.from_bytes(header[at : at + 8], "little") for at in (8, 16))
    place = 20 + int.from_bytes(header[4:8], "little")
    while place + 8 <= size:
        file.seek(place)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            length = data if length == 0xFFFFFFFF else length
            if not 0 < length < _LARGE:
                return
            yield place + 8 + length, "chunk data", False
        place += 8 + length + length % 2
    if 0 < whole < _LARGE:
        file.seek(8 + whole + whole % 2)
        after = file.read(12)
        yield 0, "RF64", after[:4] in (b"RF64", b"BW64", b"RIFF") and after[8:] == b"WAVE"


def _w64(file: BinaryIO, size: int) -> _Parts:
    place = 40  # behind the GUID of the file, its size, and the GUID "wave"
    while place + 24 <= size:
        file.seek(place)
        header = file.read(24)
        length = int.from_bytes(header[16:], "little")
        if header[:16] == _W64_RIFF:
            yield 0, "W64", True
        if header[4:16] != _W64_TAIL or not 24 <= length < _LARGE:
            return
        if header[:4] == b"data":
            yield place + length, "chunk data", False
        place += length + -length % 8


def _caf(file: BinaryIO, size: int) -> _Parts:
    place = 8
    while place + 12 <= size:
        file.seek(place)
        header = file.read(12)
        length = int.from_bytes(header[4:], "big", signed=True)
        if header[:6] == b"caff\0\1":
            yield 0, "CAF", True
        if length < 0 or not header[:4].isascii():  # -1 is audio up to the end
            return
        if header[:4] in (b"data", b"pakt"):
            yield place + 12 + length, f"chunk {header[:4].decode()}", False
        place += 12 + length


def _au(file: BinaryIO, size: int) -> _Parts:
    file.seek(4)
    start, length = (int.from_bytes(file.read(4), "big") for _ in range(2))
    if length in (0, 0xFFFFFFFF):
        return
    yield start + length, "audio", False
    file.seek(start + length)
    yield 0, "AU", file.read(4) == b".snd"


def _mp4(file: BinaryIO, size: int) -> _Parts:
    """Boxes of MP4 and QuickTime. A file has one box moov, whichever of its boxes comes first."""
    place, seen = 0, set[bytes]()
    while place + 8 <= size:
        file.seek(place)
        header = file.read(16)
        length, kind, least = int.from_bytes(header[:4], "big"), header[4:8], 8
        if kind not in _BOXES:
            return
        if kind in (b"moov", b"ftyp"):
            yield 0, "MP4", kind in seen
            seen.add(kind)
        if length == 1:
            length, least = int.from_bytes(header[8:], "big"), 16
        if length < least:  # 0 is a box up to the end
            return
        if kind in (b"moov", b"mdat", b"moof"):
            yield place + length, f"box {kind.decode()}", False
        place += length


def _matroska(file: BinaryIO, size: int) -> _Parts:
    """Elements of Matroska and WebM; what is inside a segment, and inside a cluster of unknown size, is walked too."""
    place = 0
    while place + 2 <= size:
        file.seek(place)
        header = file.read(12)
        id_length = 9 - header[0].bit_length()
        if id_length > 4 or len(header) <= id_length:
            return
        name, first = header[:id_length], header[id_length]
        size_length = 9 - first.bit_length()
        if size_length > 8 or id_length + size_length > len(header):
            return
        value = int.from_bytes(header[id_length : id_length + size_length], "big") & (1 << 7 * size_length) - 1
        unknown = value == (1 << 7 * size_length) - 1
        begin = place + id_length + size_length
        if name == _EBML and place:
            yield 0, "Matroska", True
        if not unknown:
            yield (begin + value if name in (_SEGMENT, _CLUSTER) else 0), "element", False
        elif name not in (_SEGMENT, _CLUSTER):
            return
        place = begin if unknown or name == _SEGMENT else begin + value


_WALKS: dict[tuple[int, bytes], Callable[[BinaryIO, int], _Parts]] = {
    (0, b"RF64"): _rf64,
    (0, b"BW64"): _rf64,
    (0, _W64_RIFF): _w64,
    (0, b"caff"): _caf,
    (0, b".snd"): _au,
    (4, b"ftyp"): _mp4,
    (4, b"moov"): _mp4,
    (4, b"mdat"): _mp4,
    (4, b"wide"): _mp4,
    (4, b"free"): _mp4,
    (4, b"skip"): _mp4,
    (0, _EBML): _matroska,
}
