"""MP3, AAC (ADTS), AC-3 and E-AC-3 as plain files: frames one behind the other, with nothing that says how many.

Each frame says how long it is, so a file that was cut off ends within a frame. What stands before the first frame and
behind the last, such as tags, is none. Of MP3 the first frame may state the length of the whole, see `read_xing`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from datasets.audio.file_integrity.tag_bounds import after_tags, is_tag

_RATES = ((11025, 12000, 8000), (), (22050, 24000, 16000), (44100, 48000, 32000))  # Hz, by MPEG version
_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by version (2 stands for 2.5, too) and layer
_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES = (48000, 44100, 32000)
_SEARCHED_BYTES = 1 << 16  # for the first frame, and for the next one after a damage
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a frame's header says; frames of one stream have one `kind`."""

    length: int  # bytes
    kind: tuple[int, ...]
    lead: int = 0  # bytes before a Xing header, in the first frame of an MP3


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What a file of frames holds."""

    start: int  # of the first
    end: int  # of the last, as its header states it
    present: int  # bytes of the last frame that are there, of `last`
    last: int

    @property
    def is_cut(self) -> bool:
        return self.present < self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Xing:
    """What the first frame of an MP3 states of the whole."""

    num_bytes: int  # of audio, from the first frame on; 0 where it does not say
    has_delay: bool  # how many samples the encoder put before and behind the audio


def mpeg_frame(head: bytes) -> Frame | None:
    """A frame of MPEG audio, layers I to III, by its first 4 bytes."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate_index = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate_index == 3 or not 0 < bits < 15:
        return None
    first = version == 3
    rate, kbps, padding = _RATES[version][rate_index], _KBPS[1 if first else 2, layer][bits - 1], head[2] >> 1 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    length = (12000 * kbps // rate + padding) * 4 if layer == 1 else samples // 8 * 1000 * kbps // rate + padding
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)  # bytes between header and Xing
    lead = 4 + side + 2 * (~head[1] & 1)
    return Frame(length=length, kind=(version, layer, rate), lead=lead)


def adts_frame(head: bytes) -> Frame | None:
    """A frame of AAC, by its first 7 bytes."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if length < 7:
        return None
    channels = (head[2] & 1) << 2 | head[3] >> 6
    return Frame(length=length, kind=(head[2] >> 6, head[2] >> 2 & 15, channels))


def ac3_frame(head: bytes) -> Frame | None:
    """A frame of AC-3 or E-AC-3, by its first 6 bytes."""
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return None
    if head[5] >> 3 > 10:  # E-AC-3
        length, code = 2 * (((head[2] & 7) << 8 | head[3]) + 1), head[4] >> 6
        return Frame(length=length, kind=(3, code))
    code, size = head[4] >> 6, head[4] & 63
    if code == 3 or size > 37:
        return None
    words = _AC3_KBPS[size >> 1] * 96000 // _AC3_RATES[code] + (size & 1 if code == 1 else 0)
    return Frame(length=2 * words, kind=(2, code))


READERS: dict[str, Callable[[bytes], Frame | None]] = {"mp3": mpeg_frame, "adts": adts_frame, "ac3": ac3_frame}


def first_frame(file: BinaryIO, size: int) -> tuple[str, int]:
    """The kind of frames that a file begins with and where, behind tags and padding; ("", 0) where it is none.

    Four bytes look like a frame by chance, so another one must follow it, or nothing.
    """
    start = after_tags(file, 0)
    file.seek(start)
    text = file.read(_SEARCHED_BYTES)
    begin = len(text) - len(text.lstrip(b"\0"))
    for kind, read in READERS.items():
        if _agreed(file, start + begin, size, read):
            return kind, start + begin
    place = _next(file, "mp3", start, size)  # behind what is no tag; the chance of a frame is less with another look
    frame = None if place < 0 else _agreed(file, place, size, mpeg_frame)
    again = frame is not None and _agreed(file, place + frame.length, size, mpeg_frame) is not None
    return ("mp3", place) if again else ("", 0)


def _agreed(file: BinaryIO, place: int, size: int, read: Callable[[bytes], Frame | None]) -> Frame | None:
    """The frame at a place, where the next one is of its kind or the file ends with it."""
    file.seek(place)
    frame = read(file.read(8))
    if frame is None:
        return None
    if place + frame.length >= size:
        return frame
    file.seek(place + frame.length)
    head = file.read(8)
    following = read(head)
    same = following is not None and following.kind == frame.kind
    return frame if same or is_tag(head) else None


def walk(kind: str, file: BinaryIO, start: int, size: int) -> Frames:
    """All frames from the first one on; a damage between them is passed over, as decoders do."""
    read = READERS[kind]
    size -= _id3v1_bytes(file, size)
    view = _Window(file)
    place = end = start
    last = 0
    while place < size:
        frame = read(view.at(place, 8))
        if frame is not None:
            last = frame.length
            place = end = place + frame.length
        elif is_tag(view.at(place, 8)) or (place := _next(file, kind, place, size)) < 0:
            break
    return Frames(start=start, end=end, present=min(last, size - end + last), last=last)


def _next(file: BinaryIO, kind: str, place: int, size: int) -> int:
    """Where the next frame begins that another one follows; -1 where none is near."""
    read, mark = READERS[kind], b"\x0b" if kind == "ac3" else b"\xff"
    file.seek(place)
    text = file.read(_SEARCHED_BYTES)
    at = 0
    while (at := text.find(mark, at + 1)) > 0:
        if read(text[at : at + 8]) and place + at + 8 < size and _agreed(file, place + at, size, read):
            return place + at
    return -1


def _id3v1_bytes(file: BinaryIO, size: int) -> int:
    file.seek(max(0, size - 128))
    return 128 if size >= 128 and file.read(3) == b"TAG" else 0


class _Window:
    """Bytes of a file, read a megabyte at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._start, self._text = file, 0, b""

    def at(self, place: int, length: int) -> bytes:
        if not self._start <= place <= self._start + len(self._text) - length:
            self._file.seek(place)
            self._start, self._text = place, self._file.read(_BUFFER_BYTES)
        return self._text[place - self._start : place - self._start + length]


def read_xing(file: BinaryIO, start: int) -> Xing | None:
    """What the first frame of an MP3 states of the whole; None where it is audio like the others."""
    file.seek(start)
    text = file.read(512)
    frame = mpeg_frame(text)
    at = 0 if frame is None else frame.lead
    if text[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, at = text[at + 7], at + 8
    at += 4 * (flags & 1)
    num_bytes = int.from_bytes(text[at : at + 4], "big") if flags & 2 else 0
    at += 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    return Xing(num_bytes=num_bytes, has_delay=text[at + 21 : at + 24].strip(b"\0") != b"")
