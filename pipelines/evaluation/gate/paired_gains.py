"""A first model's gains over a second, song by song, on the songs that neither was trained with."""

import fnmatch
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace

from datasets.errors import InputError
from pipelines.evaluation.gate.gate_config import GateConfig
from pipelines.evaluation.paired_bootstrap import Difference, difference
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from pipelines.evaluation.summary import ScoreSummary, SongScore, SourceScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """A first model's gains over a second, song by song, in dB of nSDR."""

    gain: Difference
    songs: Mapping[str, float]  # mean over sources, by track id
    sources: Mapping[str, Difference]
    slices: Mapping[str, Difference]
    left_out: tuple[str, ...]


def compare(
    candidate: ScoreSummary,
    champion: ScoreSummary,
    config: GateConfig,
    *,
    left_out: Collection[str] = (),
    noise: SeedNoise | None = None,
) -> Pairs:
    """What the first of two, scored alike, gains over the second; InputError where they were not scored alike.

    The bounds of the mean gain allow for seeds as well, those of sources for songs alone: they are compared with a
    tolerance, and claim nothing.
    """
    noise = noise or seed_noise([], config.seed_noise_db)
    require_comparable(candidate, champion)
    left_out = tuple(sorted(set(left_out) & candidate.songs.keys()))
    theirs = champion.songs
    gains = {  # of the sources that sound in a song
        track_id: {source: nsdr - theirs[track_id].nsdr[source] for source, nsdr in score.nsdr.items()}
        for track_id, score in _remaining(candidate, left_out).items()
    }
    means = {track_id: statistics.fmean(gain.values()) for track_id, gain in gains.items() if gain}
    if not means:
        raise InputError(f"no stem sounds in any of the {plural(gains)}: score songs whose stems are above -60 dBFS")
    by_source = {source: [gain[source] for gain in gains.values() if source in gain] for source in candidate.sources}

    def over(values: Sequence[float]) -> Difference:
        return difference(values, confidence=config.confidence)

    return Pairs(
        gain=difference(list(means.values()), confidence=config.confidence, seed_noise_db=noise.std_db),
        songs=means,
        sources={source: over(values) for source, values in by_source.items() if values},
        slices={
            name: over([means[track_id] for track_id in members])
            for name, members in _slices({track_id: candidate.songs[track_id] for track_id in means}, config).items()
        },
        left_out=left_out,
    )


def _remaining(summary: ScoreSummary, left_out: Collection[str]) -> dict[str, SongScore]:
    """The songs that are not left out; InputError where none remains."""
    songs = {track_id: score for track_id, score in summary.songs.items() if track_id not in left_out}
    if not songs:
        raise InputError(
            f"no song is left to score: each of the {plural(summary.songs)} was trained with; score on songs that were "
            "not, such as those of another corpus.test_fraction or corpus.root"
        )
    return songs


def over_remaining(summary: ScoreSummary, left_out: Collection[str]) -> ScoreSummary:
    """The scores over the songs that are not left out: the nSDR, on which alone the gate decides."""
    songs = _remaining(summary, left_out)
    if len(songs) == len(summary.songs):
        return summary

    def over(source: str) -> SourceScore:
        counted = [song for song in songs.values() if source in song.nsdr]
        floors = [song.mixture_nsdr[source] for song in counted if source in song.mixture_nsdr]
        return SourceScore(
            nsdr=_mean(song.nsdr[source] for song in counted),
            mixture_nsdr=_mean(floors) if floors or not counted else summary.sources[source].mixture_nsdr,
            sdr=None,
            mixture_sdr=None,
            num_songs=len(counted),
        )

    sources = {source: over(source) for source in summary.sources}
    overall = SourceScore(
        nsdr=_mean(score.nsdr for score in sources.values() if score.nsdr is not None),
        mixture_nsdr=_mean(score.mixture_nsdr for score in sources.values() if score.mixture_nsdr is not None),
        sdr=None,
        mixture_sdr=None,
        num_songs=sum(bool(song.nsdr) for song in songs.values()),
    )
    return replace(summary, songs=songs, sources=sources, overall=overall)


def _mean(values: Iterable[float]) -> float | None:
    present = list(values)
    return statistics.fmean(present) if present else None


def require_comparable(candidate: ScoreSummary, champion: ScoreSummary) -> None:
    if candidate.protocol != champion.protocol:
        raise InputError(
            f"the candidate was scored under {candidate.protocol!r}, the champion under {champion.protocol!r}: score "
            "both under one protocol"
        )
    if candidate.dataset_digest != champion.dataset_digest or candidate.songs.keys() != champion.songs.keys():
        only = sorted(candidate.songs.keys() ^ champion.songs.keys())
        why = f"{plural(only)} scored for one of them only, such as {only[0]!r}" if only else "the audio differs"
        raise InputError(f"candidate and champion were scored on different songs ({why}): score both again")
    if set(candidate.sources) != set(champion.sources):
        raise InputError(
            f"the candidate separates {sorted(candidate.sources)}, the champion {sorted(champion.sources)}: "
            "their sources differ; they cannot be compared. Set another registry.name"
        )


def _slices(songs: Mapping[str, SongScore], config: GateConfig) -> dict[str, list[str]]:
    """Quarters of the songs, from eight on: the quietest, the longest, the shortest; and what the settings name."""
    slices: dict[str, list[str]] = {}
    quarter = len(songs) // 4
    if quarter >= 2:
        by_level = sorted(songs, key=lambda track_id: (songs[track_id].level_db, track_id))
        by_length = sorted(songs, key=lambda track_id: (songs[track_id].duration_s, track_id))
        slices = {"quiet": by_level[:quarter], "short": by_length[:quarter], "long": by_length[-quarter:]}
    for name, patterns in config.slices.items():
        members = [
            track_id for track_id in songs if any(fnmatch.fnmatchcase(track_id, pattern) for pattern in patterns)
        ]
        if len(members) >= 2:  # one song alone has no confidence bound
            slices[name] = members
    return slices


def plural(songs: Sized | int) -> str:
    """ "1 song", "2 songs"."""
    count = songs if isinstance(songs, int) else len(songs)
    return f"{count} song{'s' if count != 1 else ''}"
