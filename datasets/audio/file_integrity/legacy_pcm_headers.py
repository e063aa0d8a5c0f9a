"""How long VOC, NIST (SPHERE), 8SVX, AVR and WVE files are, as their headers state it.

libsndfile reads them as far as they go, and is silent where the end is missing.
"""

import re
from typing import BinaryIO

_NIST_NUMBER = re.compile(rb"(sample_count|channel_count|sample_n_bytes) -i (\d+)")
_VOC, _NIST, _AVR, _WVE = b"Creative Voice File\x1a", b"NIST_1A\n", b"2BIT", b"ALawSoundFile**\0"


def stated_end(file: BinaryIO, size: int) -> int:
    """Where a file of `size` bytes says that its audio ends; 0 where it is none of these, or does not say it."""
    file.seek(0)
    head = file.read(1024)
    if head.startswith(_VOC):
        return _end_of_voc(file, int.from_bytes(head[20:22], "little"), size)
    if head.startswith(_NIST):
        numbers = {name: int(value) for name, value in _NIST_NUMBER.findall(head)}
        text = head[8:16].strip()
        length = numbers.get(b"sample_count", 0) * numbers.get(b"channel_count", 1) * numbers.get(b"sample_n_bytes", 0)
        return int(text) + length if length and text.isdigit() else 0
    if head.startswith(b"FORM") and head[8:12] in (b"8SVX", b"16SV"):
        return 8 + int.from_bytes(head[4:8], "big")
    if head.startswith(_AVR):
        channels = 1 if head[12:14] == b"\0\0" else 2
        return 128 + int.from_bytes(head[26:30], "big") * channels * int.from_bytes(head[14:16], "big") // 8
    return 32 + int.from_bytes(head[18:22], "big") if head.startswith(_WVE) else 0


def _end_of_voc(file: BinaryIO, place: int, size: int) -> int:
    """The end of the last block, each of which has its kind and its length before it; a block of kind 0 ends them."""
    while place + 4 <= size:
        file.seek(place)
        head = file.read(4)
        if not head[0]:
            break
        place += 4 + int.from_bytes(head[1:], "little")
    return place
