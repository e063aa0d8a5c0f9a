"""FLAC as the run of frames that it is: where each begins, and the samples of some of them without the rest.

A frame holds 4096 samples of all channels, its own number, a CRC-8 over its header and a CRC-16 over all of it, so
bytes that are cut at frame borders decode by themselves, and a flipped bit in them is seen (RFC 9639, section 9).
"""

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.errors import AudioError

FRAME_SAMPLES = 4096  # what our encoder puts into every frame but the last

_INTS = {"s16": np.int16, "s32": np.int32}  # 24 bits come in the upper bits of 32
_STRICT = {"err_detect": "crccheck+explode"}  # without it a wrong CRC-16 passes in silence
_NUMBER_AT = 4  # bytes from the start of a frame to its number


def frame_offsets(flac: bytes) -> NDArray[np.uint32]:
    """Where each frame of a FLAC of our encoder begins, and at the end the length of the FLAC: (frames + 1,)."""
    begin, total = _stream_facts(flac)
    found: dict[int, list[int]] = {}
    for match in _headers_like(flac[begin : begin + 3]).finditer(flac, begin):
        number = _frame_number(flac, match.start())
        if number is not None:
            found.setdefault(number, []).append(match.start())
    offsets = [begin]
    for number in range(1, -(-total // FRAME_SAMPLES)):
        starts = [at for at in found.get(number, []) if at > offsets[-1]]
        if len(starts) > 1:  # samples that look like a header, which music does about once in a terabyte
            starts = [at for at in starts if _crc16(flac[offsets[-1] : at]) == 0]
        if not starts:
            raise AudioError("undecodable", f"FLAC without frame {number} of {FRAME_SAMPLES} samples")
        offsets.append(starts[0])
    return np.array([*offsets, len(flac)], np.uint32)


def frames_around(start: int, num_samples: int) -> tuple[int, int, int]:
    """The frames [first, stop) that hold these samples, and how many samples of the first come before them."""
    first, skip = divmod(start, FRAME_SAMPLES)
    return first, -(-(start + num_samples) // FRAME_SAMPLES), skip


def decode_frames(frames: bytes, out_CT: Samples, *, first: int, skip: int = 0, scale: float = 1.0) -> None:
    """Fill out_CT with the samples from `skip` on of whole frames, the first of which has the number `first`.

    AudioError when a bit of the frames is not as it was written, or when they hold too few samples.
    """
    import av

    if _frame_number(frames, 0) != first:
        raise AudioError("undecodable", f"no FLAC frame {first} where it should begin")
    codec = av.CodecContext.create("flac", "r")
    codec.options = _STRICT
    try:
        decoded = codec.decode(av.Packet(frames))
        kind, channels = _INTS[decoded[0].format.name], len(out_CT)
        if decoded[0].layout.nb_channels != channels:
            raise ValueError(f"{decoded[0].layout.nb_channels} channels instead of {channels}")
        pieces = [
            np.frombuffer(frame.planes[0], kind, frame.samples * channels)  # type: ignore[call-overload]  # a buffer
            for frame in decoded
        ]
    except (av.error.FFmpegError, LookupError, ValueError) as error:
        raise AudioError("undecodable", f"a damaged FLAC frame, {first} or later ({error})") from None
    ints_CT = np.concatenate(pieces).reshape(-1, channels).T[:, skip : skip + out_CT.shape[1]]
    if ints_CT.shape != out_CT.shape:  # also after a bad frame: the decoder may stop there and keep silent about it
        raise AudioError("undecodable", f"FLAC frames that end {out_CT.shape[1] - ints_CT.shape[1]} samples early")
    out_CT[:] = ints_CT
    out_CT *= np.float32(scale / (1 << 8 * ints_CT.itemsize - 1))  # a power of two: exact


def _stream_facts(flac: bytes) -> tuple[int, int]:
    """Where the first frame begins, and the samples per channel; AudioError unless this is FLAC in frames of 4096."""
    info = int.from_bytes(flac[8:26], "big")  # STREAMINFO is the first block
    if flac[:4] != b"fLaC" or info >> 112 != FRAME_SAMPLES << 16 | FRAME_SAMPLES:
        raise AudioError("undecodable", f"no FLAC in frames of {FRAME_SAMPLES} samples")
    at, last = 4, False
    while not last:
        last, length = flac[at] >= 0x80, int.from_bytes(flac[at + 1 : at + 4], "big")
        at += 4 + length
    return at, info & (1 << 36) - 1


@lru_cache(maxsize=64)
def _headers_like(head: bytes) -> re.Pattern[bytes]:
    """The first bytes of frames of a stream that begins with `head`; the last has its own code for its length."""
    lengths = bytes(code << 4 | head[2] & 0x0F for code in range(1, 16))
    return re.compile(re.escape(head[:2]) + b"[" + re.escape(lengths) + b"]", re.DOTALL)


def _frame_number(data: bytes, at: int) -> int | None:
    """The number of the frame that begins here; None where no header with a right CRC-8 stands."""
    head = data[at : at + 16]
    if len(head) < 7 or head[:2] != b"\xff\xf8":
        return None
    size, rate, lead = head[2] >> 4, head[2] & 0x0F, head[_NUMBER_AT]
    width = 1 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length()
    end = _NUMBER_AT + width + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if end >= len(head) or _crc8(head[:end]) != head[end]:
        return None
    try:
        return ord(head[_NUMBER_AT : _NUMBER_AT + width].decode("utf-8", "surrogatepass"))
    except (UnicodeDecodeError, TypeError):
        return None


def _crc8(data: bytes) -> int:
    table, value = _crc_table(8, 0x07), 0
    for byte in data:
        value = table[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    """CRC-16 of a whole frame, which is 0 where its last two bytes are right."""
    table, value = _crc_table(16, 0x8005), 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ table[value >> 8 ^ byte]
    return value


@lru_cache(maxsize=2)
def _crc_table(bits: int, polynomial: int) -> tuple[int, ...]:
    def remainder(value: int) -> int:
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
        return value

    return tuple(remainder(byte << bits - 8) for byte in range(256))
