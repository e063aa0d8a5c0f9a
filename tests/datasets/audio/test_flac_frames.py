"""Frames of a FLAC are found where they are, decode alone as they do together, and give away every flipped bit."""

import io

import numpy as np
import pytest
import soundfile

from datasets.audio import flac_frames
from datasets.audio.audio_types import Samples
from datasets.audio.flac_frames import FRAME_SAMPLES, decode_frames, frame_offsets, frames_around
from datasets.audio.writers import encode_flac
from datasets.errors import AudioError
from datasets.seeding import row_rng


def _music(num_samples: int, *, channels: int = 2, seed: int = 0) -> Samples:
    """Falling tones with a little noise: compresses to about half, as music does, in frames of all kinds."""
    rng = row_rng(seed, "music")
    time = np.arange(num_samples) / 44100
    tones = np.stack([np.sin(2 * np.pi * (220 + 3 * k) * time) * np.exp(-3 * (time % 0.5)) for k in range(channels)])
    tones[:, : num_samples // 8] = 0
    noise = rng.normal(size=(channels, num_samples)) * 1e-3
    noise[:, num_samples // 2 :] *= 100
    return np.clip(0.4 * tones + noise, -1, 1).astype(np.float32)


def _decoded(flac: bytes) -> Samples:
    return soundfile.read(io.BytesIO(flac), dtype="float32", always_2d=True)[0].T


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 1000])
@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("channels", [1, 2])
def test_crops_from_frames_are_those_of_the_whole(rate: int, bits: int, channels: int) -> None:
    num_samples = 700_123 if (rate, bits) == (44100, 16) else 50_123  # the first has numbers of two bytes
    flac = encode_flac(_music(num_samples, channels=channels), sample_rate=rate, bits=bits)
    whole_CT, offsets = _decoded(flac), frame_offsets(flac)
    assert len(offsets) == -(-num_samples // FRAME_SAMPLES) + 1
    assert offsets[-1] == len(flac)
    rng = row_rng(1, "crops")
    starts = [0, 1, 4095, 4096, num_samples - 4096, num_samples - 1, *rng.integers(0, num_samples, 20).tolist()]
    for start in starts:
        length = int(rng.integers(1, num_samples - start + 1))
        out_CT = np.full((channels, length), np.nan, np.float32)
        first, stop, skip = frames_around(start, length)
        decode_frames(flac[offsets[first] : offsets[stop]], out_CT, first=first, skip=skip)
        np.testing.assert_array_equal(out_CT, whole_CT[:, start : start + length])


def test_a_scale_that_is_a_power_of_two_is_exact() -> None:
    flac = encode_flac(_music(9000), sample_rate=44100)
    offsets, out_CT = frame_offsets(flac), np.empty((2, 9000), np.float32)
    decode_frames(flac[offsets[0] :], out_CT, first=0, scale=4.0)
    np.testing.assert_array_equal(out_CT, _decoded(flac) * 4)


# The lengths of last frames that have a code of their own, and some that have none.
_LAST = [1, 15, 16, 192, 256, 512, 576, 1024, 1152, 2048, 2304, 4095]


@pytest.mark.parametrize("num_samples", [*_LAST, 4096, *(4096 + last for last in _LAST), 8192])
def test_songs_of_whole_frames_and_of_one_sample(num_samples: int) -> None:
    flac = encode_flac(_music(num_samples), sample_rate=44100, bits=16)
    offsets, out_CT = frame_offsets(flac), np.empty((2, num_samples), np.float32)
    assert len(offsets) == -(-num_samples // FRAME_SAMPLES) + 1
    decode_frames(flac[offsets[0] :], out_CT, first=0)
    np.testing.assert_array_equal(out_CT, _decoded(flac))


def test_samples_that_look_like_a_header_are_not_taken_for_one() -> None:
    """Noise is stored as it is, so the bytes of a header of frame 1 can stand among the samples of frame 0."""
    num_samples = 3 * FRAME_SAMPLES
    ints_T = row_rng(0, "noise").integers(-(1 << 15), 1 << 15, num_samples)
    flac = encode_flac((ints_T / (1 << 15)).astype(np.float32)[None], sample_rate=44100, bits=16)
    offsets = frame_offsets(flac)
    header = flac[offsets[1] : offsets[1] + 6]
    ints_T[1000:1003] = np.frombuffer(header, ">i2")
    flac = encode_flac((ints_T / (1 << 15)).astype(np.float32)[None], sample_rate=44100, bits=16)
    assert flac.count(header) == 2
    np.testing.assert_array_equal(frame_offsets(flac), offsets)


def test_every_flipped_bit_in_frames_is_noticed() -> None:
    flac = encode_flac(_music(5 * FRAME_SAMPLES, seed=3), sample_rate=44100, bits=16)
    offsets, out_CT = frame_offsets(flac), np.empty((2, 3 * FRAME_SAMPLES), np.float32)
    good = flac[offsets[1] : offsets[4]]
    decode_frames(good, out_CT, first=1)
    header = range(8 * 8)
    for bit in [*header, *row_rng(0, "bits").integers(0, 8 * len(good), 300).tolist()]:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AudioError):
            decode_frames(bytes(bad), out_CT, first=1)


def test_other_frames_than_those_asked_for_are_refused() -> None:
    flac = encode_flac(_music(4 * FRAME_SAMPLES), sample_rate=44100)
    offsets, out_CT = frame_offsets(flac), np.empty((2, FRAME_SAMPLES + 1), np.float32)
    with pytest.raises(AudioError, match="no FLAC frame 1 where"):
        decode_frames(flac[offsets[2] :], out_CT, first=1)
    with pytest.raises(AudioError, match="no FLAC frame 0 where"):
        decode_frames(b"", out_CT, first=0)
    with pytest.raises(AudioError, match="1 samples early"):
        decode_frames(flac[offsets[1] : offsets[2]], out_CT, first=1)
    with pytest.raises(AudioError, match="2 channels"):
        decode_frames(flac[offsets[1] :], out_CT[:1], first=1)
    with pytest.raises(AudioError):
        decode_frames(flac[offsets[1] : offsets[3] - 5], out_CT, first=1)


def test_what_is_no_flac_of_ours_is_refused() -> None:
    flac = encode_flac(_music(9000), sample_rate=44100)
    for bad in (b"", b"RIFF" + flac[4:], flac[:8] + b"\x11\x11" + flac[10:], flac[:200]):
        with pytest.raises(AudioError):
            frame_offsets(bad)


def test_checksums_of_the_format_are_those_of_a_real_frame() -> None:
    flac = encode_flac(_music(9000), sample_rate=44100)
    offsets = frame_offsets(flac)
    frame = flac[offsets[1] : offsets[2]]
    assert flac_frames._crc16(frame) == 0
    assert flac_frames._crc16(frame[:-3] + bytes([frame[-3] ^ 1]) + frame[-2:]) != 0
