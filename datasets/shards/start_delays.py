"""How late lossy files of a song begin that do not say it themselves.

A codec puts audio off by a number of samples that most files state and decoders take off. What a file leaves unsaid is
taken off only where the song confirms it: the mixture that came with it, or else the stems whose start is known, must
have the same sound earlier by what the codec usually costs. Both are compared by cross-correlation of whitened spectra,
as in `quality/against_mixture/alignment.py`. Files of one delay are late together, and there is nothing to mend.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import AudioInfo, Samples
from datasets.audio.decoding import decode_blocks, probe
from datasets.audio.mono_mix import cancels
from datasets.errors import AudioError
from datasets.quality.against_mixture.alignment import CLEAR_PEAK, SILENT_POWER
from datasets.schema import StemFile, Track

_BLOCK = 1 << 15  # samples that are compared at once
_REACH = 1 << 13  # samples by which a file may be late or early
_NEAR = 2  # samples: an equalizer moves a peak by as much


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDelays:
    """Samples at its own rate that are taken off the start of a file, or put before it where they are negative."""

    samples: Mapping[StemFile, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def unsaid_starts(infos: Mapping[StemFile, AudioInfo]) -> list[StemFile]:
    """The files of a song that may begin later or earlier than the others, as they do not say their codec's delay."""
    if len({info.unsaid_delays for info in infos.values()}) == 1:
        return []
    return [file for file, info in infos.items() if info.unsaid_delays]


def find_start_delays(track: Track, infos: Mapping[StemFile, AudioInfo]) -> StartDelays:
    """The delays that the song confirms, and what is to be said of them and of the others; `infos` are of its stems."""
    unsaid = unsaid_starts(infos)
    if not unsaid:
        return StartDelays()
    rate = infos[unsaid[0]].sample_rate
    known = [file for file, info in infos.items() if not info.unsaid_delays]
    found = {file: (0, "") for file in unsaid}  # how late, and what says so
    late_by_mixture = _late_in_mixture(track.mixture, known, unsaid, rate)
    if late_by_mixture is not None:
        found |= {file: (late, "the mixture") for file, late in late_by_mixture.items()}
    open_ = [file for file in unsaid if not found[file][1]]
    if open_ and known:
        late_by_stems = _late_in(known, [[file] for file in open_], rate)
        found |= {open_[index]: (late, "the other stems") for index, late in late_by_stems.items()}
    samples, remarks = {}, []
    for file, (late, witness) in found.items():
        usual = infos[file].unsaid_delays
        if witness and abs(late) <= _NEAR:
            continue
        if agreed := next((delay for delay in usual if witness and abs(late - delay) <= _NEAR), 0):
            samples[file] = agreed
        remarks.append(_remark(file, usual, late, witness, agreed))
    return StartDelays(samples=samples, remarks=tuple(remarks))


def _remark(file: StemFile, usual: Sequence[int], late: int, witness: str, agreed: int) -> str:
    if agreed > 0:
        return f"{file.path} began {agreed} samples late by its codec's delay, which {witness} confirmed: taken off"
    if agreed:
        return f"{file.path} began {-agreed} samples early, which {witness} confirmed: silence is put before it"
    heard = ""
    if witness:
        heard = f"; {witness} had it {abs(late)} samples {'earlier' if late > 0 else 'later'}"
    return f"start uncertain: {file.path} does not say its codec's delay, which is {usual[0]} samples as a rule{heard}"


def _late_in_mixture(
    mixture: Sequence[StemFile], known: Sequence[StemFile], unsaid: Sequence[StemFile], rate: int
) -> dict[StemFile, int] | None:
    """How late files are against the mixture, and against the known stems where these are late in it as well.

    None where there is no mixture that can be read, or nothing tells where it begins.
    """
    try:
        says = [not probe(file.path, stream=file.stream).unsaid_delays for file in mixture]
        if not says:
            return None
        late = _late_in(mixture, [[file] for file in unsaid] + ([known] if known else []), rate)
    except AudioError:  # of the mixture, which curation tells; a stem's comes up again where the stems are decoded
        return None
    offset = late.pop(len(unsaid), None)  # of the known stems
    if offset is None and not all(says):
        return None
    return {unsaid[index]: found - (offset or 0) for index, found in late.items()}


def _late_in(reference: Sequence[StemFile], groups: Sequence[Sequence[StemFile]], rate: int) -> dict[int, int]:
    """By how many samples each group of files, summed, is later than the sum of the reference; the clear ones alone."""
    heard = [_Correlation() for _ in groups]
    with ExitStack() as stack:
        sums = [stack.enter_context(closing(_summed(files, rate))) for files in (reference, *groups)]
        silence_CT = np.zeros((2, _BLOCK), np.float32)
        before, blocks = silence_CT, next(zip_longest(*sums, fillvalue=silence_CT), None)
        while blocks is not None:
            after = next(zip_longest(*sums, fillvalue=silence_CT), None)
            around_CT = np.concatenate(
                [before[:, -_REACH:], blocks[0], (silence_CT if after is None else after[0])[:, :_REACH]], axis=1
            )
            for correlation, block_CT in zip(heard, blocks[1:], strict=True):
                correlation.add(block_CT, around_CT)
            before, blocks = blocks[0], after
    found = {index: correlation.late() for index, correlation in enumerate(heard)}
    return {index: late for index, late in found.items() if late is not None}


def _summed(files: Sequence[StemFile], rate: int) -> Generator[Samples, None, None]:
    """The sum of files as two channels, in whole blocks."""
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                closing(decode_blocks(file.path, sample_rate=rate, stream=file.stream, block_samples=_BLOCK))
            )
            for file in files
        ]
        for blocks in zip_longest(*readers):
            sum_CT, longest = np.zeros((2, _BLOCK), np.float32), 0
            for block_CT in blocks:
                if block_CT is not None:
                    sum_CT[:, : block_CT.shape[1]] += block_CT
                    longest = max(longest, block_CT.shape[1])
            if longest == _BLOCK:  # where files break off, their ends would correlate with each other
                yield sum_CT


class _Correlation:
    """Of one signal with another that is heard around it."""

    def __init__(self) -> None:
        self._sum_T: NDArray[np.float64] = np.zeros(2 * _REACH + 1)

    def add(self, block_CT: Samples, around_CT: Samples) -> None:
        """Hear a block and the other signal from `_REACH` samples before it to as many behind it."""
        from scipy.fft import irfft, next_fast_len, rfft

        sign = -1 if bool(cancels(block_CT)) else 1  # what is silent in the mean is heard in the difference
        block_T, around_T = (pair_CT[0] + sign * pair_CT[1] for pair_CT in (block_CT, around_CT))
        if np.square(block_T).mean() < SILENT_POWER or np.square(around_T).mean() < SILENT_POWER:
            return
        size = next_fast_len(len(around_T) + len(block_T), real=True)
        # Without windows the ends of both would correlate with each other.
        block_F, around_F = (rfft(signal_T * np.hanning(len(signal_T)), size) for signal_T in (block_T, around_T))
        cross_F = around_F * np.conj(block_F) / ((np.abs(around_F) + 1e-6) * (np.abs(block_F) + 1e-6))
        self._sum_T += irfft(cross_F, size)[: len(self._sum_T)]

    def late(self) -> int | None:
        """How many samples later the first signal has what the second has as well; None where that is not clear."""
        peak = int(np.argmax(self._sum_T))
        if self._sum_T[peak] - self._sum_T.mean() <= CLEAR_PEAK * max(float(self._sum_T.std()), 1e-12):
            return None
        return _REACH - peak
