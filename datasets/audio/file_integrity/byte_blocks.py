"""What all who look through a file share: its bytes in blocks, and sizes that are none."""

from collections.abc import Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
LARGE = 1 << 62  # sizes of 64 bits from here on are placeholders of writers that could not go back


def overlapping_blocks(file: BinaryIO, start: int, overlap: int) -> Iterator[bytes]:
    """A file from a place on; each block begins with the last `overlap` bytes of the one before."""
    file.seek(start)
    before = b""
    while block := file.read(BLOCK_BYTES):
        text = before + block
        yield text
        before = text[-overlap:]
