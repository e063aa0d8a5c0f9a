"""What is in antiphase is heard as what is in phase: by analysis, fingerprints and measurements alike."""

import numpy as np
import pytest

from datasets.analysis.song_profile import profile
from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import cancels, mono
from datasets.mixing.render import find_hits
from datasets.quality.against_mixture.alignment import MixtureAlignment, thinned
from datasets.quality.fingerprint import FingerprintExtractor
from datasets.quality.measures import measure
from datasets.seeding import row_rng

RATE = 22050


def beat(seconds: float = 12.0, *, bpm: float = 120.0) -> Samples:
    """A mono song: chords that change every bar, and noise on the beats."""
    rng, time_T = row_rng(1, "beat"), np.arange(round(seconds * RATE)) / RATE
    bar_T = (time_T * bpm / 240).astype(int) % 3
    song_T = np.zeros_like(time_T)
    for number, notes in enumerate(((220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7))):
        song_T += 0.05 * (bar_T == number) * sum(np.sin(2 * np.pi * note * time_T) for note in notes)
    for start in np.arange(0, len(time_T), round(RATE * 60 / bpm)):
        hit_T = rng.standard_normal(1500) * np.exp(-np.arange(1500) / 200)
        song_T[start : start + 1500] += 0.3 * hit_T[: len(song_T) - start]
    return song_T.astype(np.float32)


def stereo(mono_T: Samples, *, polarity: float) -> Samples:
    return np.stack([mono_T, np.float32(polarity) * mono_T])


def test_the_mono_mix_of_ordinary_stereo_is_its_mean_to_the_bit() -> None:
    rng = row_rng(0, "stereo")
    middle, side = (rng.standard_normal((5, 1, 3000)).astype(np.float32) for _ in range(2))
    for width in (0.0, 0.5, 1.0, 1.9):
        samples = np.concatenate([middle + width * side, middle - width * side], axis=1).astype(np.float32)
        assert not cancels(samples).any()
        np.testing.assert_array_equal(mono(samples), samples.mean(axis=1))
    np.testing.assert_array_equal(mono(middle), middle[:, 0])
    assert not mono(np.zeros((2, 100), np.float32)).any()


def test_each_signal_is_told_apart_by_itself() -> None:
    noise_T = row_rng(0, "noise").standard_normal(3000).astype(np.float32)
    signals = np.stack([stereo(noise_T, polarity=polarity) for polarity in (1, -1, 0, -0.9)])
    assert cancels(signals).tolist() == [False, True, False, True]
    np.testing.assert_allclose(mono(signals), np.outer([1, 1, 0.5, 0.95], noise_T), rtol=1e-5, atol=1e-6)


def test_antiphase_has_the_beats_key_and_singing_of_its_twin() -> None:
    song_T = beat()
    profiles = []
    for polarity in (1, -1):
        stems_SCT = np.stack([stereo(part_T, polarity=polarity) for part_T in (0.3 * song_T, song_T, song_T)])
        profiles.append(
            profile(stems_SCT, track_id="a", split="train", sources=("drums", "bass", "vocals"), sample_rate=RATE)
        )
    assert profiles[0].beats_s
    assert profiles[0].key
    assert profiles[0].vocals_s
    assert profiles[0] == profiles[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_antiphase_has_the_fingerprint_and_hits_of_its_twin(seed: int) -> None:
    song_T = beat() + 0.01 * row_rng(seed, "more").standard_normal(12 * RATE).astype(np.float32)
    heard = []
    for polarity in (1, -1):
        listener = FingerprintExtractor(RATE)
        for block_CT in np.split(stereo(song_T, polarity=polarity), 12, axis=1):
            listener.add(mono(block_CT))
        heard.append(listener.signature())
    assert len(heard[0])
    assert np.array_equal(heard[0], heard[1])
    in_phase, against = (find_hits(stereo(song_T, polarity=polarity), RATE) for polarity in (1, -1))
    assert len(in_phase) > 15
    np.testing.assert_array_equal(in_phase, against)


def test_a_late_stem_in_antiphase_is_found_in_its_mixture() -> None:
    rng = row_rng(3, "late")
    parts_ST = rng.standard_normal((3, 8 * RATE)).astype(np.float32)
    stems_SCT = np.stack([stereo(part_T, polarity=sign) for part_T, sign in zip(parts_ST, (1, 1, -1), strict=True)])
    mixture_CT = stems_SCT.sum(axis=0)
    late = round(0.1 * RATE)
    stems_SCT[2] = np.roll(stems_SCT[2], late, axis=1)
    alignment = MixtureAlignment(3, RATE)
    thin_CT = thinned(np.pad(mixture_CT, ((0, 0), (RATE, RATE))), alignment.step)
    seconds = [alignment.middle_and_side(second_CT) for second_CT in np.split(thin_CT, 10, axis=1)]
    for number in range(8):
        second_SCT = stems_SCT[:, :, number * RATE : (number + 1) * RATE]
        alignment.add(thinned(second_SCT, alignment.step), seconds[number : number + 3])
    shifts = alignment.shifts_s()
    assert shifts[:2] == [0, 0]
    assert shifts[2] == pytest.approx(0.1, abs=0.001)


def test_spectra_of_antiphase_are_measured() -> None:
    song_T = beat(6.0)
    measured = []
    for polarity in (1, -1):
        stems_SCT = np.stack([stereo(part_T, polarity=polarity) for part_T in (song_T, song_T[::-1].copy())])
        measured.append(measure(stems_SCT, sources=("drums", "bass"), sample_rate=RATE))
    told = {name for name in measured[0] if "cutoff" in name or "bleed" in name}
    assert told
    for name in told:
        assert measured[1][name] == pytest.approx(measured[0][name], rel=1e-3), name
