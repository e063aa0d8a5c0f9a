"""What is wrong with which stem, by the mixture that came with them.

The mixture, shifted by the delay that most stems agree on, is explained by least squares from the sum of the stems, in
nine bands with a filter each: an equalizer, a wider stereo image, a limiter or a codec changes all stems alike and is
no fault of one. A stem is at fault where the mixture is explained far better with that stem alone at another level,
upside down, with its channels exchanged, or left out; over the song, and in each second. What a stem lacks where it is
silent shows in what is left of the mixture there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.quality.alignment import SILENT_POWER, MixtureAlignment, thinned

Array = NDArray[np.float64]
Spectra = NDArray[np.complex128]

FRAMES_PER_S = 100  # in which holes are looked for
MIN_COMPARED_S = 2.0
ABSENT_DB = 60.0  # that a stem counts as too loud by of which the mixture holds nothing
_EDGES_HZ = (40, 100, 200, 350, 600, 1000, 1600, 2500, 3800, 5500)
_QUIET_BAND = 1e-5  # of the loudest band's energy, below which a band does not count
_MOST_WAITING = 12  # seconds that are held until the delay is clear,
_LOOKS = (2, 3, 4, 6, 9)  # that is looked for after this many
_LEVELS = 10 ** (np.arange(-24, 24.1, 1.5) / 20)
_GAINS = np.r_[0.0, _LEVELS, -_LEVELS[::2]]  # that a stem is tried at, over the song
_AT_ONCE = 60  # seconds that are tried with every change at one time: some 15 MB of four stereo stems
_SECOND_GAINS = np.r_[0.0, 10 ** (np.array([-12, -9, -6, -3, 3, 6, 9, 12]) / 20), -1.0]  # and in each second
_RIDGE = 1e-6
_IN_PLACE = 1.5  # times more that is left of the mixture without a stem which is in its place
_SURELY_IN_PLACE = 10.0  # times less that is left of it with a stem changed and not moved
_SMALL_RESIDUAL = 10**-4.5  # of the mixture: what the stems leave is no fault of any
_SONG_GAIN, _SECOND_GAIN = 2.0, 4.0  # times less that must be left once a stem is changed; masters reach 1.2
_ABSENT_GAIN = 1.05  # the same for a stem that is left out: what it should have been is not there to explain anything
_ABSENT_IN_SECOND = 1.2
_ABSENT_RESIDUAL = 0.1  # of the mixture, that must be left where a stem is another song's
_ABSENT = 0.18  # gains from here to as much below zero: -15 dB
_MIN_HOLE, _LONG_HOLE = 3, 50  # frames; a shorter hole than the long begins or ends abruptly
_HOLE = 1e-5  # of a stem's mean power, below which a frame is silent
_STEP = 1e-2  # of it, from which on the frame before or after a hole makes it a cut
_AROUND_HOLE = 2 * FRAMES_PER_S  # frames on each side that it is compared with
_LEFT_IN_HOLE = 4.0  # times what is left of the mixture there, as a share of it, that must be left in a hole,
_LEFT_OF_STEM = 0.05  # and of the stem's mean power
_DEAD = 1e-4  # of the other channel's power


@dataclass(frozen=True, slots=True, kw_only=True)
class StemFault:
    """What the mixture says against one stem: in the song, or in some seconds of it."""

    kind: str  # level, left_level, right_level, inverted, exchanged, left_dead, right_dead, absent, missing
    place: int  # of the stem
    gain_db: float = 0.0  # how much louder the stem is than in the mixture
    seconds: tuple[int, ...]  # where it is so
    num_s: float  # how long it is so
    times_less: float = 1.0  # that is left of the mixture with this stem changed


class MixtureFit:
    """Listens to stems (S, C, T) and their mixture (C, T), one second after the other."""

    def __init__(self, num_sources: int, sample_rate: int) -> None:
        self.alignment = MixtureAlignment(num_sources, sample_rate)
        self._rate = sample_rate
        self._step = self.alignment.step
        self._delay: int | None = None
        self._waiting: list[Samples] = []  # stems that are not compared yet
        self._mixture: list[Samples] = []  # the mixture, from the second before the first of them
        self._num_seconds = 0  # heard
        self._length = sample_rate // self._step  # of a second, thinned
        self._frame = max(1, self._length // FRAMES_PER_S)
        self._grams: list[Spectra] = []  # of each second and band, among the channels of stems and mixture
        self._powers: list[Samples] = []  # of frames: stems' channels, mixture's, and of what is left of it
        self._lengths: list[float] = []  # of the seconds, as far as there is a mixture
        self._products: list[Array] = []  # mixture squared, mixture times sum, sum squared
        self._ended = False
        self._faults: list[StemFault] | None = None

    def add(self, second_SCT: Samples, mixture_CT: Samples) -> None:
        """Hear the next second, or what is left of one at the song's end."""
        self._mixture = self._mixture or [mixture_CT[:, :0]]
        self._mixture.append(mixture_CT)
        self._waiting.append(second_SCT)
        self._num_seconds += 1
        if len(self._waiting) > 1:
            self._align(len(self._waiting) - 2)
        if self._delay is None and len(self._waiting) > _MOST_WAITING:
            self._decide(self.alignment.delay_samples() or 0)
        while self._delay is not None and len(self._waiting) > 1:
            self._compare_first()

    def _align(self, number: int) -> None:
        """Look for a waiting second in the mixture, and for the delay as long as it is not clear."""
        if self._waiting[number].shape[2] == self._rate:
            self.alignment.add(self._waiting[number], self._mixture[number : number + 3])
            if self._delay is None and self.alignment.num_windows in _LOOKS:
                self._decide(self.alignment.delay_samples())

    def _end(self) -> None:
        if self._ended or not self._num_seconds:
            return
        self._mixture.append(self._mixture[0][:, :0])
        self._align(len(self._waiting) - 1)
        if self._delay is None:
            self._decide(self.alignment.delay_samples() or 0)
        while self._waiting:
            self._compare_first()
        self._ended = True

    def _decide(self, coarse: int | None) -> None:
        """The delay to the sample, by the correlation of the waiting seconds with what is near the coarse one."""
        if coarse is None:
            return
        near = range(coarse - self._step, coarse + self._step + 1)
        sums = np.zeros(len(near))
        for number, stems_SCT in enumerate(self._waiting[: len(self._mixture) - 2]):
            total_CT = stems_SCT.sum(axis=0)
            for place, delay in enumerate(near):
                mixture_CT, _ = self._delayed(number, delay, total_CT.shape[1])
                sums[place] += np.einsum("ct,ct->", total_CT, mixture_CT, dtype=np.float64)
        self._delay = near[int(np.argmax(np.abs(sums)))] if sums.any() else coarse

    def _delayed(self, number: int, delay: int, length: int) -> tuple[Samples, slice]:
        """The mixture of a waiting second, so many samples later than the stems, and where it is known.

        Beyond the ends of its file it is not.
        """
        before, own, after = self._mixture[number : number + 3]
        start = before.shape[1] + delay
        parts = (before[:, max(0, start) :], own[:, max(0, delay) :], after[:, : max(0, delay + length - own.shape[1])])
        known_CT = np.concatenate(parts, axis=1)[:, : length - max(0, -start)]
        missing = max(0, -start)
        if known_CT.shape[1] == length:
            return known_CT, slice(0, length)
        padded_CT = np.pad(known_CT, ((0, 0), (missing, length - missing - known_CT.shape[1])))
        return padded_CT, slice(missing, missing + known_CT.shape[1])

    def _compare_first(self) -> None:
        stems_SCT = self._waiting.pop(0)
        assert self._delay is not None
        mixture_CT, known = self._delayed(0, self._delay, stems_SCT.shape[2])
        self._mixture.pop(0)
        if known.stop - known.start < stems_SCT.shape[2]:
            apart_SCT = np.zeros_like(stems_SCT)
            apart_SCT[:, :, known] = stems_SCT[:, :, known]
            stems_SCT = apart_SCT
        total_CT = stems_SCT.sum(axis=0)
        pairs = ((mixture_CT, mixture_CT), (mixture_CT, total_CT), (total_CT, total_CT))
        self._lengths.append((known.stop - known.start) / self._rate)
        self._products.append(np.array([np.einsum("ct,ct->", a, b, dtype=np.float64) for a, b in pairs]))
        num_channels, length = mixture_CT.shape
        # Each channel of stems and mixture, and last what the stems leave of it, as long as a second.
        heard_PT = np.zeros((stems_SCT.shape[0] * num_channels + 2 * num_channels, self._length), np.float32)
        thin = length // self._step
        heard_PT[: -2 * num_channels, :thin] = thinned(stems_SCT, self._step).reshape(-1, thin)
        heard_PT[-2 * num_channels : -num_channels, :thin] = thinned(mixture_CT, self._step)
        self._grams.append(_gram(heard_PT[:-num_channels]))
        for channel in range(num_channels):
            heard_PT[channel - num_channels] = _left_of_last(heard_PT[channel:-num_channels:num_channels])
        whole = self._length // self._frame * self._frame
        frames_PNT = heard_PT[:, :whole].reshape(len(heard_PT), -1, self._frame)
        self._powers.append(np.einsum("pnt,pnt->pn", frames_PNT, frames_PNT) / np.float32(self._frame))

    # --- what it says -------------------------------------------------------------------------------------

    def compared_s(self) -> float:
        """Seconds in which stems or mixture sound; fewer than MIN_COMPARED_S are too few to say anything."""
        self._end()
        sounds = [max(products[0], products[2]) > SILENT_POWER * self._rate for products in self._products]
        return sum(length for length, sound in zip(self._lengths, sounds, strict=True) if sound)

    def shifts_s(self) -> list[float | None]:
        """How much later than in the mixture each stem is; 0 for one that explains the mixture where it is."""
        self._end()
        shifts = self.alignment.shifts_s()
        if not any(shifts) or not self._grams:
            return shifts
        without = self._song.left_without()
        # Upside down, say, a stem in its place correlates best with another one.
        found = {fault.place for fault in self.faults() if fault.times_less > _SURELY_IN_PLACE}
        return [
            0.0 if shift and (more > _IN_PLACE or place in found) else shift
            for place, (shift, more) in enumerate(zip(shifts, without, strict=True))
        ]

    def residual_db(self) -> tuple[float, Array]:
        """What is left of the mixture without the stems at their best common gain, for the song and per second.

        0 dB when nothing of the mixture is in the stems.
        """
        self._end()
        products = np.stack(self._products) if self._products else np.zeros((1, 3))
        return float(_left_db(products.sum(axis=0))), _left_db(products)

    def faults(self) -> list[StemFault]:
        """Every stem that is not as the mixture has it, the gravest of each stem."""
        if self._faults is None:
            self._faults = self._find_faults() if self.compared_s() >= MIN_COMPARED_S else []
        return self._faults

    @cached_property
    def _song(self) -> "_Song":
        """All seconds together, once the last is heard."""
        return _Song(np.stack(self._grams).astype(np.complex128), num_channels=len(self._mixture[0]))

    def _find_faults(self) -> list[StemFault]:
        song = self._song
        throughout = list(song.faults())
        holes: dict[int, StemFault] = {}
        for fault in self._holes():
            holes.setdefault(fault.place, fault)  # a dead channel comes first, and is graver than a hole
        # A stem that is wrong throughout leaves more of the mixture in the holes of others, too.
        if any(fault.kind != "absent" or fault.place not in holes for fault in throughout):
            holes = {place: hole for place, hole in holes.items() if hole.kind != "missing"}
        absent = [fault for fault in throughout if fault.kind == "absent"]
        found = {fault.place: fault for fault in (*throughout, *holes.values(), *absent)}
        if not found:
            found = {fault.place: fault for fault in song.in_seconds()}
        return [found[place] for place in sorted(found)]

    def _holes(self) -> Iterator[StemFault]:
        """Stems that are silent, from one moment to the next or in a whole channel, where the mixture has more."""
        num_channels = len(self._mixture[0])
        powers_PN = np.concatenate(self._powers, axis=1).astype(np.float64)
        mixture_CN, left_CN = powers_PN[-2 * num_channels : -num_channels], powers_PN[-num_channels:]
        stems_SCN = powers_PN[: -2 * num_channels].reshape(-1, num_channels, powers_PN.shape[1])
        for place, stem_CN in enumerate(stems_SCN):
            mean = stem_CN.mean(axis=1)
            if mean.max() < SILENT_POWER:
                continue
            silent_N = np.zeros(stem_CN.shape[1], np.bool_)
            for channel in range(num_channels):
                if mean[channel] < _DEAD * mean.max():
                    yield from self._dead(place, channel, mean, left_CN)
                else:
                    silent_N |= _cuts(stem_CN[channel], mixture_CN[channel], left_CN[channel])
            if silent_N.any():
                seconds = np.unique(np.flatnonzero(silent_N) // (self._length // self._frame))
                yield StemFault(
                    kind="missing",
                    place=place,
                    seconds=tuple(seconds.tolist()),
                    num_s=float(silent_N.sum() * self._frame / self._length),
                )

    def _dead(self, place: int, channel: int, mean: Array, left_CN: Array) -> Iterator[StemFault]:
        """A channel that is silent throughout, where far more of the mixture's is left than of the other."""
        left = left_CN.mean(axis=1)
        if left[channel] > _LEFT_OF_STEM * mean.max() and left[channel] > _LEFT_IN_HOLE * left.min():
            kind = "left_dead" if channel == 0 else "right_dead"
            everywhere = tuple(range(self._num_seconds))
            yield StemFault(kind=kind, place=place, seconds=everywhere, num_s=float(self._num_seconds))


def _gram(signals_PT: Samples) -> Spectra:
    """Products of the spectra of all channels of a second in each band, (bands, P, P), the first one conjugated."""
    from scipy.fft import rfft

    spectra_PF = rfft(signals_PT)
    edges = np.unique(np.minimum(_EDGES_HZ, spectra_PF.shape[1]))  # bins are 1 Hz wide
    bands = pairwise(edges)
    return np.stack([spectra_PF[:, low:high].conj() @ spectra_PF[:, low:high].T for low, high in bands])


def _left_of_last(signals_PT: Samples) -> Samples:
    """The last signal without the others at their best gains."""
    products = (signals_PT @ signals_PT.T).astype(np.float64)
    inner, outer = products[:-1, :-1], products[:-1, -1]
    inner[np.diag_indices_from(inner)] += 1e-9 * np.trace(products) + 1e-12
    gains = np.linalg.solve(inner, outer)
    result: Samples = signals_PT[-1] - gains.astype(np.float32) @ signals_PT[:-1]
    return result


def _cuts(stem_N: Array, mixture_N: Array, left_N: Array) -> NDArray[np.bool_]:
    """The frames of holes in one channel of a stem, which begin or end abruptly and in which the mixture goes on."""
    mean = stem_N[stem_N > _HOLE * stem_N.max()].mean()
    silent_N = stem_N < _HOLE * mean
    share_N = left_N / np.maximum(mixture_N, 1e-12)
    result_N = np.zeros(len(stem_N), np.bool_)
    bounds = np.flatnonzero(np.diff(np.r_[False, silent_N, False]))
    for start, stop in zip(bounds[::2], bounds[1::2], strict=True):
        if stop - start < _MIN_HOLE:
            continue
        # The frame at its edge may be silent in part: the one beyond it tells, too.
        edges_N = np.r_[stem_N[max(0, start - 2) : start], stem_N[stop : stop + 2]]
        at_an_end = start == 0 or stop == len(stem_N)
        if stop - start < _LONG_HOLE and (at_an_end or edges_N.max(initial=0) < _STEP * mean):
            continue
        around = slice(max(0, start - _AROUND_HOLE), stop + _AROUND_HOLE)
        elsewhere_N = share_N[around][~silent_N[around]]
        usual = np.quantile(elsewhere_N, 0.9) if elsewhere_N.size else 0.0

        def lacks(start: int, stop: int, usual: float = usual) -> bool:
            left, mixture = left_N[start:stop], mixture_N[start:stop].sum()
            share = left.sum() / max(mixture, 1e-12)
            return bool(left.mean() > _LEFT_OF_STEM * mean and share > _LEFT_IN_HOLE * usual)

        # Where another stem lacks something meanwhile, that begins or ends at another time.
        piece = max(_MIN_HOLE, min(FRAMES_PER_S // 2, (stop - start) // 4))
        ends = ([start] if start else []) + ([stop - piece] if stop < len(stem_N) else [])
        outside = ([start - _MIN_HOLE - 1] if start > _MIN_HOLE else []) + (
            [stop + 1] if stop + _MIN_HOLE < len(stem_N) else []
        )
        if (
            lacks(start, stop)
            and all(lacks(first, first + piece) for first in ends)
            and not any(lacks(at, at + _MIN_HOLE) for at in outside if 0 <= at <= len(stem_N) - _MIN_HOLE)
        ):
            result_N[start:stop] = True
    return result_N


class _Song:
    """Which one stem, if changed, makes the mixture of a song far better explained."""

    def __init__(self, grams_NBPP: Spectra, *, num_channels: int) -> None:
        self._grams = grams_NBPP
        self._channels = num_channels
        self._num_stems = grams_NBPP.shape[-1] // num_channels - 1
        self._all_fine = np.tile(np.eye(num_channels), (self._num_stems, 1))

    def faults(self) -> Iterator[StemFault]:
        """Faults of the whole song, one stem after the other."""
        song_BPP = self._grams.sum(axis=0)
        changes = self._all_fine
        blamed: set[int] = set()
        while len(blamed) < self._num_stems - 1:
            fault, changes = self._gravest(song_BPP, changes, blamed)
            if fault is None:
                break
            blamed.add(fault.place)
            yield fault

    def left_without(self) -> list[float]:
        """How many times more of the mixture is left without each stem."""
        without = []
        for place in range(self._num_stems):
            change = self._all_fine.copy()
            change[place * self._channels : (place + 1) * self._channels] = 0
            without.append(change)
        left, _ = _left(self._grams.sum(axis=0), np.stack([self._all_fine, *without]))
        return [float(more / max(left[0], 1e-30)) for more in left[1:]]

    def _gravest(self, song_BPP: Spectra, changes: Array, blamed: set[int]) -> tuple[StemFault | None, Array]:
        tried = [
            (StemFault(kind=kind, place=place, gain_db=_too_loud_db(gain), seconds=(), num_s=len(self._grams)), change)
            for place in range(self._num_stems)
            if place not in blamed
            for kind, gain, change in self._changed(changes, place, _GAINS)
        ]
        left, total = _left(song_BPP, np.stack([changes, *(change for _, change in tried)]))
        now, best = left[0], int(np.argmin(left[1:] * _handicaps([fault.kind for fault, _ in tried])))
        fault, change = tried[best]
        gain = now / left[1 + best]
        if now < _SMALL_RESIDUAL * total:
            return None, changes
        everywhere = tuple(range(len(self._grams)))
        if fault.kind == "absent":
            if now > _ABSENT_RESIDUAL * total and gain > _ABSENT_GAIN:
                return replace(fault, seconds=everywhere), change
        elif gain > _SONG_GAIN:
            fault = replace(fault, seconds=everywhere, times_less=float(gain))
            return self._refined(song_BPP, changes, fault, change)
        return None, changes

    def _refined(self, song_BPP: Spectra, changes: Array, fault: StemFault, change: Array) -> tuple[StemFault, Array]:
        """The fault with its level to a quarter of a decibel."""
        if "level" not in fault.kind:
            return fault, change
        gains = 10 ** (np.arange(-1.5, 1.51, 0.25) / 20) * 10 ** (-fault.gain_db / 20)
        finer = [(gain, own) for kind, gain, own in self._changed(changes, fault.place, gains) if kind == fault.kind]
        left, _ = _left(song_BPP, np.stack([own for _, own in finer]))
        gain, change = finer[int(left.argmin())]
        return replace(fault, gain_db=_too_loud_db(gain)), change

    def _changed(self, changes: Array, place: int, gains: Array) -> Iterator[tuple[str, float, Array]]:
        """Every change of one stem that is tried: its kind, its gain, and the matrix from stems to channels."""
        channels = self._channels
        rows = slice(place * channels, (place + 1) * channels)

        def change(own_CC: Array) -> Array:
            result = changes.copy()
            result[rows] = own_CC
            return result

        one = np.eye(channels)
        for gain in gains:
            kind = "absent" if abs(gain) <= _ABSENT else "inverted" if gain < 0 else "level"
            yield kind, gain, change(gain * one)
            if channels == 2 and gain > _ABSENT:
                yield "left_level", gain, change(np.diag([gain, 1.0]))
                yield "right_level", gain, change(np.diag([1.0, gain]))
        if channels == 2:
            yield "exchanged", 1.0, change(one[::-1])

    def in_seconds(self) -> Iterator[StemFault]:
        """Stems that are at fault in some seconds."""
        tried = [
            (kind, place, gain, change)
            for place in range(self._num_stems)
            for kind, gain, change in self._changed(self._all_fine, place, _SECOND_GAINS)
        ]
        now_N1, total_N = _left(self._grams, self._all_fine[None])
        unexplained = np.flatnonzero(now_N1[:, 0] > _SMALL_RESIDUAL * total_N)
        if not unexplained.size or not tried:
            return
        now_N, total_N = now_N1[unexplained, 0], total_N[unexplained]
        changes = np.stack([change for *_, change in tried])
        pieces = (unexplained[start : start + _AT_ONCE] for start in range(0, unexplained.size, _AT_ONCE))
        left_NH = np.concatenate([_left(self._grams[piece], changes)[0] for piece in pieces])
        best_N = (left_NH * _handicaps([kind for kind, *_ in tried])).argmin(axis=1)
        better_N = now_N / np.take_along_axis(left_NH, best_N[:, None], axis=1)[:, 0]
        found: dict[int, list[tuple[int, str, float]]] = {}
        for second, best, better, share in zip(unexplained, best_N, better_N, now_N / total_N, strict=True):
            kind, place, gain, _ = tried[best]
            if better > _SECOND_GAIN or (kind == "absent" and better > _ABSENT_IN_SECOND and share > _ABSENT_RESIDUAL):
                found.setdefault(place, []).append((int(second), kind, gain))
        for place, seconds in found.items():
            kinds = [kind for _, kind, _ in seconds]
            usual = max(sorted(set(kinds)), key=kinds.count)
            gains = [gain for _, kind, gain in seconds if kind == usual]
            where = tuple(second for second, kind, _ in seconds if kind == usual)
            if usual != "absent" or len(where) > 1:
                gain_db = _too_loud_db(float(np.median(gains)))
                yield StemFault(kind=usual, place=place, gain_db=gain_db, seconds=where, num_s=float(len(where)))


def _handicaps(kinds: Sequence[str]) -> Array:
    """What is left by each kind of change counts times this: one channel of a mono stem is a filter in disguise."""
    return np.array([_SONG_GAIN if kind in ("left_level", "right_level") else 1.0 for kind in kinds])


def _too_loud_db(gain: float) -> float:
    """How much too loud a stem is that must be multiplied by this gain."""
    return ABSENT_DB if abs(gain) <= _ABSENT else float(-20 * np.log10(abs(gain)))


def _left(grams: Spectra, changes_HPC: Array) -> tuple[Array, Array]:
    """What is left of the mixture under each way to sum the stems, of shape (..., H), and the mixture's energy (...).

    `grams` have shape (..., bands, P, P). Each band is explained by a filter of its own from the channels of the sum to
    those of the mixture; quiet bands count by the roots of their energies.
    """
    num, channels = changes_HPC.shape[1:]
    stems, cross = grams[..., :num, :num], grams[..., :num, num:]
    total = np.trace(grams[..., num:, num:], axis1=-2, axis2=-1).real
    squares = np.einsum("hpc,hqd->hcdpq", changes_HPC, changes_HPC).reshape(-1, num * num)
    shape = (*grams.shape[:-2], len(changes_HPC), channels, channels)
    inner = (stems.reshape(*grams.shape[:-2], -1) @ squares.T).reshape(shape)
    outer = np.moveaxis(np.tensordot(cross, changes_HPC, axes=(-2, 1)), -3, -1)  # (..., H, C of sum, C of mixture)
    energies = np.trace(inner, axis1=-2, axis2=-1).real
    floor = _RIDGE * energies + 1e-12
    if channels == 1:
        explained = np.square(np.abs(outer[..., 0, 0])) / (inner[..., 0, 0].real + floor)
    else:
        left, right, both = inner[..., 0, 0].real + floor, inner[..., 1, 1].real + floor, inner[..., 0, 1]
        first, second = outer[..., 0, :], outer[..., 1, :]
        mixed = 2 * (first.conj() * both[..., None] * second).real.sum(axis=-1)
        explained = (
            right * np.square(np.abs(first)).sum(axis=-1) + left * np.square(np.abs(second)).sum(axis=-1) - mixed
        ) / np.maximum(left * right - np.square(np.abs(both)), 1e-30)
    rest = np.maximum(total[..., None] - explained, 0)
    weights = np.where(total > _QUIET_BAND * total.max(axis=-1, keepdims=True), 1 / np.sqrt(total + 1e-30), 0.0)
    return (rest * weights[..., None]).sum(axis=-2), (total * weights).sum(axis=-1)


def _left_db(products: Array) -> Array:
    mixture, both, total = np.moveaxis(products, -1, 0)
    explained = np.square(both) / np.maximum(mixture * total, 1e-20)
    result: Array = 10 * np.log10(np.clip(1 - explained, 1e-12, 1))
    return np.where(mixture > 1e-12, result, -120.0)
