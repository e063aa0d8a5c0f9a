"""How far each stem of a song lies from where the song's mixture has it.

Only the mixture that came with the stems can tell: without one, a stem that is late by a beat is simply another
arrangement. Each second of a stem is compared with three seconds of the mixture by cross-correlation of whitened
spectra (PHAT; Knapp and Carter 1976), and the correlations are summed over the song. What most stems agree on is the
delay of the mixture as a whole, at which `mixture_fit` compares it with them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import cancels, mono

Array = NDArray[np.float64]

SILENT_POWER = 1e-8  # mean square, -80 dBFS: in what is below there is nothing to compare
RANGE_S = 1.0  # shifts of less than a second in either direction are found
_RATE = 11025  # at least; 0.1 ms is fine enough
_ALL_S = 16  # seconds from the start of which none is left out
CLEAR_PEAK = 10.0  # times the deviation of the correlation that its peak must reach; a wrong one reached 8.1
_AGREE_S = 0.001  # shifts that differ by no more are the same; a peak so near the end of the range lies beyond it


class MixtureAlignment:
    """Listens to stems (S, C, T) and their mixture, `thinned` by `step`, one second after the other."""

    def __init__(self, num_sources: int, sample_rate: int) -> None:
        self.step = max(1, sample_rate // _RATE)
        self._length = sample_rate // self.step  # of a second
        self._rate = sample_rate / self.step
        self._sum_SF = np.zeros((num_sources, 0), np.complex64)  # of whitened spectra, whose inverses are correlations
        self._num_seconds = 0
        self.num_windows = 0  # that were compared

    def add(self, second_SCT: Samples, mixtures: Sequence[Samples]) -> None:
        """Hear the next second, with `middle_and_side` of the mixture a second before, then, and a second after.

        Of what comes after the first seconds every third is heard: a song has enough of them.
        """
        self._num_seconds += 1
        if self._num_seconds > _ALL_S and self._num_seconds % 3:
            return
        both_2T = np.concatenate(mixtures, axis=1)
        stems_ST, wide_S = mono(second_SCT), cancels(second_SCT)
        for place, wide in enumerate((False, True)):
            if (chosen := np.nonzero(wide_S == wide)[0]).size:
                self._correlate(stems_ST, both_2T[place], chosen)

    def middle_and_side(self, mixture_CT: Samples) -> Samples:
        """The mean of both channels and half their difference, as long as a second."""
        both_2T = np.zeros((2, self._length), np.float32)
        both_2T[:, : mixture_CT.shape[1]] = mixture_CT[0] + mixture_CT[-1], mixture_CT[0] - mixture_CT[-1]
        return both_2T / np.float32(2)

    def _correlate(self, stems_ST: Samples, mixture_T: Samples, chosen: NDArray[np.intp]) -> None:
        from scipy.fft import next_fast_len, rfft

        size = next_fast_len(len(mixture_T) + self._length, real=True)
        audible = [place for place in chosen if np.square(stems_ST[place]).mean() >= SILENT_POWER]
        if not audible:
            return
        self._size = size
        self.num_windows += 1
        mixture_F = rfft(mixture_T, size)
        mixture_F /= np.abs(mixture_F) + np.float32(1e-6)
        if not self._sum_SF.shape[1]:
            self._sum_SF = np.zeros((len(self._sum_SF), len(mixture_F)), np.complex64)
        stems_SF = rfft(stems_ST[audible], size)  # together: one by one they take nearly three times as long
        np.conj(stems_SF, out=stems_SF)
        stems_SF *= mixture_F / (np.abs(stems_SF) + np.float32(1e-6))
        self._sum_SF[audible] += stems_SF

    def _peaks(self) -> tuple[list[int | None], NDArray[np.bool_], int | None]:
        """The lag of each stem's highest peak, where it is clear; which lags are; and the lag that most stems share."""
        from scipy.fft import irfft

        if not self._sum_SF.shape[1]:
            return [None] * len(self._sum_SF), np.zeros((len(self._sum_SF), 0), np.bool_), None
        # Lags from -1 to 1 s: the stem's place is one second into the three.
        sum_ST = irfft(self._sum_SF, self._size)[:, : 2 * self._length + 1]
        clear_ST = (sum_ST - sum_ST.mean(axis=1, keepdims=True)) > CLEAR_PEAK * np.maximum(
            sum_ST.std(axis=1, keepdims=True), 1e-12
        )
        last = sum_ST.shape[1] - 1 - self._near
        best = [
            at if clear_T.any() and self._near <= (at := int(np.argmax(sum_T))) <= last else None
            for sum_T, clear_T in zip(sum_ST, clear_ST, strict=True)
        ]
        known = [at for at in best if at is not None]
        if not known:
            return best, clear_ST, None
        votes = {at: sum(abs(at - other) <= self._near for other in known) for at in known}
        return best, clear_ST, max(known, key=lambda at: (votes[at], -abs(at - self._length)))

    @property
    def _near(self) -> int:
        return max(1, round(_AGREE_S * self._rate))

    def delay_samples(self) -> int | None:
        """How much later than most stems the mixture is, in samples to within `step`; None where that is not clear."""
        _, _, usual = self._peaks()
        return None if usual is None else (usual - self._length) * self.step

    def shifts_s(self) -> list[float | None]:
        """How much later than in the mixture each stem is, in seconds; None where that is not clear.

        What most stems agree on counts as no shift: a mixture that is late as a whole does not matter. A peak at the
        end of the range is the flank of one that lies beyond it, and not a shift that was found.
        """
        best, clear_ST, usual = self._peaks()
        if usual is None:
            return [None] * len(best)
        # A stem in its place that also holds another one's bleed has two peaks, and the higher may be the bleed's.
        in_place = [clear_T[max(0, usual - self._near) : usual + self._near + 1].any() for clear_T in clear_ST]
        return [
            0.0 if here else None if at is None else (usual - at) / self._rate
            for at, here in zip(best, in_place, strict=True)
        ]


def thinned(samples: Samples, step: int) -> Samples:
    """Every `step` samples of (..., T) as their mean, which folds some treble down, in stems and mixture alike."""
    groups = samples[..., : samples.shape[-1] // step * step].reshape(*samples.shape[:-1], -1, step)
    result: Samples = groups @ np.full(step, 1 / step, np.float32)  # mean() is slow over so few
    return result
