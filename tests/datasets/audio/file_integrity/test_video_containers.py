"""The sound of a film is read where it is whole, and refused where its end is missing."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from datasets.audio.decoding import decode, probe
from datasets.errors import AudioError
from datasets.seeding import row_rng
from tests.datasets.audio.encoded import encoded

RATE = 44100
M2TS = {"mpegts_m2ts_mode": "1"}
FILMS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "aac.ts": ("aac", "fltp", "mpegts", {}), "mp3.ts": ("libmp3lame", "s16p", "mpegts", {}),
    "ac3.m2ts": ("ac3", "fltp", "mpegts", M2TS), "mp2.mpg": ("mp2", "s16", "mpeg", {}),
    "ac3.vob": ("ac3", "fltp", "vob", {}), "pcm.avi": ("pcm_s16le", "s16", "avi", {}),
    "mp3.avi": ("libmp3lame", "s16p", "avi", {}), "aac.flv": ("aac", "fltp", "flv", {}),
    "pcm.flv": ("pcm_s16le", "s16", "flv", {}),
}  # fmt: skip
LATE = {"aac": (1024,), "mp3": (1105,), "ac3": (256,), "mp2": (481,), "pcm": ()}


@pytest.mark.parametrize("name", FILMS)
def test_the_sound_of_a_film_is_decoded_and_does_not_say_where_it_begins(tmp_path: Path, name: str) -> None:
    codec, kind, format, options = FILMS[name]
    noise_CT = np.cumsum(row_rng(0, name).standard_normal((2, RATE)), axis=1)
    noise_CT = (0.3 * noise_CT / np.abs(noise_CT).max()).astype(np.float32)
    path = tmp_path / name
    encoded(path, codec, kind, format=format, options=options, samples_CT=noise_CT)
    samples_CT, rate = decode(path)
    assert (rate, samples_CT.shape[0]) == (RATE, 2)
    size = samples_CT.shape[1] + RATE
    found_T = np.fft.irfft(np.fft.rfft(samples_CT[0], size) * np.fft.rfft(noise_CT[0], size).conj(), size)
    usual = LATE[path.stem]
    assert probe(path).unsaid_delays[:1] == usual
    assert int(found_T.argmax()) == (usual[0] if usual else 0)
    inner_CT = samples_CT[:, found_T.argmax() :][:, :RATE] - noise_CT
    assert np.square(inner_CT[:, 3000:-3000]).mean() < 1e-3


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("share", [0.4, 0.75, 0.99])
def test_a_film_whose_end_is_missing_is_refused(tmp_path: Path, name: str, share: float) -> None:
    codec, kind, format, options = FILMS[name]
    path = tmp_path / name
    whole = encoded(path, codec, kind, format=format, options=options)
    path.write_bytes(whole[: int(len(whole) * share) | 1])
    with pytest.raises(AudioError, match="truncated") as caught:
        decode(path)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("name", ["aac.ts", "ac3.m2ts"])
def test_a_transport_stream_that_ends_with_a_whole_packet_within_a_frame_is_refused(tmp_path: Path, name: str) -> None:
    codec, kind, format, options = FILMS[name]
    path, step = tmp_path / name, 192 if options else 188
    whole = encoded(path, codec, kind, format=format, options=options)
    first, played = len(whole) // step // 2, []
    for packets in range(first, first + 8):
        path.write_bytes(whole[: packets * step])
        with contextlib.suppress(AudioError):
            decode(path)
            played.append(packets)
    assert len(played) <= 3  # where a frame ends with the packet nothing tells


def test_an_avi_that_never_got_its_size_is_read_to_its_end_and_two_in_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    whole = encoded(path, "pcm_s16le", "s16", format="avi")
    path.write_bytes(whole[:4] + bytes(4) + whole[8:])
    assert decode(path)[0].shape == (2, RATE)
    path.write_bytes(whole + whole)
    with pytest.raises(AudioError, match="several files in one"):
        decode(path)
    encoded(path, "aac", format="flv")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(AudioError, match="several files in one"):
        decode(path)
