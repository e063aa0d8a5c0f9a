"""Which one stem of a song, if changed, makes its mixture far better explained: another level, upside down, left out.

Works on products of the spectra of all channels in bands, second by second (`gram`), so that trying a change costs
little. `mixture_fit.py` hears the song.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]
Spectra = NDArray[np.complex128]

ABSENT_DB = 60.0  # that a stem counts as too loud by of which the mixture holds nothing
_EDGES_HZ = (40, 100, 200, 350, 600, 1000, 1600, 2500, 3800, 5500)
_QUIET_BAND = 1e-5  # of the loudest band's energy, below which a band does not count
_LEVELS = 10 ** (np.arange(-24, 24.1, 1.5) / 20)
_GAINS = np.r_[0.0, _LEVELS, -_LEVELS[::2]]  # that a stem is tried at, over the song
_AT_ONCE = 60  # seconds that are tried with every change at one time: some 15 MB of four stereo stems
_SECOND_GAINS = np.r_[0.0, 10 ** (np.array([-12, -9, -6, -3, 3, 6, 9, 12]) / 20), -1.0]  # and in each second
_RIDGE = 1e-6
_SMALL_RESIDUAL = 10**-4.5  # of the mixture: what the stems leave is no fault of any
_SONG_GAIN, _SECOND_GAIN = 2.0, 4.0  # times less that must be left once a stem is changed; masters reach 1.2
_ABSENT_GAIN = 1.05  # the same for a stem that is left out: what it should have been is not there to explain anything
_ABSENT_IN_SECOND = 1.2
_ABSENT_RESIDUAL = 0.1  # of the mixture, that must be left where a stem is another song's
_ABSENT = 0.18  # gains from here to as much below zero: -15 dB


@dataclass(frozen=True, slots=True, kw_only=True)
class StemFault:
    """What the mixture says against one stem: in the song, or in some seconds of it."""

    kind: str  # level, left_level, right_level, inverted, exchanged, left_dead, right_dead, absent, missing
    place: int  # of the stem
    gain_db: float = 0.0  # how much louder the stem is than in the mixture
    seconds: tuple[int, ...]  # where it is so
    num_s: float  # how long it is so
    times_less: float = 1.0  # that is left of the mixture with this stem changed


class StemChanges:
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


def gram(signals_PT: Samples) -> Spectra:
    """Products of the spectra of all channels of a second in each band, (bands, P, P), the first one conjugated."""
    from scipy.fft import rfft

    spectra_PF = rfft(signals_PT)
    edges = np.unique(np.minimum(_EDGES_HZ, spectra_PF.shape[1]))  # bins are 1 Hz wide
    bands = pairwise(edges)
    return np.stack([spectra_PF[:, low:high].conj() @ spectra_PF[:, low:high].T for low, high in bands])
