"""Bounds that hold as often as they say, and counts of songs that agree with what simulated songs show."""

import math

import numpy as np
import pytest

from datasets.seeding import row_rng
from pipelines.evaluation.paired_bootstrap import Difference, difference


@pytest.mark.parametrize("num_songs", [8, 20, 50])
def test_without_a_gain_the_lower_bound_lies_above_zero_in_one_of_twenty_trials_at_most(num_songs: int) -> None:
    rng = row_rng(0, "no gain", num_songs)
    above = sum(
        difference(rng.normal(0, 0.6, num_songs).tolist(), confidence=0.95, resamples=500).low > 0 for _ in range(600)
    )
    assert above / 600 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert above > 5  # nor is it so wide that nothing passes


def test_what_so_many_songs_are_said_to_show_they_show_in_four_of_five_trials() -> None:
    rng = row_rng(0, "a gain")
    first = difference(rng.normal(0, 0.5, 2000).tolist(), confidence=0.95, resamples=100)
    needed = first.songs_needed(0.2, 0.95)
    assert needed == pytest.approx(2.486**2 * 0.25 / 0.04, rel=0.1)
    seen = [difference(rng.normal(0.2, 0.5, needed).tolist(), confidence=0.95, resamples=500) for _ in range(400)]
    assert np.mean([one.low > 0 for one in seen]) == pytest.approx(0.8, abs=0.07)
    assert np.median([one.min_detectable_gain(0.95) for one in seen]) == pytest.approx(0.2, rel=0.1)


def test_bounds_lie_around_the_mean_and_do_not_depend_on_order_or_sign() -> None:
    values = row_rng(1, "skewed").exponential(1.0, 30)
    one = difference(values.tolist(), confidence=0.9)
    assert one == difference(values[::-1].tolist(), confidence=0.9, resamples=10_000, seed=0)
    assert one.low < one.mean < one.high
    turned = difference((-values).tolist(), confidence=0.9)
    assert turned.low == pytest.approx(-one.high, abs=0.05)
    assert one.high - one.mean > one.mean - one.low  # the tail is where it is


def test_few_and_equal_songs() -> None:
    alone = difference([0.3], confidence=0.95)
    assert (alone.mean, alone.low, alone.high) == (0.3, -math.inf, math.inf)
    assert alone.songs_needed(0.3, 0.95) == 0  # of one song nothing is known of the spread
    equal = difference([0.1, 0.1 + 1e-17, 0.1], confidence=0.95)
    assert (equal.low, equal.high) == (pytest.approx(0.1), pytest.approx(0.1))
    two = difference([0.0, 1.0], confidence=0.95)
    assert (two.low, two.high) == (-math.inf, math.inf)  # half of the resamples are one song twice
    noisy = difference([0.1, 0.1, 0.1], confidence=0.95, seed_noise_db=0.2)
    assert (noisy.low, noisy.high) == (
        pytest.approx(0.1 - 1.6449 * 0.2, abs=1e-4),
        pytest.approx(0.1 + 1.6449 * 0.2, abs=1e-4),
    )


def test_what_rounding_alone_has_made_is_no_spread_however_large_the_values() -> None:
    rounded = difference([1e6, 1e6 + 2e-10, 1e6 - 2e-10], confidence=0.95)
    assert (rounded.low, rounded.high, rounded.spread) == (rounded.mean, rounded.mean, 0.0)
    real = difference([-1e-9, 0.0, 1e-9, 2e-9], confidence=0.95)
    assert real.low < real.mean < real.high
    assert real.spread == pytest.approx(1.29e-9, rel=0.01)


def test_no_difference_takes_no_songs_and_nothing_is_not_a_number_in_silence() -> None:
    made = difference([0.0, 0.1, -0.1], confidence=0.95)
    assert made.songs_needed(0.0, 0.95) == 0
    broken = difference([math.nan, 1.0, 2.0], confidence=0.95)
    assert not broken.low > 0


def test_bounds_are_those_of_a_resampling_that_is_written_out() -> None:
    """Each resample's mean and standard error by NumPy, one after the other."""
    values = np.sort(row_rng(2, "tail").exponential(1.0, 12) ** 3)
    drawn = np.random.default_rng(0).integers(0, 12, (4000, 12))
    resampled = [values[picked] for picked in drawn]
    away = [(one.mean() - values.mean()) / (one.std(ddof=1) / math.sqrt(12)) for one in resampled]
    error = values.std(ddof=1) / math.sqrt(12)
    low = values.mean() - error * max(np.quantile(away, 0.95), 1.7959)
    high = values.mean() - error * min(np.quantile(away, 0.05), -1.7959)
    made = difference(values.tolist(), confidence=0.95, resamples=4000)
    assert (made.low, made.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert high - values.mean() > 1.2 * 1.7959 * error  # the resampling decides here, not Student


def test_evenly_spread_songs_have_the_bounds_of_student() -> None:
    """t at 97.5 % with 7 degrees of freedom is 2.3646; where that is wider than what the resampling says it holds."""
    values = [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    made = difference(values, confidence=0.6)
    spread = math.sqrt(8 / 7)
    assert made.spread == pytest.approx(spread)
    away = 0.2632 * spread / math.sqrt(8)  # t at 60 % is 0.2632; the middle resample has no deviation
    assert (made.low, made.high) == (pytest.approx(-away, abs=1e-4), pytest.approx(away, abs=1e-4))
    assert made.min_detectable_gain(0.975) == pytest.approx((2.3646 + 0.8416) * spread / math.sqrt(8), rel=1e-4)
    assert made.songs_needed(1.0, 0.975) == math.ceil((1.9600 + 0.8416) ** 2 * 8 / 7 + 1.9600**2 / 2)


def test_a_gain_that_cannot_be_missed_takes_the_few_songs_that_so_sure_a_bound_asks_for() -> None:
    """Student's bounds at 99.9 % want 3.0902^2 / 2 = 4.77 songs even of a gain ten times the spread (Guenther 1981)."""
    made = difference([-1.0, 1.0], confidence=0.975)
    assert made.songs_needed(10 * made.spread, 0.999) == 5
    assert made.songs_needed(10 * made.spread, 0.975) == 2


def test_what_another_seed_may_change_adds_to_what_must_be_gained_and_no_number_of_songs_makes_it_less() -> None:
    def told(num_songs: int, noise_db: float) -> Difference:
        return Difference(mean=0.0, low=-1.0, high=1.0, spread=1.0, num_songs=num_songs, seed_noise_db=noise_db)

    at_975, power = 1.95996, 0.84162
    assert told(10**9, 0.1).min_detectable_gain(0.975) == pytest.approx((at_975 + power) * 0.1, rel=1e-3)
    student = 2.02108  # t at 97.5 % with 40 degrees of freedom
    error = 1 / math.sqrt(41)
    expected = math.hypot(student * error, at_975 * 0.1) + power * math.hypot(error, 0.1)
    assert told(41, 0.1).min_detectable_gain(0.975) == pytest.approx(expected, rel=1e-4)
    assert told(8, 0.0).songs_needed(0.4, 0.975) == math.ceil(((at_975 + power) / 0.4) ** 2 + at_975**2 / 2) == 51
    variance = (0.4 / (at_975 + power)) ** 2 - 0.1**2
    assert told(8, 0.1).songs_needed(0.4, 0.975) == math.ceil(1 / variance + at_975**2 / 2) == 99
    assert told(8, 0.1).songs_needed(0.28, 0.975) is None
    assert told(8, 0.1).songs_needed(0.0, 0.975) == 0


def test_thousands_of_songs_get_along_with_fewer_resamples() -> None:
    values = row_rng(3, "many").normal(0.1, 1.0, 3000)
    made = difference(values.tolist(), confidence=0.975)
    assert made.low == pytest.approx(values.mean() - 1.96 * values.std(ddof=1) / math.sqrt(3000), abs=0.003)
    assert made == difference(values.tolist(), confidence=0.975, resamples=5_000_000 // 3000)
