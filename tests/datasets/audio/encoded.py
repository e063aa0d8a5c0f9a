"""A second of noise in whatever ffmpeg encodes."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np

from datasets.audio.audio_types import Samples
from datasets.seeding import row_rng

FORMATS = {".mka": "matroska", ".m4a": "ipod", ".wma": "asf", ".aac": "adts"}


def encoded(
    path: Path,
    codec: str,
    kind: str = "fltp",
    *,
    rate: int = 44100,
    layout: str = "stereo",
    samples_CT: Samples | None = None,
    format: str = "",
    options: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a file that is written at `path`, in the container of its suffix; `kind` is of the samples."""
    channels = av.AudioLayout(layout).nb_channels
    if samples_CT is None:
        samples_CT = (0.1 * row_rng(0, "encoded").standard_normal((channels, rate))).astype(np.float32)
    scale = {"s16": 1 << 15, "s16p": 1 << 15, "s32": 1 << 31, "s32p": 1 << 31}.get(kind, 1)
    type_ = {"s16": np.int16, "s32": np.int32}.get(kind.removesuffix("p"), np.float32)
    values_CT = (samples_CT.astype(np.float64) * scale).astype(type_)
    if not kind.endswith("p"):
        values_CT = values_CT.T.reshape(1, -1)
    format = format or FORMATS.get(path.suffix, path.suffix[1:])
    with av.open(str(path), "w", format=format, options=dict(options or {})) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 64000 * channels
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values_CT), format=kind, layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()
