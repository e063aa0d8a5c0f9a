"""Mains hum: lines at 50 or 60 Hz and their multiples that go on at one level, whatever the stem does.

Each line is looked for in the seconds that are quietest around it, where music does not hide it: a bass that never
rests plays other notes then. A bass that holds one note rests at
times or changes its level, and its overtones do not lie on multiples of the mains; a stem that is nothing but such
lines, as a drone, has them by design.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.quality.against_mixture.alignment import thinned

Array = NDArray[np.float64]

MIN_S = 8  # audible seconds of a stem that it takes
_RATE = 5512  # at least; the highest multiple lies at 480 Hz
_MAINS_HZ = (50, 60)
_MULTIPLES = 8
_EXACT = 2  # multiples of which the line lies in its bin of 1 Hz; those of more may lie in one beside it
_NEAR, _FAR = 3, 9  # bins on each side that the line is the highest of, and up to which what is around it is heard
_ABOVE = 6.0  # times the median of what is around it
_NUMBERS = np.arange(1, _MULTIPLES + 1)
_AROUND = np.multiply.outer(_MAINS_HZ, _NUMBERS)[:, :, None] + np.arange(-_FAR, _FAR + 1)  # bins of 1 Hz
_OFF = (_NUMBERS > _EXACT).astype(np.int64)  # bins by which a line may lie beside its multiple
_AUDIBLE = 1e-9  # mean square of a line, and of a second that counts, -90 dBFS
_QUIET_SHARE = 1 / 3  # of the seconds, the quietest around a line, which
_HELD_SHARE = 0.75  # must have a line in this share,
_FEWEST_LINES = 3  # and so many of them,
_STEADY = 6.0  # the strongest within so many times from its lower tenth to its upper
_ALL_OF_IT = 0.25  # of a stem's power, from which on the lines are the stem


class HumMeter:
    """Listens to the mono sums of all stems, second by second."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._step = max(1, sample_rate // _RATE)
        length = sample_rate // self._step
        self._window = np.hanning(length + 1)[:-1].astype(np.float32)
        self._can_hear = length // 2 > max(_MAINS_HZ) * _MULTIPLES + _FAR
        # Mean square of each line, 0 where none is, and what is around it, each of shape (S, mains, multiples)
        self._lines: list[Samples] = []
        self._around: list[Samples] = []
        self._powers: list[Array] = []  # of the stems

    def add(self, stems_ST: Samples) -> None:
        """Hear the next second; one that is not whole is left out."""
        from scipy.fft import rfft

        if not self._can_hear or stems_ST.shape[1] != self._rate:
            return
        heard_ST = thinned(stems_ST, self._step)
        spectra_SF = rfft(heard_ST * self._window)[:, : max(_MAINS_HZ) * _MULTIPLES + _FAR + 1]
        # So that a sine in the middle of a bin has its mean square there.
        power_SF = (np.square(spectra_SF.real) + np.square(spectra_SF.imag)) * np.float32(2 / self._window.sum() ** 2)
        lines_SML, around_SML = _lines(power_SF)
        self._lines.append(lines_SML)
        self._around.append(around_SML)
        self._powers.append(np.einsum("st,st->s", heard_ST, heard_ST, dtype=np.float64) / heard_ST.shape[1])

    def hum(self, place: int) -> tuple[int, float] | None:
        """The mains' frequency and the level of hum in a stem, in dB relative to the stem; None where there is none."""
        if not self._lines:
            return None
        power_N = np.stack(self._powers)[:, place]
        audible_N = power_N > _AUDIBLE
        power_N = power_N[audible_N]
        if len(power_N) < MIN_S:
            return None
        lines_NML, around_NML = (
            np.stack(series)[audible_N, place].astype(np.float64) for series in (self._lines, self._around)
        )
        quietest_NML = np.argsort(around_NML, axis=0, kind="stable")[: int(np.ceil(_QUIET_SHARE * len(power_N)))]
        lines_NML = np.take_along_axis(lines_NML, quietest_NML, axis=0)
        best: tuple[int, float] | None = None
        for hertz, lines_NL in zip(_MAINS_HZ, np.moveaxis(lines_NML, 1, 0), strict=True):
            held_NL = lines_NL[:, (lines_NL > 0).mean(axis=0) >= _HELD_SHARE]
            if held_NL.shape[1] < _FEWEST_LINES:
                continue
            usual_L = np.median(held_NL, axis=0)
            low, high = np.quantile(held_NL[:, usual_L.argmax()], [0.1, 0.9])
            share = float(usual_L.sum() / power_N.mean())
            if high <= _STEADY * low and share < _ALL_OF_IT and (best is None or share > 10 ** (best[1] / 10)):
                best = hertz, 10 * float(np.log10(share))
        return best

    def num_audible_s(self, place: int) -> int:
        """Whole seconds of a stem in which it sounds: fewer than MIN_S are too few to tell."""
        return sum(bool(power_S[place] > _AUDIBLE) for power_S in self._powers)


def _lines(power_SF: Samples) -> tuple[Samples, Samples]:
    """Mean square of each multiple of the mains that stands out as a line, else 0, and what is around it."""
    around_SMLB = power_SF[:, _AROUND]
    near_SMLB = around_SMLB[..., _FAR - _NEAR : _FAR + _NEAR + 1]
    far_SMLB = np.concatenate([around_SMLB[..., : _FAR - _NEAR], around_SMLB[..., _FAR + _NEAR + 1 :]], axis=-1)
    top_SML = near_SMLB.max(axis=-1)
    in_place = np.abs(near_SMLB.argmax(axis=-1) - _NEAR) <= _OFF
    around_SML = np.median(far_SMLB, axis=-1)
    stands_out = in_place & (top_SML > _ABOVE * around_SML) & (top_SML > _AUDIBLE)
    return np.where(stands_out, top_SML, np.float32(0)), around_SML
