"""Whether an MP4, Matroska, ASF, WavPack or TTA file holds all that it promises, and no second file behind it.

Decoders stop silently where a file was cut off, and play the first of several that were put one behind the other. Each
of these containers has a walk along its outermost parts, which believes no size beyond the file's end. What is no part
of the container, such as tags at the end, ends a walk. `recognize.py` looks at files of every kind,
`video_containers.py` at those that carry pictures as well.
"""

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from datasets.audio.file_integrity import video_containers
from datasets.audio.file_integrity.byte_blocks import LARGE, overlapping_blocks
from datasets.audio.file_integrity.container_findings import ContainerPart
from datasets.audio.file_integrity.tag_bounds import after_tags

_INDEX_BYTES = 1 << 24
_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid", b"meta",
          b"udta", b"pnot", b"emsg", b"prft", b"pdin", b"ssix"}  # fmt: skip
_NAME = re.compile(rb"[ -~]{4}")  # of a box
_FTYP = re.compile(rb"\x00\x00\x00[\x10-\x60]ftyp[ -~]{4}")
_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_TRACKS = b"\x16\x54\xae\x6b"
_CODEC_DELAY = re.compile(rb"\x56\xaa[\x81-\x88]")  # with the length of its number
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_WAVPACK_INITIAL = 0x800  # of the flags: the first block of those of a stretch, one for two channels


def kind_of(head: bytes) -> str:
    """Which of these containers a file of these first 600 bytes is; empty where it is none."""
    return next((kind for kind, (magic, _) in _WALKS.items() if magic.match(head)), "")


def parts(kind: str, file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """The outermost parts of a container, as far as they can be followed."""
    file.seek(0)
    return _WALKS[kind][1](file, size)


def _mp4(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Boxes of MP4 and QuickTime. A file has one box moov, whichever of its boxes comes first."""
    seen = set[bytes]()
    for place, length, kind in _boxes(file, size):
        if kind in (b"moov", b"ftyp"):
            yield ContainerPart(name="MP4", begins=kind in seen)
        seen.add(kind)
        if not length:
            yield ContainerPart(name="MP4", begins=any(map(_FTYP.search, overlapping_blocks(file, place + 8, 16))))
        elif kind in (b"moov", b"mdat", b"moof"):
            yield ContainerPart(end=place + length, name=f"box {kind.decode()}")
    if b"moov" not in seen:
        yield ContainerPart(lost="an index (box moov), which stands behind the audio and is missing")


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Place, length and name of each outermost box of an MP4; a length of 0 is one up to the end.

    A box of another name than is known here is one where it lies in the file as a whole.
    """
    place = 0
    while place + 8 <= size:
        file.seek(place)
        header = file.read(16)
        length, kind, least = int.from_bytes(header[:4], "big"), header[4:8], 8
        if length == 1:
            length, least = int.from_bytes(header[8:], "big"), 16
        if kind not in _BOXES and not (_NAME.fullmatch(kind) and least <= length <= size - place):
            return
        yield place, length if length >= least else 0, kind
        if length < least:
            return
        place += length


def states_start(kind: str, file: BinaryIO, size: int) -> bool:
    """Whether a container says where audio begins that its codec puts off.

    MP4 does by an edit list or by iTunes' tag, Matroska by the delay of a codec; the others cannot.
    """
    if kind == "mp4":
        moov = next(((place, length) for place, length, name in _boxes(file, size) if name == b"moov"), None)
        text = _text(file, moov[0], moov[1] or size) if moov else b""
        return b"iTunSMPB" in text or any(map(_skips, text.split(b"elst")[1:]))
    if kind == "matroska":
        tracks = next((found for found in _elements(file, size) if found[0] == _TRACKS), None)
        text = _text(file, tracks[2], tracks[3] or 0) if tracks else b""
        return _CODEC_DELAY.search(text) is not None
    return False


def _text(file: BinaryIO, begin: int, length: int) -> bytes:
    file.seek(begin)
    return file.read(min(length, _INDEX_BYTES))


def _skips(edits: bytes) -> bool:
    """Whether an edit list, behind its name, begins later than the stream does."""
    wide = edits[:1] == b"\x01"
    first = edits[16:24] if wide else edits[12:16]
    return int.from_bytes(first, "big", signed=True) > 0


def _matroska(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Elements of Matroska and WebM; what is inside a segment, and inside a cluster of unknown size, is walked too."""
    for name, place, begin, length in _elements(file, size):
        if name == _EBML:
            yield ContainerPart(name="Matroska", begins=place > 0)
        if length is not None:
            yield ContainerPart(end=begin + length if name in (_SEGMENT, _CLUSTER) else 0, name="element")


def _elements(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int, int | None]]:
    """The outermost elements and those in a segment: name, place, that of the content and its length, if known."""
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
        yield name, place, begin, None if unknown else value
        if unknown and name not in (_SEGMENT, _CLUSTER):
            return
        place = begin if unknown or name == _SEGMENT else begin + value


def _asf(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Objects of ASF, as in WMA: a header, the data, indexes. A live stream knows no sizes."""
    place, live = 0, False
    while place + 24 <= size:
        file.seek(place)
        header = file.read(24)
        name, length = header[:16], int.from_bytes(header[16:], "little")
        if name == _ASF_HEADER:
            yield ContainerPart(name="ASF", begins=place > 0)
            live = _is_live(file.read(min(length, 1 << 16)))
        if not 24 <= length < LARGE or (name == _ASF_DATA and live):
            return
        if name in (_ASF_HEADER, _ASF_DATA):
            yield ContainerPart(end=place + length, name="header" if name == _ASF_HEADER else "data")
        place += length


def _is_live(header: bytes) -> bool:
    """Whether the properties in a header of ASF have the flag of a broadcast."""
    at = header.find(_ASF_PROPERTIES)
    return at >= 0 and bool(int.from_bytes(header[at + 88 : at + 92], "little") & 1)


def _wavpack(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Blocks of WavPack; the first states how many samples all of them have."""
    place, stated, have = 0, 0, 0
    while place + 32 <= size:
        file.seek(place)
        header = file.read(32)
        if header[:4] != b"wvpk":
            file.seek(after_tags(file, place))
            yield ContainerPart(name="WavPack", begins=file.read(4) == b"wvpk")
            break
        length, total, index, count, flags = (
            int.from_bytes(header[at : at + 4], "little") for at in (4, 12, 16, 20, 24)
        )
        if index == 0 and header[10] == 0 and count and flags & _WAVPACK_INITIAL:
            yield ContainerPart(name="WavPack", begins=have > 0)
            stated = 0 if total == 0xFFFFFFFF else total + (header[11] << 32)
        yield ContainerPart(end=place + 8 + length, name="block")
        have = max(have, index + (header[10] << 32) + count)
        place += 8 + length
    if have < stated:
        yield ContainerPart(lost=f"{stated} samples and its blocks have {have}")


def _tta(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """TTA: a header, the sizes of all frames, and these; a frame has 256 / 245 seconds."""
    header = file.read(22)
    rate, samples = (int.from_bytes(header[at : at + 4], "little") for at in (10, 14))
    frame = 256 * rate // 245
    if not frame:
        return
    sizes = -(-samples // frame)
    yield ContainerPart(end=26 + 4 * sizes, name="sizes of frames")
    table = file.read(4 * sizes)
    end = 26 + 4 * sizes + sum(int.from_bytes(table[at : at + 4], "little") for at in range(0, 4 * sizes, 4))
    yield ContainerPart(end=end, name="frames")
    file.seek(after_tags(file, end))
    yield ContainerPart(name="TTA", begins=file.read(4) == b"TTA1")


_WALKS: dict[str, tuple[re.Pattern[bytes], Callable[[BinaryIO, int], Iterator[ContainerPart]]]] = {
    "mp4": (re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip|styp)", re.DOTALL), _mp4),
    "matroska": (re.compile(re.escape(_EBML)), _matroska),
    "asf": (re.compile(re.escape(_ASF_HEADER)), _asf),
    "wavpack": (re.compile(rb"wvpk"), _wavpack),
    "tta": (re.compile(rb"TTA1"), _tta),
    "mpegts": (re.compile(rb"(?:G.{187}){3}|(?:.{4}G.{187}){3}", re.DOTALL), video_containers.mpegts),
    "mpegps": (re.compile(rb"\x00\x00\x01\xba"), video_containers.mpegps),
    "avi": (re.compile(rb"RIFF....AVI ", re.DOTALL), video_containers.avi),
    "flv": (re.compile(rb"FLV\x01"), video_containers.flv),
}
