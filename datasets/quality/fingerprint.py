"""Recognizes the same recording despite EQ, compression, codec, speed or pitch changes, or cuts.

A `FingerprintExtractor` keeps the landmarks of a song: triples of neighbouring spectral peaks. The two intervals in
semitones and the ratio of the two times survive transposition and change of speed (after Six and Leman, "Panako", ISMIR
2014; peaks after Wang, "An industrial-strength audio search algorithm", ISMIR 2003). `find_matches` looks for songs
that share landmarks in an index sorted by them, and believes a pair of songs only when one line in time, one speed and
one transposition explain what they share. Covers and other performances are not the same recording.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Signature = NDArray[np.uint64]  # the length in frames, then one landmark each; see `_FIELDS`

# Of signatures: raise it when the same recording gives another one (CONTRIBUTING.md)
VERSION = 1

RATE = 11025
WINDOW = 2048  # 0.19 s
HOP = 256  # 23 ms
FRAMES_PER_S = RATE / HOP
LOWEST_HZ = 220.0
BINS_PER_OCTAVE = 24
NUM_BINS = 96  # up to 3520 Hz: what every lossy codec keeps
PEAKS_PER_S = 8
_AROUND = (10, 6)  # frames and bins in each direction that a peak is the highest of: 0.23 s, 3 semitones
_QUIET = 3e-3  # magnitude below which nothing is a peak; a sine of about -110 dBFS
_BLOCK_S = 8
_REACH = (5, 65)  # frames between the first peak of a triple and the others: 0.12 to 1.5 s
_SPAN = 12.0  # semitones between the first peak and the others
_STEP = 0.5  # semitones; resolution of the intervals
_RATIOS = 12
# Bits of a landmark, from the lowest: frame, first pitch in eighths of a semitone, time to the third peak in frames,
# and what the index is sorted by: both intervals and the ratio.
_FIELDS = {"time": 20, "pitch": 9, "reach": 7, "hash": 18}
_PITCH_STEPS = 8
_MAX_SPEED = 0.06  # farthest from 1 that is believed
_MAX_SEMITONES = 1.6
_MIN_SHARED = 4  # rows of the index that make a pair worth a look,
_MIN_SHARE = 0.04  # and per landmark of the shorter song: of 3500 made-up songs one pair in 1000 shares 0.022 by chance
MIN_INLIERS = 8  # of different landmarks on one line; unrelated songs of 20 s had at most 4 of 700
_MIN_DENSITY = 0.03  # of the landmarks in the common stretch; unrelated 0.006 at most, copies 0.13 at least
_NEAR_LINE, _NEAR_PITCH = 16.0, 0.5  # frames and semitones from a line that is known
_COMMON = 12  # songs beyond which a landmark says nothing
_INDEX_ROWS = 8_000_000  # 64 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two songs that hold the same recording: from `start_s` to `stop_s` of the later one by name."""

    later: str
    first: str
    similarity: float  # share of the shorter song's sounding seconds that the other holds too
    later_share: float  # of the later song's sounding seconds that the first holds,
    first_share: float  # and of the first song's that the later one holds
    start_s: float
    stop_s: float
    first_start_s: float  # where `start_s` lies in the first song
    speed: float  # of the first song's audio in the later one: 1.03 is 3 % faster
    semitones: float  # that the later one is higher

    @property
    def words(self) -> str:
        """The evidence for a reader: where, and how the copy differs."""
        changes = [f"{self.speed - 1:+.1%} in speed"] if abs(self.speed - 1) > 0.004 else []
        changes += [f"{self.semitones:+.1f} semitones"] if abs(self.semitones) > 0.2 else []
        differs = f", {' and '.join(changes)}" if changes else ""
        where = f"{clock(self.start_s)}-{clock(self.stop_s)} is {self.first} from {clock(self.first_start_s)}"
        return f"{where}{differs}"


def clock(seconds: float) -> str:
    """Minutes and seconds as in 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def pack(signature: Signature) -> str:
    """A signature as text for JSON."""
    return base64.b64encode(signature.astype("<u8").tobytes()).decode()


def unpack(text: str) -> Signature:
    """The signature that `pack` made a text of."""
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)


# --- hearing ------------------------------------------------------------------------------------------------


class FingerprintExtractor:
    """The landmarks of a mono signal given in consecutive blocks, in bounded memory: some 2 MB and the landmarks."""

    def __init__(self, sample_rate: int) -> None:
        self._stream = soxr.ResampleStream(sample_rate, RATE, 1, dtype="float32") if sample_rate != RATE else None
        self._window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
        self._samples = np.zeros(WINDOW // 2, np.float32)  # frames are centered
        self._spectrum_NF = np.zeros((0, WINDOW // 2 + 1), np.float32)
        self._first = 0  # the frame that `_spectrum_NF` begins with
        self._done = 0  # frames searched for peaks
        self._peaks: list[Array] = []

    def add(self, mono_T: Samples) -> None:
        """Hear the next block."""
        self._hear(self._stream.resample_chunk(mono_T[:, None])[:, 0] if self._stream else mono_T)
        while self._first + len(self._spectrum_NF) >= (stop := self._block_end()) + _AROUND[0]:
            self._search(stop)

    def signature(self) -> Signature:
        """The landmarks of all that was heard; nothing can be added afterwards."""
        if self._stream:
            self._hear(self._stream.resample_chunk(np.zeros((0, 1), np.float32), last=True)[:, 0])
            self._stream = None
        self._hear(np.zeros(WINDOW // 2, np.float32))
        total = self._first + len(self._spectrum_NF)
        while self._done < total:
            self._search(min(self._block_end(), total))
        peaks = np.concatenate(self._peaks, axis=1) if self._peaks else np.zeros((2, 0))
        return np.concatenate([np.array([total], np.uint64), landmarks(*peaks)])

    def _hear(self, samples: Samples) -> None:
        self._samples = np.concatenate([self._samples, samples])
        if len(self._samples) < WINDOW:
            return
        from scipy.fft import rfft

        frames_NT = sliding_window_view(self._samples, WINDOW)[::HOP]
        self._spectrum_NF = np.concatenate([self._spectrum_NF, np.abs(rfft(frames_NT * self._window))])
        self._samples = self._samples[len(frames_NT) * HOP :]

    def _block_end(self) -> int:
        """The first frame of the next block; blocks end with a second, since peaks are ranked per second."""
        blocks = _second_of(np.array(self._done)) // _BLOCK_S + 1
        return -(-int(blocks) * _BLOCK_S * RATE // HOP)

    def _search(self, stop: int) -> None:
        frame, pitch = _find_peaks(self._spectrum_NF, self._done - self._first, stop - self._first, self._first)
        self._peaks.append(np.stack([frame, pitch]))
        self._done = stop
        keep = max(0, stop - self._first - _AROUND[0])
        self._spectrum_NF, self._first = self._spectrum_NF[keep:], self._first + keep


def _second_of(frame: Ints) -> Ints:
    return frame * HOP // RATE


def _find_peaks(spectrum_NF: Samples, start: int, stop: int, first: int) -> tuple[Array, Array]:
    """Frames (counted from the song's start) and pitches (semitones above LOWEST_HZ) of the strongest peaks."""
    from scipy.ndimage import maximum_filter

    steps = (np.arange(NUM_BINS + 1) - 0.5) / BINS_PER_OCTAVE
    edges = np.ceil(LOWEST_HZ * 2.0**steps * WINDOW / RATE).astype(np.int64)
    banded = np.maximum.reduceat(spectrum_NF[:, : edges[-1]], edges[:-1], axis=1)
    top = maximum_filter(banded, size=tuple(2 * around + 1 for around in _AROUND))
    is_peak = (banded == top) & (banded > _QUIET)
    is_peak[:, [0, -1]] = False
    is_peak[:start] = is_peak[stop:] = False
    frame, band = np.nonzero(is_peak)
    second = _second_of(frame + first)
    order = np.lexsort((-banded[frame, band], second))
    rank = np.arange(len(order)) - np.searchsorted(second[order], second[order])
    chosen = np.sort(order[rank < PEAKS_PER_S])
    frame, band = frame[chosen], band[chosen]
    return (frame + first).astype(np.float64), _pitches(spectrum_NF[frame], edges[band], edges[band + 1])


def _pitches(spectrum_NF: Samples, low: Ints, high: Ints) -> Array:
    """Semitones above LOWEST_HZ of the highest point of each row between two bins, by a parabola through it."""
    if not len(low):
        return np.zeros(0)
    rows = np.arange(len(low))
    columns = low[:, None] + np.arange(int((high - low).max()))
    inside = np.where(columns < high[:, None], spectrum_NF[rows[:, None], columns], -1.0)
    at = low + np.argmax(inside, axis=1)
    below, top, above = (np.log(spectrum_NF[rows, at + step].astype(np.float64) + 1e-9) for step in (-1, 0, 1))
    offset = np.clip(0.5 * (below - above) / np.minimum(below - 2 * top + above, -1e-9), -0.5, 0.5)
    result: Array = 12 * np.log2((at + offset) * RATE / WINDOW / LOWEST_HZ)
    return result


def landmarks(frame: Array, pitch: Array) -> Signature:
    """One 64-bit number for each triple of a peak and two of the next few after it."""
    num, near = len(frame), 4 * PEAKS_PER_S
    if num < 3:
        return np.zeros(0, np.uint64)
    order = np.lexsort((pitch, frame))
    frame, pitch = frame[order], pitch[order]
    after = np.minimum(np.arange(num)[:, None] + np.arange(1, near + 1), num - 1)
    reach, interval = frame[after] - frame[:, None], pitch[after] - pitch[:, None]
    fits = (reach >= _REACH[0]) & (reach < _REACH[1]) & (np.abs(interval) <= _SPAN)
    fits[:, 1:] &= after[:, 1:] > after[:, :-1]  # the last peak stands in for those beyond it
    place = np.cumsum(fits, axis=1)
    nth = [np.where((fits & (place == n)).any(axis=1), np.argmax(fits & (place == n), axis=1), -1) for n in (1, 2, 3)]
    found = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        first = np.flatnonzero((nth[one] >= 0) & (nth[other] >= 0))
        second, third = nth[one][first], nth[other][first]
        apart = reach[first, third] > reach[first, second] + 1
        first, second, third = first[apart], second[apart], third[apart]
        ratio = reach[first, second] / reach[first, third]
        steps = [np.rint(interval[first, which] / _STEP).astype(np.int64) + 64 for which in (second, third)]
        hashed = (steps[0] * 128 + steps[1]) * 16 + (ratio * _RATIOS).astype(np.int64)
        eighths = np.rint(pitch[first] * _PITCH_STEPS).astype(np.int64)
        found.append(_joined(frame[first].astype(np.int64), eighths, reach[first, third].astype(np.int64), hashed))
    return np.sort(np.concatenate(found))


def _joined(time: Ints, pitch: Ints, reach: Ints, hashed: Ints) -> Signature:
    shifts = np.cumsum([0, *_FIELDS.values()])
    fields = (np.maximum(pitch, 0), reach, hashed)
    result = (time & ((1 << _FIELDS["time"]) - 1)).astype(np.uint64)
    for field, shift in zip(fields, shifts[1:], strict=False):
        result |= field.astype(np.uint64) << np.uint64(shift)
    return result


def _field(landmarks: Signature, name: str) -> Ints:
    names = list(_FIELDS)
    shift = sum(_FIELDS[before] for before in names[: names.index(name)])
    return ((landmarks >> np.uint64(shift)) & np.uint64((1 << _FIELDS[name]) - 1)).astype(np.int64)


# --- comparing ----------------------------------------------------------------------------------------------


def find_duplicates(signatures: Mapping[str, Signature], *, min_similarity: float) -> dict[str, str]:
    """Songs that repeat the audio of another, each with the first of its kind in the order of names."""
    first_of: dict[str, str] = {}
    for match in find_matches(signatures, min_similarity=min_similarity):
        first = first_of.get(match.first, match.first)
        first_of[match.later] = min(first, first_of.get(match.later, first))
    return first_of


def find_matches(signatures: Mapping[str, Signature], *, min_similarity: float) -> tuple[Match, ...]:
    """Pairs of songs that hold the same recording in at least this share of the shorter one, by names.

    Sorting the landmarks of all songs takes most of the time, so that it grows little faster than their number.
    """
    if min_similarity > 1:
        return ()
    names = sorted(signatures)
    songs = [_Song.of(signatures[name]) for name in names]
    matches = []
    for one, other in _candidates([signatures[name][1:] for name in names]):
        match = _compare(songs[one], songs[other], names[one], names[other])
        if match and match.similarity >= min_similarity:
            matches.append(match)
    return tuple(sorted(matches, key=lambda match: (match.later, match.first)))


def _candidates(landmarks: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    """Pairs of songs, i < j, that share landmarks at nearly the same pitch and speed.

    Of many songs only every second, third ... hash is looked at, so that the index stays small: a copy shares hundreds.
    """
    step = 4 * sum(map(len, landmarks)) // _INDEX_ROWS + 1
    chosen = [marks[_field(marks, "hash") % step == 0] for marks in landmarks]
    if not chosen:
        return
    pair, shared = _shared(np.concatenate([_index_rows(marks, song) for song, marks in enumerate(chosen)]))
    counts = np.array([len(marks) for marks in chosen])
    one, other = pair >> _SONG_BITS, pair & ((1 << _SONG_BITS) - 1)
    enough = shared >= np.maximum(_MIN_SHARED, _MIN_SHARE * np.minimum(counts[one], counts[other]))
    yield from zip(one[enough].tolist(), other[enough].tolist(), strict=True)


_SONG_BITS = 24


def _index_rows(landmarks: Signature, song: int) -> Signature:
    """Each landmark in two cells of pitch and two of reach, which overlap: what differs little shares one of them."""
    pitch, reach = _field(landmarks, "pitch") / _PITCH_STEPS, np.log2(_field(landmarks, "reach") + 1e-9)
    hashed = _field(landmarks, "hash").astype(np.uint64)
    rows = []
    for pitch_grid in (0, 1):  # cells of 3 semitones that begin every 1.5
        for reach_grid in (0, 1):  # cells of a quarter of an octave that begin every eighth
            cell = (np.floor(pitch / 3 + pitch_grid / 2) * 2 + pitch_grid).astype(np.uint64)
            span = (np.floor(reach * 4 + reach_grid / 2) * 2 + reach_grid).astype(np.uint64)
            key = (hashed << np.uint64(12)) | (cell << np.uint64(6)) | span
            rows.append((key << np.uint64(_SONG_BITS)) | np.uint64(song))
    return np.unique(np.concatenate(rows))


def _shared(rows: Signature) -> tuple[Ints, Ints]:
    """Pairs of songs (two numbers in one) that stand under the same key, and how often."""
    rows.sort()
    keys = rows >> np.uint64(_SONG_BITS)
    songs = (rows & np.uint64((1 << _SONG_BITS) - 1)).astype(np.int64)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(keys)])
    pairs = []
    for length in range(2, _COMMON + 1):
        group = songs[starts[lengths == length][:, None] + np.arange(length)]
        one, other = np.triu_indices(length, 1)
        pairs.append(((group[:, one] << _SONG_BITS) | group[:, other]).ravel())
    pair, count = np.unique(np.concatenate(pairs), return_counts=True)
    return pair, count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Song:
    """The landmarks of a song in the order of their hashes."""

    hashed: Ints
    time: Ints
    pitch: Array
    reach: Ints

    @classmethod
    def of(cls, signature: Signature) -> "_Song":
        marks = signature[1:]
        marks = marks[np.argsort(_field(marks, "hash"), kind="stable")]
        pitch = _field(marks, "pitch") / _PITCH_STEPS
        return cls(hashed=_field(marks, "hash"), time=_field(marks, "time"), pitch=pitch, reach=_field(marks, "reach"))

    @property
    def seconds(self) -> Ints:
        """The seconds in which something sounds."""
        return np.unique(_second_of(self.time))


def _compare(first: _Song, later: _Song, first_name: str, later_name: str) -> Match | None:
    """How the later song repeats the first, or None."""
    a, b, semitones = _shared_marks(first, later)
    line = _line(first.time[a].astype(np.float64), later.time[b].astype(np.float64), semitones)
    if line is None:
        return None
    slope, shift, height, on_line = line
    times = later.time[b[on_line]]
    start, stop = int(times.min()), int(times.max())
    marks = min(
        _between(later.time, start, stop), _between(first.time, (start - shift) / slope, (stop - shift) / slope)
    )
    kinds = len(np.unique(later.hashed[b[on_line]]))  # one figure that both repeat is not one recording
    if kinds < MIN_INLIERS or on_line.sum() < _MIN_DENSITY * marks:
        return None
    shares = [_covered(song, place[on_line]) for song, place in ((later, b), (first, a))]
    shorter = shares[len(later.seconds) > len(first.seconds)]
    return Match(
        later=later_name,
        first=first_name,
        similarity=round(shorter, 3),
        later_share=round(shares[0], 3),
        first_share=round(shares[1], 3),
        start_s=round(start / FRAMES_PER_S, 1),
        stop_s=round(stop / FRAMES_PER_S, 1),
        first_start_s=round(max(0.0, (start - shift) / slope / FRAMES_PER_S), 1),
        speed=round(1 / slope, 3),
        semitones=round(height, 1),
    )


def _shared_marks(first: _Song, later: _Song) -> tuple[Ints, Ints, Array]:
    """Places of landmarks in both songs that agree in hash and nearly in pitch and speed, and their semitones apart."""
    low = np.searchsorted(later.hashed, first.hashed, side="left")
    many = np.searchsorted(later.hashed, first.hashed, side="right") - low
    a = np.repeat(np.arange(len(first.hashed)), many)
    b = np.repeat(low, many) + np.arange(len(a)) - np.repeat(np.cumsum(many) - many, many)
    semitones = later.pitch[b] - first.pitch[a]
    speed = first.reach[a] / later.reach[b]
    near = (np.abs(semitones) < _MAX_SEMITONES) & (np.abs(speed - 1) < _MAX_SPEED + 1.5 / first.reach[a])
    return a[near], b[near], semitones[near]


def marks_on_line(first: Signature, later: Signature, match: Match) -> tuple[int, int]:
    """Landmarks of two stems that lie where `match` of their songs has them, and the fewer of both in that stretch."""
    one, other = _Song.of(first), _Song.of(later)
    a, b, semitones = _shared_marks(one, other)
    start, stop, first_start = (s * FRAMES_PER_S for s in (match.start_s, match.stop_s, match.first_start_s))
    expected_at = start + (one.time[a] - first_start) / match.speed
    on_line = (np.abs(other.time[b] - expected_at) < _NEAR_LINE) & (np.abs(semitones - match.semitones) < _NEAR_PITCH)
    first_stop = first_start + (stop - start) * match.speed
    marks = min(_between(other.time, int(start), int(stop)), _between(one.time, int(first_start), int(first_stop)))
    return len(np.unique(b[on_line])), marks


def _line(x: Array, y: Array, semitones: Array) -> tuple[float, float, float, NDArray[np.bool_]] | None:
    """Slope, shift and transposition that most shared landmarks agree on, and which those are."""
    if not len(x):
        return None
    best: tuple[int, float, float, float] = (0, 1.0, 0.0, 0.0)
    height = np.rint((semitones + 2) / 0.25).astype(np.int64)  # from 1 to 15
    for slope in np.arange(0.95, 1.051, 0.01):
        shift = np.floor((y - slope * x) / 12).astype(np.int64)
        low = shift.min()
        cells = np.zeros((int(shift.max() - low) + 2, 18))
        np.add.at(cells, (shift - low, height), 1)
        wide = cells[:-1] + cells[1:]
        wide = wide[:, :-1] + wide[:, 1:]
        row, column = np.unravel_index(int(wide.argmax()), wide.shape)
        if wide[row, column] > best[0]:
            best = (wide[row, column], float(slope), 12.0 * (row + low + 1), (column + 0.5) * 0.25 - 2)
    _, slope, shift_frames, pitch = best
    for tolerance in (24.0, 16.0, 12.0, 12.0):
        on_line = (np.abs(y - slope * x - shift_frames) < tolerance) & (np.abs(semitones - pitch) < 0.3)
        if np.count_nonzero(on_line) < MIN_INLIERS:
            return None
        if np.ptp(x[on_line]) > 0:
            slope, shift_frames = (float(value) for value in np.polyfit(x[on_line], y[on_line], 1))
        pitch = float(np.median(semitones[on_line]))
    if abs(slope - 1) > _MAX_SPEED:
        return None
    return slope, shift_frames, pitch, on_line


def _between(times: Ints, start: float, stop: float) -> int:
    return int(np.count_nonzero((times >= start) & (times <= stop)))


def _covered(song: _Song, common: Ints) -> float:
    """Share of the sounding seconds with a common landmark within two seconds, and none before or after them all.

    Landmarks of one second would else stand for five, which is half of a song of ten.
    """
    seconds, times = song.seconds, song.time[common]
    heard = np.unique((_second_of(times)[:, None] + np.arange(-2, 3)).ravel())
    last = _second_of((times + song.reach[common]).max())
    heard = heard[(heard >= _second_of(times.min())) & (heard <= last)]
    return float(np.isin(seconds, heard).mean()) if len(seconds) else 0.0
