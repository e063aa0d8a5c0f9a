"""Short-time spectra of stereo: the energy of all channels together, so that no phase between them can cancel.

The mono sum loses what is in antiphase, and with one channel inverted it is another signal; its energy is not.
"""

from collections.abc import Iterator

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from datasets.audio.audio_types import Samples


def resampled(signal: Samples, sample_rate: int, rate: int) -> Samples:
    """A signal (T,) or (C, T) at another rate, (C, T)."""
    channels = np.atleast_2d(np.asarray(signal, dtype=np.float32))
    return np.stack([soxr.resample(np.ascontiguousarray(channel_T), sample_rate, rate) for channel_T in channels])


def exceeds(signal: Samples, level_db: float) -> bool:
    """Whether any sample of a signal of any shape, which may be empty, is louder than so many dBFS."""
    return bool(max(signal.max(initial=0.0), -signal.min(initial=0.0)) > 10.0 ** (level_db / 20.0))


def magnitudes(samples_CT: Samples, window_T: Samples, hop: int, *, block: int) -> Iterator[Samples]:
    """Root mean square of the channels' magnitude spectra, (N, F), `block` frames at a time: memory is bounded."""
    from scipy.fft import rfft

    frames_CNT = sliding_window_view(samples_CT, window_T.size, axis=1)[:, ::hop]
    for start in range(0, frames_CNT.shape[1], block):
        power_NF: Samples | None = None
        for frames_NT in frames_CNT[:, start : start + block]:
            spectrum_NF = rfft(frames_NT * window_T, axis=1)
            parts = spectrum_NF.view(np.float32)  # real and imaginary parts in turns: cheaper than their magnitude
            np.square(parts, out=parts)
            added_NF = parts[:, ::2] + parts[:, 1::2]
            power_NF = added_NF if power_NF is None else np.add(power_NF, added_NF, out=power_NF)
        assert power_NF is not None
        power_NF /= len(samples_CT)
        yield np.sqrt(power_NF, out=power_NF)
