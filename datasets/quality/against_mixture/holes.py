"""Stems that are silent, from one moment to the next or in a whole channel, where their mixture has more.

What a stem lacks where it is silent shows in what the stems leave of the mixture there, in frames of 10 ms.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from datasets.quality.against_mixture.alignment import SILENT_POWER
from datasets.quality.against_mixture.stem_changes import StemFault

Array = NDArray[np.float64]

FRAMES_PER_S = 100  # in which holes are looked for
_MIN_HOLE, _LONG_HOLE = 3, 50  # frames; a shorter hole than the long begins or ends abruptly
_HOLE = 1e-5  # of a stem's mean power, below which a frame is silent
_STEP = 1e-2  # of it, from which on the frame before or after a hole makes it a cut
_AROUND_HOLE = 2 * FRAMES_PER_S  # frames on each side that it is compared with
_LEFT_IN_HOLE = 4.0  # times what is left of the mixture there, as a share of it, that must be left in a hole,
_LEFT_OF_STEM = 0.05  # and of the stem's mean power
_DEAD = 1e-4  # of the other channel's power


def holes(powers_PN: Array, *, num_channels: int, num_seconds: int, frame_s: float) -> Iterator[StemFault]:
    """Faults "missing", "left_dead" and "right_dead", in the order of stems.

    `powers_PN` are mean squares of frames: of the stems' channels, of the mixture's, and of what is left of those; as
    many of each second, `frame_s` long.
    """
    mixture_CN, left_CN = powers_PN[-2 * num_channels : -num_channels], powers_PN[-num_channels:]
    stems_SCN = powers_PN[: -2 * num_channels].reshape(-1, num_channels, powers_PN.shape[1])
    for place, stem_CN in enumerate(stems_SCN):
        mean = stem_CN.mean(axis=1)
        if mean.max() < SILENT_POWER:
            continue
        silent_N = np.zeros(stem_CN.shape[1], np.bool_)
        for channel in range(num_channels):
            if mean[channel] >= _DEAD * mean.max():
                silent_N |= _cuts(stem_CN[channel], mixture_CN[channel], left_CN[channel])
            elif _is_dead(channel, mean, left_CN):
                kind, everywhere = "right_dead" if channel else "left_dead", tuple(range(num_seconds))
                yield StemFault(kind=kind, place=place, seconds=everywhere, num_s=float(num_seconds))
        if silent_N.any():
            frames = np.flatnonzero(silent_N)
            seconds = tuple(np.unique(frames * num_seconds // len(silent_N)).tolist())
            yield StemFault(kind="missing", place=place, seconds=seconds, num_s=float(len(frames) * frame_s))


def _is_dead(channel: int, mean: Array, left_CN: Array) -> bool:
    """Whether far more of the mixture's channel is left than of the other, where a stem's is silent throughout."""
    left = left_CN.mean(axis=1)
    return bool(left[channel] > _LEFT_OF_STEM * mean.max() and left[channel] > _LEFT_IN_HOLE * left.min())


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
