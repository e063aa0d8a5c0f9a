"""Paired differences: their mean, its confidence bounds, and the gain that a number of songs can detect.

Two models are compared song by song, since songs differ far more (by 5 dB and more) than models do on one song (0.4
to 0.8 dB). The bounds are those of the studentized bootstrap (Efron and Tibshirani 1993, chapter 12), or Student's
where those are wider. BCa bounds, the usual choice, are too narrow for few songs: with 8 or 12 of them they promote
7 to 13 of 100 candidates that are no better; see `make bench-gate`. Where both were trained, bounds are wider by what
another seed of the same recipe would change (`seed_noise.py`), which no number of songs makes smaller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.store.strict_json import NULL

Array = NDArray[np.float64]

_POWER = 0.8  # the usual choice
_MAX_COUNTS = 5_000_000  # 40 MB; thousands of songs get along with fewer resamples


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean of paired differences in dB. Below `low` it would lie with a chance of 1 - confidence, as above `high`."""

    mean: float
    low: float = field(metadata={NULL: -math.inf})
    high: float = field(metadata={NULL: math.inf})
    spread: float  # standard deviation over songs
    num_songs: int
    seed_noise_db: float = 0.0  # standard deviation of the mean between two seeds of one recipe, which is in the bounds

    def min_detectable_gain(self, confidence: float) -> float:
        """The true difference in dB that this many songs of this spread detect at 80 % power."""
        error = self.spread / math.sqrt(self.num_songs)
        bound = math.hypot(_student(confidence, self.num_songs - 1) * error, _normal(confidence) * self.seed_noise_db)
        return bound + _normal(_POWER) * math.hypot(error, self.seed_noise_db)

    def songs_needed(self, difference: float, confidence: float) -> int | None:
        """How many songs of this spread detect a difference at 80 % power; 0 where the difference is not positive.

        None where seeds alone differ by so much that no number of songs does.
        """
        if not difference > 0 or not self.spread > 0:
            return 0
        quantile = _normal(confidence)
        variance = (difference / (quantile + _normal(_POWER))) ** 2 - self.seed_noise_db**2
        if not variance > 0:
            return None
        # The second term is what Student's bounds need beyond the normal ones (Guenther 1981).
        return math.ceil(self.spread**2 / variance + quantile**2 / 2)


def difference(
    values: Sequence[float], *, confidence: float, seed_noise_db: float = 0.0, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """The mean of paired differences and its two one-sided bounds; one value alone has infinitely wide ones.

    The same values give the same bounds, whatever their order. `seed_noise_db` is the standard deviation that seeds
    give the mean beside songs; the two are independent, so the distances to the bounds add up as squares.
    """
    values_N = np.sort(np.asarray(values, dtype=np.float64))
    size, mean = len(values_N), float(values_N.mean())
    if size < 2:
        return Difference(
            mean=mean, low=-np.inf, high=np.inf, spread=float("nan"), num_songs=size, seed_noise_db=seed_noise_db
        )
    by_seeds = _normal(confidence) * seed_noise_db
    spread = float(values_N.std(ddof=1))
    # Differences that rounding alone made have no spread that could be divided by.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return Difference(
            mean=mean,
            low=mean - by_seeds,
            high=mean + by_seeds,
            spread=0.0,
            num_songs=size,
            seed_noise_db=seed_noise_db,
        )
    error = spread / size**0.5
    deviations_R = _studentized(values_N, resamples=resamples, seed=seed)
    student = _student(confidence, size - 1)
    below = error * _bounded(max(student, float(np.quantile(deviations_R, confidence))))
    above = -error * _bounded(min(-student, float(np.quantile(deviations_R, 1 - confidence))))
    return Difference(
        mean=mean,
        low=mean - math.hypot(below, by_seeds),
        high=mean + math.hypot(above, by_seeds),
        spread=spread,
        num_songs=size,
        seed_noise_db=seed_noise_db,
    )


def _bounded(deviations: float) -> float:
    """Infinite where too many resamples of a few songs had no error that anything could be measured by."""
    return deviations if abs(deviations) < 1e6 else math.copysign(math.inf, deviations)


def _studentized(values_N: Array, *, resamples: int, seed: int) -> Array:
    """(mean of a resample - mean) / (standard error of the resample), for each resample."""
    size = len(values_N)
    apart_N = values_N - values_N.mean()
    counts_RN = _counts(size, min(resamples, _MAX_COUNTS // size), seed)
    shift_R = counts_RN @ apart_N / size
    variance_R = np.maximum(0.0, counts_RN @ np.square(apart_N) / size - np.square(shift_R))
    error_R = np.sqrt(variance_R / (size - 1))
    # A resample of one song only, so often drawn, has no error: its deviation is as large as can be.
    flat_R = error_R <= 1e-9 * np.abs(apart_N).max()
    return np.asarray(np.where(flat_R, np.sign(shift_R) * 1e9, shift_R / np.where(flat_R, 1.0, error_R)))


@lru_cache(maxsize=8)
def _counts(size: int, resamples: int, seed: int) -> Array:
    """How often each song is in each resample; the same for all that is compared over as many songs."""
    drawn_RN = np.random.default_rng(seed).integers(0, size, (resamples, size))
    places = drawn_RN + size * np.arange(resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=resamples * size)
    return np.asarray(counts.reshape(resamples, size), np.float64)


def _student(confidence: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, confidence))


def _normal(confidence: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(confidence)
