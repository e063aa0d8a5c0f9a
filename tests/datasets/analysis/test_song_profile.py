import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.analysis.harmony import chroma, key
from datasets.analysis.song_profile import loudness_db, profile
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.schema import SOURCES, Profile

SAMPLE_RATE = 22050


def heard(stems_SCT: Samples, sample_rate: int = SAMPLE_RATE) -> Profile:
    return profile(stems_SCT, track_id="song", split="train", sources=SOURCES, sample_rate=sample_rate)


@pytest.fixture(scope="module")
def song() -> Samples:
    return perform(compose(41, "profile", 10.0), SAMPLE_RATE)


def test_the_same_stems_give_the_same_profile(song: Samples) -> None:
    first, second = heard(song), heard(song.copy())
    assert json.dumps(asdict(first)) == json.dumps(asdict(second))


@pytest.mark.parametrize("channel", [0, 1])
def test_a_channel_the_other_way_round_changes_nothing(song: Samples, channel: int) -> None:
    """Also of a song whose sides are wide apart, where the mean loses much and the difference is not clearly louder."""
    late_SCT = np.stack([song[:, 0], 0.9 * np.roll(song[:, 1], 300, axis=-1)], axis=1)
    for stems_SCT in (song, late_SCT):
        turned_SCT = stems_SCT.copy()
        turned_SCT[:, channel] *= -1.0
        usual, turned = heard(stems_SCT), heard(turned_SCT)
        assert usual.beats_s
        assert (turned.beats_s, turned.downbeats_s) == (usual.beats_s, usual.downbeats_s)
        assert (turned.key, turned.vocals_s) == (usual.key, usual.vocals_s)
        np.testing.assert_allclose(turned.chroma, usual.chroma, atol=1e-4)
        confidences = ("tempo_confidence", "phase_confidence", "downbeat_confidence", "key_confidence")
        for name in confidences:
            assert getattr(turned, name) == pytest.approx(getattr(usual, name), abs=2e-3), name


def test_mono_is_heard_as_the_same_sound_on_both_sides(song: Samples) -> None:
    mono_SCT = song[:, :1]
    once, twice = heard(mono_SCT), heard(np.repeat(mono_SCT, 2, axis=1))
    assert once.beats_s == twice.beats_s
    np.testing.assert_allclose(once.chroma, twice.chroma, atol=1e-4)


def test_a_song_without_drums_has_beats_and_a_song_of_drums_alone_has_no_key(song: Samples) -> None:
    without_T, alone_T = song.copy(), np.zeros_like(song)
    without_T[0] = 0.0
    alone_T[0] = song[0]
    assert heard(without_T).tempo_bpm == pytest.approx(heard(song).tempo_bpm, rel=0.02)
    drums = heard(alone_T)
    assert (drums.chroma, drums.key, drums.key_confidence, drums.vocals_s) == ((), "", 0.0, ())
    assert drums.tempo_bpm > 0.0


def test_vocals_are_where_the_voice_is(song: Samples) -> None:
    stems_SCT = song.copy()
    stems_SCT[3, :, : 4 * SAMPLE_RATE] = 0.0
    spans = heard(stems_SCT).vocals_s
    assert spans
    assert spans[0][0] >= 3.95


def test_the_voice_alone_gives_the_chroma_where_nothing_else_is_pitched(song: Samples) -> None:
    stems_SCT = song.copy()
    stems_SCT[1:3] = 0.0
    assert sum(heard(stems_SCT).chroma) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.4, 2.0])
def test_silence_of_any_length_has_an_empty_profile(seconds: float) -> None:
    found = heard(np.zeros((4, 2, round(seconds * SAMPLE_RATE)), np.float32))
    assert (found.tempo_bpm, found.beats_s, found.chroma, found.key, found.vocals_s) == (0.0, (), (), "", ())
    assert set(found.loudness_db.values()) == {-120.0}


def strange(kind: str) -> Samples:
    t = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    noise = np.random.default_rng(5).standard_normal(t.size)
    signal_T = {
        "one tone": 0.2 * np.sin(2 * np.pi * 196.0 * t),
        "noise": 0.1 * noise,
        "one click": np.where(np.arange(t.size) == 40000, 0.9, 0.0),
        "a constant": np.full(t.size, 0.3),
        "a glide": 0.2 * np.sin(2 * np.pi * 60.0 * 2.0 ** (0.5 * t) * t),
        "hundredfold full scale": 100.0 * np.sin(2 * np.pi * 196.0 * t),
    }[kind]
    return np.broadcast_to(signal_T.astype(np.float32), (4, 2, t.size)).copy()


@pytest.mark.parametrize("kind", ["one tone", "noise", "one click", "a constant", "a glide", "hundredfold full scale"])
def test_what_is_no_music_has_a_profile_of_little_certainty(kind: str) -> None:
    found = heard(strange(kind))
    assert found.tempo_confidence < 0.25
    assert all(0.0 <= time < 6.0 for time in found.beats_s)
    assert all(np.isfinite([found.tempo_bpm, found.tuning_cents, *found.chroma, *found.loudness_db.values()]))
    if kind in ("one click", "a constant"):
        assert found.key_confidence < 0.3


def test_a_key_that_might_as_well_be_another_is_not_named() -> None:
    """Scales of C major and of F# major, each tone for a quarter of a second: one alone, then both in turn."""
    t = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE

    def scale_T(tonic: int) -> Samples:
        tones = [0, 4, 7, 0, 5, 9, 7, 11, 2, 0]
        return np.concatenate([0.2 * np.sin(2 * np.pi * 261.6256 * 2 ** ((tonic + tone) / 12) * t) for tone in tones])

    one, both = np.zeros((2, 4, 2, 40 * t.size), np.float32)
    one[2] = np.tile(scale_T(0), 4)
    both[2] = np.tile(np.concatenate([scale_T(0), scale_T(6)]), 2)
    assert heard(one).key == "C major"
    assert heard(both).key == ""
    assert 0.0 <= heard(both).key_confidence < 0.2 <= heard(one).key_confidence
    assert len(heard(both).chroma) == 12


def test_noise_is_seldom_sure_of_a_key() -> None:
    noises = [np.random.default_rng(seed).standard_normal((2, 6 * SAMPLE_RATE)) for seed in range(9)]
    assert np.median([key(chroma(0.1 * noise.astype(np.float32), SAMPLE_RATE))[1] for noise in noises]) < 0.3


def test_loudness_counts_what_sounds_only(song: Samples) -> None:
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    tone_CT = np.stack([0.1 * np.sin(2 * np.pi * 440.0 * t)] * 2).astype(np.float32)
    rests_CT = np.concatenate([tone_CT, np.zeros_like(tone_CT)], axis=1)
    assert loudness_db(tone_CT, SAMPLE_RATE) == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.01)
    assert loudness_db(rests_CT, SAMPLE_RATE) == pytest.approx(loudness_db(tone_CT, SAMPLE_RATE), abs=0.01)


@pytest.mark.slow
def test_keys_of_songs_with_a_known_key_are_found(shared_data: Path) -> None:
    from mir_eval.key import weighted_score

    from datasets.analysis.harmony import chroma, key

    for songs, least in (("rendered_beatkey", 0.8), ("real_mixtures_beatkey", 0.95)):
        scores = []
        for folder in sorted((shared_data / songs / "train").iterdir()):
            truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
            if truth["key"]:
                mixture, sample_rate = soundfile.read(folder / "mixture.ogg", dtype="float32")
                scores.append(weighted_score(truth["key"], key(chroma(mixture.mean(axis=1), sample_rate))[0]))
        assert np.mean(scores) >= least
