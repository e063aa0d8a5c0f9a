"""A song to chunk rows and back: cut into stretches of 30 s, every stem of a stretch as FLAC in one row.

`song_rows` is for stems in memory, `decode_track` for files, which it decodes side by side so that memory
holds one stretch of one song as samples, whatever its length. How rows become files is in `shards.py`.

A song is stored with 16 bits when none of its files has more or is coded without loss in more: what rounding
leaves, at -98 dB, lies under the noise of the codecs. A 16-bit file at the store's rate comes back bit for bit;
a resampled one is rounded, without dither, so that the same files make the same bytes. All other songs are stored
with 24 bits, and so is a chunk whose sum of stems' files passes full scale.
"""

import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import AudioInfo, Integers, Samples
from datasets.audio.decoding import decode_blocks, integer_blocks, probe
from datasets.audio.flac_frames import decode_frames, frame_offsets, frames_around
from datasets.audio.mono_mix import Cancellation
from datasets.audio.surround import downmix_gains, downmix_note, is_surround
from datasets.audio.writers import encode_flac
from datasets.corpus.stem_names import without_side
from datasets.errors import AudioError
from datasets.schema import SCHEMA_VERSION, StemFile, Track
from datasets.shards.duplicate_stems import FileComparison, check_rates, comparisons_of, without_copies
from datasets.shards.start_delays import find_start_delays

Stem = Samples | Integers  # of one source, (C, T); integers as they are where nothing has to be done to them

CHUNK_S = 30
_FULL_SCALE = 1 << 15  # of 16-bit integers
_SILENCE_DB = -120.0
_RATES = (44100, 48000, 32000, 96000, 22050)  # that files have as a rule, the most usual first
_SAME_LENGTH = 0.001
_ACTIVE_DB = -40.0  # the presence rule of the published label-noise work


@dataclass(frozen=True, slots=True, kw_only=True)
class SongHeader:
    """What all rows of one song have in common."""

    track_id: str
    title: str
    split: str
    license: str
    origin: str  # "corpus" or "automix"
    sample_rate: int


def song_rows(
    stems_SCT: Samples, header: SongHeader, *, sources: Sequence[str], chunk_s: float = CHUNK_S, bits: int = 24
) -> list[dict[str, Any]]:
    """Rows of table CHUNKS for stems in memory, in the order of `sources`, rounded to `bits` (16 or 24)."""
    size = round(chunk_s * header.sample_rate)
    stretches = (list(stems_SCT[:, :, start : start + size]) for start in range(0, stems_SCT.shape[2], size))
    return list(_rows(stretches, header, sources=sources, bits=bits))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedTrack:
    """A song as rows of table CHUNKS, and what its files were."""

    rows: list[dict[str, Any]]
    remarks: tuple[str, ...]  # what was left out or changed on the way, in words
    bits: int  # 16 or 24: the deepest of its files
    lossless: bool  # the codec of each file that is used
    sample_rate: int  # Hz, of its files


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What files are decoded to."""

    sample_rate: int
    channels: int
    block_samples: int  # of a stretch
    resample_quality: str


def track_rows(track: Track, *, sources: Sequence[str], sample_rate: int, **options: Any) -> list[dict[str, Any]]:
    """The rows of `decode_track` alone."""
    return decode_track(track, sources=sources, sample_rate=sample_rate, **options).rows


def decode_track(
    track: Track,
    *,
    sources: Sequence[str],
    sample_rate: int,
    channels: int = 2,
    chunk_s: float = CHUNK_S,
    min_song_s: float = 1.0,
    resample_quality: str = "HQ",
    bits: int | str = "source",
) -> DecodedTrack:
    """Rows of table CHUNKS for the files of a track; AudioError with its reason when they are not one whole song.

    Of files of one source that hold the same audio one is used, which takes a second reading of such a song. Files that
    may begin at different times are read before, with the track's mixture if it has one (`start_delays.py`). `bits` is
    16, 24, or "source" for what the files hold. The rows, as FLAC, are in memory until the last file is known to be
    whole: about 14 MB per minute of four stereo stems of 16 bits.
    """
    infos = probe_stems(track, sources)
    starts = find_start_delays(track, infos)
    deepest = max(info.bits for info in infos.values())
    header = SongHeader(
        track_id=track.track_id,
        title=track.title,
        split=track.split,
        license=track.license,
        origin="corpus",
        sample_rate=sample_rate,
    )
    comparisons = comparisons_of(track, sources, sample_rate=sample_rate)
    block_samples = round(chunk_s * sample_rate)
    target = _Target(
        sample_rate=sample_rate, channels=channels, block_samples=block_samples, resample_quality=resample_quality
    )

    def rows_of(track: Track, comparisons: Mapping[str, FileComparison]) -> list[dict[str, Any]]:
        stretches = _stretches(track, infos, starts.samples, target, sources=sources, comparisons=comparisons)
        with closing(stretches):
            return list(_rows(stretches, header, sources=sources, bits=deepest if bits == "source" else int(bits)))

    rows = rows_of(track, comparisons)
    distinct, remarks = without_copies(track, infos, comparisons)
    if remarks:
        rows.clear()  # or both readings are in memory
        rows = rows_of(distinct, {})
    _check_length(rows, sample_rate, min_song_s)
    rate = min(info.sample_rate for info in infos.values())
    remarks += tuple(f"{file.path}: {downmix_note(info)}" for file, info in infos.items() if is_surround(info))
    remarks += starts.remarks
    lossless = all(infos[file].lossless for source in sources for file in distinct.stems[source])
    return DecodedTrack(rows=rows, remarks=remarks, bits=deepest, lossless=lossless, sample_rate=rate)


def _check_length(rows: Sequence[Mapping[str, Any]], sample_rate: int, min_song_s: float) -> None:
    """AudioError "too_short" where a song has no samples, or fewer than asked for."""
    num_samples = sum(row["num_samples"] for row in rows)
    if not num_samples:
        raise AudioError("too_short", "no samples at all")
    if num_samples < min_song_s * sample_rate:
        have_s = num_samples / sample_rate
        raise AudioError("too_short", f"{have_s:.2f} s; the shortest song allowed has {min_song_s} s")


def stems_of(
    row: Mapping[str, Any], sources: Sequence[str], *, start: int = 0, num_samples: int | None = None
) -> Samples:
    """Stems_SCT of a row, or a part of them counted from the row's first sample; only their frames are decoded."""
    rest = max(0, row["num_samples"] - start)
    num_samples = rest if num_samples is None else min(num_samples, rest)
    stems_SCT = np.empty((len(sources), row["channels"], num_samples), np.float32)
    if num_samples:
        first, stop, skip = frames_around(start, num_samples)
        for stem_CT, source in zip(stems_SCT, sources, strict=True):
            offsets = offsets_in(row[f"{source}_frames"])
            frames = row[source][offsets[first] : offsets[stop]]
            decode_frames(frames, stem_CT, first=first, skip=skip, scale=row["scale"])
    return stems_SCT


def offsets_in(frames: bytes) -> NDArray[np.uint32]:
    """What a `<source>_frames` column holds: where each frame begins in the FLAC, and the FLAC's length."""
    return np.frombuffer(frames, "<u4")


def _rows(
    stretches: Iterable[Sequence[Stem]], header: SongHeader, *, sources: Sequence[str], bits: int
) -> Iterator[dict[str, Any]]:
    start = 0
    for index, stems in enumerate(stretches):
        assert len(stems) == len(sources), len(stems)
        channels, num_samples = stems[0].shape
        peaks = [_peak(stem_CT) for stem_CT in stems]
        # A power of two moves no mantissa bit, so dividing by it loses nothing.
        scale = float(2.0 ** max(0, np.ceil(np.log2(max(*peaks, 1e-9)))))
        scaled: Sequence[Stem] = stems if scale == 1 else [_floats(stem_CT) / np.float32(scale) for stem_CT in stems]
        depth = bits if scale == 1 else 24
        audio = [encode_flac(stem_CT, sample_rate=header.sample_rate, bits=depth) for stem_CT in scaled]
        row: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "track_id": header.track_id,
            "title": header.title,
            "split": header.split,
            "license": header.license,
            "origin": header.origin,
            "index": index,
            "start_samples": start,
            "num_samples": num_samples,
            "sample_rate": header.sample_rate,
            "channels": channels,
            "bits": depth,
            "scale": scale,
        }
        for source, stem_CT, peak, flac in zip(sources, stems, peaks, audio, strict=True):
            row[f"{source}_rms_db"], row[f"{source}_activity"] = _level(stem_CT, header.sample_rate)
            row[f"{source}_peak"], row[f"{source}_crc32"] = peak, zlib.crc32(flac)
            row[f"{source}_frames"] = frame_offsets(flac).astype("<u4").tobytes()
            row[source] = flac
        yield row
        start += num_samples


def _peak(stem_CT: Stem) -> float:
    values_CT, full_scale = (stem_CT.ints_CT, _FULL_SCALE) if isinstance(stem_CT, Integers) else (stem_CT, 1)
    return max(float(values_CT.max()), -float(values_CT.min())) / full_scale


def _floats(stem_CT: Stem) -> Samples:
    return stem_CT.floats() if isinstance(stem_CT, Integers) else stem_CT


def _level(stem_CT: Stem, sample_rate: int) -> tuple[float, float]:
    """RMS in dBFS, and the share of the time that lies in seconds of more than -40 dBFS."""
    values_CT = stem_CT.ints_CT if isinstance(stem_CT, Integers) else stem_CT
    seconds = [values_CT[:, start : start + sample_rate] for start in range(0, stem_CT.shape[1], sample_rate)]
    powers = np.array([_power(second_CT) for second_CT in seconds])
    shares = np.array([second_CT.shape[1] for second_CT in seconds]) / stem_CT.shape[1]
    power = float(powers @ shares)
    rms_db = max(_SILENCE_DB, 10 * float(np.log10(power))) if power > 0 else _SILENCE_DB
    return rms_db, float(shares[powers > 10 ** (_ACTIVE_DB / 10)].sum())


def _power(second_CT: Samples | NDArray[np.int16]) -> float:
    """Mean square, of full scale."""
    if second_CT.dtype == np.int16:
        wide_CT = second_CT.astype(np.int64)
        return int(np.einsum("ct,ct->", wide_CT, wide_CT)) / (second_CT.size * _FULL_SCALE**2)
    return float(np.square(second_CT).mean())


def probe_stems(track: Track, sources: Sequence[str]) -> dict[StemFile, AudioInfo]:
    """What each file of a track says of itself; AudioError unless all state one rate, and their channels can be stored.

    More than two channels are mixed down while they are decoded, where the file says which is which.
    """
    named = {f"{source} ({file.path})": file for source in sources for file in track.stems[source]}
    infos = {file: probe(file.path, stream=file.stream) for file in named.values()}
    for name, file in named.items():
        if is_surround(infos[file]):
            downmix_gains(infos[file], name)  # or it is refused
    check_rates(track, infos)
    rates = {name: infos[file].sample_rate for name, file in named.items()}
    if len(set(rates.values())) > 1:
        raise AudioError("rate_mismatch", ", ".join(f"{name}: {rate} Hz" for name, rate in rates.items()))
    return infos


class _Pair:
    """Mono files of a left and a right side, which the store's one channel joins as a stereo file's two are."""

    def __init__(self, files: Sequence[StemFile]) -> None:
        names = " and ".join(sorted({Path(file.path).name for file in files}))
        self.lost = Cancellation(f"{names}: the two sides")
        self._num_files, self._waiting = len(files), len(files)
        self._sides_CT: Samples | None = None

    def add(self, side: str | None, block_CT: Stem | None, block_samples: int) -> None:
        """Hear the next block of one of the files; each has one, or None, in every stretch."""
        if isinstance(block_CT, np.ndarray):
            if self._sides_CT is None:
                self._sides_CT = np.zeros((2, block_samples), np.float32)
            self._sides_CT[int(side == "right"), : block_CT.shape[1]] += block_CT[0]
        self._waiting -= 1
        if self._waiting == 0:
            if self._sides_CT is not None:
                self.lost.add(self._sides_CT)
            self._waiting, self._sides_CT = self._num_files, None


@dataclass(slots=True, kw_only=True)
class _Part:
    """One file on its way into the sum of its source."""

    source: str
    file: StemFile
    name: str  # of the file
    position: int  # of the source
    index: int  # of the file in its source
    comparison: FileComparison | None  # with the other files of its source
    blocks: Iterator[Stem]
    gains_C1: Samples | None
    pairs: Sequence[_Pair] = ()  # that the file belongs to
    num_samples: int = 0  # decoded so far
    ended: bool = False


def _stretches(
    track: Track,
    infos: Mapping[StemFile, AudioInfo],
    late: Mapping[StemFile, int],
    target: _Target,
    *,
    sources: Sequence[str],
    comparisons: Mapping[str, FileComparison],
) -> Generator[list[Stem], None, None]:
    """All sources of the same stretch, read from all files at once; the files of one source are summed.

    A mono file goes into both channels as it is (0 dB), or into one alone if its name says which side it is. What
    a file of 16-bit integers holds stays as it is where nothing has to be done to it. AudioError after the last stretch
    where one channel is asked for and the files of two sides cancel each other.
    """
    slack, channels = round(track.pad_s * target.sample_rate), target.channels
    stated_s = max((info.num_samples / info.sample_rate for info in infos.values()), default=0.0)
    with ExitStack() as stack:
        parts = []
        for position, source in enumerate(sources):
            files = track.stems[source]
            pairs = _pairs([file for file in files if infos[file].channels == 1]) if channels == 1 else {}
            for index, file in enumerate(files):
                name, gains_C1 = Path(file.path).name, _gains(file, infos[file], channels)
                alone = len(files) == 1 and gains_C1 is None
                blocks = _blocks(file, infos[file], target, untouched=alone, late=late.get(file, 0))
                stack.callback(blocks.close)
                parts.append(
                    _Part(
                        source=source, file=file, name=name, position=position, index=index, blocks=blocks,
                        gains_C1=gains_C1, pairs=pairs.get(file, ()), comparison=comparisons.get(source),
                    )
                )  # fmt: skip
        done = 0
        while not all(part.ended for part in parts):
            stems: list[Stem] = [np.zeros((channels, 0), np.float32)] * len(sources)
            for part in parts:
                _add_block(part, stems, target.block_samples)
            for comparison in comparisons.values():
                comparison.end_stretch()
            longest = max(part.num_samples for part in parts)
            _check_ends(parts, longest, slack, target.sample_rate, stated_s=stated_s)
            if longest > done:
                yield [_as_long(stem_CT, longest - done) for stem_CT in stems]
            done = longest
        for pair in dict.fromkeys(pair for part in parts for pair in part.pairs):
            pair.lost.check()


def _pairs(files: Sequence[StemFile]) -> dict[StemFile, list[_Pair]]:
    """The pairs of sides that each mono file of one source belongs to: that of its name, and that of all of them."""
    sided = [file for file in files if file.side is not None]
    named: dict[str, list[StemFile]] = {}
    for file in sided:
        named.setdefault(without_side(file.path), []).append(file)
    pairs: dict[StemFile, list[_Pair]] = {file: [] for file in sided}
    for members in [*named.values(), sided] if len(named) > 1 else named.values():
        if len({file.side for file in members}) == 2:
            pair = _Pair(members)
            for file in dict.fromkeys(members):
                pairs[file].append(pair)
    return pairs


def _blocks(
    file: StemFile, info: AudioInfo, target: _Target, *, untouched: bool, late: int
) -> Generator[Stem, None, None]:
    """The file's samples at the store's rate; as integers where it holds them and they go in untouched."""
    if info.integers and untouched and (info.sample_rate, info.channels) == (target.sample_rate, target.channels):
        yield from integer_blocks(file.path, block_samples=target.block_samples)
        return
    yield from decode_blocks(
        file.path, sample_rate=target.sample_rate, channels=target.channels, stream=file.stream,
        block_samples=target.block_samples, resample_quality=target.resample_quality, late=late,
    )  # fmt: skip


def _add_block(part: _Part, stems: list[Stem], block_samples: int) -> None:
    """Adds the part's next block to its source; one file's block is in memory at a time."""
    block_CT = None if part.ended else next(part.blocks, None)
    length = 0 if block_CT is None else block_CT.shape[1]
    part.num_samples += length
    part.ended = length < block_samples
    for pair in part.pairs:
        pair.add(part.file.side, block_CT, block_samples)
    if block_CT is None:
        return
    if part.comparison:
        part.comparison.add(part.index, _floats(block_CT))
    if isinstance(block_CT, Integers):
        assert part.gains_C1 is None, part.name
        stems[part.position] = block_CT
        return
    if part.gains_C1 is not None:
        block_CT = block_CT * part.gains_C1
    sum_CT = _floats(stems[part.position])
    if sum_CT.shape[1] < length:
        sum_CT, block_CT = block_CT, sum_CT
    sum_CT[:, : block_CT.shape[1]] += block_CT
    stems[part.position] = sum_CT


def _as_long(stem_CT: Stem, num_samples: int) -> Stem:
    """The stem with silence at its end; itself where it is as long as the others."""
    channels, have = stem_CT.shape
    if have == num_samples:
        return stem_CT
    values_CT = stem_CT.ints_CT if isinstance(stem_CT, Integers) else stem_CT
    padded_CT = np.concatenate([values_CT, np.zeros((channels, num_samples - have), values_CT.dtype)], axis=1)
    return Integers(padded_CT) if isinstance(stem_CT, Integers) else padded_CT


def _gains(file: StemFile, info: AudioInfo, channels: int) -> Samples | None:
    """What each channel takes of a mono file that is one half of a pair, shape (C, 1); None where all take all."""
    if file.side is None or info.channels != 1:
        return None
    if channels == 1:
        return np.full((1, 1), 0.5, np.float32)  # as the mean of the pair joined to stereo
    return np.array([[1], [0]] if file.side == "left" else [[0], [1]], np.float32)


def _check_ends(parts: Sequence[_Part], longest: int, slack: int, sample_rate: int, *, stated_s: float) -> None:
    """AudioError when a file has ended too long before the longest; at once, not after decoding the rest.

    `stated_s` is what the longest file says of its length, 0 where none says it.
    """
    short = [part for part in parts if part.ended and longest - part.num_samples > slack]
    if empty := [part.name for part in parts if part.ended and longest > 0 == part.num_samples]:
        raise AudioError("length_mismatch", f"no samples at all in {', '.join(empty)}, and others go on")
    if not short:
        return
    ends = ", ".join(f"{part.name}: {part.num_samples / sample_rate:.2f} s" for part in short)
    guess = _mistaken_rate(min(part.num_samples for part in short) / sample_rate, stated_s)
    raise AudioError(
        "length_mismatch",
        f"others last {longest / sample_rate:.2f} s or more, and these end more than corpus.pad_s="
        f"{slack / sample_rate:g} earlier: {ends}; all files of a song start together, and a larger corpus.pad_s "
        f"fills short ones with silence{guess}",
    )


def _mistaken_rate(short_s: float, long_s: float) -> str:
    """A guess where lengths are as usual sample rates are: a rate that is stated wrongly makes a file faster."""
    for slow, fast in map(sorted, combinations(_RATES, 2)):
        if abs(short_s * fast - long_s * slow) < _SAME_LENGTH * long_s * slow:
            return (
                f"; the lengths are as {slow} to {fast}: a file of {slow} Hz may say {fast} Hz, or one of {fast} Hz "
                f"{slow} Hz, and play at another speed and pitch"
            )
    return ""
