"""Formats of old samplers and speech corpora that libsndfile reads are refused where their end is missing."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio.decoding import decode
from datasets.errors import AudioError
from datasets.seeding import row_rng

KINDS = {
    "VOC": ("PCM_16", 2, 44100), "NIST": ("PCM_16", 2, 44100), "SVX": ("PCM_16", 1, 44100), "AVR": ("PCM_16", 2, 44100),
    "WVE": ("ALAW", 1, 8000),
}  # fmt: skip


@pytest.mark.parametrize("format", KINDS)
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.97])
def test_a_whole_file_is_read_and_one_without_its_end_is_refused(tmp_path: Path, format: str, kept: float) -> None:
    subtype, channels, rate = KINDS[format]
    noise_TC = 0.1 * row_rng(0, format).standard_normal((8000, channels))
    path = tmp_path / f"a.{format.lower()}"
    soundfile.write(path, noise_TC, rate, format=format, subtype=subtype)
    samples_CT, seen = decode(path)
    assert (samples_CT.shape, seen) == ((channels, 8000), rate)
    np.testing.assert_allclose(samples_CT, noise_TC.T, atol=2**-15 if subtype == "PCM_16" else 0.02)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(AudioError, match="truncated, its header promises") as caught:
        decode(path)
    assert caught.value.reason == "undecodable"
    assert f"it has {int(len(whole) * kept)}" in str(caught.value)
