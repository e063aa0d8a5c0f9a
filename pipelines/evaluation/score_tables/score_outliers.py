"""Songs that a model separates far worse than they could be: stems under a wrong name, of another song, with a mix in.

How well a stem can be separated depends on the song, and the IRM2 oracle, a mask made from the true stems, says how
well. Over many songs a model's score follows the oracle's on a line. A stem far below it is not harder than others:
what the model gives for its name is something else. Beyond most songs' scores of the oracle the line is taken as flat:
where a stem is nearly the whole mixture the oracle has 100 dB, which no model follows.

A stem far below the rest of its song is not ranked: what leaks into its estimate from the others is louder than the
stem, so its score is as low as its level, and says nothing of what the stem is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.schema import Score

MIN_SONGS = 12  # in which a source sounds: of fewer, what is usual cannot be told
MIN_LEVEL_DB = -15.0  # of a stem that is ranked, against the sum of the song's other stems
_SIGMAS_OF_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
_MIN_SIGMA_DB = 0.1  # of songs that are all alike
_MAX_FITTED = 2000  # songs that a line is fitted to: fitting takes 16 bytes for each pair of them
_FENCE_IQRS = 1.5  # above the upper quartile, to which the line is taken to rise


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOutlier:
    """A song by the stem that stands out most."""

    track_id: str
    title: str
    source: str
    nsdr: float  # dB
    expected_nsdr: float  # dB, of other songs' stems of this name with the same score of the oracle
    deviation: float  # from that, in robust standard deviations of the source's; below 0 is worse


def rank(scores: Sequence[Score]) -> list[ScoreOutlier]:
    """Each song with a stem that can be ranked, neither quiet nor of a rare source, once, the worst first.

    The line and the spread are those of medians, so that a third of bad songs still comes first. InputError where all
    sources are rare, see `rare_sources`.
    """
    worst: dict[str, ScoreOutlier] = {}
    sounding, rare = _sounding(scores), rare_sources(scores)
    if len(rare) == len(sounding):
        require_enough(max(rare.values(), default=0), "the most frequent source")
    for source in sorted(sounding.keys() - rare.keys()):
        for outlier in _of_source(sounding[source], source):
            before = worst.get(outlier.track_id)
            if before is None or outlier.deviation < before.deviation:
                worst[outlier.track_id] = outlier
    return sorted(worst.values(), key=lambda outlier: (outlier.deviation, outlier.track_id))


def rare_sources(scores: Sequence[Score]) -> dict[str, int]:
    """In how many songs each source sounds, and is not quiet, that does so in fewer than `MIN_SONGS`."""
    return {source: len(rows) for source, rows in _sounding(scores).items() if len(rows) < MIN_SONGS}


def quiet_stems(scores: Sequence[Score]) -> list[Score]:
    """The scores of stems that sound, but so far below the others that they are not ranked, the loudest first."""
    quiet = [score for score in scores if _is_quiet(score)]
    return sorted(quiet, key=lambda score: (-(score.mixture_nsdr or 0.0), score.track_id, score.source))


def _is_quiet(score: Score) -> bool:
    """By the mixture's own score, which is the stem's level against the sum of the others."""
    return score.nsdr is not None and score.mixture_nsdr is not None and score.mixture_nsdr < MIN_LEVEL_DB


def require_enough(num_songs: int, what: str) -> None:
    """InputError where so few songs do not tell which of them stand out."""
    if num_songs < MIN_SONGS:
        raise InputError(f"{what} has {num_songs} songs; to tell which of them stand out it needs at least {MIN_SONGS}")


def _sounding(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """By source, the scores of songs in which it sounds and is not quiet."""
    by_source: dict[str, list[Score]] = {}
    for score in scores:
        rows = by_source.setdefault(score.source, [])
        if score.nsdr is not None and score.ceiling_nsdr is not None and not _is_quiet(score):
            rows.append(score)
    return by_source


def _of_source(sounding: Sequence[Score], source: str) -> list[ScoreOutlier]:
    nsdr_N, oracle_N = (np.array([getattr(score, name) for score in sounding]) for name in ("nsdr", "ceiling_nsdr"))
    low, high = np.percentile(oracle_N, (25, 75))
    oracle_N = np.minimum(oracle_N, high + _FENCE_IQRS * (high - low))
    slope = _slope(nsdr_N, oracle_N)
    expected_N = np.median(nsdr_N - slope * oracle_N) + slope * oracle_N
    residual_N = nsdr_N - expected_N
    deviation_N = residual_N / max(_SIGMAS_OF_MAD * np.median(np.abs(residual_N)), _MIN_SIGMA_DB)
    return [
        ScoreOutlier(
            track_id=score.track_id, title=score.title, source=source,
            nsdr=float(nsdr), expected_nsdr=float(expected), deviation=float(deviation),
        )
        for score, nsdr, expected, deviation in zip(sounding, nsdr_N, expected_N, deviation_N, strict=True)
    ]  # fmt: skip


def _slope(nsdr_N: NDArray[np.float64], oracle_N: NDArray[np.float64]) -> float:
    """Of the line that the scores follow: the median over songs of each one's median slope to all others."""
    from scipy.stats import siegelslopes

    places = np.lexsort((nsdr_N, oracle_N))
    fitted = places[np.linspace(0, len(places) - 1, min(len(places), _MAX_FITTED)).round().astype(int)]
    return float(siegelslopes(nsdr_N[fitted], oracle_N[fitted]).slope) if np.ptp(oracle_N[fitted]) else 0.0
