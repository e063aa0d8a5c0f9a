import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.mixing.render import find_hits, place, render, stretch
from datasets.schema import MixPlan, Part

SAMPLE_RATE = 22050
SOURCES = ("drums", "bass")


def noise(seconds: float, seed: int = 0) -> Samples:
    samples_CT = np.random.default_rng(seed).standard_normal((2, round(seconds * SAMPLE_RATE))) * 0.1
    return samples_CT.astype(np.float32)


def clicks(times_s: NDArray[np.float64], seconds: float) -> Samples:
    """Short decaying tones that begin at the given times."""
    samples_CT = np.zeros((2, round(seconds * SAMPLE_RATE)), dtype=np.float32)
    t = np.arange(round(0.04 * SAMPLE_RATE)) / SAMPLE_RATE
    sound_T = (0.8 * np.exp(-t / 0.008) * np.sin(2 * np.pi * 900.0 * t)).astype(np.float32)
    for time in times_s:
        start = round(time * SAMPLE_RATE)
        room = samples_CT[:, start : start + sound_T.size]
        room += sound_T[: room.shape[1]]
    return samples_CT


def onsets(samples_CT: Samples, near_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the sound first reaches half its height, within 50 ms of each expected time."""
    reach = round(0.05 * SAMPLE_RATE)
    found = []
    for time in near_s:
        start = round(time * SAMPLE_RATE) - reach
        window_T = np.abs(samples_CT[0, max(0, start) : start + 2 * reach])
        found.append((max(0, start) + int(np.argmax(window_T > 0.5 * window_T.max()))) / SAMPLE_RATE)
    return np.array(found)


def part(**changes: object) -> Part:
    options = {"track_id": "b", "source": "bass", "stretch": 1.0, "semitones": 0, "shift_samples": 0, "gain_db": 0.0}
    return Part(**{**options, **changes})  # type: ignore[arg-type]


def plan(*parts: Part) -> MixPlan:
    return MixPlan(
        mix_id="a ~ mix 0",
        seed=0,
        split="train",
        tempo_bpm=120.0,
        key="C major",
        parts=parts,
        beat_error_ms=0.0,
        key_distance=0.0,
        reason="",
    )


@pytest.mark.parametrize("shift", [0, 1, 731, -1, -731, 11025, -11025, 33075, -33075])
def test_a_stem_shifted_by_k_samples_is_found_k_samples_away(shift: int) -> None:
    stem_CT = noise(3.0)
    placed_CT = place(stem_CT, part(shift_samples=shift), SAMPLE_RATE, num_samples=stem_CT.shape[1])
    spectrum = np.fft.rfft(placed_CT[0], 2 * stem_CT.shape[1]) * np.conj(np.fft.rfft(stem_CT[0], 2 * stem_CT.shape[1]))
    correlation = np.fft.irfft(spectrum)
    lag = int(np.argmax(correlation))
    assert (lag if lag < stem_CT.shape[1] else lag - 2 * stem_CT.shape[1]) == shift


@pytest.mark.parametrize("shift", [500_000, -500_000])
def test_a_stem_shifted_out_of_the_mix_is_silence(shift: int) -> None:
    stem_CT = noise(1.0)
    assert not place(stem_CT, part(shift_samples=shift), SAMPLE_RATE, num_samples=stem_CT.shape[1]).any()


@pytest.mark.parametrize("factor", [0.87, 0.95, 1.08, 1.15, 1.6])  # 1.6: the widest rule, 40 % faster
@pytest.mark.parametrize("semitones", [-3, 0, 2])
def test_beats_lie_where_the_stretch_puts_them(factor: float, semitones: int) -> None:
    beats_s = 0.5 + 0.5 * np.arange(10)
    stretched_CT = stretch(clicks(beats_s, 6.0), factor, SAMPLE_RATE, semitones=semitones)
    assert stretched_CT.shape[1] == round(6.0 * SAMPLE_RATE * factor)
    errors_s = onsets(stretched_CT, factor * beats_s) - factor * beats_s
    assert np.abs(errors_s).max() < 0.010
    assert np.median(np.abs(errors_s)) < 0.003


@pytest.mark.parametrize("shift_s", [-1.5, -0.5, 0.5, 1.5])
def test_stretch_and_shift_together_keep_beats_in_place(shift_s: float) -> None:
    """Part of the stem is cut before stretching, which must not move the rest."""
    beats_s = 0.25 + 0.5 * np.arange(40)
    stem_CT = clicks(beats_s, 20.5)
    bent = part(stretch=1.07, shift_samples=round(shift_s * SAMPLE_RATE))
    placed_CT = place(stem_CT, bent, SAMPLE_RATE, num_samples=round(8.0 * SAMPLE_RATE))
    expected_s = 1.07 * beats_s + shift_s
    expected_s = expected_s[(expected_s > 0.1) & (expected_s < 7.9)]
    assert np.median(np.abs(onsets(placed_CT, expected_s) - expected_s)) < 0.005


@pytest.mark.parametrize("hertz", [55.0, 110.0, 440.0])
@pytest.mark.parametrize("semitones", [-3, -1, 2, 3])
def test_transposition_is_within_two_cents_in_the_bass_too(semitones: int, hertz: float) -> None:
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    tone_CT = np.stack([np.sin(2 * np.pi * hertz * t)] * 2).astype(np.float32) * 0.3
    bent_T = stretch(tone_CT, 1.07, SAMPLE_RATE, semitones=semitones)[0, SAMPLE_RATE:-SAMPLE_RATE]
    spectrum = np.abs(np.fft.rfft(bent_T * np.hanning(bent_T.size), 8 * bent_T.size))
    peak_hz = np.argmax(spectrum) * SAMPLE_RATE / (8 * bent_T.size)
    assert abs(1200.0 * np.log2(peak_hz / hertz) - 100.0 * semitones) < 2.0


def test_a_stem_that_is_not_bent_comes_through_untouched() -> None:
    stem_CT = noise(1.0)
    np.testing.assert_array_equal(place(stem_CT, part(), SAMPLE_RATE, num_samples=stem_CT.shape[1]), stem_CT)


def test_rendering_twice_gives_the_same_bytes() -> None:
    bent = part(stretch=1.1, semitones=2, shift_samples=-4000, gain_db=-3.0)
    first, second = (place(noise(2.0), bent, SAMPLE_RATE, num_samples=30000) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_mix_is_as_long_as_its_reference_and_a_source_without_a_part_is_silent() -> None:
    stems = {("a", "drums"): noise(2.0), ("b", "bass"): noise(1.0, seed=1)}
    opening = part(track_id="a", source="drums")
    made_SCT = render(plan(opening), lambda track_id, source: stems[track_id, source], SAMPLE_RATE, sources=SOURCES)
    assert made_SCT.shape == (2, 2, 2 * SAMPLE_RATE)
    assert not made_SCT[1].any()
    both_SCT = render(
        plan(opening, part(gain_db=6.0206)),
        lambda track_id, source: stems[track_id, source],
        SAMPLE_RATE,
        sources=SOURCES,
    )
    np.testing.assert_array_equal(both_SCT[0], made_SCT[0])
    middle = slice(1000, SAMPLE_RATE - 1000)
    np.testing.assert_allclose(both_SCT[1, :, middle], 2.0 * stems["b", "bass"][:, middle], atol=1e-5)
    assert not both_SCT[1, :, SAMPLE_RATE:].any()


def test_nothing_is_clipped_beyond_full_scale() -> None:
    loud_CT = place(noise(1.0), part(gain_db=12.0), SAMPLE_RATE, num_samples=SAMPLE_RATE)
    assert np.abs(loud_CT).max() > 1.0


def test_silence_stays_silence() -> None:
    silent_CT = np.zeros((2, SAMPLE_RATE), dtype=np.float32)
    assert not stretch(silent_CT, 1.1, SAMPLE_RATE, semitones=3).any()


def drum_hits(times_s: NDArray[np.float64], seconds: float) -> Samples:
    """Bursts of noise that begin at once and ring for a tenth of a second."""
    rng = np.random.default_rng(1)
    samples_CT = np.zeros((2, round(seconds * SAMPLE_RATE)), dtype=np.float32)
    fall_T = np.exp(-np.arange(round(0.3 * SAMPLE_RATE)) / (0.04 * SAMPLE_RATE))
    for start in np.round(times_s * SAMPLE_RATE).astype(int):
        room_CT = samples_CT[:, start : start + fall_T.size]
        room_CT += (0.3 * fall_T * rng.standard_normal((2, fall_T.size)))[:, : room_CT.shape[1]]
    return samples_CT


def test_hits_are_found_where_they_begin() -> None:
    times_s = np.array([0.3, 0.55, 0.62, 1.1, 1.6])
    found_s = find_hits(drum_hits(times_s, 2.2), SAMPLE_RATE) / SAMPLE_RATE
    assert found_s.size == times_s.size
    assert np.abs(found_s - times_s).max() <= 0.0015
    assert not find_hits(np.zeros((2, 5000), dtype=np.float32), SAMPLE_RATE).size


def test_silence_after_loud_music_holds_no_hits() -> None:
    loud_CT = np.ones((2, 30 * SAMPLE_RATE), dtype=np.float32) * np.float32(0.9)
    samples_CT = np.concatenate([loud_CT, np.zeros((2, 2 * SAMPLE_RATE), dtype=np.float32)], axis=1)
    assert not (find_hits(samples_CT, SAMPLE_RATE) > 30.05 * SAMPLE_RATE).any()


@pytest.mark.parametrize("factor", [0.87, 1.15])
def test_the_hits_of_stretched_drums_are_those_that_were_played(factor: float) -> None:
    """What a stretcher spreads over 100 ms before a hit is gone, and the hit itself is the original's."""
    times_s = 0.3 + 0.25 * np.arange(8)
    drums_CT = drum_hits(times_s, 2.6)
    num_samples = round(2.6 * SAMPLE_RATE * factor)
    kept_CT, smeared_CT = (
        place(drums_CT, part(source=source, stretch=factor), SAMPLE_RATE, num_samples=num_samples)
        for source in ("drums", "bass")
    )
    early_db = []
    for made_CT in (kept_CT, smeared_CT):
        hits = np.round(factor * times_s * SAMPLE_RATE).astype(int)
        before = np.mean([np.square(made_CT[:, hit - 600 : hit - 30]).mean() for hit in hits])
        after = np.mean([np.square(made_CT[:, hit : hit + 600]).mean() for hit in hits])
        early_db.append(10.0 * np.log10(before / after))
    assert early_db[0] < early_db[1] - 6.0
    middle, moved = (round(times_s[4] * scale * SAMPLE_RATE) for scale in (1.0, factor))
    original_CT = drums_CT[:, middle - 200 : middle + 900]
    # A hit is found to a millisecond, so it may move by a share of that.
    off = min(np.abs(kept_CT[:, moved - 200 + lag :][:, :1100] - original_CT).max() for lag in range(-5, 6))
    assert off < 1e-6


def test_drums_without_a_clear_hit_and_short_ones_can_be_stretched() -> None:
    for samples_CT in (noise(1.0) * 0 + 0.1, noise(0.05), drum_hits(np.array([0.0]), 0.05)):
        num_samples = round(1.1 * samples_CT.shape[1])
        placed_CT = place(samples_CT, part(source="drums", stretch=1.1), SAMPLE_RATE, num_samples=num_samples)
        assert np.isfinite(placed_CT).all()
