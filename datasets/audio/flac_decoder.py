"""Samples out of whole FLAC frames by a compiled loop, faster than libavcodec, and outside Python's lock.

What training spends on a crop is this decoder, so it is our own (RFC 9639, section 9): linear prediction and Rice codes
in one pass, straight into float32. Threads decode side by side, as nothing here holds the interpreter. Importing the
module compiles it once per machine, some seconds, into the folder of Python's caches; import it where crops are read.
Where time does not count, `flac_frames.py` has libavcodec do it.
"""

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.flac_frames import FRAME_SAMPLES
from datasets.errors import AudioError

_MEMORY = 32  # samples that the longest predictor looks back
_PADDING = 256  # bytes: more than the fixed parts of a damaged frame may lead beyond its end
types: Any = numba.types
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_ROOM = types.int64[::1]


def decode_frames(
    frames: bytes,
    starts: NDArray[np.uint32],
    out_CT: Samples,
    *,
    first: int,
    skip: int = 0,
    scale: float = 1.0,
) -> None:
    """Fill out_CT with the samples from `skip` on of whole frames, the first of which has the number `first`.

    `starts` is where each begins and where the last ends, counted from anywhere. AudioError when a bit of
    them is not as it was written, or when they hold too few samples.
    """
    where = starts.astype(np.int64) - int(starts[0])
    if len(frames) < where[-1]:
        raise AudioError("undecodable", f"FLAC frames that end after {len(frames)} of {where[-1]} bytes")
    padded = np.frombuffer(frames + bytes(_PADDING), np.uint8)
    done, whole = _decode(padded, where, out_CT, first, skip, scale, _CRC_TABLES)
    if whole < len(where) - 1:
        raise AudioError("undecodable", f"a damaged FLAC frame, {first + whole}, or not of {len(out_CT)} channels")
    if done < out_CT.shape[1]:
        raise AudioError("undecodable", f"FLAC frames that end {out_CT.shape[1] - done} samples early")


_inlined: Any = numba.njit(inline="always")
_part: Any = numba.njit


def _compiled(signature: Any) -> Any:
    """A decorator: machine code from here on, kept for the next process where that can be."""

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # a folder that cannot be written to, and no home
            return numba.njit(signature, nogil=True)(function)

    return decorate


def _count_zeros(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], context.get_constant(types.boolean, 0))

    return types.uint64(types.uint64), generate


_leading_zeros: Any = intrinsic(_count_zeros)


@_inlined
def _peek(data: Any, at: Any) -> Any:
    """The 57 bits or more from bit `at` on, at the top of a word. Unchecked: callers stay within the padding."""
    byte, word = np.uint64(at >> 3), np.uint64(0)
    for k in range(8):
        word = word << np.uint64(8) | np.uint64(data[byte + np.uint64(k)])
    return word << np.uint64(at & 7)


@_inlined
def _unsigned(data: Any, at: Any, width: Any) -> Any:
    """A number of up to 32 bits."""
    return np.int64(_peek(data, at) >> np.uint64(1) >> np.uint64(63 - width)) if width else np.int64(0)


@_inlined
def _signed(data: Any, at: Any, width: Any) -> Any:
    return np.int64(_peek(data, at)) >> np.int64(64 - width) if width else np.int64(0)


@_part
def _long_code(data: Any, at: Any, low_bits: Any, end: Any) -> Any:
    """A Rice code that does not fit into one look, and where it ends; beyond `end` if it never does."""
    high = np.int64(0)
    while True:
        zeros = np.int64(_leading_zeros(_peek(data, at)))
        if zeros < 32:
            break
        high, at = high + 32, at + 32
        if at > end:
            return np.int64(0), at
    at += zeros + 1
    return (high + zeros) << low_bits | _unsigned(data, at, low_bits), at + low_bits


@_part
def _predicted(data: Any, at: Any, end: Any, out: Any, order: Any, count: Any, taps: Any, shift: Any) -> Any:
    """Residual and prediction together, after the first `order` samples; where it ends, or -1.

    `out` has `_MEMORY` zeros before the first sample. Up to 8 taps, all that our encoder uses, stand in registers.
    """
    wide, divisions = _unsigned(data, at, 2), _unsigned(data, at + 2, 4)
    at += 6
    share, done, stop = count >> divisions, order, np.int64(0)
    if wide > 1 or share << divisions != count or share < order:
        return np.int64(-1)
    a, b, c, d, e, f, g, h = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5], taps[6], taps[7]
    if order > 8:  # no registers for so many: first the residual alone
        a = b = c = d = e = f = g = h = np.int64(0)
    one = np.uint64(1)
    for _ in range(1 << divisions):
        low_bits = _unsigned(data, at, 4 + wide)
        at += 4 + wide
        stop += share
        if low_bits == (1 << (4 + wide)) - 1:
            return np.int64(-1)  # samples as they are: no encoder that we know writes them
        # 57 bits are sure: zeros, a one, and the low bits.
        most, low = np.uint64(56 - low_bits), np.uint64(low_bits)
        while done < stop:
            word = _peek(data, at)
            high = _leading_zeros(word)
            if high <= most:
                code = high << low | word << high << one >> one >> (np.uint64(63) - low)
                at += np.int64(high) + 1 + low_bits
            else:
                long, at = _long_code(data, at, low_bits, end)
                code = np.uint64(long)
            if at > end:
                return np.int64(-1)
            k = np.uint64(done + _MEMORY - 8)
            guess = h * out[k] + g * out[k + one] + f * out[k + np.uint64(2)] + e * out[k + np.uint64(3)]
            guess += d * out[k + np.uint64(4)] + c * out[k + np.uint64(5)] + b * out[k + np.uint64(6)]
            guess += a * out[k + np.uint64(7)]
            residual = np.int64(code >> one) ^ -np.int64(code & one)
            out[k + np.uint64(8)] = residual + (guess >> shift)
            done += 1
    if order > 8:
        for place in range(_MEMORY + order, _MEMORY + count):
            guess = np.int64(0)
            for tap in range(order):
                guess += taps[tap] * out[place - 1 - tap]
            out[place] += guess >> shift
    return at


@_part
def _channel(data: Any, at: Any, end: Any, out: Any, count: Any, depth: Any, taps: Any) -> Any:
    """One channel of a frame into `out`; where it ends, or -1 where it makes no sense."""
    kind, wasted = _unsigned(data, at + 1, 6), _unsigned(data, at + 7, 1)
    at += 8
    if wasted:
        wasted = np.int64(_leading_zeros(_peek(data, at))) + 1
        at += wasted
        depth -= wasted
    if depth < 1:
        return np.int64(-1)
    taps[:], shift, order = 0, np.int64(0), np.int64(0)
    if kind == 0:
        out[_MEMORY : _MEMORY + count] = _signed(data, at, depth)
        at += depth
    elif kind == 1:
        for k in range(count if at + count * depth <= end else 0):
            out[_MEMORY + k] = _signed(data, at + k * depth, depth)
        at += count * depth
    else:
        order = kind - 31 if kind >= 32 else kind - 8
        if order < 0 or (kind < 32 and order > 4) or order > count:
            return np.int64(-1)
        for k in range(order):
            out[_MEMORY + k] = _signed(data, at + k * depth, depth)
        at += order * depth
        if kind >= 32:
            precision, shift = _unsigned(data, at, 4) + 1, _signed(data, at + 4, 5)
            at += 9
            if shift < 0:
                return np.int64(-1)
            for k in range(order):
                taps[k] = _signed(data, at + k * precision, precision)
            at += order * precision
        else:  # the differences of a polynomial
            sign, chosen = np.int64(1), np.int64(1)
            for k in range(order):
                chosen = chosen * (order - k) // (k + 1)
                taps[k], sign = sign * chosen, -sign
        at = _predicted(data, at, end, out, order, count, taps, shift)
    if wasted and at >= 0:
        for k in range(count):
            out[_MEMORY + k] <<= wasted
    return at if at <= end else np.int64(-1)


@_part
def _header(data: Any, at: Any) -> Any:
    """Of the frame at byte `at`: where its channels begin, its number, samples, depth and channel code; or five -1."""
    nothing = (np.int64(-1), np.int64(-1), np.int64(-1), np.int64(-1), np.int64(-1))
    if _unsigned(data, 8 * at, 16) != 0xFFF8:
        return nothing
    length, rate, channels = _unsigned(data, 8 * at + 16, 4), _unsigned(data, 8 * at + 20, 4), data[at + 3] >> 4
    depth = (data[at + 3] >> 1) & 7
    number, at = np.int64(data[at + 4]), at + 5
    if number >= 0x80:  # as UTF-8 writes it
        more = np.int64(_leading_zeros(~(np.uint64(number) << np.uint64(56)))) - 1
        if more < 1 or more > 5:
            return nothing
        number &= (1 << (6 - more)) - 1
        for _ in range(more):
            number, at = number << 6 | _unsigned(data, 8 * at, 8) & 0x3F, at + 1
    samples = np.int64(192) if length == 1 else np.int64(576) << max(0, length - 2)
    if length >= 8:
        samples = np.int64(256) << (length - 8)
    elif length == 6 or length == 7:
        samples = _unsigned(data, 8 * at, 8 * (length - 5)) + 1
        at += length - 5
    at += 1 + (1 if rate == 12 else 2 if rate > 12 else 0)
    if length == 0 or (depth != 4 and depth != 6):
        return nothing
    return at, number, samples, np.int64(16 if depth == 4 else 24), np.int64(channels)


@_part
def _crc16(data: Any, begin: Any, end: Any, tables: Any) -> Any:
    """CRC-16 of bytes, eight at a time; 0 for a whole frame with its own."""
    value, at, stop = np.uint32(0), np.uint64(begin), np.uint64(end)
    while at + np.uint64(8) <= stop:
        top, low = value >> np.uint32(8), value & np.uint32(255)
        value = np.uint32(tables[7, np.uint8(top) ^ data[at]] ^ tables[6, np.uint8(low) ^ data[at + np.uint64(1)]])
        for k in range(2, 8):
            value ^= np.uint32(tables[7 - k, data[at + np.uint64(k)]])
        at += np.uint64(8)
    while at < stop:
        value = (value << np.uint32(8)) & np.uint32(0xFFFF) ^ np.uint32(
            tables[0, np.uint8(value >> np.uint32(8)) ^ data[at]]
        )
        at += np.uint64(1)
    return value


@_part
def _store(out_CT: Any, done: Any, one: Any, two: Any, skip: Any, count: Any, channels: Any, gain: Any) -> None:
    """Undo how the two channels were coded together, and scale."""
    for k in range(count):
        left, right = one[_MEMORY + skip + k], two[_MEMORY + skip + k]
        if channels == 8:
            right = left - right
        elif channels == 9:
            left += right
        elif channels == 10:
            middle = left << 1 | right & 1
            left, right = (middle + right) >> 1, (middle - right) >> 1
        out_CT[0, done + k] = np.float32(left) * gain
        if channels:
            out_CT[1, done + k] = np.float32(right) * gain


@_compiled(
    types.UniTuple(types.int64, 2)(
        _BYTES, _ROOM, types.float32[:, :], types.int64, types.int64, types.float64, types.uint16[:, ::1]
    )
)
def _decode(data: Any, where: Any, out_CT: Any, first: Any, skip: Any, scale: Any, tables: Any) -> Any:
    """How many samples were written, and the number of frames before the first that is not as it should be."""
    one, two = np.zeros(_MEMORY + FRAME_SAMPLES, np.int64), np.zeros(_MEMORY + FRAME_SAMPLES, np.int64)
    taps, done = np.zeros(_MEMORY, np.int64), np.int64(0)
    last = where.size - 2
    for frame in range(last + 1):
        begin, end = where[frame], where[frame + 1] - 2
        if end < begin + 6 or end + 2 + _PADDING > data.size or _crc16(data, begin, end + 2, tables) != 0:
            return done, np.int64(frame)
        at, number, samples, depth, channels = _header(data, begin)
        stereo = channels == 1 or 8 <= channels <= 10
        if number != first + frame or samples > FRAME_SAMPLES or (frame < last and samples < FRAME_SAMPLES):
            return done, np.int64(frame)
        if at < 0 or out_CT.shape[0] != (2 if stereo else 1) or not (stereo or channels == 0):
            return done, np.int64(frame)
        at = _channel(data, 8 * at, 8 * end, one, samples, depth + (channels == 9), taps)
        if stereo and at >= 0:
            at = _channel(data, at, 8 * end, two, samples, depth + (channels == 8 or channels == 10), taps)
        if at < 0 or (at + 7) >> 3 != end:
            return done, np.int64(frame)
        count = min(max(samples - skip, 0), out_CT.shape[1] - done)
        _store(out_CT, done, one, two, skip, count, channels, np.float32(scale / (1 << (depth - 1))))
        done, skip = done + count, np.int64(0)
    return done, np.int64(last + 1)


def _crc_tables() -> NDArray[np.uint16]:
    """What a byte does to the CRC-16 (x^16 + x^15 + x^2 + 1) from 1 to 8 bytes later, shape (8, 256)."""
    tables = np.zeros((8, 256), np.uint16)
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1 ^ (0x8005 if value & 0x8000 else 0)) & 0xFFFF
        tables[0, byte] = value
    for later in range(1, 8):
        before = tables[later - 1].astype(np.int64)
        tables[later] = before << 8 & 0xFFFF ^ tables[0, before >> 8]
    return tables


_CRC_TABLES = _crc_tables()
