"""Samples behind a header are read to their end whatever the header says, or refused with what is missing."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from datasets.audio import decoding
from datasets.audio.file_integrity.riff_chunks import Sound, extent, told_whole
from datasets.errors import AudioError
from datasets.seeding import row_rng

RATE = 44100
NOISE_TC = 0.1 * row_rng(0, "chunks").standard_normal((5000, 2))
KINDS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"), ("RF64", "FLOAT"), ("W64", "PCM_24"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("CAF", "ULAW"),
    ("AU", "PCM_16"), ("AU", "ULAW"), ("AIFF", "PCM_24"), ("AIFF", "FLOAT"),
]  # fmt: skip
LIST = b"LIST" + (12).to_bytes(4, "little") + b"INFOISFT" + bytes(4)


def _sound(format: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE_TC, RATE, format=format, subtype=subtype)
    return buffer.getvalue()


def _found(data: bytes) -> Sound:
    found = extent(io.BytesIO(data), len(data))
    assert found is not None
    assert not found.mends
    return found.sound


def _set(data: bytes, value: int, *, every: bool = False) -> bytes:
    """The file with another number of bytes in its header: of the audio alone, or of the file as well."""
    sound = _found(data)
    fields = sorted(sound.fields, key=lambda field: -field.at)  # that of the file stands first
    changed = bytearray(data)
    for field in fields if every else fields[:1]:
        changed[field.at : field.at + field.width] = (value & (1 << 8 * field.width) - 1).to_bytes(
            field.width, field.order
        )
    return bytes(changed)


def _refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(AudioError) as caught:
        decoding.decode(path)
    assert caught.value.reason == "undecodable"
    assert str(path) in str(caught.value)
    return str(caught.value)


def _expected(path: Path, data: bytes) -> NDArray[np.float32]:
    path.write_bytes(data)
    return decoding.decode(path)[0]


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(("format", "subtype"), KINDS)
def test_a_size_that_was_never_filled_in_is_no_promise(
    tmp_path: Path, format: str, subtype: str, value: int, every: bool
) -> None:
    path, data = tmp_path / "a.wav", _sound(format, subtype)
    expected_CT = _expected(path, data)
    path.write_bytes(_set(data, value, every=every))
    samples_CT, rate = decoding.decode(path)
    np.testing.assert_array_equal(samples_CT[:, : expected_CT.shape[1]], expected_CT)
    assert samples_CT.shape[1] - expected_CT.shape[1] in range(600)  # a last block of ADPCM is filled up
    assert rate == RATE
    assert decoding.probe(path).num_samples == samples_CT.shape[1]
    blocks = list(decoding.decode_blocks(path, sample_rate=RATE, block_samples=999))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), samples_CT)


@pytest.mark.parametrize("place", [0x7FFFFFFF, 0x7FFFF000, 0x7FFFF000 - 36, 0xFFFFFFFF - 44, 0x80000000])
def test_what_pipes_write_as_a_size_is_no_promise_with_tags_behind_it_or_not(tmp_path: Path, place: int) -> None:
    data = _sound("WAV", "PCM_16")
    expected_CT = _expected(tmp_path / "a.wav", data)
    for tail in (b"", LIST):
        (tmp_path / "a.wav").write_bytes(_set(data, place) + tail)
        np.testing.assert_array_equal(decoding.decode(tmp_path / "a.wav")[0], expected_CT)


@pytest.mark.parametrize(("format", "subtype"), KINDS)
def test_a_header_counted_among_the_samples_is_no_promise_and_a_missing_end_is(
    tmp_path: Path, format: str, subtype: str
) -> None:
    data = _sound(format, subtype)
    sound = _found(data)
    expected_CT = _expected(tmp_path / "a.wav", data)
    more = next(field.more for field in sorted(sound.fields, key=lambda field: -field.at))
    data = data[: sound.start + sound.stated]
    samples_CT = _expected(tmp_path / "a.wav", _set(data, sound.stated + more + min(sound.start, 36)))
    np.testing.assert_array_equal(samples_CT[:, :5000], expected_CT[:, :5000])
    for kept in (0.6, 0.97):
        said = _refused(tmp_path / "a.wav", data[: int(len(data) * kept)])
        assert f"promises {len(data)} bytes up to the end of the audio and it has {int(len(data) * kept)}" in said
    for times in (3, 1000):  # no size that a pipe would write, however large
        assert "truncated" in _refused(tmp_path / "a.wav", _set(data, sound.stated * times + more))


@pytest.mark.parametrize(("format", "subtype"), KINDS)
def test_a_second_file_is_found_behind_samples_of_unknown_length(tmp_path: Path, format: str, subtype: str) -> None:
    data = _sound(format, subtype)
    for first in (data, _set(data, -1), _set(data, 0, every=True)):
        assert "several files in one" in _refused(tmp_path / "a.wav", first + data)


def test_a_wav_that_says_no_audio_and_has_none_is_empty(tmp_path: Path) -> None:
    data = _sound("WAV", "PCM_16")
    for tail in (b"", LIST, LIST + LIST):
        (tmp_path / "a.wav").write_bytes(_set(data, 0)[: _found(data).start] + tail)
        assert decoding.decode(tmp_path / "a.wav")[0].shape == (2, 0)


@pytest.mark.parametrize("tail", [b"", LIST])
def test_a_wav_beyond_4_gib_is_read_to_its_end(tmp_path: Path, tail: bytes) -> None:
    """Sparse: what it holds takes no room."""
    path, data = tmp_path / "a.wav", _sound("WAV", "PCM_16")
    sound = _found(data)
    path.write_bytes(_set(data, 5_000_000_000 % 2**32)[: sound.start])
    with path.open("r+b") as file:
        file.truncate(sound.start + 5_000_000_000)
        file.seek(sound.start + 4_999_999_996)
        file.write(np.array([1, -2], "<i2").tobytes() + tail)
    assert decoding.probe(path).num_samples == 1_250_000_000
    with path.open("rb") as file:
        found = extent(file, path.stat().st_size)
    assert found is not None
    with soundfile.SoundFile(told_whole(path, found)) as whole:
        whole.seek(1_249_999_999)
        assert whole.read(5, dtype="int16").tolist() == [[1, -2]]


@pytest.mark.parametrize("stated", [2_000_000_000, 2_500_000_000, 4_000_000_000])
def test_a_large_size_is_a_promise_like_any_other(tmp_path: Path, stated: int) -> None:
    data = _sound("WAV", "PCM_16")
    assert f"promises {stated + _found(data).start} bytes" in _refused(tmp_path / "a.wav", _set(data, stated))
    data = _sound("AIFF", "PCM_16")
    assert f"promises {stated - 8 + _found(data).start} bytes" in _refused(tmp_path / "a.aiff", _set(data, stated))


def test_an_aiff_of_3_gb_is_read_and_one_beyond_4_gib_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "a.aiff", _sound("AIFF", "PCM_16")
    start = _found(data).start
    for size, stated in ((3_000_000_000, 3_000_000_008), (5_000_000_000, 5_000_000_008 % 2**32)):
        path.write_bytes(_set(data, stated)[:start])
        with path.open("r+b") as file:
            file.truncate(start + size)
        if size < 1 << 32:
            assert decoding.probe(path).num_samples == 750_000_000
        else:
            with pytest.raises(AudioError, match="more than AIFF can state"):
                decoding.probe(path)


@pytest.mark.parametrize("between", [b"", LIST])
def test_of_two_chunks_of_samples_in_one_file_the_first_is_read(tmp_path: Path, between: bytes) -> None:
    whole = _sound("WAV", "PCM_16")
    second = b"data" + (400).to_bytes(4, "little") + bytes(400)
    np.testing.assert_array_equal(
        _expected(tmp_path / "a.wav", whole + between + second), _expected(tmp_path / "b.wav", whole)
    )
