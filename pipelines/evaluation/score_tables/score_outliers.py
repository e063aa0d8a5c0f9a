"""Songs that a model separates far worse than they could be: stems under a wrong name, of another song, with a mix in.

How well a stem can be separated depends on the song, and the IRM2 oracle, a mask made from the true stems, says how
well. Over many songs a model's score follows the oracle's on a line. A stem far below it is not harder than others:
what the model gives for its name is something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.errors import InputError
from datasets.schema import Score

MIN_SONGS = 12  # in which a source sounds: of fewer, what is usual cannot be told
_IQR_SIGMAS = 1.349  # of a normal distribution
_MIN_SIGMA_DB = 0.1  # of songs that are all alike


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
    """Each song with a stem that sounds, once, the worst first.

    The line and the spread are those of medians, which a third of bad songs leaves where they are. InputError where
    a source sounds in fewer than `MIN_SONGS` songs.
    """
    worst: dict[str, ScoreOutlier] = {}
    for source in dict.fromkeys(score.source for score in scores):
        for outlier in _of_source([score for score in scores if score.source == source], source):
            before = worst.get(outlier.track_id)
            if before is None or outlier.deviation < before.deviation:
                worst[outlier.track_id] = outlier
    return sorted(worst.values(), key=lambda outlier: (outlier.deviation, outlier.track_id))


def require_enough(num_songs: int, what: str) -> None:
    """InputError where so few songs do not tell which of them stand out."""
    if num_songs < MIN_SONGS:
        raise InputError(f"{what} has {num_songs} songs; to tell which of them stand out it needs at least {MIN_SONGS}")


def _of_source(scores: Sequence[Score], source: str) -> list[ScoreOutlier]:
    from scipy.stats import siegelslopes

    sounding = [score for score in scores if score.nsdr is not None and score.ceiling_nsdr is not None]
    require_enough(len(sounding), f"the source {source}")
    nsdr_N, oracle_N = (np.array([getattr(score, name) for score in sounding]) for name in ("nsdr", "ceiling_nsdr"))
    slope = siegelslopes(nsdr_N, oracle_N).slope if np.ptp(oracle_N) else 0.0
    expected_N = np.median(nsdr_N - slope * oracle_N) + slope * oracle_N
    low, high = np.percentile(nsdr_N - expected_N, (25, 75))
    deviation_N = (nsdr_N - expected_N) / max((high - low) / _IQR_SIGMAS, _MIN_SIGMA_DB)
    return [
        ScoreOutlier(
            track_id=score.track_id, title=score.title, source=source,
            nsdr=float(nsdr), expected_nsdr=float(expected), deviation=float(deviation),
        )
        for score, nsdr, expected, deviation in zip(sounding, nsdr_N, expected_N, deviation_N, strict=True)
    ]  # fmt: skip
