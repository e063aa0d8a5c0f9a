import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.render import place, render, stretch
from datasets.schema import MixPlan, Part

SAMPLE_RATE = 22050
SOURCES = ("drums", "bass")
Samples = NDArray[np.float32]


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


@pytest.mark.parametrize("factor", [0.87, 0.95, 1.08, 1.15, 2.0])
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


@pytest.mark.parametrize("semitones", [-3, -1, 2, 3])
def test_transposition_is_within_five_cents(semitones: int) -> None:
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    tone_CT = np.stack([np.sin(2 * np.pi * 440.0 * t)] * 2).astype(np.float32) * 0.3
    bent_T = stretch(tone_CT, 1.0, SAMPLE_RATE, semitones=semitones)[0, SAMPLE_RATE:-SAMPLE_RATE]
    spectrum = np.abs(np.fft.rfft(bent_T * np.hanning(bent_T.size), 8 * bent_T.size))
    peak_hz = np.argmax(spectrum) * SAMPLE_RATE / (8 * bent_T.size)
    assert abs(1200.0 * np.log2(peak_hz / 440.0) - 100.0 * semitones) < 5.0


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
