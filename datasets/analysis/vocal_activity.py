"""When somebody sings: the spans of a vocal stem that sound, in seconds."""

import numpy as np

from datasets.audio.audio_types import Samples

BLOCK_S = 0.05
SILENCE_DB = -60.0
RANGE_DB = 35.0
MIN_REST_S = 0.4  # a shorter rest is a breath, and belongs to the span
MIN_SPAN_S = 0.15  # what is shorter is a click


def singing_spans(stem: Samples, sample_rate: int, *, range_db: float = RANGE_DB) -> tuple[tuple[float, float], ...]:
    """Spans of a stem (T,) or (C, T) that are at most `range_db` below its loud parts, to 50 ms; none in silence.

    Loud is what nine tenths of the sounding blocks stay below. What is under -60 dBFS never counts.
    """
    block = max(1, round(BLOCK_S * sample_rate))
    stem_CT = np.atleast_2d(np.asarray(stem, dtype=np.float32))
    count = stem_CT.shape[1] // block
    blocks = stem_CT[:, : count * block].reshape(len(stem_CT), count, block)
    power = np.einsum("cnb,cnb->n", blocks, blocks).astype(np.float64) / (len(stem_CT) * block)
    floor = 10.0 ** (SILENCE_DB / 10.0)
    if not np.any(power > floor):
        return ()
    loud = float(np.percentile(power[power > floor], 90))
    sounds = power > max(floor, loud * 10.0 ** (-range_db / 10.0))
    edges = np.diff(np.concatenate([[0], sounds.astype(np.int8), [0]]))
    starts, stops = np.nonzero(edges > 0)[0], np.nonzero(edges < 0)[0]
    apart = (starts[1:] - stops[:-1]) * BLOCK_S >= MIN_REST_S
    starts, stops = starts[np.concatenate([[True], apart])], stops[np.concatenate([apart, [True]])]
    long = (stops - starts) * BLOCK_S >= MIN_SPAN_S
    seconds = np.stack([starts, stops], axis=1)[long] * block / sample_rate
    return tuple((round(float(start), 3), round(float(stop), 3)) for start, stop in seconds)
