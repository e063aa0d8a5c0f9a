"""More than two channels are mixed down by what the file says of them, or refused; none is left out in silence."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio import decoding
from datasets.audio.audio_types import AudioInfo, Samples
from datasets.audio.surround import downmix_note
from datasets.errors import AudioError
from tests.datasets.audio.encoded import encoded

RATE = 48000
HALF, QUARTER = 0.5**0.5, 0.5
# Channel masks of WAVE_FORMAT_EXTENSIBLE, and what each of their channels adds to left and right.
LAYOUTS: dict[str, tuple[int, list[tuple[float, float]]]] = {
    "3.0": (0x7, [(1, 0), (0, 1), (HALF, HALF)]),
    "quad": (0x33, [(1, 0), (0, 1), (HALF, 0), (0, HALF)]),
    "4.0": (0x107, [(1, 0), (0, 1), (HALF, HALF), (QUARTER, QUARTER)]),
    "5.0": (0x607, [(1, 0), (0, 1), (HALF, HALF), (HALF, 0), (0, HALF)]),
    "5.1": (0x3F, [(1, 0), (0, 1), (HALF, HALF), (0, 0), (HALF, 0), (0, HALF)]),
    "6.1": (0x70F, [(1, 0), (0, 1), (HALF, HALF), (0, 0), (QUARTER, QUARTER), (HALF, 0), (0, HALF)]),
    "7.1": (0x63F, [(1, 0), (0, 1), (HALF, HALF), (0, 0), (HALF, 0), (0, HALF), (HALF, 0), (0, HALF)]),
}
HZ = [300 * (place + 1) for place in range(8)]


def _tones(channels: int, *, seconds: float = 0.5) -> Samples:
    """Another tone of amplitude 0.1 in each channel."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.1 * np.sin(2 * np.pi * hz * time_s) for hz in HZ[:channels]]).astype(np.float32)


def _wav(path: Path, samples_CT: Samples, mask: int) -> None:
    channels = len(samples_CT)
    data = np.round(samples_CT.T * 32767).astype("<i2").tobytes()
    format = struct.pack("<HHIIHHHHIH", 0xFFFE, channels, RATE, RATE * channels * 2, channels * 2, 16, 22, 16, mask, 1)
    chunk = b"fmt " + struct.pack("<I", 40) + format + bytes.fromhex("000000001000800000aa00389b71")
    body = b"WAVE" + chunk + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def _heard(path: Path, *, rate: int = RATE, channels: int = 2) -> list[list[float]]:
    """How loud each channel's tone arrives in each channel asked for, of what it was."""
    blocks = list(decoding.decode_blocks(path, sample_rate=rate, channels=channels))
    heard_CT = np.concatenate(blocks, axis=1)[:, rate // 10 : rate // 10 + rate // 4]
    time_s = np.arange(heard_CT.shape[1]) / rate
    turns = [np.exp(-2j * np.pi * hz * time_s) for hz in HZ]
    return [[float(20 * abs((channel_T * turn).mean())) for turn in turns] for channel_T in heard_CT]


@pytest.mark.parametrize("rate", [RATE, 22050])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_each_channel_arrives_where_and_as_loud_as_bs_775_has_it(tmp_path: Path, name: str, rate: int) -> None:
    mask, gains = LAYOUTS[name]
    _wav(tmp_path / "a.wav", _tones(len(gains)), mask)
    assert decoding.probe(tmp_path / "a.wav").channels == len(gains)
    left, right = _heard(tmp_path / "a.wav", rate=rate)
    np.testing.assert_allclose(left[: len(gains)], [gain[0] for gain in gains], atol=2e-3)
    np.testing.assert_allclose(right[: len(gains)], [gain[1] for gain in gains], atol=2e-3)
    (middle,) = _heard(tmp_path / "a.wav", rate=rate, channels=1)
    np.testing.assert_allclose(middle[: len(gains)], [sum(gain) / 2 for gain in gains], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "codec", "kind", "layout", "order"),
    [
        ("a.flac", "flac", "s16", "5.1", "FL FR FC LFE BL BR"), ("a.m4a", "aac", "fltp", "5.1", "FL FR FC LFE BL BR"),
        ("a.ac3", "ac3", "fltp", "5.1(side)", "FL FR FC LFE SL SR"), ("a.aac", "aac", "fltp", "5.0", "FL FR FC BL BR"),
        ("a.opus", "libopus", "fltp", "5.1", "FL FR FC LFE BL BR"),
        ("b.flac", "flac", "s16", "7.1", "FL FR FC LFE BL BR SL SR"),
        ("a.wv", "wavpack", "fltp", "quad", "FL FR BL BR"),
    ],
)  # fmt: skip
def test_other_containers_say_which_channel_is_which(
    tmp_path: Path, name: str, codec: str, kind: str, layout: str, order: str
) -> None:
    channels = order.split()
    encoded(tmp_path / name, codec, kind, rate=RATE, layout=layout, samples_CT=_tones(len(channels)))
    info = decoding.probe(tmp_path / name)
    assert info.speakers == tuple(channels)
    sides = {"L": (1, 0), "R": (0, 1), "C": (1, 1), "E": (0, 0)}
    gains = np.array([[side * (1 if place < 2 else HALF) for side in sides[c[-1]]] for place, c in enumerate(channels)])
    exact = codec == "flac"
    heard = np.array(_heard(tmp_path / name))[:, : len(channels)]
    np.testing.assert_allclose(heard, gains.T, atol=2e-3 if exact else 0.12)
    note = downmix_note(info)
    assert note.startswith(f"{len(channels)} channels ({order}) mixed down to two after ITU-R BS.775, ")
    assert note.endswith("LFE left out") == ("LFE" in channels)


@pytest.mark.parametrize("mask", [0, None])
def test_channels_of_which_nothing_is_said_are_refused(tmp_path: Path, mask: int | None) -> None:
    path = tmp_path / "a.wav"
    if mask is None:
        soundfile.write(path, _tones(6).T, RATE, format="WAV", subtype="PCM_16")
    else:
        _wav(path, _tones(6), mask)
    assert decoding.probe(path).speakers == ()
    assert decoding.decode(path)[0].shape[0] == 6
    for channels in (1, 2):
        with pytest.raises(AudioError, match="has 6 channels, and it does not say which of them is which") as caught:
            next(decoding.decode_blocks(path, sample_rate=RATE, channels=channels))
        assert caught.value.reason == "channel_mismatch"


def test_a_surround_file_whose_size_was_never_filled_in_is_mixed_down_too(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    _wav(path, _tones(6), 0x3F)
    expected_CT = np.concatenate(list(decoding.decode_blocks(path, sample_rate=RATE)), axis=1)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_allclose(
        np.concatenate(list(decoding.decode_blocks(path, sample_rate=RATE)), axis=1), expected_CT, atol=1e-6
    )


@pytest.mark.parametrize(
    ("speakers", "words"),
    [
        ("FL FR FC", "FC at -3 dB"), ("FL FR TC", "TC at -6 dB"),
        ("FL FR FC TFC LFE", "FC TFC at -3 dB or -6 dB, LFE left"),
        ("FL FR BC SL", "BC SL at -3 dB or -6 dB"), ("FL FR TBC TFL", "TBC TFL at -3 dB or -6 dB"),
    ],
)  # fmt: skip
def test_the_note_says_the_levels_that_channels_are_mixed_at(speakers: str, words: str) -> None:
    names = tuple(speakers.split())
    note = downmix_note(AudioInfo(sample_rate=RATE, channels=len(names), num_samples=0, bits=16, speakers=names))
    assert f"BS.775, {words}" in note


def test_one_or_two_channels_have_no_note(tmp_path: Path) -> None:
    for channels in (1, 2):
        soundfile.write(tmp_path / "a.wav", _tones(channels).T, RATE)
        assert downmix_note(decoding.probe(tmp_path / "a.wav")) == ""
