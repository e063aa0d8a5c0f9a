"""Every suffix that counts as audio and that PyAV can write is read, by its content."""

from pathlib import Path

import av
import numpy as np
import pytest

from datasets.audio.decoding import decode
from datasets.corpus.file_listing import is_audio
from datasets.seeding import row_rng

RATE = 44100


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [
        ("mp4", "mp4", "aac"), ("wv", "wv", "wavpack"), ("mka", "matroska", "pcm_s16le"), ("caf", "caf", "pcm_s16le"),
        ("w64", "w64", "pcm_s16le"), ("au", "au", "pcm_s16be"), ("webm", "webm", "libopus"),
        ("tta", "tta", "tta"), ("m4b", "ipod", "alac"), ("wave", "wav", "pcm_s16le"), ("bwf", "wav", "pcm_s16le"),
        ("snd", "au", "pcm_s16be"), ("oga", "ogg", "libopus"), ("mp2", "mp2", "mp2"), ("ac3", "ac3", "ac3"),
        ("eac3", "eac3", "eac3"),
    ],
)  # fmt: skip
def test_a_suffix_that_counts_as_audio_is_decoded(tmp_path: Path, suffix: str, container: str, codec: str) -> None:
    rate = 48000 if codec == "libopus" else RATE
    ints_CT = row_rng(0, suffix).integers(-9000, 9000, (2, rate)).astype(np.int16)
    path = tmp_path / f"vocals.{suffix}"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="stereo")
        wanted = {"wavpack": "s16p", "alac": "s16p", "aac": "fltp", "ac3": "fltp", "eac3": "fltp"}.get(codec, "s16")
        stream.codec_context.format = wanted
        resampler = av.AudioResampler(format=wanted, layout="stereo", rate=rate, frame_size=1024)
        frame = av.AudioFrame.from_ndarray(ints_CT.T.reshape(1, -1).copy(), format="s16", layout="stereo")
        frame.sample_rate = rate
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(ready))
        file.mux(stream.encode(None))
    assert is_audio(path.name)
    samples_CT, seen_rate = decode(path)
    assert (seen_rate, samples_CT.shape[0]) == (rate, 2)
    assert abs(samples_CT.shape[1] - rate) <= 3000  # lossy codecs add silence
    if codec not in ("aac", "libopus", "mp2", "ac3", "eac3"):
        np.testing.assert_allclose(samples_CT[:, :rate], ints_CT / 32768, atol=2**-15)
