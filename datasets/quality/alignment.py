"""How far each stem of a song lies from where the song's mixture has it.

Only the mixture that came with the stems can tell: without one, a stem that is late by a beat is simply another
arrangement. Each second of a stem is compared with three seconds of the mixture by cross-correlation of whitened
spectra (PHAT; Knapp and Carter 1976), and the correlations are summed over the song. Also here: what is left of the
mixture when the stems are taken away.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import cancels, mono

Array = NDArray[np.float64]

RANGE_S = 1.0  # shifts of up to a second in either direction are found
_RATE = 11025  # at least; 0.1 ms is fine enough
_CLEAR = 10.0  # times the deviation of the correlation that its peak must reach; a wrong one reached 8.1
_AGREE_S = 0.001  # shifts that differ by no more are the same
_SILENT = 1e-8  # mean square, -80 dBFS


class MixtureAlignment:
    """Listens to stems (S, C, T) and their mixture (C, T), one second after the other."""

    def __init__(self, num_sources: int, sample_rate: int) -> None:
        self._step = max(1, sample_rate // _RATE)
        self._length = sample_rate // self._step  # of a second
        self._rate = sample_rate / self._step
        # The last seconds: stems as mono; which of them by the difference of their channels; the mixture's mean and
        # difference.
        self._late: list[tuple[Samples, NDArray[np.bool_], Samples]] = []
        self._sum_ST = np.zeros((num_sources, 2 * self._length + 1))  # lags from -1 to 1 s
        self._products: list[Array] = []  # mixture squared, mixture times sum, sum squared

    def add(self, second_SCT: Samples, mixture_CT: Samples) -> None:
        """Hear the next second."""
        total_CT = second_SCT.sum(axis=0)
        pairs = ((mixture_CT, mixture_CT), (mixture_CT, total_CT), (total_CT, total_CT))
        self._products.append(np.array([np.einsum("ct,ct->", a, b, dtype=np.float64) for a, b in pairs]))
        if mixture_CT.shape[-1] < self._length * self._step:
            return  # what is left of the last second: its share of the residual, too little to correlate
        sides_CT = mixture_CT[:1] - mixture_CT[-1:]
        both_2T = np.stack([mixture_CT.mean(axis=0), sides_CT[0] / np.float32(2)])
        second = self._thinned(mono(second_SCT)), cancels(second_SCT), self._thinned(both_2T)
        before = self._late or [(np.zeros_like(second[0]), second[1], np.zeros_like(second[2]))]
        self._late = [*before[-2:], second]
        if len(self._late) == 3:
            stems_ST, wide_S, _ = self._late[1]
            both_2T = np.concatenate([mixture for _, _, mixture in self._late], axis=1)
            for place, wide in enumerate((False, True)):
                if (chosen := np.nonzero(wide_S == wide)[0]).size:
                    self._correlate(stems_ST, both_2T[place], chosen)

    def _thinned(self, mono_ST: Samples) -> Samples:
        """At about 11 kHz. A plain mean folds some treble down, in stems and mixture alike."""
        mono_ST = mono_ST[:, : self._length * self._step]
        every_TS = (mono_ST[:, first :: self._step] for first in range(self._step))  # means of four are slow in numpy
        thinned: Samples = np.add.reduce(list(every_TS)) / np.float32(self._step)
        return thinned

    def _correlate(self, stems_ST: Samples, mixture_T: Samples, chosen: NDArray[np.intp]) -> None:
        from scipy.fft import irfft, next_fast_len, rfft

        size = next_fast_len(len(mixture_T) + self._length, real=True)
        mixture_F = rfft(mixture_T, size)
        mixture_F /= np.abs(mixture_F) + np.float32(1e-6)
        for place in chosen:
            stem_T = stems_ST[place]
            if np.square(stem_T).mean() < _SILENT:
                continue
            stem_F = rfft(stem_T, size)
            found_T = irfft(mixture_F * np.conj(stem_F) / (np.abs(stem_F) + np.float32(1e-6)), size)
            self._sum_ST[place] += found_T[: 2 * self._length + 1]  # the stem's place is one second into the three

    def shifts_s(self) -> list[float | None]:
        """How much later than in the mixture each stem is, in seconds; None where that is not clear.

        What most stems agree on counts as no shift: a mixture that is late as a whole does not matter.
        """
        clear_ST = (self._sum_ST - self._sum_ST.mean(axis=1, keepdims=True)) > _CLEAR * np.maximum(
            self._sum_ST.std(axis=1, keepdims=True), 1e-12
        )
        best = [
            int(np.argmax(sum_T)) if clear_T.any() else None
            for sum_T, clear_T in zip(self._sum_ST, clear_ST, strict=True)
        ]
        known = [at for at in best if at is not None]
        if not known:
            return list(best)
        near = max(1, round(_AGREE_S * self._rate))
        votes = {at: sum(abs(at - other) <= near for other in known) for at in known}
        usual = max(known, key=lambda at: (votes[at], -abs(at - self._length)))
        # A stem in its place that also holds another one's bleed has two peaks, and the higher may be the bleed's.
        in_place = clear_ST[:, max(0, usual - near) : usual + near + 1].any(axis=1)
        return [
            None if at is None else 0.0 if here else (usual - at) / self._rate
            for at, here in zip(best, in_place, strict=True)
        ]

    def residual_db(self) -> tuple[float, Array]:
        """What is left of the mixture without the stems at their best common gain, for the song and per second.

        0 dB when nothing of the mixture is in the stems.
        """
        products = np.stack(self._products) if self._products else np.zeros((1, 3))
        return float(_left_db(products.sum(axis=0))), _left_db(products)


def _left_db(products: Array) -> Array:
    mixture, both, total = np.moveaxis(products, -1, 0)
    explained = np.maximum(both, 0) ** 2 / np.maximum(mixture * total, 1e-20)
    result: Array = 10 * np.log10(np.clip(1 - explained, 1e-12, 1))
    return np.where(mixture > 1e-12, result, -120.0)
