"""Every container is read whole or refused: not by half, and not the first of several files."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from datasets.audio import decoding as audio
from datasets.errors import AudioError
from datasets.seeding import row_rng
from tests.datasets.audio.encoded import encoded

RATE = 44100
NOISE_TC = 0.1 * row_rng(0, "containers").standard_normal((RATE, 2))
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + bytes(24)


def _sound(format: str, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE_TC, RATE, format=format, subtype=subtype)
    return buffer.getvalue()


def _muxed(path: Path, codec: str, kind: str, *, options: dict[str, str] | None = None, tags: bool = True) -> bytes:
    format = {".mka": "matroska", ".m4a": "ipod"}.get(path.suffix, path.suffix[1:])
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        if tags:
            container.metadata["title"] = "A song"
        rate = 48000 if codec == "libopus" else RATE
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        scaled = NOISE_TC * (1 << 15) if kind == "s16" else NOISE_TC
        samples = scaled.astype(np.int16).reshape(1, -1) if kind == "s16" else scaled.T.astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=kind, layout="stereo")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


CASES = {
    "sound.w64": ("W64", "PCM_16"), "sound.caf": ("CAF", "PCM_16"), "deep.caf": ("CAF", "PCM_24"),
    "sound.au": ("AU", "PCM_16"), "law.au": ("AU", "ULAW"), "sound.rf64": ("RF64", "PCM_16"),
    "float.rf64": ("RF64", "FLOAT"), "float.w64": ("W64", "FLOAT"),
}  # fmt: skip
MUXED: dict[str, tuple[str, str, dict[str, str]]] = {
    "aac.m4a": ("aac", "fltp", {}), "fast.mp4": ("aac", "fltp", {"movflags": "+faststart"}),
    "fragments.mp4": ("aac", "fltp", {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}),
    "pcm.mov": ("pcm_s16le", "s16", {}), "pcm.w64": ("pcm_s16le", "s16", {}), "pcm.caf": ("pcm_s16le", "s16", {}),
    "live.mka": ("pcm_s16le", "s16", {"live": "1"}),
    "opus.webm": ("libopus", "fltp", {}), "clusters.mka": ("pcm_s16le", "s16", {"cluster_time_limit": "100"}),
}  # fmt: skip


def _bytes(path: Path) -> bytes:
    return (
        _sound(*CASES[path.name])
        if path.name in CASES
        else _muxed(path, *MUXED[path.name][:2], options=MUXED[path.name][2])
    )


def _said(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        audio.decode(path)
    assert caught.value.reason == "undecodable"
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted([*CASES, *MUXED]))
def test_a_whole_file_is_read_and_two_in_one_and_a_half_one_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = _bytes(path)
    for tail in (b"",) if name.endswith(".w64") else (b"", ID3V1, APE + ID3V1):  # libsndfile plays tags behind W64
        path.write_bytes(whole + tail)
        samples_CT, rate = audio.decode(path)
        assert samples_CT.shape[1] == pytest.approx(RATE, abs=0 if name in CASES or "pcm" in name else 2100)
        assert rate in (RATE, 48000)
    path.write_bytes(whole + whole)
    assert "several files in one" in _said(path)
    if "fragments" not in name and "live" not in name:  # these promise nothing
        path.write_bytes(whole[: len(whole) * 6 // 10])
        assert "truncated" in _said(path) or "no decoder" in _said(path)


@pytest.mark.parametrize("kind", [b"free", b"skip"])
def test_padding_around_the_boxes_of_an_mp4_is_no_second_file(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.m4a"
    box = (1000).to_bytes(4, "big") + kind + bytes(992)
    path.write_bytes(_muxed(path, "aac", "fltp") + box + box)
    assert audio.decode(path)[0].shape[1] == pytest.approx(RATE, abs=2100)


@pytest.mark.parametrize("options", [{}, {"movflags": "+faststart"}])
@pytest.mark.parametrize(
    "box", [(16).to_bytes(4, "big") + b"junk" + bytes(8), b"\0\0\0\1Ab 9" + (24).to_bytes(8, "big") + bytes(8)]
)
def test_a_box_of_an_unknown_name_is_stepped_over(tmp_path: Path, box: bytes, options: dict[str, str]) -> None:
    path = tmp_path / "a.m4a"
    whole = _muxed(path, "aac", "fltp", options=options)
    info, expected_CT = audio.probe(path), audio.decode(path)[0]
    if options:
        whole += box
    else:
        at = whole.index(b"moov") - 4
        whole = whole[:at] + box + whole[at:]
    path.write_bytes(whole)
    assert audio.probe(path) == info
    np.testing.assert_array_equal(audio.decode(path)[0], expected_CT)
    path.write_bytes(whole + whole)
    assert "several files in one" in _said(path)


def test_what_only_looks_like_a_box_ends_an_mp4(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    whole = _muxed(path, "aac", "fltp")
    at = whole.index(b"moov") - 4
    for junk in (b"\0\0\0\x10ju\1k" + bytes(8), b"\0\0\0\x05junk" + bytes(8), b"\x7f\0\0\0junk" + bytes(8)):
        path.write_bytes(whole + junk)
        assert audio.decode(path)[0].shape[1] == pytest.approx(RATE, abs=2100)
        path.write_bytes(whole[:at] + junk)
        assert "truncated, its header promises an index (box moov)" in _said(path)


def test_an_mp4_without_its_index_is_truncated_not_unknown(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    whole = _muxed(path, "aac", "fltp")
    path.write_bytes(whole[: whole.index(b"moov") - 4])
    assert "truncated, its header promises an index (box moov)" in _said(path)


def test_a_second_mp4_is_found_behind_a_last_box_without_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    whole = bytearray(_muxed(path, "aac", "fltp", options={"movflags": "+faststart"}))
    at = whole.index(b"mdat") - 4
    whole[at : at + 4] = bytes(4)
    path.write_bytes(whole)
    assert audio.decode(path)[0].shape[1] == pytest.approx(RATE, abs=2100)
    path.write_bytes(whole + whole)
    assert "several files in one" in _said(path)
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert "truncated" in _said(path)


@pytest.mark.parametrize("name", ["a.wma", "a.wv", "a.tta"])
@pytest.mark.parametrize("suffix", ["", ".wav"])
def test_other_containers_are_told_by_content_and_held_to_what_they_promise(
    tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / name
    whole = encoded(path, *{"a.wma": ("wmav2", "fltp"), "a.wv": ("wavpack", "fltp"), "a.tta": ("tta", "s16")}[name])
    path = tmp_path / f"{name}{suffix}"
    for tail in (b"", ID3V1, APE + ID3V1):
        path.write_bytes(whole + tail)
        assert audio.decode(path)[0].shape[1] == pytest.approx(RATE, abs=4096 if name == "a.wma" else 0)
    path.write_bytes(whole + whole)
    assert "several files in one" in _said(path)
    for kept in (0.6, 0.97):
        path.write_bytes(whole[: int(len(whole) * kept)])
        assert "truncated, its header promises" in _said(path)


def test_a_wavpack_file_without_its_last_block_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.wv"
    whole = encoded(path, "wavpack", "fltp")
    path.write_bytes(whole[: whole.index(b"wvpk", 4)])
    assert "truncated, its header promises 44100 samples and its blocks have 22050" in _said(path)
