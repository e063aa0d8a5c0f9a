"""Where RIFF, RF64, W64, CAF, AU and AIFF keep their samples, how many bytes they say these are, and what is there.

Such a size is written last, by a program that may have lost power or written into a pipe, and in RIFF, AU and AIFF it
has 32 bits. What is plainly no size (0 before samples, a placeholder, one that wrapped at 4 GiB) is no promise: the
samples go on to the end of the file. So do those of a writer that counted its header among them. Any other size beyond
the end is one that was right when there was more, and the file is truncated.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from datasets.audio.file_integrity.byte_blocks import LARGE, overlapping_blocks
from datasets.audio.file_integrity.tag_bounds import after_tags

_Order = Literal["little", "big"]
_PLACEHOLDERS = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)  # of writers that could not go back, less a header or so
_HEADER_BYTES = 128  # that writers count among the samples, or leave out of a placeholder
_WRAPS = 1 << 32
_TAIL_BYTES = 1 << 16
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs of wave, data and most other chunks
W64_HEAD = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A number in a header that follows from the bytes of audio: those and `more`."""

    at: int
    width: int  # bytes
    order: _Order
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Where the samples begin, and how many bytes of them a header states."""

    name: str  # of the chunk
    start: int
    stated: int
    fields: tuple[Field, ...]
    wide: bool  # the size has 64 bits
    riff: bool = False  # can be told as RF64
    align: int = 2  # chunks begin at multiples of it
    tags: re.Pattern[bytes] = re.compile(rb"(?!)")  # the names of chunks that are put behind samples
    other: re.Pattern[bytes]  # what another file of the kind begins with, 24 bytes of it
    mark: bytes  # a part of that which is always the same
    mark_at: int = 0  # where in it
    chunk: Callable[[bytes], int]  # how long a chunk with these first 24 bytes is, with its header; 0: no chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What is there of a file's samples."""

    sound: Sound
    num_bytes: int  # of samples
    missing: int = 0  # bytes that were promised beyond the end of the file
    is_open: bool = False  # the header does not say where they end
    chained: bool = False  # another file of the kind begins behind them, or in them
    again: bool = False  # a second chunk of samples follows, which libsndfile would play in place of the first

    @property
    def mends(self) -> bool:
        """Whether decoders, which believe the header, have to be told another size."""
        return self.again or self.num_bytes != self.sound.stated


def extent(file: BinaryIO, size: int) -> Extent | None:
    """What there is of the samples of a file of `size` bytes; None where it is none of these containers."""
    file.seek(0)
    head = file.read(16)
    for magic, find in _FINDERS:
        if magic.match(head):
            sound = find(file, size)
            return None if sound is None else _judged(file, size, sound)
    return None


def _judged(file: BinaryIO, size: int, sound: Sound) -> Extent:
    there, end = max(0, size - sound.start), sound.start + sound.stated
    slack = min(sound.start, _HEADER_BYTES)
    if _is_placeholder(sound) or (sound.stated == 0 and there and not _only_chunks(file, sound.start, size, sound)):
        there -= _chunks_at_end(file, size, sound)
        return Extent(sound=sound, num_bytes=there, is_open=True, chained=_hides_another(file, sound))
    if end > size:
        if end - size > slack:
            return Extent(sound=sound, num_bytes=there, missing=end - size)
        return Extent(sound=sound, num_bytes=there, chained=_hides_another(file, sound))
    wraps = 0 if sound.wide else (size - end) // _WRAPS
    if wraps and not _only_chunks(file, end + end % 2, size, sound):
        num_bytes = sound.stated + wraps * _WRAPS
        chained = _followed(file, sound.start + num_bytes, size, sound)
        return Extent(sound=sound, num_bytes=num_bytes, is_open=True, chained=chained)
    again = any(
        head[:4] == b"data" for _, _, head in _chunks(file, end + -end % sound.align, size, sound.chunk, sound.align)
    )
    return Extent(sound=sound, num_bytes=sound.stated, again=again, chained=_followed(file, end, size, sound))


def _is_placeholder(sound: Sound) -> bool:
    if sound.wide:
        return sound.stated >= LARGE
    return any(abs(sound.stated - value) <= _HEADER_BYTES for value in _PLACEHOLDERS)


def _chunks(
    file: BinaryIO, place: int, size: int, chunk: Callable[[bytes], int], align: int
) -> Iterator[tuple[int, int, bytes]]:
    """Place, length and first 24 bytes of the chunks that follow one another; the last may be none, of length 0."""
    while place + 8 <= size:
        file.seek(place)
        head = file.read(24)
        length = chunk(head)
        yield place, length, head
        if not length:
            return
        place += length + -length % align


def _chunk_ends(file: BinaryIO, place: int, size: int, sound: Sound) -> Iterator[int]:
    """Where each chunk ends of those that follow one another from a place on and lie in the file."""
    for begin, length, _ in _chunks(file, place, size, sound.chunk, sound.align):
        if not length or begin + length > size:
            return
        yield begin + length + -length % sound.align


def _only_chunks(file: BinaryIO, place: int, size: int, sound: Sound) -> bool:
    """Whether nothing but chunks follows from a place on."""
    return any(end >= size for end in _chunk_ends(file, place, size, sound))


def _chunks_at_end(file: BinaryIO, size: int, sound: Sound) -> int:
    """Bytes of the tags that follow the samples of a file which does not say where these end."""
    begin = max(sound.start, size - _TAIL_BYTES)
    file.seek(begin)
    for found in sound.tags.finditer(file.read(_TAIL_BYTES)):
        if _only_chunks(file, begin + found.start(), size, sound):
            return size - begin - found.start()
    return 0


def _followed(file: BinaryIO, end: int, size: int, sound: Sound) -> bool:
    """Whether another file begins behind the samples, or behind the chunks that follow them."""
    place = end + -end % sound.align
    for begin in (place, *_chunk_ends(file, place, size, sound)):
        file.seek(after_tags(file, begin))
        if sound.other.match(file.read(32).lstrip(b"\0")):  # padding is not always what the format asks for
            return True
    return False


def _hides_another(file: BinaryIO, sound: Sound) -> bool:
    """Whether another file begins anywhere among the samples, whose end nothing tells."""
    for text in overlapping_blocks(file, sound.start, 31):
        at = -1
        while (at := text.find(sound.mark, at + 1)) >= 0:  # far faster than a pattern
            if sound.other.match(text, max(0, at - sound.mark_at)):
                return True
    return False


def told_whole(path: Path, found: Extent) -> io.RawIOBase:
    """The file as it would be had its writer known how much it wrote."""
    sound = found.sound
    with path.open("rb") as file:
        head = bytearray(file.read(sound.start))
    shift = 0
    fields = sound.fields
    if sound.riff and sound.start + found.num_bytes >= _WRAPS:  # sizes of 64 bits are RF64's
        shift = 36
        ds64 = b"ds64" + (28).to_bytes(4, "little") + bytes(28)
        head = bytearray(b"RF64" + b"\xff" * 4 + b"WAVE" + ds64 + head[12:-4] + b"\xff" * 4)
        fields = (Field(at=20, width=8, order="little", more=len(head) - 8), Field(at=28, width=8, order="little"))
    for field in fields:
        value = (found.num_bytes + field.more) & (1 << 8 * field.width) - 1
        head[field.at : field.at + field.width] = value.to_bytes(field.width, field.order)
    assert len(head) == sound.start + shift, path
    return _Spliced(path, bytes(head), start=sound.start, num_bytes=found.num_bytes)


class _Spliced(io.RawIOBase):
    """A file with another header: `head`, and what the file has from `start` on, `num_bytes` of it."""

    def __init__(self, path: Path, head: bytes, *, start: int, num_bytes: int) -> None:
        self._file = path.open("rb")
        self._head, self._start, self._end = head, start, len(head) + num_bytes
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        return self._place

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # of typing's Buffer, from Python 3.12 on
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._end - self._place))
        if self._place < len(self._head):
            part = self._head[self._place : self._place + wanted]
        else:
            self._file.seek(self._start + self._place - len(self._head))
            part = self._file.read(wanted)
        view[: len(part)] = part
        self._place += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


# --- where each kind has them -------------------------------------------------------------------------------


def _named(order: _Order) -> Callable[[bytes], int]:
    """Chunks of four letters and a size of 32 bits."""

    def length(head: bytes) -> int:
        known = len(head) >= 8 and head[:4].isascii() and head[:4].decode().isprintable()
        return 8 + int.from_bytes(head[4:8], order) if known else 0

    return length


_RIFF_CHUNK, _AIFF_CHUNK = _named("little"), _named("big")
_RIFF_OTHER = re.compile(rb"(?:RIFF|RF64|BW64)....WAVE(?:fmt |ds64|JUNK|bext|LIST|fact|PEAK)", re.DOTALL)
_RIFF_TAGS = re.compile(rb"LIST....(?:INFO|adtl)|(?:id3 |ID3 |bext|iXML|_PMX|cue |smpl|fact|PEAK|JUNK)", re.DOTALL)
_AIFF_OTHER = re.compile(rb"FORM....AIF[FC](?:COMM|FVER|NAME|MARK|SSND|COMT)", re.DOTALL)
_CAF_OTHER = re.compile(rb"caff\x00\x01..desc", re.DOTALL)
_AU_OTHER = re.compile(rb"\.snd\x00\x00......\x00\x00\x00.\x00[\x00-\x0b]..\x00\x00\x00.", re.DOTALL)
_W64_OTHER = re.compile(re.escape(W64_HEAD))


def _caf_chunk(head: bytes) -> int:
    length = int.from_bytes(head[4:12], "big")
    return 12 + length if len(head) >= 12 and head[:4].isascii() and length < LARGE else 0


def _w64_chunk(head: bytes) -> int:
    return int.from_bytes(head[16:24], "little") if head[4:16] == _W64_TAIL else 0


def _no_chunk(head: bytes) -> int:
    return 0


def _find(file: BinaryIO, size: int, place: int, name: bytes, chunk: Callable[[bytes], int], align: int) -> int:
    """Where the chunk of this name begins; -1 where it is not there."""
    return next((begin for begin, _, head in _chunks(file, place, size, chunk, align) if head[:4] == name), -1)


def _number(file: BinaryIO, at: int, width: int, order: _Order) -> int:
    file.seek(at)
    return int.from_bytes(file.read(width), order)


def _riff(file: BinaryIO, size: int) -> Sound | None:
    place = _find(file, size, 12, b"data", _RIFF_CHUNK, 2)
    if place < 0:
        return None
    start = place + 8
    return Sound(
        name="RIFF", start=start, stated=_number(file, place + 4, 4, "little"), wide=False, riff=True,
        fields=(Field(at=place + 4, width=4, order="little"), Field(at=4, width=4, order="little", more=start - 8)),
        other=_RIFF_OTHER, mark=b"WAVE", mark_at=8, chunk=_RIFF_CHUNK, tags=_RIFF_TAGS,
    )  # fmt: skip


def format_tag(file: BinaryIO) -> int:
    """How the samples of a RIFF file are coded, as its first chunk "fmt " says; 0 where there is none."""
    place = _find(file, 1 << 20, 12, b"fmt ", _RIFF_CHUNK, 2)
    return 0 if place < 0 else _number(file, place + 8, 2, "little")


def _rf64(file: BinaryIO, size: int) -> Sound | None:
    """RF64 and BW64: RIFF whose sizes beyond 4 GiB stand in the chunk ds64."""
    place = _find(file, size, 12, b"data", _RIFF_CHUNK, 2)
    file.seek(12)
    if place < 0 or file.read(4) != b"ds64":
        return None
    start, stated = place + 8, _number(file, place + 4, 4, "little")
    if stated in (0, 0xFFFFFFFF):
        stated = _number(file, 28, 8, "little")
    return Sound(
        name="RF64", start=start, stated=stated, wide=True,
        fields=(Field(at=20, width=8, order="little", more=start - 8), Field(at=28, width=8, order="little")),
        other=_RIFF_OTHER, mark=b"WAVE", mark_at=8, chunk=_RIFF_CHUNK, tags=_RIFF_TAGS,
    )  # fmt: skip


def _w64(file: BinaryIO, size: int) -> Sound | None:
    place = _find(file, size, 40, b"data", _w64_chunk, 8)  # behind the file's GUID, its size, and the GUID "wave"
    if place < 0:
        return None
    start = place + 24
    stated = _number(file, place + 16, 8, "little")
    return Sound(
        name="W64", align=8, start=start, stated=stated - 24 if 24 <= stated < LARGE else stated, wide=True,
        fields=(
            Field(at=place + 16, width=8, order="little", more=24), Field(at=16, width=8, order="little", more=start),
        ),
        other=_W64_OTHER, mark=W64_HEAD, chunk=_w64_chunk,
    )  # fmt: skip


def _caf(file: BinaryIO, size: int) -> Sound | None:
    place = _find(file, size, 8, b"data", _caf_chunk, 1)
    if place < 0:
        return None
    stated = _number(file, place + 4, 8, "big")
    return Sound(
        name="CAF", align=1, start=place + 16, stated=stated - 4 if 4 <= stated < LARGE else stated, wide=True,
        fields=(Field(at=place + 4, width=8, order="big", more=4),), other=_CAF_OTHER, mark=b"caff", chunk=_caf_chunk,
    )  # fmt: skip


def _au(file: BinaryIO, size: int) -> Sound | None:
    start = _number(file, 4, 4, "big")
    if not 24 <= start <= size:
        return None
    return Sound(
        name="AU", align=1, start=start, stated=_number(file, 8, 4, "big"), wide=False,
        fields=(Field(at=8, width=4, order="big"),), other=_AU_OTHER, mark=b".snd", chunk=_no_chunk,
    )  # fmt: skip


def _aiff(file: BinaryIO, size: int) -> Sound | None:
    place = _find(file, size, 12, b"SSND", _AIFF_CHUNK, 2)
    if place < 0:
        return None
    start, stated = place + 16, _number(file, place + 4, 4, "big")  # behind an offset and the size of a block
    return Sound(
        name="AIFF", start=start, stated=stated - 8 if stated >= 8 else 0, wide=False,
        fields=(
            Field(at=place + 4, width=4, order="big", more=8), Field(at=4, width=4, order="big", more=start - 8),
        ),
        other=_AIFF_OTHER, mark=b"AIF", mark_at=8, chunk=_AIFF_CHUNK,
    )  # fmt: skip


_FINDERS: tuple[tuple[re.Pattern[bytes], Callable[[BinaryIO, int], Sound | None]], ...] = (
    (re.compile(rb"RIFF....WAVE", re.DOTALL), _riff),
    (re.compile(rb"(?:RF64|BW64)....WAVE", re.DOTALL), _rf64),
    (re.compile(re.escape(W64_HEAD)), _w64),
    (re.compile(rb"caff\x00\x01", re.DOTALL), _caf),
    (re.compile(rb"\.snd"), _au),
    (re.compile(rb"FORM....AIF[FC]", re.DOTALL), _aiff),
)
