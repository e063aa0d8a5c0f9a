"""What no recording has is refused by its header, before anything of that size is made."""

import io
import resource
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio import decoder_backends, decoding
from datasets.errors import AudioError
from tests.datasets.audio.encoded import encoded


def _wav(path: Path, *, rate: int, channels: int, num_bytes: int = 400_000) -> None:
    format = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + format + b"data" + struct.pack("<I", num_bytes) + bytes(num_bytes)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def _refused(path: Path, match: str) -> None:
    for read in (decoding.probe, decoding.decode, lambda path: list(decoding.decode_blocks(path, sample_rate=44100))):
        tracemalloc.start()
        with pytest.raises(AudioError, match=match) as caught:
            read(path)  # type: ignore[operator]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.reason == "undecodable"
        assert str(path) in str(caught.value)
        assert peak < 10_000_000


@pytest.mark.parametrize("rate", [1, 3999, 768001, 2**31 - 1])
def test_sample_rates_of_no_recording_are_refused_in_bounded_memory(tmp_path: Path, rate: int) -> None:
    _wav(tmp_path / "a.wav", rate=rate, channels=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _refused(tmp_path / "a.wav", f"sample rate must be between 4000 and 768000 Hz, got {rate}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("rate", [4000, 768000])
def test_sample_rates_at_the_bounds_are_read(tmp_path: Path, rate: int) -> None:
    _wav(tmp_path / "a.wav", rate=rate, channels=1, num_bytes=2000)
    assert decoding.decode(tmp_path / "a.wav")[0].shape == (1, 1000)


def test_more_channels_than_32_are_refused(tmp_path: Path) -> None:
    _wav(tmp_path / "a.wav", rate=44100, channels=33, num_bytes=33 * 200)
    _refused(tmp_path / "a.wav", "must have at most 32 channels, got 33")
    _wav(tmp_path / "a.wav", rate=44100, channels=32, num_bytes=32 * 200)
    assert decoding.decode(tmp_path / "a.wav")[0].shape == (32, 100)


def test_a_stated_length_of_more_than_a_day_is_refused(tmp_path: Path) -> None:
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros((5000, 2)), 8000, format="FLAC")
    data = bytearray(flac.getvalue())
    data[21:26] = bytes([data[21] & 0xF0 | 1]) + b"\xff" * 4  # 2^33 samples
    (tmp_path / "a.flac").write_bytes(data)
    _refused(tmp_path / "a.flac", "must last at most 24 hours, its header states 298")
    whole = bytearray(encoded(tmp_path / "a.tta", "tta", "s16"))
    whole[14:18] = b"\xff" * 4
    (tmp_path / "a.tta").write_bytes(whole)
    with pytest.raises(AudioError, match="truncated, its header promises"):
        decoding.probe(tmp_path / "a.tta")


def test_what_goes_on_for_more_than_a_day_without_saying_so_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded(tmp_path / "a.aac", "aac", rate=44100)
    with closing(decoder_backends.open_reader(tmp_path / "a.aac", None)) as reader:
        monkeypatch.setattr(decoder_backends, "MAX_HOURS", 0.5 / 3600)
        with pytest.raises(AudioError, match="hours, and goes on"):
            list(decoder_backends.checked_blocks(reader, tmp_path / "a.aac"))


def test_a_header_of_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    _wav(tmp_path / "b.wav", rate=44100, channels=1, num_bytes=1000)
    data = (tmp_path / "b.wav").read_bytes()
    junk = 1 << 31
    (tmp_path / "a.wav").write_bytes(data[:36] + b"JUNK" + struct.pack("<I", junk))
    with (tmp_path / "a.wav").open("r+b") as file:
        file.truncate(44 + junk)
        file.seek(44 + junk)
        file.write(b"data" + bytes(4) + bytes(range(200)))
    _refused(tmp_path / "a.wav", "its header takes 2147483700 bytes, and does not say how much follows")
