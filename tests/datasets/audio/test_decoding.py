"""Samples survive storage, and broken files are named for what is wrong with them."""

import importlib.util
import io
import os
import resource
import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from datasets.audio import audio_types, decoding, resampling, writers
from datasets.audio.file_integrity import byte_blocks, ogg_flac_streams
from datasets.errors import AudioError, InputError, Unavailable
from datasets.seeding import row_rng

RATE = 8000


def _noise(num_samples: int, channels: int = 2, *, bits: int = 16, seed: int = 0) -> audio_types.Samples:
    """Noise on the grid of a `bits`-bit file, so that exact round trips can be asserted."""
    half = 1 << (bits - 1)
    ints = row_rng(seed, "noise").integers(-half // 2, half // 2, (channels, num_samples))
    return (ints / half).astype(np.float32)


def _write(path: Path, samples_CT: audio_types.Samples, subtype: str | None = None, rate: int = RATE) -> Path:
    soundfile.write(path, samples_CT.T, rate, subtype=subtype)
    return path


def _reason(path: Path, *, stream: int | None = None) -> str:
    with pytest.raises(AudioError) as caught:
        decoding.decode(path, stream=stream)
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(("bits", "depth"), [(16, 16), (16, 24), (24, 24)])
def test_flac_bytes_return_samples_on_their_grid_exactly(bits: int, depth: int) -> None:
    samples_CT = _noise(3000, bits=bits)
    flac = io.BytesIO(writers.encode_flac(samples_CT, sample_rate=RATE, bits=depth))
    assert soundfile.info(flac).subtype == f"PCM_{depth}"
    flac.seek(0)
    np.testing.assert_array_equal(soundfile.read(flac, dtype="float32")[0].T, samples_CT)


@pytest.mark.parametrize(("format", "bits"), [("wav16", 16), ("wav24", 24), ("flac", 24)])
def test_files_are_rounded_to_the_nearest_step(tmp_path: Path, format: str, bits: int) -> None:
    """Truncation errs by half a step on average and turns silence just below zero into a step."""
    full_scale = 1 << bits - 1
    noise_CT = (0.1 * row_rng(0).standard_normal((2, 50000))).astype(np.float32)
    edges_T = np.array([-1e-9, 1e-9, 0.4, 0.6, -0.4, -0.6], np.float32) / np.float32([1, 1, *[full_scale] * 4])
    beyond_T = np.array([-1.0, -1.5, -300.0, 1.0, 1.5, 300.0], np.float32)
    written_CT = np.concatenate([noise_CT, np.stack([edges_T] * 2), np.stack([beyond_T] * 2)], axis=1)
    with writers.AudioWriter(tmp_path / "a", sample_rate=RATE, channels=2, format=format) as writer:
        writer.write(written_CT)
    steps_CT = soundfile.read(tmp_path / "a", dtype="int32")[0].T / (1 << 32 - bits)
    error_CT = steps_CT[:, :50000] - noise_CT.astype(np.float64) * full_scale
    assert abs(error_CT.mean()) < 0.01
    assert np.sqrt(np.square(error_CT).mean()) == pytest.approx(12**-0.5, abs=0.005)
    assert steps_CT[0, 50000:-6].tolist() == [0, 0, 0, 1, 0, -1]
    assert steps_CT[0, -6:].tolist() == [-full_scale] * 3 + [full_scale - 1] * 3


def test_flac_rounds_to_the_nearest_step_and_cuts_off_at_full_scale() -> None:
    step = np.float32(2**-15)
    samples_CT = np.array([[0.4, 0.6, -0.6, 40000, -40000]], np.float32) * step
    flac = io.BytesIO(writers.encode_flac(samples_CT, sample_rate=RATE, bits=16))
    assert soundfile.read(flac, dtype="int16")[0].tolist() == [0, 1, -1, 32767, -32768]


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [
        ("a.wav", "PCM_16", 16), ("a.wav", "PCM_U8", 16), ("a.wav", "PCM_24", 24), ("a.wav", "FLOAT", 24),
        ("a.flac", "PCM_16", 16), ("a.flac", "PCM_24", 24), ("a.ogg", "VORBIS", 16), ("a.mp3", "MPEG_LAYER_III", 16),
    ],
)  # fmt: skip
def test_sixteen_bits_are_enough_for_lossy_files_and_those_that_have_no_more(
    tmp_path: Path, name: str, subtype: str, bits: int
) -> None:
    soundfile.write(tmp_path / name, np.zeros((44100, 2)), 44100, subtype=subtype)
    assert decoding.probe(tmp_path / name).bits == bits


@pytest.mark.parametrize(("codec", "kind", "bits"), [("aac", "fltp", 16), ("alac", "s16p", 16), ("alac", "s32p", 24)])
def test_the_depth_of_a_stream_in_a_container_is_known(tmp_path: Path, codec: str, kind: str, bits: int) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream(codec, rate=44100, layout="stereo", format=kind)
        samples = np.zeros((2, 4096), {"fltp": np.float32, "s16p": np.int16, "s32p": np.int32}[kind])
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert decoding.probe(tmp_path / "a.mp4").bits == bits


@pytest.mark.parametrize("ext", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_blocks_join_to_what_decode_returns(tmp_path: Path, ext: str) -> None:
    path = _write(tmp_path / f"a.{ext}", _noise(30000))
    whole_CT, rate = decoding.decode(path)
    blocks = list(decoding.decode_blocks(path, sample_rate=rate, block_samples=7000))
    assert [block.shape[1] for block in blocks[:-1]] == [7000] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole_CT)
    assert decoding.probe(path).channels == 2


def test_blocks_are_resampled_as_the_whole_is(tmp_path: Path) -> None:
    time_s = np.arange(RATE * 2) / RATE
    tone_CT = np.stack([np.sin(2 * np.pi * 440 * time_s)] * 2).astype(np.float32) * 0.5
    path = _write(tmp_path / "tone.wav", tone_CT, "FLOAT")
    streamed_CT = np.concatenate(list(decoding.decode_blocks(path, sample_rate=11025, block_samples=1000)), axis=1)
    whole_CT = resampling.resample(tone_CT, source_rate=RATE, target_rate=11025)
    assert streamed_CT.shape == whole_CT.shape == (2, 22050)
    np.testing.assert_allclose(streamed_CT, whole_CT, atol=1e-4)
    expected_T = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 11025)
    np.testing.assert_allclose(whole_CT[0, 2000:20000], expected_T[2000:20000], atol=1e-4)


def test_channels_are_repeated_or_averaged_and_never_cut() -> None:
    stereo_CT = _noise(10)
    np.testing.assert_array_equal(audio_types.to_channels(stereo_CT[:1], 2), stereo_CT[[0, 0]])
    np.testing.assert_allclose(audio_types.to_channels(stereo_CT, 1)[0], stereo_CT.mean(axis=0), atol=1e-7)
    for have, wanted in ((2, 3), (6, 2), (6, 1)):
        with pytest.raises(ValueError, match=rf"must have 1, 2 or {wanted} channels to become {wanted}, got {have}"):
            audio_types.to_channels(_noise(10, have), wanted)


def test_zero_bytes_and_folders_have_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert _reason(tmp_path / "empty.wav") == "empty_file"
    assert _reason(tmp_path) == "undecodable"


def test_samples_of_a_width_that_nobody_decodes_are_a_reason(tmp_path: Path) -> None:
    """PCM of 36 bits: FFmpeg opens the file, and has no decoder for it."""
    path, frames = tmp_path / "wide.wav", bytes(2 * 5 * 1000)
    head = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 2 * 5, 2 * 5, 36)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(frames)) + frames
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    assert _reason(path) == "undecodable"


@pytest.mark.parametrize("name", ["absent.wav", "absent.m4a", "absent.mp3", "loop.wav", "below.wav/x.flac"])
def test_what_the_system_refuses_to_read_says_nothing_of_the_audio(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "below.wav").touch()
    for read in (decoding.probe, decoding.decode):
        with pytest.raises(Unavailable, match="cannot be read"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.ogg", "a.mp4", "text.wav"])
def test_too_few_file_handles_say_nothing_of_the_audio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.mp4":
        path.write_bytes(_aac(44100))
    else:
        soundfile.write(path, np.zeros((9000, 2)), 44100, format=None if name != "text.wav" else "WAV")
    if name == "text.wav":
        path.write_text("no sound" * 99)
        assert _reason(path) == "undecodable"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_handle = os.open("/dev/null", os.O_RDONLY)
    os.close(next_handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_handle, hard))
    try:
        with pytest.raises(Unavailable, match="Too many open files"):
            decoding.decode(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if name != "text.wav":
        assert decoding.decode(path)[0].shape[1] > 0


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.m4a", "text.flac"])
def test_text_is_not_audio_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("I only pretend to be a song.\n" * 200)
    assert _reason(tmp_path / name) == "undecodable"
    with pytest.raises(AudioError):
        decoding.probe(tmp_path / name)


@pytest.mark.parametrize("ext", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("kept", [0.3, 0.97])
def test_a_file_without_its_end_is_undecodable(tmp_path: Path, ext: str, kept: float) -> None:
    whole = _write(tmp_path / f"whole.{ext}", _noise(60000), rate=44100)
    decoding.decode(whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{ext}"
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AudioError, match="truncated") as caught:
        decoding.decode(cut)
    assert caught.value.reason == "undecodable"
    if ext == "flac":
        assert "of 60000 samples decode" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_found(tmp_path: Path, value: float) -> None:
    samples_CT = _noise(4000)
    samples_CT[1, 3000] = value
    samples_CT[0, 17] = -value
    assert _reason(_write(tmp_path / "bad.wav", samples_CT, "FLOAT")) == "not_finite"


@pytest.mark.parametrize(("format", "tolerance"), [("wav16", 2**-15), ("wav24", 2**-23), ("float", 0), ("flac", 0)])
def test_writer_and_decoder_agree(tmp_path: Path, format: str, tolerance: float) -> None:
    samples_CT = _noise(5000)
    path = tmp_path / "song"
    for _ in range(2):
        with writers.AudioWriter(path, sample_rate=RATE, channels=2, format=format) as writer:
            writer.write(samples_CT[:, :1234])
            writer.write(samples_CT[:, 1234:])
    np.testing.assert_allclose(decoding.decode(path)[0], samples_CT, atol=tolerance, rtol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["song"]


@pytest.mark.parametrize("format", ["wav16", "wav24", "float", "flac", "mp3"])
def test_the_same_samples_give_the_same_bytes(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples_CT = _noise(30000)
    for name in ("a", "b"):
        with writers.AudioWriter(tmp_path / name, sample_rate=RATE, channels=2, format=format) as writer:
            writer.write(samples_CT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    head = (tmp_path / "a").read_bytes()[:256]
    if format == "float":
        assert head[head.index(b"PEAK") + 12 :][:4] == bytes(4)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with writers.AudioWriter(tmp_path / "a.wav", sample_rate=RATE, channels=2, format="wav16") as writer:
            writer.write(_noise(100))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wav16"):
        writers.AudioWriter(tmp_path / "a", sample_rate=RATE, channels=2, format="wma")
    with pytest.raises(InputError, match="use flac"):
        writers.AudioWriter(tmp_path / "a", sample_rate=96000, channels=2, format="mp3")
    with pytest.raises(InputError, match="cannot write"):
        writers.AudioWriter(tmp_path / "nowhere" / "a", sample_rate=RATE, channels=2, format="wav16")


@pytest.mark.parametrize("rate", [44100, 5000])
def test_audio_for_a_page_is_small_and_plays(tmp_path: Path, rate: int) -> None:
    time_s = np.arange(rate) / rate
    data, mime = writers.encode_for_page(np.stack([np.sin(2 * np.pi * 220 * time_s)] * 2).astype(np.float32), rate)
    assert mime == "audio/mpeg"
    (tmp_path / "a.mp3").write_bytes(data)
    decoded_CT, decoded_rate = decoding.decode(tmp_path / "a.mp3")
    assert decoded_CT.shape[1] / decoded_rate == pytest.approx(1.0, abs=0.05)
    assert len(data) < 30000


def _stempeg_song() -> Path:
    spec = importlib.util.find_spec("stempeg")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("data/*.stem.mp4"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_stem_files_decode_to_what_stempeg_returns() -> None:
    if not shutil.which("ffmpeg") or not shutil.which("ffprobe"):
        pytest.skip("stempeg needs the ffmpeg command")
    import stempeg

    stems_STC, rate = stempeg.read_stems(str(_stempeg_song()), dtype=np.float32)
    for stream in range(5):
        samples_CT, own_rate = decoding.decode(_stempeg_song(), stream=stream)
        assert own_rate == rate
        np.testing.assert_allclose(samples_CT, stems_STC[stream].T, atol=1e-4)
        assert decoding.probe(_stempeg_song(), stream=stream).num_samples == samples_CT.shape[1]


def test_a_stream_that_is_not_there_is_named() -> None:
    with pytest.raises(AudioError, match="has 5 audio streams, number 7"):
        decoding.decode(_stempeg_song(), stream=7)


def test_a_cut_stem_file_is_undecodable(tmp_path: Path) -> None:
    data = _stempeg_song().read_bytes()
    cut = tmp_path / "cut.stem.mp4"
    cut.write_bytes(data[: len(data) // 2])
    assert _reason(cut, stream=1) == "undecodable"


def _aac(rate: int, layout: str = "stereo") -> bytes:
    """A second of silence as ADTS, which can be put one behind the other."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, rate), np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _sound(format: str, subtype: str, rate: int, channels: int = 2) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * row_rng(0).standard_normal((rate, channels)), rate, format=format, subtype=subtype)
    return buffer.getvalue()


ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)  # a tag with 128 bytes of padding
CHAINS = {
    "twice.ogg": [_sound("OGG", "VORBIS", 44100)] * 2,  # even the serial numbers are the same
    "rates.ogg": [_sound("OGG", "VORBIS", 44100), _sound("OGG", "VORBIS", 48000)],
    "channels.opus": [_sound("OGG", "OPUS", 48000), _sound("OGG", "OPUS", 48000, 1)],
    "twice.mp3": [_sound("MP3", "MPEG_LAYER_III", 44100)] * 2,
    "tagged.mp3": [ID3, _sound("MP3", "MPEG_LAYER_III", 44100), ID3, _sound("MP3", "MPEG_LAYER_III", 32000)],
    "rates.aac": [_aac(44100), _aac(48000)],
    "twice.flac": [_sound("FLAC", "PCM_16", 44100)] * 2,
    "channels.flac": [_sound("FLAC", "PCM_24", 44100), _sound("FLAC", "PCM_16", 44100, 1)],
    "surround.flac": [_sound("FLAC", "PCM_16", 44100, 6)] * 2,
    "eight.flac": [_sound("FLAC", "PCM_24", 48000, 8), _sound("FLAC", "PCM_16", 44100)],
    "twice.wav": [_sound("WAV", "PCM_16", 44100)] * 2,
    "rates.aiff": [_sound("AIFF", "PCM_16", 44100), _sound("AIFF", "PCM_24", 22050)],
}


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_files_one_behind_the_other_are_refused_not_read_by_half(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"".join(CHAINS[name]))
    assert _reason(tmp_path / name) == "undecodable"
    whole = next(part for part in CHAINS[name] if part is not ID3)
    (tmp_path / name).write_bytes(whole)
    samples_CT, rate = decoding.decode(tmp_path / name)
    assert samples_CT.shape[1] == pytest.approx(rate, abs=3000)


@pytest.mark.parametrize("at", [-3, 0, 5])
def test_a_second_flac_stream_is_found_wherever_it_begins(tmp_path: Path, at: int) -> None:
    """Also where its mark lies in two of the blocks that are looked through."""
    first = b"fLaC\x00\x00\x00\x22" + bytes(byte_blocks.BLOCK_BYTES + at - 8)
    assert not ogg_flac_streams.is_chained_flac(io.BytesIO(first), 0)
    assert ogg_flac_streams.is_chained_flac(io.BytesIO(first + b"fLaC\x80\x00\x00\x22" + bytes(34)), 0)


def test_a_flac_file_read_as_integers_or_by_its_stream_must_be_alone_too(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(_sound("FLAC", "PCM_16", 44100) * 2)
    for blocks_of in (
        decoding.integer_blocks(path, block_samples=8000),
        decoding.decode_blocks(path, sample_rate=44100, stream=0),
    ):
        with pytest.raises(AudioError, match="several files in one"):
            list(blocks_of)


def test_a_tag_before_a_flac_stream_makes_no_second_one(tmp_path: Path) -> None:
    flac = _sound("FLAC", "PCM_16", 44100)
    (tmp_path / "a.flac").write_bytes(ID3 + flac)
    assert decoding.decode(tmp_path / "a.flac")[0].shape == (2, 44100)
    (tmp_path / "a.flac").write_bytes(ID3 + flac + ID3 + flac)
    assert _reason(tmp_path / "a.flac") == "undecodable"


def test_what_stands_behind_a_wav_file_is_no_second_one(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(_sound("WAV", "PCM_16", 44100) + b"LIST" + bytes(64))
    assert decoding.decode(tmp_path / "a.wav")[0].shape == (2, 44100)


@pytest.mark.parametrize("rate", [RATE, 11025])
def test_channels_that_cancel_each_other_are_not_made_one(tmp_path: Path, rate: int) -> None:
    tone_T = _noise(20000, 1)[0]
    for share, keeps in ((-1.0, False), (-0.9, False), (-0.2, True), (0.0, True), (1.0, True)):
        pair_CT = np.stack([tone_T, np.float32(share) * tone_T])
        path = _write(tmp_path / "a.wav", pair_CT, "FLOAT")
        asked = {"sample_rate": rate, "block_samples": 3000}
        assert sum(block.shape[0] for block in decoding.decode_blocks(path, **asked)) > 2  # type: ignore[arg-type]
        if keeps:
            mono_T = np.concatenate(list(decoding.decode_blocks(path, channels=1, **asked)), axis=1)[0]  # type: ignore[arg-type]
            expected_CT = resampling.resample(pair_CT.mean(axis=0, keepdims=True), source_rate=RATE, target_rate=rate)
            np.testing.assert_allclose(mono_T, expected_CT[0], atol=1e-4)
        else:
            with pytest.raises(AudioError, match="cancel each other in mono") as caught:
                list(decoding.decode_blocks(path, channels=1, **asked))  # type: ignore[arg-type]
            assert caught.value.reason == "inverted"
    silence = _write(tmp_path / "a.wav", np.zeros((2, 5000), np.float32))
    assert not np.concatenate(list(decoding.decode_blocks(silence, sample_rate=rate, channels=1)), axis=1).any()


def test_tags_around_an_mp3_are_no_second_file(tmp_path: Path) -> None:
    mp3 = _sound("MP3", "MPEG_LAYER_III", 44100)
    (tmp_path / "a.mp3").write_bytes(ID3 + mp3 + b"TAG" + bytes(125))
    assert decoding.decode(tmp_path / "a.mp3")[0].shape[1] == pytest.approx(44100, abs=3000)


def test_streams_side_by_side_in_one_ogg_file_are_no_chain(tmp_path: Path) -> None:
    """All first pages come first there: a page of another stream, beginning, before the audio's second page."""
    ogg = _sound("OGG", "VORBIS", 44100)
    length = 27 + ogg[26] + sum(ogg[27 : 27 + ogg[26]])
    first = bytearray(ogg[:length])
    first[14] ^= 1  # the serial number
    (tmp_path / "a.ogg").write_bytes(ogg[:length] + bytes(first) + ogg[length:])
    with (tmp_path / "a.ogg").open("rb") as file:
        assert not ogg_flac_streams.is_chained_ogg(file)
