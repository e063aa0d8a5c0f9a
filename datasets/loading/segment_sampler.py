"""Training windows out of stored chunks: which, from where, and as arrays.

The rows of a run are numbered: row r of step k is number k * batch_size + r. What number n is, is a pure function of
(seed, n): it does not matter how many workers share the rows of a step, in which order they read them, or where a run
was interrupted. An epoch is as many rows as fill the playing time once; they lie side by side, from a beginning that is
drawn anew for each epoch, and come in an order that is drawn anew as well.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.errors import InputError
from datasets.loading.crop_reader import read_crop, song_level
from datasets.loading.row_cache import RowCache
from datasets.loading.shard_layout import columns_of, layout_of, load_layouts
from datasets.schema import ShardSet
from datasets.seeding import row_rng
from datasets.shards.manifests import Song, read_songs

SILENCE = 1e-5  # a song's level below which it stays as it is: -100 dBFS
_KNOWN_ORDERS = 32  # of epochs: 1 MB each for 250 hours


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentIndex:
    """The songs to draw from, and the stretches of them with their chances; cheap to send to a worker."""

    songs: tuple[Song, ...]
    num_samples: int  # of all songs
    sources: tuple[str, ...]
    song_of: NDArray[np.int64]  # (P,): the song that a stretch lies in
    begin: NDArray[np.int64]  # (P,), samples
    end: NDArray[np.int64]  # (P,)
    # Running sums of chances that end at 1, shape (1 + S, P): for whole rows, then for a stem of each source.
    cumulative: NDArray[np.float64]

    @classmethod
    def open(
        cls,
        shard_sets: Iterable[tuple[ShardSet, float]],
        *,
        sources: Sequence[str],
        split: str,
        keep: Collection[str] | None = None,
        silence_weight: float = 1.0,
        segment_samples: int = 0,
    ) -> "SegmentIndex":
        """Songs of one split. Each chunk table gets its weight's share of the draws, each song its duration's.

        `keep` limits the songs further, by id. Time in which sources are silent (below -40 dBFS) counts
        `silence_weight` times: 1 looks at no levels, 0 leaves out chunks without any sound. InputError when no song is
        left, when songs differ in rate or channel count, lack a source, or are all shorter than `segment_samples`.
        """
        tables = [
            (weight, [song for song in songs if song.split == split and (keep is None or song.track_id in keep)])
            for weight, songs in ((_weight(weight, at), read_songs(at)) for at, weight in shard_sets)
            if weight > 0
        ]
        songs = [song for _, chosen in tables for song in chosen]
        if not songs:
            raise InputError(f"the {split} split is empty: add songs, or relax the rules of curate")
        _check_alike(songs, segment_samples)
        for first in {song.path.rpartition("/")[0]: song for song in songs}.values():
            columns_of(layout_of(first.path), first.path, sources)
        if silence_weight < 1:
            load_layouts(songs)
        parts, first_song = [], 0
        for weight, chosen in tables:
            stretches = [_stretches(song, sources, silence_weight) for song in chosen]
            chances = np.concatenate([chance for _, _, chance in stretches], axis=1) if stretches else np.empty((0, 0))
            totals = chances.sum(axis=1, keepdims=True)
            if chosen:
                _check_heard(totals, sources)
                numbers = np.repeat(np.arange(len(chosen)), [len(begin) for begin, _, _ in stretches]) + first_song
                begin, end = (np.concatenate([stretch[k] for stretch in stretches]) for k in (0, 1))
                parts.append((numbers, begin, end, weight * chances / totals))
            first_song += len(chosen)
        song_of, begin, end, chances = (np.concatenate([part[k] for part in parts], axis=-1) for k in range(4))
        cumulative = np.cumsum(chances, axis=1)
        return cls(
            songs=tuple(songs),
            num_samples=sum(song.num_samples for song in songs),
            sources=tuple(sources),
            song_of=song_of,
            begin=begin,
            end=end,
            cumulative=cumulative / cumulative[:, -1:],
        )

    @property
    def sample_rate(self) -> int:
        return self.songs[0].sample_rate

    @property
    def channels(self) -> int:
        return self.songs[0].channels

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate

    def epoch_rows(self, num_samples: int) -> int:
        """How many segments of this length fill the playing time of all songs."""
        return max(1, round(self.num_samples / num_samples))


def _weight(weight: float, address: ShardSet) -> float:
    if not 0 <= weight < math.inf:
        raise InputError(f"the weight of {address.uri} must be >= 0, got {weight}")
    return weight


def _check_alike(songs: Sequence[Song], segment_samples: int) -> None:
    kinds = {(song.sample_rate, song.channels) for song in songs}
    if len(kinds) > 1:
        raise InputError(f"songs differ in (rate, channels): {sorted(kinds)}; ingest them with one ingest.sample_rate")
    longest = max(song.num_samples for song in songs)
    if longest < segment_samples:
        rate = songs[0].sample_rate
        raise InputError(
            f"the longest song has {longest / rate:.2f} s and a row of training takes {segment_samples / rate:.2f} s "
            "(model.options.segment_s and what the augmentation adds); use longer songs or a shorter segment"
        )


def _stretches(
    song: Song, sources: Sequence[str], silence_weight: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Stretches of a song as begin (P,), end (P,) and weight (1 + S, P): the song, or its chunks by what sounds."""
    if silence_weight >= 1:
        return np.zeros(1, np.int64), np.array([song.num_samples]), np.full((1 + len(sources), 1), song.num_samples)
    layout = layout_of(song.path)
    begin = np.arange(song.num_chunks) * song.chunk_samples
    end = np.minimum(begin + song.chunk_samples, song.num_samples)
    rows = slice(song.first_row, song.first_row + song.num_chunks)
    active_SP = layout.activity[rows, columns_of(layout, song.path, sources)].T
    heard = silence_weight + (1 - silence_weight) * np.concatenate([active_SP.mean(axis=0, keepdims=True), active_SP])
    return begin, end, heard * (end - begin)


def _check_heard(totals: NDArray[np.float64], sources: Sequence[str]) -> None:
    silent = [source for source, total in zip(["any source", *sources], totals[:, 0], strict=True) if total <= 0]
    if silent:
        raise InputError(f"no stored second of {silent[0]} passes -40 dBFS: set train.silence_weight > 0, such as 0.1")


def read_row(
    out_SCT: Samples,
    index: SegmentIndex,
    *,
    seed: int,
    number: int,
    remix_all: float = 0.0,
    normalize: bool = False,
    cache: RowCache | None = None,
) -> int:
    """Fill out_SCT, zeros so far, with the row of this number; the number of bytes read for it.

    With `normalize` stems are divided by the level of the mixture of the song that they come from (`song_level`).
    """
    places = draw(index, seed=seed, number=number, num_samples=out_SCT.shape[2], remix_all=remix_all)
    whole = len(places) == 1
    num_bytes = 0
    for k, (song, start) in enumerate(places):
        stems = slice(None) if whole else slice(k, k + 1)
        num_bytes += read_crop(out_SCT[stems], song, start, index.sources[stems], cache)
        if normalize and (level := song_level(song, index.sources)) > SILENCE:
            out_SCT[stems] *= np.float32(1 / level)
    return num_bytes


def draw(
    index: SegmentIndex, *, seed: int, number: int, num_samples: int, remix_all: float = 0.0
) -> list[tuple[Song, int]]:
    """The song and the first sample of a row; with probability `remix_all` one for each source, else one for all.

    Rows that are not remixed are the same whatever the probability.
    """
    remixed = row_rng(seed, "remix-all", number).random() < remix_all
    streams = range(1, 1 + len(index.sources)) if remixed else (0,)
    return [_place(index, stream, seed=seed, number=number, num_samples=num_samples) for stream in streams]


def _place(index: SegmentIndex, stream: int, *, seed: int, number: int, num_samples: int) -> tuple[Song, int]:
    """Where a number falls: its place in the epoch's order, spread evenly over the chances, then over the stretch."""
    num_rows = index.epoch_rows(num_samples)
    epoch, turn = divmod(number, num_rows)
    chance = _order(seed, stream, epoch, num_rows)[turn]
    sums = index.cumulative[stream]
    stretch = min(int(np.searchsorted(sums, chance, side="right")), len(sums) - 1)
    before = sums[stretch - 1] if stretch else 0.0
    within = min(max((chance - before) / (sums[stretch] - before), 0.0), 1.0)
    song = index.songs[index.song_of[stretch]]
    instant = index.begin[stretch] + within * (index.end[stretch] - index.begin[stretch])
    room = max(0, song.num_samples - num_samples)
    # Squeezed, so that the instant lies within the segment and segments end where the song does.
    return song, min(room, int(instant * (room + 1) / song.num_samples))


@lru_cache(maxsize=_KNOWN_ORDERS)
def _order(seed: int, stream: int, epoch: int, num_rows: int) -> NDArray[np.float64]:
    """The chances of an epoch's rows, in their order: evenly spaced, from a beginning that each epoch has to itself."""
    rng = row_rng(seed, "order", stream, epoch)
    return (rng.permutation(num_rows) + rng.random()) / num_rows
