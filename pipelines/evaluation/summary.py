"""Scores of songs summed up: means and medians per source and over all of them."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from datasets.errors import InputError
from datasets.schema import Score
from datasets.store.strict_json import FORMER_NAME
from pipelines.evaluation import extra_metrics, song_scoring


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScore:
    """Scores over the songs in which a source sounds, in dB: nSDR as the mean (MDX 2021), SDR as the median over songs
    of medians over windows (SiSEC 2018); ISR, SIR and SAR as SDR, without songs on whose scores rounding errors decide.
    """

    nsdr: float | None  # None where the source is silent in every song
    mixture_nsdr: float | None  # of the unprocessed mixture as the estimate
    sdr: float | None  # None where no window of any song has a score
    mixture_sdr: float | None
    isr: float | None = None  # as sdr; None where they were not asked for
    sir: float | None = None
    sar: float | None = None
    ceiling_nsdr: float | None = None  # of the IRM2 oracle, a mask made from the true stems; no bound
    ceiling_sdr: float | None = None
    sdr_mean: float | None = None  # mean over songs of medians over windows
    si_sdr: float | None = None  # mean over songs
    si_sir: float | None = None  # as si_sdr; None where they were not asked for, as all up to fullness
    si_sar: float | None = None
    log_wmse: float | None = None
    aura_mrstft: float | None = None
    bleedless: float | None = None
    fullness: float | None = None
    # Where the stem is silent, relative to the mixture there: of the song that leaks most; over sources: the most
    leakage_db: float | None = None
    num_songs: int = 0  # that nsdr is the mean of: those in which the source sounds; over sources: any of them
    num_sdr_songs: int = 0  # that sdr is the median of
    plugin_scores: Mapping[str, float] = field(default_factory=dict)  # mean over songs, by the name of the plug-in
    # By the score of `extra_metrics`: songs that its mean is over. A muted estimate has no SI-SDR; empty over sources
    num_extra_songs: Mapping[str, int] = field(default_factory=dict)

    @property
    def improvement(self) -> float | None:
        """nSDR gained over the unprocessed mixture, in dB."""
        return None if self.nsdr is None or self.mixture_nsdr is None else self.nsdr - self.mixture_nsdr


@dataclass(frozen=True, slots=True, kw_only=True)
class SongScore:
    """What the gate looks at in one song."""

    nsdr: Mapping[str, float]  # per source that sounds in the song, dB
    leakage_db: Mapping[str, float]  # of sources with silent windows: the estimate in them, relative to the mixture
    duration_s: float
    level_db: float  # RMS of the mixture, dBFS
    mixture_nsdr: Mapping[str, float] = field(default_factory=dict)  # of the unprocessed mixture; empty: not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """What a model scored, and exactly on what."""

    model_digest: str
    dataset_digest: str
    protocol: str
    songs: Mapping[str, SongScore]  # by track id
    sources: Mapping[str, SourceScore]
    overall: SourceScore  # mean over sources
    size_bytes: int = 0  # of the files of the weights
    # Seconds of computing per second of song, on the machine that scored
    real_time_factor: float | None = field(default=None, metadata={FORMER_NAME: "real_time"})
    # Songs by what solved BSS Eval's equations, where all four scores were asked for; "lu": rounding errors decide.
    solvers: Mapping[str, int] = field(default_factory=dict)


def summarize(scores: Sequence[Score], model_digest: str, dataset_digest: str) -> ScoreSummary:
    """Means and medians over songs, per source and overall; all scores must be of one protocol."""
    protocols = {score.protocol for score in scores}
    if len(protocols) != 1:
        raise InputError(f"scores of {len(protocols)} protocols cannot be summed up: {sorted(protocols)}")
    by_source: dict[str, list[Score]] = {}
    for score in scores:
        by_source.setdefault(score.source, []).append(score)
    sources = {source: _over_songs(rows) for source, rows in by_source.items()}
    songs = _songs(scores)
    return ScoreSummary(
        model_digest=model_digest,
        dataset_digest=dataset_digest,
        protocol=protocols.pop(),
        songs=songs,
        sources=sources,
        overall=_over_sources(list(sources.values()), songs),
        solvers=dict(
            sorted(Counter({score.track_id: score.solver for score in scores if score.solver}.values()).items())
        ),
    )


def extra_scores(summary: ScoreSummary) -> dict[str, dict[str, float | None]]:
    """What `evaluate.extra_metrics` and `evaluate.plugins` asked for: scores by source and "mean", then by name.

    Empty below where nothing was.
    """
    names = extra_metrics.of_protocol(summary.protocol)
    return {
        source: {**{name: getattr(score, name) for name in names}, **score.plugin_scores}
        for source, score in {**summary.sources, "mean": summary.overall}.items()
    }


def _songs(scores: Sequence[Score]) -> dict[str, SongScore]:
    rows: dict[str, list[Score]] = {}
    for score in sorted(scores, key=lambda score: score.track_id):
        rows.setdefault(score.track_id, []).append(score)
    return {
        track_id: SongScore(
            nsdr={score.source: score.nsdr for score in own if score.nsdr is not None},
            leakage_db={score.source: score.leakage_db for score in own if score.leakage_db is not None},
            duration_s=own[0].duration_s,
            level_db=own[0].level_db,
            mixture_nsdr={score.source: score.mixture_nsdr for score in own if score.mixture_nsdr is not None},
        )
        for track_id, own in rows.items()
    }


def _over_songs(scores: Sequence[Score]) -> SourceScore:
    median, mean = statistics.median, statistics.fmean
    sound = [score for score in scores if score.solver != song_scoring.ILL_CONDITIONED]
    return SourceScore(
        nsdr=_over_known(mean, [score.nsdr for score in scores]),
        mixture_nsdr=_over_known(mean, [score.mixture_nsdr for score in scores]),
        ceiling_nsdr=_over_known(mean, [score.ceiling_nsdr for score in scores]),
        sdr=_over_known(median, [score.sdr for score in scores]),
        mixture_sdr=_over_known(median, [score.mixture_sdr for score in scores]),
        ceiling_sdr=_over_known(median, [score.ceiling_sdr for score in scores]),
        sdr_mean=_over_known(mean, [score.sdr for score in scores]),
        **{name: _over_known(mean, [getattr(score, name) for score in scores]) for name in extra_metrics.LABELS},
        isr=_over_known(median, [score.isr for score in sound]),
        sir=_over_known(median, [score.sir for score in sound]),
        sar=_over_known(median, [score.sar for score in sound]),
        leakage_db=_over_known(max, [score.leakage_db for score in scores]),
        plugin_scores=_means([score.plugin_scores for score in scores]),
        num_songs=sum(score.nsdr is not None for score in scores),
        num_sdr_songs=sum(score.sdr is not None for score in scores),
        num_extra_songs={
            name: sum(getattr(score, name) is not None for score in scores) for name in extra_metrics.LABELS
        },
    )


def _over_sources(scores: Sequence[SourceScore], songs: Mapping[str, SongScore]) -> SourceScore:
    """Mean over sources that have a score, score by score; of leakage the most."""
    counts = ("num_songs", "num_sdr_songs", "num_extra_songs", "plugin_scores")
    names = [field.name for field in fields(SourceScore) if field.name not in counts]
    means: dict[str, Any] = {
        name: _over_known(max if name == "leakage_db" else statistics.fmean, [getattr(score, name) for score in scores])
        for name in names
    }
    return SourceScore(
        **means,
        plugin_scores=_means([score.plugin_scores for score in scores]),
        num_songs=sum(bool(song.nsdr) for song in songs.values()),
        num_sdr_songs=max((score.num_sdr_songs for score in scores), default=0),
    )


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By name, the mean of those that have a score."""
    names = {name: None for own in scores for name in own}
    return {name: statistics.fmean(own[name] for own in scores if name in own) for name in names}


def _over_known(reduce: Any, values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(reduce(present)) if present else None
