"""Bounds that hold as often as they say, and counts of songs that agree with what simulated songs show."""

import math

import numpy as np
import pytest

from datasets.dice import dice
from pipelines.paired import difference


@pytest.mark.parametrize("num_songs", [8, 20, 50])
def test_without_a_gain_the_lower_bound_lies_above_zero_in_one_of_twenty_trials_at_most(num_songs: int) -> None:
    rng = dice(0, "no gain", num_songs)
    above = sum(
        difference(rng.normal(0, 0.6, num_songs).tolist(), confidence=0.95, resamples=500).low > 0 for _ in range(600)
    )
    assert above / 600 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert above > 5  # nor is it so wide that nothing passes


def test_what_so_many_songs_are_said_to_show_they_show_in_four_of_five_trials() -> None:
    rng = dice(0, "a gain")
    first = difference(rng.normal(0, 0.5, 2000).tolist(), confidence=0.95, resamples=100)
    needed = first.songs_needed(0.2, 0.95)
    assert needed == pytest.approx(2.486**2 * 0.25 / 0.04, rel=0.1)
    seen = [difference(rng.normal(0.2, 0.5, needed).tolist(), confidence=0.95, resamples=500) for _ in range(400)]
    assert np.mean([one.low > 0 for one in seen]) == pytest.approx(0.8, abs=0.07)
    assert np.median([one.visible(0.95) for one in seen]) == pytest.approx(0.2, rel=0.1)


def test_bounds_lie_around_the_mean_and_do_not_depend_on_order_or_sign() -> None:
    values = dice(1, "skewed").exponential(1.0, 30)
    one = difference(values.tolist(), confidence=0.9)
    assert one == difference(values[::-1].tolist(), confidence=0.9)
    assert one.low < one.mean < one.high
    turned = difference((-values).tolist(), confidence=0.9)
    assert turned.low == pytest.approx(-one.high, abs=0.05)
    assert one.high - one.mean > one.mean - one.low  # the tail is where it is


def test_few_and_equal_songs() -> None:
    alone = difference([0.3], confidence=0.95)
    assert (alone.mean, alone.low, alone.high) == (0.3, -math.inf, math.inf)
    equal = difference([0.1, 0.1 + 1e-17, 0.1], confidence=0.95)
    assert (equal.low, equal.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert difference([0.0, 1.0], confidence=0.95).low == -math.inf  # half of the resamples are one song twice


def test_no_difference_takes_no_songs_and_nothing_is_not_a_number_in_silence() -> None:
    made = difference([0.0, 0.1, -0.1], confidence=0.95)
    assert made.songs_needed(0.0, 0.95) == 0
    broken = difference([math.nan, 1.0, 2.0], confidence=0.95)
    assert not broken.low > 0
