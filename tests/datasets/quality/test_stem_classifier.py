"""Each feature says of a made-up stem what it should; a silent stem's name is given away last."""

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.quality.measures import StemStatistics
from datasets.quality.stem_classifier import ABSENT, FEATURES, LABELS, likeliest
from datasets.seeding import row_rng

RATE = 44100
TIME_T = np.arange(4 * RATE) / RATE


def _stem(mono_T: Samples, *, side_T: Samples | float = 0.0) -> Samples:
    return np.stack([mono_T + side_T, mono_T - side_T]).astype(np.float32)


def _features(*stems_CT: Samples) -> list[dict[str, float]]:
    sources = LABELS[: len(stems_CT)]
    meter = StemStatistics(sources=sources, sample_rate=RATE)
    meter.add(np.stack(stems_CT))
    assert meter._labels is not None
    return [dict(zip(FEATURES, row, strict=True)) for row in meter._labels.features().tolist()]


def _tone(hertz: float) -> Samples:
    """Ten harmonics without an end."""
    return sum(0.05 / k * np.sin(2 * np.pi * k * hertz * TIME_T) for k in range(1, 11))  # type: ignore[return-value]


def test_a_tone_is_steady_pitched_and_still_and_bursts_of_noise_are_not() -> None:
    noise_T = 0.2 * row_rng(0, "noise").standard_normal(len(TIME_T)) * np.exp(-20 * (TIME_T % 0.25))
    tone, drum = _features(_stem(_tone(220.0)), _stem(noise_T))
    assert tone["steady"] > 0.99 > 0.9 > drum["steady"]
    assert tone["pitched"] > 0.8 > 0.4 > drum["pitched"]
    assert (tone["stills"], tone["glides"], tone["leaps"]) == (1.0, 0.0, 0.0)
    assert drum["onsets"] > 0.05 > tone["onsets"]
    assert drum["attack"] > 0.6  # it sets in at once and dies away slowly
    assert drum["flat"] > -2 > tone["flat"]


def test_steps_of_a_melody_are_leaps_and_a_sweep_glides() -> None:
    steps_T = np.where(TIME_T % 0.5 < 0.25, _tone(220.0), _tone(330.0))
    phase_T = 2 * np.pi * np.cumsum(300 * 2 ** (np.sin(2 * np.pi * TIME_T) / 6)) / RATE
    melody, sweep = _features(_stem(steps_T), _stem(0.1 * np.sin(phase_T) + 0.1 * np.sin(2 * phase_T)))
    assert melody["leaps"] > 0.05 > melody["glides"]
    assert sweep["glides"] > 0.5 > 0.01 > sweep["leaps"]


def test_low_high_and_wide_stems_are_told_apart() -> None:
    low, high = _features(_stem(_tone(60.0)), _stem(_tone(600.0), side_T=0.5 * _tone(700.0)))
    assert low["low"] > 0 > high["low"]
    assert low["centroid"] < 8 < high["centroid"]
    assert low["width"] == -8
    assert high["width"] == pytest.approx(2 * np.log(0.5), abs=0.1)


def test_a_stem_that_is_not_heard_has_no_features() -> None:
    silent, _ = _features(_stem(np.zeros(len(TIME_T))), _stem(_tone(220.0)))
    assert all(np.isnan(value) for value in silent.values())


def test_the_name_of_a_silent_stem_must_be_likelier_by_more_than_that_of_another() -> None:
    likely = {"bass": (-4.0, 0.0, -4.0, -4.0), "other": (-4.0, -4.0, 0.0, 2.5)}
    measures = {f"{stem}_as_{label}": odds for stem in likely for label, odds in zip(LABELS, likely[stem], strict=True)}
    assert likeliest(measures, LABELS) == ({"bass": "bass", "other": "other"}, 0.0)
    given, odds = likeliest(measures | {"other_as_vocals": ABSENT + 1.5}, LABELS)
    assert (given, odds) == ({"bass": "bass", "other": "vocals"}, pytest.approx(1.5))
