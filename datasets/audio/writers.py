"""Samples into files and bytes: WAV, FLAC and MP3."""

import io
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.audio.audio_types import Integers, Samples, to_channels
from datasets.audio.resampling import resample
from datasets.errors import InputError

_CACHED_SAMPLES = 16384  # that a core keeps beside it while they are worked on
_WAV_LIMIT_BYTES = 0xFFFFFFFF - 4096
_MP3_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_SUBTYPES = {
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_INTEGER_BITS = {"wav16": 16, "wav24": 24, "flac": 24}


class AudioWriter:
    """Writes blocks to a temporary name beside `path`, which appears only when the `with` block ends well.

    `format` is wav16, wav24, float, flac (24 bit) or mp3. The same samples give the same bytes. Integer formats hold
    the nearest of their steps, without dither, so silence stays silence. Samples beyond full scale are cut off in all
    formats but float: at the lowest and the highest step, -1 and 1 - 2^(1 - bits), or in MP3 at -1 and 1.
    """

    def __init__(self, path: str | Path, *, sample_rate: int, channels: int, format: str = "wav16") -> None:
        if format not in _SUBTYPES:
            raise InputError(f"audio format must be one of {', '.join(_SUBTYPES)}, got {format!r}")
        if format == "mp3" and (sample_rate not in _MP3_RATES or channels > 2):
            raise InputError(
                f"MP3 holds one or two channels at {', '.join(map(str, _MP3_RATES))} Hz, "
                f"got {channels} at {sample_rate} Hz; use flac"
            )
        self.path = Path(path)
        self._format, self._channels = format, channels
        self._temporary = self.path.with_name(f".tmp-{uuid.uuid4().hex[:12]}")
        self._num_samples = 0
        container, subtype = _SUBTYPES[format]
        quality: dict[str, Any] = {"compression_level": 0.1, "bitrate_mode": "VARIABLE"} if format == "mp3" else {}
        try:
            self._file = soundfile.SoundFile(
                self._temporary, "w", sample_rate, channels, subtype, format=container, **quality
            )
        except (OSError, soundfile.LibsndfileError) as error:
            raise InputError(f"cannot write to {self.path.parent}: {error}") from None

    def write(self, samples_CT: Samples) -> None:
        """Append a block."""
        assert samples_CT.shape[0] == self._channels, samples_CT.shape
        self._num_samples += samples_CT.shape[1]
        bytes_per_sample = {"wav16": 2, "wav24": 3, "float": 4}.get(self._format, 0)
        if self._num_samples * self._channels * bytes_per_sample > _WAV_LIMIT_BYTES:
            raise InputError(f"{self.path.name} would exceed the 4 GiB that a WAV file can hold; use flac")
        samples_TC = np.ascontiguousarray(samples_CT.T)
        try:
            if bits := _INTEGER_BITS.get(self._format):  # libsndfile truncates floats in WAV and scales them in FLAC
                self._file.write(_steps(samples_TC, bits))
            else:
                self._file.write(samples_TC if self._format == "float" else np.clip(samples_TC, -1.0, 1.0))
        except (OSError, soundfile.LibsndfileError) as error:
            raise InputError(f"cannot write {self.path}: {error}; is the disk full?") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                if self._format == "float":
                    _clear_peak_time(self._temporary)
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def encode_flac(samples_CT: Samples | Integers, *, sample_rate: int, bits: int = 24) -> bytes:
    """FLAC of 16 or 24 bits, level 5. Samples on that grid come back exactly; those beyond full scale are cut off."""
    buffer = io.BytesIO()
    if isinstance(samples_CT, Integers):
        ints_TC = samples_CT.ints_CT.T
        steps_TC = ints_TC if bits == 16 else ints_TC.astype(np.int32) << 16
    else:
        steps_TC = _steps(samples_CT.T, bits)
    soundfile.write(buffer, steps_TC, sample_rate, format="FLAC", subtype=f"PCM_{bits}")
    return buffer.getvalue()


def encode_for_page(samples_CT: Samples, sample_rate: int) -> tuple[bytes, str]:
    """Small audio for a player in a web page, and its MIME type: MP3, which every browser plays."""
    rate = sample_rate if sample_rate in _MP3_RATES else 44100
    samples_CT = resample(samples_CT, source_rate=sample_rate, target_rate=rate)
    buffer = io.BytesIO()
    samples_TC = np.clip(to_channels(samples_CT, min(2, samples_CT.shape[0])).T, -1.0, 1.0)
    # VARIABLE at 0.5 is about 130 kbit/s for stereo music.
    soundfile.write(buffer, samples_TC, rate, format="MP3", compression_level=0.5, bitrate_mode="VARIABLE")
    return buffer.getvalue(), "audio/mpeg"


def _steps(samples_TC: Samples, bits: int) -> NDArray[np.int16] | NDArray[np.int32]:
    """The nearest 16-bit numbers, or 24-bit ones in the upper bits of 32; the product is exact in float32."""
    assert np.issubdtype(samples_TC.dtype, np.floating), samples_TC.dtype
    full_scale = 1 << bits - 1
    whole = np.empty(samples_TC.shape, np.int16 if bits == 16 else np.int32)
    for start in range(0, len(samples_TC), _CACHED_SAMPLES):
        steps_CT = samples_TC[start : start + _CACHED_SAMPLES].T * np.float32(full_scale)
        np.rint(steps_CT, out=steps_CT)
        np.clip(steps_CT, -full_scale, full_scale - 1, out=steps_CT)
        # Channel by channel, which takes half the time of a transposed assignment.
        for channel, ints_T in enumerate(steps_CT.astype(whole.dtype)):
            whole[start : start + _CACHED_SAMPLES, channel] = ints_T
    return whole if bits == 16 else whole << 8


def _clear_peak_time(path: Path) -> None:
    """libsndfile stamps the time of day into the PEAK chunk of float WAVs; equal audio should be equal bytes."""
    with path.open("r+b") as file:
        at = file.read(256).find(b"PEAK")
        if at >= 0:
            file.seek(at + 12)
            file.write(bytes(4))
