"""Our decoder gives the samples that libavcodec gives, and refuses what is not as it was written."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio import flac_decoder, flac_frames
from datasets.audio.audio_types import Samples
from datasets.audio.flac_frames import FRAME_SAMPLES, frame_offsets
from datasets.audio.writers import encode_flac
from datasets.errors import AudioError
from datasets.seeding import row_rng


def music(kind: str, num_samples: int, *, channels: int = 2) -> Samples:
    """Stems that make the encoder use every way it has: constants, samples as they are, differences, prediction."""
    rng = row_rng(0, kind)
    time = np.arange(num_samples) / 44100
    if kind == "silence":
        return np.zeros((channels, num_samples), np.float32)
    if kind == "noise":
        return rng.uniform(-1, 1, (channels, num_samples)).astype(np.float32)
    tones = np.stack([np.sin(2 * np.pi * (220 + 3 * k) * time) * np.exp(-3 * (time % 0.5)) for k in range(channels)])
    if kind == "wasted":
        return (np.round(tones * 100) / 128).astype(np.float32)
    if kind == "clicks":  # long codes
        tones[:, rng.integers(0, num_samples, 40)] = 0.999
        tones *= rng.random(num_samples) < 0.01
    noise = rng.normal(size=(1 if kind == "mono" else channels, num_samples)) * 1e-3
    if kind == "mono":
        tones[1:] = tones[:1]
    noise[:, num_samples // 2 :] *= 100
    return np.clip(0.4 * tones + noise, -1, 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["music", "mono", "silence", "noise", "wasted", "clicks"])
@pytest.mark.parametrize(("bits", "channels"), [(16, 2), (24, 2), (16, 1)])
def test_crops_are_those_of_libavcodec(kind: str, bits: int, channels: int) -> None:
    num_samples = 9 * FRAME_SAMPLES + 192
    coded = encode_flac(music(kind, num_samples, channels=channels), sample_rate=44100, bits=bits)
    offsets, rng = frame_offsets(coded), row_rng(1, "crops")
    starts = [0, 1, 4095, 4096, num_samples - 1, *rng.integers(0, num_samples, 15).tolist()]
    for start in starts:
        length = int(rng.integers(1, num_samples - start + 1))
        first, stop, skip = flac_frames.frames_around(start, length)
        data = coded[offsets[first] : offsets[stop]]
        ours_CT, theirs_CT = np.full((2, channels, length), np.nan, np.float32)
        flac_frames.decode_frames(data, theirs_CT, first=first, skip=skip, scale=4.0)
        flac_decoder.decode_frames(data, offsets[first : stop + 1], ours_CT, first=first, skip=skip, scale=4.0)
        np.testing.assert_array_equal(ours_CT, theirs_CT)


def test_predictors_of_more_taps_than_our_encoder_uses_are_known(tmp_path: Path) -> None:
    num_samples, path = 6 * FRAME_SAMPLES + 100, tmp_path / "x.flac"
    stem_CT = sum(music("music", num_samples) * gain for gain in (0.5, 0.3)).astype(np.float32)
    soundfile.write(path, np.round(stem_CT.T * (1 << 15)).astype(np.int16), 44100, compression_level=1.0)
    offsets, orders = frame_offsets(coded := path.read_bytes()), set()
    for begin in offsets[:-1].tolist():  # a header of 6 bytes, then the kind of the first channel
        orders.add((coded[begin + 6] >> 1) - 31)
    assert max(orders) > 8
    ours_CT, theirs_CT = np.empty((2, 2, num_samples), np.float32)
    flac_frames.decode_frames(coded[offsets[0] :], theirs_CT, first=0)
    flac_decoder.decode_frames(coded[offsets[0] :], offsets, ours_CT, first=0)
    np.testing.assert_array_equal(ours_CT, theirs_CT)


# Rates, lengths and numbers that headers write in ways of their own.
@pytest.mark.parametrize("rate", [1000, 8000, 11025, 96000])
@pytest.mark.parametrize("last", [1, 16, 192, 255, 576, 2048, 4095])
def test_headers_of_every_kind_are_read(rate: int, last: int) -> None:
    stem_CT = np.round(music("music", 130 * FRAME_SAMPLES + last)[:1] * (1 << 15)).astype(np.float32) / (1 << 15)
    stem_CT = np.clip(stem_CT, -1, 1 - 2.0**-15)
    offsets = frame_offsets(coded := encode_flac(stem_CT, sample_rate=rate, bits=16))
    out_CT = np.empty((1, 3 * FRAME_SAMPLES + last), np.float32)
    flac_decoder.decode_frames(coded[offsets[127] :], offsets[127:], out_CT, first=127)
    np.testing.assert_array_equal(out_CT, stem_CT[:, 127 * FRAME_SAMPLES :])


def test_every_flipped_bit_is_noticed_and_nothing_else_is_touched() -> None:
    coded = encode_flac(music("music", 5 * FRAME_SAMPLES), sample_rate=44100, bits=16)
    offsets, room = frame_offsets(coded), np.full((3, 2, 3 * FRAME_SAMPLES), 7, np.float32)
    good = coded[offsets[1] : offsets[4]]
    for bit in [*range(64), *row_rng(0, "bits").integers(0, 8 * len(good), 400).tolist()]:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AudioError, match="damaged FLAC frame"):
            flac_decoder.decode_frames(bytes(bad), offsets[1:5], room[1], first=1)
    assert np.all(room[::2] == 7)


def test_frames_with_a_right_checksum_over_nonsense_are_refused_within_their_bounds() -> None:
    """What no accident makes: random bytes behind a header, with their CRC. They decode to something or are refused."""
    coded = encode_flac(music("music", 3 * FRAME_SAMPLES), sample_rate=44100, bits=16)
    offsets, rng = frame_offsets(coded), row_rng(0, "nonsense")
    room = np.full((3, 2, FRAME_SAMPLES), 7, np.float32)
    refused = 0
    for length in rng.integers(10, 9000, 600).tolist():
        frame = bytearray(coded[offsets[0] : offsets[0] + 6] + rng.bytes(length))
        frame[6] = int(rng.choice([0, 2, 16, 20, 66, 80, 126]))  # constant, verbatim, differences, prediction
        crc = flac_frames._crc16(bytes(frame))
        whole = bytes(frame) + crc.to_bytes(2, "big")
        try:
            flac_decoder.decode_frames(whole, np.array([0, len(whole)], np.uint32), room[1], first=0)
        except AudioError:
            refused += 1
    assert refused > 550
    assert np.all(room[::2] == 7)


def test_other_frames_than_those_asked_for_are_refused() -> None:
    coded = encode_flac(music("music", 4 * FRAME_SAMPLES), sample_rate=44100)
    offsets, out_CT = frame_offsets(coded), np.empty((2, FRAME_SAMPLES + 1), np.float32)
    with pytest.raises(AudioError, match="damaged FLAC frame, 1,"):
        flac_decoder.decode_frames(coded[offsets[2] :], offsets[2:], out_CT, first=1)
    beyond = np.array([0, 1 << 30, len(coded)], np.uint32)
    with pytest.raises(AudioError, match="damaged FLAC frame, 0,"):
        flac_decoder.decode_frames(coded, beyond, out_CT, first=0)
    with pytest.raises(AudioError, match="end after 0 of"):
        flac_decoder.decode_frames(b"", offsets, out_CT, first=0)
    with pytest.raises(AudioError, match="1 samples early"):
        flac_decoder.decode_frames(coded[offsets[1] : offsets[2]], offsets[1:3], out_CT, first=1)
    with pytest.raises(AudioError, match="not of 1 channels"):
        flac_decoder.decode_frames(coded[offsets[1] :], offsets[1:], out_CT[:1], first=1)
