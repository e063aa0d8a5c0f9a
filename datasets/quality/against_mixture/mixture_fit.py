"""What is wrong with which stem, by the mixture that came with them.

The mixture, shifted by the delay that most stems agree on, is explained by least squares from the sum of the stems, in
nine bands with a filter each: an equalizer, a wider stereo image, a limiter or a codec changes all stems alike and is
no fault of one. A stem is at fault where the mixture is explained far better with that stem alone at another level,
upside down, with its channels exchanged, or left out; over the song, and in each second. What a stem lacks where it is
silent shows in what is left of the mixture there.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.quality.against_mixture.alignment import SILENT_POWER, MixtureAlignment, thinned
from datasets.quality.against_mixture.holes import FRAMES_PER_S, holes
from datasets.quality.against_mixture.stem_changes import Spectra, StemChanges, StemFault, gram

Array = NDArray[np.float64]

MIN_COMPARED_S = 2.0
_MOST_WAITING = 12  # seconds that are held until the delay is clear,
_LOOKS = (2, 3, 4, 6, 9)  # that is looked for after this many
_IN_PLACE = 1.5  # times more that is left of the mixture without a stem which is in its place
_SURELY_IN_PLACE = 10.0  # times less that is left of it with a stem changed and not moved


class MixtureFit:
    """Listens to stems (S, C, T) and their mixture (C, T), one second after the other."""

    def __init__(self, num_sources: int, sample_rate: int) -> None:
        self.alignment = MixtureAlignment(num_sources, sample_rate)
        self._rate = sample_rate
        self._step = self.alignment.step
        self._delay: int | None = None
        self._waiting: list[Samples] = []  # stems that are not compared yet
        self._thin: list[Samples] = []  # the same, thinned
        self._mixture: list[Samples] = []  # the mixture, from the second before the first of them
        self._middles: list[Samples] = []  # middle and side of that, thinned
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
        for part_CT in [mixture_CT] if self._mixture else [mixture_CT[:, :0], mixture_CT]:
            self._add_mixture(part_CT)
        self._waiting.append(second_SCT)
        self._thin.append(thinned(second_SCT, self._step))
        self._num_seconds += 1
        if len(self._waiting) > 1:
            self._align(len(self._waiting) - 2)
        if self._delay is None and len(self._waiting) > _MOST_WAITING:
            self._decide(self.alignment.delay_samples() or 0)
        while self._delay is not None and len(self._waiting) > 1:
            self._compare_first()

    def _add_mixture(self, mixture_CT: Samples) -> None:
        self._mixture.append(mixture_CT)
        self._middles.append(self.alignment.middle_and_side(thinned(mixture_CT, self._step)))

    def _align(self, number: int) -> None:
        """Look for a waiting second in the mixture, and for the delay as long as it is not clear."""
        if self._waiting[number].shape[2] == self._rate:
            self.alignment.add(self._thin[number], self._middles[number : number + 3])
            if self._delay is None and self.alignment.num_windows in _LOOKS:
                self._decide(self.alignment.delay_samples())

    def _end(self) -> None:
        if self._ended or not self._num_seconds:
            return
        self._add_mixture(self._mixture[0][:, :0])
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
        stems_SCT, thin_SCT = self._waiting.pop(0), self._thin.pop(0)
        assert self._delay is not None
        mixture_CT, known = self._delayed(0, self._delay, stems_SCT.shape[2])
        del self._mixture[0], self._middles[0]
        if known.stop - known.start < stems_SCT.shape[2]:
            apart_SCT = np.zeros_like(stems_SCT)
            apart_SCT[:, :, known] = stems_SCT[:, :, known]
            stems_SCT, thin_SCT = apart_SCT, thinned(apart_SCT, self._step)
        total_CT = stems_SCT.sum(axis=0)
        mixture, total = (samples_CT.astype(np.float64).ravel() for samples_CT in (mixture_CT, total_CT))
        self._lengths.append((known.stop - known.start) / self._rate)
        self._products.append(np.array([mixture @ mixture, mixture @ total, total @ total]))
        num_channels, length = mixture_CT.shape
        # Each channel of stems and mixture, and last what the stems leave of it, as long as a second.
        heard_PT = np.zeros((stems_SCT.shape[0] * num_channels + 2 * num_channels, self._length), np.float32)
        thin = length // self._step
        heard_PT[: -2 * num_channels, :thin] = thin_SCT.reshape(-1, thin)
        heard_PT[-2 * num_channels : -num_channels, :thin] = thinned(mixture_CT, self._step)
        self._grams.append(gram(heard_PT[:-num_channels]))
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
    def _song(self) -> StemChanges:
        """All seconds together, once the last is heard."""
        return StemChanges(np.stack(self._grams).astype(np.complex128), num_channels=len(self._mixture[0]))

    def _find_faults(self) -> list[StemFault]:
        song = self._song
        throughout = list(song.faults())
        powers_PN = np.concatenate(self._powers, axis=1).astype(np.float64)
        num_channels, frame_s = len(self._mixture[0]), self._frame / self._length
        silent: dict[int, StemFault] = {}
        for fault in holes(powers_PN, num_channels=num_channels, num_seconds=self._num_seconds, frame_s=frame_s):
            silent.setdefault(fault.place, fault)  # a dead channel comes first, and is graver than a hole
        # A stem that is wrong throughout leaves more of the mixture in the holes of others, too.
        if any(fault.kind != "absent" or fault.place not in silent for fault in throughout):
            silent = {place: fault for place, fault in silent.items() if fault.kind != "missing"}
        absent = [fault for fault in throughout if fault.kind == "absent"]
        found = {fault.place: fault for fault in (*throughout, *silent.values(), *absent)}
        if not found:
            found = {fault.place: fault for fault in song.in_seconds()}
        return [found[place] for place in sorted(found)]


def _left_of_last(signals_PT: Samples) -> Samples:
    """The last signal without the others at their best gains."""
    products = (signals_PT @ signals_PT.T).astype(np.float64)
    inner, outer = products[:-1, :-1], products[:-1, -1]
    inner[np.diag_indices_from(inner)] += 1e-9 * np.trace(products) + 1e-12
    gains = np.linalg.solve(inner, outer)
    result: Samples = signals_PT[-1] - gains.astype(np.float32) @ signals_PT[:-1]
    return result


def _left_db(products: Array) -> Array:
    mixture, both, total = np.moveaxis(products, -1, 0)
    explained = np.square(both) / np.maximum(mixture * total, 1e-20)
    result: Array = 10 * np.log10(np.clip(1 - explained, 1e-12, 1))
    return np.where(mixture > 1e-12, result, -120.0)
