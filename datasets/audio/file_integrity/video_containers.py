"""Whether an MPEG transport or program stream, an AVI or an FLV file holds all that it promises.

These carry sound beside pictures; what is cut from a film has them. Decoders stop silently where a file was cut off.
Transport streams may be put one behind the other, as broadcasts are, and decoders play them all.
"""

from collections.abc import Iterator
from typing import BinaryIO

from datasets.audio.file_integrity.container_findings import ContainerPart

_SYNC = 0x47
_PACKET = 188
_TAIL_PACKETS = 1 << 14  # that are looked through for the last packets of each stream
_PES = b"\0\0\1"
_PACK = 0xBA


def mpegts(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Packets of 188 bytes, or of 192 with a clock before them; the last PES packet of each stream says its length."""
    file.seek(0)
    head = file.read(2 * _PACKET + 1)  # one byte alone may be of a clock
    lead = 0 if head[0] == head[_PACKET] == head[2 * _PACKET] == _SYNC else 4
    step = _PACKET + lead
    if size % step:
        yield ContainerPart(end=size - size % step + step, name="a whole last packet")
    num_packets = size // step
    file.seek(max(0, num_packets - _TAIL_PACKETS) * step)
    last: dict[int, tuple[int, int]] = {}  # of each stream: what its last PES packet promises, and what is there
    for _ in range(min(num_packets, _TAIL_PACKETS)):
        packet = file.read(step)[lead:]
        if packet[0] != _SYNC:
            return
        stream, begins, payload = (packet[1] & 31) << 8 | packet[2], packet[1] & 0x40, _payload(packet)
        if begins and payload[:3] == _PES:
            last[stream] = int.from_bytes(payload[4:6], "big"), len(payload) - 6
        elif stream in last:
            last[stream] = last[stream][0], last[stream][1] + len(payload)
    for stated, have in last.values():
        if have < stated:
            yield ContainerPart(lost=f"{stated} bytes in a last packet and it has {have}")


def _payload(packet: bytes) -> bytes:
    """What a transport packet carries, behind its adaptation field."""
    control = packet[3] >> 4 & 3
    if not control & 1:
        return b""
    return packet[5 + packet[4] :] if control & 2 else packet[4:]


def mpegps(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Packs and PES packets of a program stream, as in .mpg and .vob."""
    place = 0
    while place + 6 <= size:
        file.seek(place)
        head = file.read(14)
        if head[:3] != _PES or head[3] < 0xB9:
            return
        if head[3] == _PACK:
            length = 14 + (head[13] & 7) if len(head) == 14 and head[4] >> 6 == 1 else 12
        else:
            length = 4 if head[3] == 0xB9 else 6 + int.from_bytes(head[4:6], "big")
        yield ContainerPart(end=place + length, name="packet")
        place += length


def avi(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """RIFF chunks of AVI, of which a long film has several; one that was never finished says 0 bytes, or 4 GiB."""
    place = 0
    while place + 12 <= size:
        file.seek(place)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or head[8:] not in (b"AVI ", b"AVIX"):
            return
        yield ContainerPart(name="AVI", begins=place > 0 and head[8:] == b"AVI ")
        if length in (0, 0xFFFFFFFF):
            return
        yield ContainerPart(end=place + 8 + length, name="chunk RIFF")
        place += 8 + length + length % 2


def flv(file: BinaryIO, size: int) -> Iterator[ContainerPart]:
    """Tags of FLV, each with its length before and behind it."""
    file.seek(0)
    place = int.from_bytes(file.read(9)[5:9], "big") + 4
    while place + 11 <= size:
        file.seek(place)
        head = file.read(11)
        if head[:3] == b"FLV":
            yield ContainerPart(name="FLV", begins=True)
        if head[0] & 31 not in (8, 9, 18):
            return
        place += 11 + int.from_bytes(head[1:4], "big") + 4
        yield ContainerPart(end=place, name="tag")
    if place < size:
        yield ContainerPart(end=place + 11, name="the head of a tag")
