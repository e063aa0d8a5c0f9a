"""Where tags end that stand before or behind the audio of any kind of file: ID3v2, ID3v1 and APE."""

from typing import BinaryIO

_APE_HEADER = 1 << 29  # of the flags: this is the tag's header, not its footer
_MARKS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBE")


def is_tag(head: bytes) -> bool:
    """Whether the first 8 bytes are those of a tag, or padding."""
    return head.startswith(_MARKS) or not head.strip(b"\0")


def after_tags(file: BinaryIO, place: int) -> int:
    """Where the tags end that begin at a place; the place itself where there is none."""
    while (end := _after_one(file, place)) > place:
        place = end
    return place


def _after_one(file: BinaryIO, place: int) -> int:
    file.seek(place)
    head = file.read(32)
    if head[:3] == b"ID3" and len(head) >= 10 and not any(byte & 0x80 for byte in head[6:10]):
        length = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return place + 10 + length + 10 * (head[5] >> 4 & 1)  # a footer is as long as the head
    if head[:8] == b"APETAGEX" and int.from_bytes(head[20:24], "little") & _APE_HEADER:
        return place + 32 + int.from_bytes(head[12:16], "little")
    if head[:3] == b"TAG":
        return place + 128
    return place
