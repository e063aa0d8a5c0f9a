"""What a store is to forget is known again by its audio and by ear, and nothing about it is guessed."""

from pathlib import Path

import numpy as np
import pytest

from datasets.corpus.removed_songs import RemovedSong, read_removed_songs, write_removed_songs
from datasets.errors import InputError
from datasets.quality.fingerprint import FingerprintExtractor, Signature, pack
from datasets.seeding import row_rng

RATE = 11025


def sound(seed: int, *, gain: float = 1.0) -> Signature:
    rng = row_rng(seed, "tune")
    time_T = np.arange(20 * RATE) / RATE
    tones = np.zeros(len(time_T))
    for start_s in rng.uniform(0, 19, 120):
        since_T = np.clip(time_T - start_s, 0, None)
        tones += np.sin(2 * np.pi * 220 * 2 ** rng.uniform(0, 3.5) * since_T) * np.exp(-6 * since_T) * (since_T > 0)
    listener = FingerprintExtractor(RATE)
    listener.add((0.1 * gain * tones).astype(np.float32))
    return listener.signature()


def forgotten(name: str, audio: str, signature: Signature | None = None) -> RemovedSong:
    packed = "" if signature is None else pack(signature)
    return RemovedSong(track_id=name, title=name, audio=audio, signature=packed, at="2026-01-01T00:00:00+00:00")


def test_songs_are_known_again_by_digest_and_by_ear_and_others_are_not(tmp_path: Path) -> None:
    assert not read_removed_songs(tmp_path)
    write_removed_songs(tmp_path, [forgotten("A", "a1", sound(1)), forgotten("B", "b1")])
    known = read_removed_songs(str(tmp_path))
    assert known.names == ["a1", "b1"]
    found = known.recognized(
        {"same": "a1", "quieter": "x", "other": "y", "unheard": "b1", "not heard": "z"},
        {"quieter": sound(1, gain=0.4), "other": sound(2), "same": sound(1)},
    )
    assert set(found) == {"same", "quieter", "unheard"}
    assert found["same"] == "the same audio as A, which is to be forgotten"
    assert "is (forgotten) A from 0:00" in found["quieter"]
    assert known.recognized({}, {}) == {}


def test_what_is_there_stays_as_it_is_and_what_cannot_be_read_stops_everything(tmp_path: Path) -> None:
    write_removed_songs(tmp_path, [forgotten("A", "a1")])
    write_removed_songs(tmp_path, [forgotten("another name", "a1"), forgotten("C", "c1")])
    assert [song.track_id for song in read_removed_songs(tmp_path).songs] == ["A", "C"]
    (tmp_path / "forgotten" / "c1.json").write_text('{"track_id": "C"')
    with pytest.raises(InputError, match=r"c1\.json says which song is to be forgotten, and cannot be read"):
        read_removed_songs(tmp_path)
    (tmp_path / "forgotten" / "c1.json").write_text('{"track_id": "C"}')
    with pytest.raises(InputError, match=r"c1\.json says which song is to be forgotten"):
        read_removed_songs(tmp_path)
