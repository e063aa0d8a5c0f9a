"""Stems of which one channel is dead."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DEAD = 1e-5  # of the other channel's power
_ALIVE = 1e-2
_AUDIBLE = 1e-6  # mean square, -60 dBFS
_ONE_SIDED = 0.9  # share of seconds from which on a stem is one-sided by design, as the others of its song are
_ALIKE = 0.6  # correlation of the channels of a stem that would be heard in both


def one_sided(power_NSC: Array, cross_NS: Array, cut_S: NDArray[np.bool_]) -> Array:
    """Share of a stem's seconds in which one channel is dead, where that is no matter of design, of shape (S,).

    `power_NSC` are mean squares per second, `cross_NS` mean products of the channels, `cut_S` says whether one channel
    ended without fading. Otherwise a stem whose channels hold different things may leave one of them empty at times,
    and where more than one stem of a song is on one side throughout, as in early stereo, all of them may be.
    """
    loud_NS, soft_NS = power_NSC.max(axis=2), power_NSC.min(axis=2)
    audible_NS = loud_NS > _AUDIBLE
    dead_NS = audible_NS & (soft_NS < _DEAD * loud_NS)
    alive_NS = audible_NS & (soft_NS > _ALIVE * loud_NS)
    share_S = dead_NS.sum(axis=0) / np.maximum(audible_NS.sum(axis=0), 1)
    together_S = (cross_NS * alive_NS).sum(axis=0)
    both_S = (np.sqrt(loud_NS * soft_NS) * alive_NS).sum(axis=0)
    alike_S = together_S > _ALIKE * np.maximum(both_S, 1e-12)
    throughout_S = share_S > _ONE_SIDED
    by_design = throughout_S.sum() > 1
    result: Array = np.where(throughout_S, 0.0 if by_design else share_S, np.where(alike_S | cut_S, share_S, 0.0))
    return result
