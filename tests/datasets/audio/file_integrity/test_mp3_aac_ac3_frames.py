"""MP3, AAC and AC-3 without a container are known by content, and refused where their last frame is cut."""

import io
from pathlib import Path

import numpy as np
import pytest

from datasets.audio import decoding
from datasets.audio.file_integrity import mp3_aac_ac3_frames
from datasets.audio.file_integrity.recognize import recognize
from datasets.errors import AudioError
from tests.datasets.audio.encoded import encoded

PLAIN = {"write_xing": "0", "id3v2_version": "0"}
ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)  # a tag with 128 bytes of padding
CASES = {
    "a.mp3": ("libmp3lame", "s16p", 44100, "stereo", PLAIN), "mono.mp3": ("libmp3lame", "s16p", 22050, "mono", PLAIN),
    "low.mp3": ("libmp3lame", "s16p", 8000, "mono", PLAIN), "a.mp2": ("mp2", "s16", 44100, "stereo", {}),
    "a.aac": ("aac", "fltp", 44100, "stereo", {}), "mono.aac": ("aac", "fltp", 22050, "mono", {}),
    "a.ac3": ("ac3", "fltp", 48000, "stereo", {}), "odd.ac3": ("ac3", "fltp", 44100, "stereo", {}),
    "a.eac3": ("eac3", "fltp", 48000, "stereo", {}),
}  # fmt: skip


def _encoded(path: Path) -> tuple[bytes, int]:
    codec, kind, rate, layout, options = CASES[path.name]
    return encoded(path, codec, kind, rate=rate, layout=layout, options=options), rate


def _refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(AudioError) as caught:
        decoding.decode(path)
    assert caught.value.reason == "undecodable"
    return str(caught.value)


@pytest.mark.parametrize("called", ["b.wav", "B.MP3", "b.flac", "b.m4a", "b"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_plain_frames_are_read_whole_whatever_the_file_is_called(tmp_path: Path, name: str, called: str) -> None:
    whole, rate = _encoded(tmp_path / name)
    expected_CT, own = decoding.decode(tmp_path / name)
    assert own == rate
    assert expected_CT.shape[1] == pytest.approx(rate, abs=3500)
    for front in (b"", ID3, ID3 + ID3) if "ac3" not in name else (b"",):
        (tmp_path / called).write_bytes(front + whole)
        np.testing.assert_array_equal(decoding.decode(tmp_path / called)[0], expected_CT)
    for kept in (0.6, 0.97):
        assert "truncated, its last frame promises" in _refused(tmp_path / called, whole[: int(len(whole) * kept)])


@pytest.mark.parametrize("name", sorted(CASES))
def test_frames_are_followed_to_the_last_byte(tmp_path: Path, name: str) -> None:
    whole, _ = _encoded(tmp_path / name)
    kind, start = mp3_aac_ac3_frames.first_frame(io.BytesIO(whole), len(whole))
    frames = mp3_aac_ac3_frames.walk(kind, io.BytesIO(whole), start, len(whole))
    assert (start, frames.end, frames.is_cut) == (0, len(whole), False)


def test_an_mp3_with_a_length_is_held_to_it_under_any_name(tmp_path: Path) -> None:
    whole = encoded(tmp_path / "a.mp3", "libmp3lame", "s16p")
    for name in ("a.wav", "a.m4a", "a.MP3"):
        (tmp_path / name).write_bytes(whole)
        assert decoding.decode(tmp_path / name)[0].shape == (2, 44100)
        assert "truncated" in _refused(tmp_path / name, whole[: len(whole) * 6 // 10])
        assert "several files in one" in _refused(tmp_path / name, whole + whole)


def test_xing_and_info_count_only_where_they_belong(tmp_path: Path) -> None:
    whole, _ = _encoded(tmp_path / "a.mp3")
    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x20" + b"TXXX\x00\x00\x00\x16\x00\x00\x00 Xing Info Xing Info!!".ljust(
        32, b"\0"
    )
    (tmp_path / "a.mp3").write_bytes(tagged + whole)
    assert recognize(tmp_path / "a.mp3").by_pyav
    assert "truncated" in _refused(tmp_path / "a.mp3", (tagged + whole)[:-200])


@pytest.mark.parametrize("codec", ["libmp3lame", "mp2"])
def test_frames_inside_riff_are_read_whole_and_held_to_the_chunk(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.wav"
    whole = encoded(path, codec, "s16p" if codec == "libmp3lame" else "s16")
    assert decoding.decode(path)[0].shape[1] == pytest.approx(44100, abs=2400)
    assert "truncated, its header promises" in _refused(path, whole[: len(whole) * 6 // 10])
    assert "several files in one" in _refused(path, whole + whole)


def test_damage_between_frames_is_passed_over(tmp_path: Path) -> None:
    whole, _ = _encoded(tmp_path / "a.aac")
    middle = len(whole) // 2
    kind, start = mp3_aac_ac3_frames.first_frame(io.BytesIO(whole), len(whole))
    broken = whole[:middle] + b"\x01" * 50 + whole[middle:]
    frames = mp3_aac_ac3_frames.walk(kind, io.BytesIO(broken), start, len(broken))
    assert frames.end == len(broken)
    assert not frames.is_cut
