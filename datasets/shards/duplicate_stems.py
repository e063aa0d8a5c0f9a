"""Whether files of one source hold the same audio: once told, a stem is never added to itself.

Files are compared as they are decoded side by side, at no second reading. Two files are *equal* where every sample is;
they are *alike* where a gain and a short filter, as of an equalizer, make either one of the other: one performance in
two versions. Takes, doubled parts and two microphones are not: no short filter leads from one to the other.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import AudioInfo, Samples
from datasets.audio.mono_mix import mono
from datasets.corpus.file_listing import without_suffix
from datasets.errors import AudioError
from datasets.schema import StemFile, Track

ALIKE = 0.93  # share of the energy of each file that the other explains through the filter
_WINDOW = 2048  # samples of each look
_LOOKS_PER_S = 4
_FREQUENCIES = 128  # that files are compared at in one go
_TAPS = 128  # to either side
_SCREEN = 0.3  # highest correlation at any lag below which no filter so short explains much
_STATED_SUMS = ("moisesdb", "slakh2100", "medleydb")  # layouts whose mixtures are the sums of the files that they list


class FileComparison:
    """The files of one source of a song, heard side by side; each is added block by block."""

    def __init__(self, files: Sequence[StemFile], *, sample_rate: int) -> None:
        self._files = files
        self._hop = max(_WINDOW, sample_rate // _LOOKS_PER_S)
        self._digests = [hashlib.blake2b(digest_size=16) for _ in files]
        self._silent = [True] * len(files)
        self._spectra: dict[int, NDArray[np.complex64]] = {}  # of this stretch, shape (looks, F)
        self._cross_FNN = np.zeros((_WINDOW + 1, len(files), len(files)), np.complex64)

    def add(self, index: int, block_CT: Samples) -> None:
        """Hear the next block of a file."""
        self._digests[index].update(np.ascontiguousarray(block_CT).tobytes())
        self._silent[index] = self._silent[index] and not block_CT.any()
        signal_T = mono(block_CT)
        looks = np.zeros((max(1, -(-len(signal_T) // self._hop)), _WINDOW), np.float32)
        for look, start in zip(looks, range(0, len(signal_T), self._hop), strict=False):
            part_T = signal_T[start : start + _WINDOW]
            look[: len(part_T)] = part_T
        self._spectra[index] = np.fft.rfft(looks, 2 * _WINDOW).astype(np.complex64)

    def end_stretch(self) -> None:
        """All files that go on have been heard to the end of a stretch."""
        if len(self._spectra) > 1:
            num_looks = max(len(spectra) for spectra in self._spectra.values())
            for start in range(0, _WINDOW + 1, _FREQUENCIES):  # a song may have a hundred files
                cross_FNN = self._cross_FNN[start : start + _FREQUENCIES]
                looks_FNW = np.zeros((len(cross_FNN), len(self._files), num_looks), np.complex64)
                for index, spectra in self._spectra.items():
                    looks_FNW[:, index, : len(spectra)] = spectra[:, start : start + _FREQUENCIES].T
                cross_FNN += looks_FNW @ looks_FNW.conj().transpose(0, 2, 1)
        elif self._spectra:  # the others have ended: what is left of the longest is like none of them
            ((index, spectra),) = self._spectra.items()
            self._cross_FNN[:, index, index] += (np.abs(spectra) ** 2).sum(axis=0)
        self._spectra = {}

    def equal(self) -> list[list[int]]:
        """Groups of files that hold the same samples and go to the same side; files of silence are in none."""
        groups: dict[tuple[bytes, str | None], list[int]] = defaultdict(list)
        for index, (file, digest) in enumerate(zip(self._files, self._digests, strict=True)):
            if not self._silent[index]:
                groups[digest.digest(), file.side].append(index)
        return [members for members in groups.values() if len(members) > 1]

    def same(self, first: int, second: int) -> bool:
        """Whether two files hold the same samples and go to the same side, or are both silent."""
        if self._silent[first] or self._silent[second]:
            return self._silent[first] and self._silent[second]
        equal = self._digests[first].digest() == self._digests[second].digest()
        return equal and self._files[first].side == self._files[second].side

    def alike(self) -> list[tuple[int, int, float]]:
        """Pairs of files that hold one performance, and the share of the lesser explained by the other.

        Files whose names say that they belong together, such as in and out, or of a side, are not compared.
        """
        found = []
        for first in range(len(self._files)):
            for second in range(first + 1, len(self._files)):
                one, other = self._files[first], self._files[second]
                if one.apart == other.apart and not (one.side or other.side):
                    share = self._share(first, second)
                    found += [(first, second, share)] if share >= ALIKE else []
        return found

    def _power(self, index: int) -> float:
        return float(self._cross_FNN[:, index, index].real.sum())

    def _share(self, first: int, second: int) -> float:
        """The lesser of the shares of energy of each file that a filter of the other explains."""
        if not self._power(first) or not self._power(second):
            return 0.0
        cross = np.fft.irfft(self._cross_FNN[:, first, second].astype(np.complex128))
        own = [np.fft.irfft(self._cross_FNN[:, index, index].real.astype(np.float64)) for index in (first, second)]
        lags = np.arange(-_TAPS, _TAPS + 1)
        if np.abs(cross[lags]).max() < _SCREEN * np.sqrt(own[0][0] * own[1][0]):
            return 0.0
        return min(
            _explained(own[1], cross[lags], own[0][0]), _explained(own[0], cross[-lags], own[1][0])
        )  # fmt: skip


def _explained(own: NDArray[np.float64], cross: NDArray[np.float64], power: float) -> float:
    """The share of `power` that the best filter makes of a signal of this autocorrelation and crosscorrelation."""
    distances = np.abs(np.subtract.outer(np.arange(len(cross)), np.arange(len(cross))))
    matrix = own[distances] + np.eye(len(cross)) * own[0] * 1e-7
    return float(cross @ np.linalg.solve(matrix, cross)) / power


def check_rates(track: Track, infos: Mapping[StemFile, AudioInfo]) -> None:
    """AudioError where files that are versions of each other by their names differ in sample rate."""
    for source, first, second in track.versions:
        files = track.stems[source][first], track.stems[source][second]
        if infos[files[0]].sample_rate != infos[files[1]].sample_rate:
            raise _two_versions(source, *files)


def comparisons_of(track: Track, sources: Sequence[str], *, sample_rate: int) -> dict[str, FileComparison]:
    """What hears the files of each source that has several; nothing does of a dataset that is taken at its word."""
    if track.layout in _STATED_SUMS:
        return {}
    several = {source: track.stems[source] for source in sources if len(track.stems[source]) > 1}
    return {source: FileComparison(files, sample_rate=sample_rate) for source, files in several.items()}


def without_copies(
    track: Track, infos: Mapping[StemFile, AudioInfo], comparisons: Mapping[str, FileComparison]
) -> tuple[Track, tuple[str, ...]]:
    """The track with one of each group of equal files, and what to say of the others.

    Of two files of one name the lossless one is used: .m4a holds either kind, so names alone do not tell. AudioError
    "ambiguous_stem" where versions by their names hold different audio, and where files of other names hold one
    performance.
    """
    stems, remarks = dict(track.stems), []
    for source, comparison in comparisons.items():
        files = track.stems[source]
        left_out = set()
        for first, second in ((first, second) for name, first, second in track.versions if name == source):
            if comparison.same(first, second):
                continue
            if not _in_two_formats(files[first], files[second], infos):
                raise _two_versions(source, files[first], files[second])
            lossy, kept = (second, first) if infos[files[first]].lossless else (first, second)
            left_out.add(lossy)
            remarks.append(f"{files[lossy].path} is left out: a lossy copy of {files[kept].path}")
        for first, second, share in comparison.alike():
            if not comparison.same(first, second) and not {first, second} & left_out:
                raise _one_performance(files[first], files[second], share)
        for members in comparison.equal():
            kept, *others = sorted(members, key=lambda index: (len(files[index].path), files[index].path))
            left_out |= set(others)
            names = " and ".join(files[index].path for index in others)
            verb = "holds" if len(others) == 1 else "hold"
            remarks.append(f"{names} {verb} the same audio as {files[kept].path}, which is used once")
        stems[source] = tuple(file for index, file in enumerate(files) if index not in left_out)
    return replace(track, stems=stems, versions=()), tuple(remarks)


def _in_two_formats(first: StemFile, second: StemFile, infos: Mapping[StemFile, AudioInfo]) -> bool:
    """Whether files have one name, and one of them alone is coded without loss."""
    of_one_name = without_suffix(first.path) == without_suffix(second.path)
    return of_one_name and infos[first].lossless != infos[second].lossless


_REMEDY = "rename them, or list the words that tell them apart under [apart] in the file that corpus.taxonomy names"


def _two_versions(source: str, first: StemFile, second: StemFile) -> AudioError:
    return AudioError(
        "ambiguous_stem",
        f"{first.path} and {second.path} are two versions of one {source} stem by their names, and hold different "
        f"audio: remove one; if both belong in the song, {_REMEDY}",
    )


def _one_performance(first: StemFile, second: StemFile, share: float) -> AudioError:
    return AudioError(
        "ambiguous_stem",
        f"{first.path} and {second.path} hold the same performance (another gain and equalizer make {share:.0%} of one "
        f"from the other): remove one; if both belong in the song, as two microphones do, {_REMEDY}",
    )
