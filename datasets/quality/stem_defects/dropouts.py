"""Moments in which a stem falls to zero without fading, as from a buffer that ran empty."""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

_ZERO = 2.0**-16  # of full scale: half a step of 16 bits
_EDGE = 0.1  # of the stem's level in that second, from which a dropout begins and to which it returns
_BESIDE = 8  # samples on each side that tell it
_STEPS = 3.0  # of the smallest sample that is not zero: what rounds to zero in coarse steps is no dropout
_SHORTEST_S, _LONGEST_S = 0.004, 0.5  # of a dropout; longer ones are rests


class DropoutCounter:
    """Listens to stems second by second; a dropout counts in the second in which it ends."""

    def __init__(self, num_sources: int, sample_rate: int) -> None:
        self._rate = sample_rate
        self._longest = int(_LONGEST_S * sample_rate)
        self._cut: set[tuple[int, int]] = set()  # stems and channels that fell to zero without fading, so far for good
        self._open: dict[tuple[int, int], Samples] = {}  # by stem and channel: the silence at its end, and what falls

    def add(self, second_SCT: Samples) -> NDArray[np.int64]:
        """How often each stem falls to zero and comes back within a moment, without fading, of shape (S,)."""
        counts = [
            max(self._in_channel(place, channel, channel_T) for channel, channel_T in enumerate(stem_CT))
            for place, stem_CT in enumerate(second_SCT)
        ]
        for place, channel in np.ndindex(*second_SCT.shape[:2]):
            self._note_end(place, channel, second_SCT[place, channel])
        return np.array(counts, np.int64)

    def one_channel_cut(self, num_sources: int) -> NDArray[np.bool_]:
        """Whether one channel of each stem, and not the other, fell to zero without fading and never came back."""
        return np.array([sum(stem == place for stem, _ in self._cut) == 1 for place in range(num_sources)])

    def _note_end(self, place: int, channel: int, channel_T: Samples) -> None:
        if abs(channel_T[-1]) >= _ZERO:
            self._cut.discard((place, channel))
            return
        loud_T = np.abs(channel_T)
        sounding_T = loud_T >= _ZERO
        last = len(loud_T) - 1 - int(sounding_T[::-1].argmax())
        if not sounding_T[last]:
            return
        edge = float(_beside(loud_T, np.array([last]), -1)[0])
        abrupt = edge > _STEPS * _ZERO and edge > _least_edge(loud_T[sounding_T])  # what faded is told at once
        (self._cut.add if abrupt else self._cut.discard)((place, channel))

    def _in_channel(self, place: int, channel: int, channel_T: Samples) -> int:
        before_T = self._open.pop((place, channel), None)
        joined_T = channel_T if before_T is None else np.concatenate([before_T, channel_T])
        if abs(joined_T[-1]) < _ZERO:
            end_T = joined_T[-self._longest - _BESIDE :]
            last = np.flatnonzero(np.abs(end_T) >= _ZERO)
            if last.size:  # or it is silent for longer than a dropout
                self._open[place, channel] = end_T[max(0, last[-1] - _BESIDE + 1) :].copy()
        return _holes(joined_T, self._rate)


def _holes(stem_T: Samples, sample_rate: int) -> int:
    """How many stretches of silence begin and end in here, and are too short and too abrupt for rests."""
    shortest = int(_SHORTEST_S * sample_rate)
    # A run this long holds one of every so many samples: most seconds end here.
    if not (np.abs(stem_T[::shortest]) < _ZERO).any():
        return 0
    loud_T = np.abs(stem_T)
    silent_T = loud_T < _ZERO
    bounds = np.flatnonzero(silent_T[1:] != silent_T[:-1])
    if not bounds.size:
        return 0
    if silent_T[0]:
        bounds = bounds[1:]
    starts, stops = bounds[: len(bounds) // 2 * 2 : 2], bounds[1::2]
    fits = (stops - starts >= shortest) & (stops - starts <= _LONGEST_S * sample_rate)
    if not fits.any():
        return 0
    edges = np.minimum(_beside(loud_T, starts[fits], -1), _beside(loud_T, stops[fits] + 1, 1))
    return int(np.count_nonzero(edges > _least_edge(loud_T[~silent_T])))


def _least_edge(sounding_T: Samples) -> float:
    """The level from which on a stem that falls to zero did not fade."""
    return max(_EDGE * float(np.sqrt(np.square(sounding_T).mean())), _STEPS * float(sounding_T.min()))


def _beside(loud_T: Samples, at: NDArray[np.intp], direction: int) -> Samples:
    """The level of the few samples from each place on: their median, since a click in a rest is no sound."""
    places = np.clip(at[:, None] + direction * np.arange(_BESIDE), 0, len(loud_T) - 1)
    level: Samples = np.median(loud_T[places], axis=1)
    return level
