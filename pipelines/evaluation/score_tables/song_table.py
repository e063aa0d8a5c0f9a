"""Scores of songs as a table with a row per song: what the registry keeps of an evaluation, and what is read from it.

Columns are `track_id`, `song`, `seconds`, then dB: `nsdr` and `improvement` over the unprocessed mixture, both means
over the sources that sound in the song, and `nsdr/SOURCE`, `mixture_nsdr/SOURCE` and `leakage_db/SOURCE`.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.schema import Score
from pipelines.evaluation.paired_bootstrap import difference

Row = Mapping[str, Any]
CONFIDENCE = 0.975  # of each bound: between the two lies the mean with 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInterval:
    """The mean nSDR of a source over songs, in dB, between bounds for other songs of the kind; of one song infinite."""

    source: str
    num_songs: int  # in which it sounds
    nsdr: float
    low: float
    high: float
    mixture_nsdr: float | None  # of the unprocessed mixture; None where that was not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class LoudestLeak:
    """The song in which an estimate is loudest, relative to the mixture, where its stem is silent."""

    source: str
    song: str
    leakage_db: float


def rows_of(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The table, the worst song first."""
    songs: dict[str, list[Score]] = {}
    for score in scores:
        songs.setdefault(score.track_id, []).append(score)
    rows = [_row(own) for own in songs.values()]
    return sorted(rows, key=lambda row: (row["nsdr"] is None, row["nsdr"] or 0.0, row["track_id"]))


def _row(scores: Sequence[Score]) -> dict[str, Any]:
    nsdr, floor = (_mean(getattr(score, name) for score in scores) for name in ("nsdr", "mixture_nsdr"))
    row = {
        "track_id": scores[0].track_id,
        "song": scores[0].title,
        "seconds": round(scores[0].duration_s, 3),
        "nsdr": nsdr,
        "improvement": None if nsdr is None or floor is None else nsdr - floor,
    }
    for name in ("nsdr", "mixture_nsdr", "leakage_db"):
        row |= {f"{name}/{score.source}": getattr(score, name) for score in scores}
    return row


def per_source(rows: Sequence[Row]) -> tuple[SourceInterval, ...]:
    """Means and bounds of the sources that sound in a song, in the order of the columns."""
    intervals = []
    for source in _sources(rows):
        values = _column(rows, f"nsdr/{source}")
        if values:
            over_songs = difference(values, confidence=CONFIDENCE)
            intervals.append(
                SourceInterval(
                    source=source,
                    num_songs=len(values),
                    nsdr=over_songs.mean,
                    low=over_songs.low,
                    high=over_songs.high,
                    mixture_nsdr=_mean(_column(rows, f"mixture_nsdr/{source}")),
                )
            )
    return tuple(intervals)


def silent_sources(rows: Sequence[Row]) -> tuple[str, ...]:
    """Sources that are silent in every song, of which nothing is known."""
    return tuple(source for source in _sources(rows) if not _column(rows, f"nsdr/{source}"))


def loudest_leaks(rows: Sequence[Row]) -> tuple[LoudestLeak, ...]:
    """Of each source that is silent for a while in some song."""
    leaks = []
    for source in _sources(rows):
        own = [(row[name], str(row["song"])) for row in rows if row.get(name := f"leakage_db/{source}") is not None]
        if own:
            leakage_db, song = max(own)
            leaks.append(LoudestLeak(source=source, song=song, leakage_db=leakage_db))
    return tuple(leaks)


def _sources(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name.removeprefix("nsdr/") for row in rows for name in row if name.startswith("nsdr/")))


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name) is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None
