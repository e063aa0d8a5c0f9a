"""The two decoders behind one interface, and the error that each of their failures stands for.

libsndfile reads what it can (wav, flac, ogg, mp3, aiff); PyAV, which carries ffmpeg's libraries in its
wheel, reads the rest. Both stop silently at the end of a cut-off file, so each is looked at first (`file_integrity/`),
and what the header promises is compared with what came out.
"""

import errno
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.audio.audio_types import AudioInfo, Samples
from datasets.audio.file_integrity.recognize import FileKind, check_flac, recognize, truncated
from datasets.audio.file_integrity.riff_chunks import told_whole
from datasets.errors import AudioError, InputError, Unavailable

# Formats whose stated duration is a promise rather than an estimate from the bit rate; so are those of PCM in others.
_AV_EXACT = {"mov", "mp4", "m4a", "matroska", "webm", "flac", "wv", "tta"}
_AV_EXACT_PCM = {"wav", "aiff", "au", "caf", "w64"}
_AV_TOLERANCE_S = 0.25
SAMPLE_RATES = (4000, 768000)  # Hz: what is stated beyond is no rate of a recording
MAX_CHANNELS = 32
MAX_HOURS = 24
_READ_SAMPLES = 1 << 15  # stays in the cache until it has been checked and copied
# What PyAV may take a file for. It knows formats without any header, too, and decodes a web page as a telephone call.
_AV_FORMATS = {
    "aac", "ac3", "aiff", "asf", "au", "avi", "caf", "eac3", "flac", "flv", "matroska", "mov", "mp3", "mpeg",
    "mpegts", "ogg", "tta", "w64", "wav", "wv",
}  # fmt: skip
_DEEP_SUBTYPES = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}
_LOSSLESS_SUBTYPES = {*_DEEP_SUBTYPES, "PCM_S8", "PCM_U8", "PCM_16", "ALAC_16"}
_SYSTEM_ERROR = 2  # of libsndfile: the operating system refused
# What FFmpeg passes on from the operating system, and never says of a file's content. EIO is not among them.
_MACHINE_ERRORS = {
    errno.ENOENT, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT,
    errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET,
    errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENOTCONN, errno.EBUSY, errno.ENODEV, errno.ENXIO,
}  # fmt: skip


class Reader(Protocol):
    info: AudioInfo
    kind: FileKind

    def blocks(self) -> Iterator[Samples]: ...
    def close(self) -> None: ...


def open_reader(path: str | Path, stream: int | None) -> Reader:
    """A reader of a file; AudioError where its bytes are no audio, Unavailable where they cannot be read."""
    path = Path(path)
    reader = _open(path, stream)
    try:
        _check_bounds(reader.info, path)
    except AudioError:
        reader.close()
        raise
    return reader


def _check_bounds(info: AudioInfo, path: Path) -> None:
    """AudioError where a header states what no song has, before anything is made of that size."""
    least, most = SAMPLE_RATES
    if not least <= info.sample_rate <= most:
        raise AudioError(
            "undecodable", f"{path}: its sample rate must be between {least} and {most} Hz, got {info.sample_rate}"
        )
    if info.channels > MAX_CHANNELS:
        raise AudioError("undecodable", f"{path}: must have at most {MAX_CHANNELS} channels, got {info.channels}")
    if info.num_samples > MAX_HOURS * 3600 * info.sample_rate:
        hours = info.num_samples / info.sample_rate / 3600
        raise AudioError("undecodable", f"{path}: must last at most {MAX_HOURS} hours, its header states {hours:.0f}")


def _open(path: Path, stream: int | None) -> Reader:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError("undecodable", f"{path}: not a file")
        if size == 0:
            raise AudioError("empty_file", f"{path}: a file of zero bytes")
        kind = recognize(path)
        if stream is None and not kind.by_pyav:
            try:
                reader = SoundFileReader(path, kind)
                return reader if reader.info.channels <= 2 else _with_speakers(reader, path)
            except soundfile.LibsndfileError as error:
                if error.code == _SYSTEM_ERROR:
                    raise Unavailable(f"{path} cannot be read: {error}") from None
                # else PyAV may know the format
        path.open("rb").close()  # the errors of PyAV do not tell a file that it may not read from one it cannot decode
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from None
    return _AvReader(path, kind, stream or 0)


def _with_speakers(reader: "SoundFileReader", path: Path) -> "Reader":
    """A reader of a file of more than two channels that knows which is which: libsndfile does not tell, FFmpeg does."""
    try:
        known = _AvReader(path, reader.kind, 0)
    except AudioError:
        return reader
    if not reader.is_mended and known.info.speakers and known.info.channels == reader.info.channels:
        reader.close()
        return known
    known.close()
    if known.info.channels == reader.info.channels:
        reader.info = replace(reader.info, speakers=known.info.speakers)
    return reader


def checked_blocks(reader: Reader, path: str | Path) -> Iterator[Samples]:
    left = MAX_HOURS * 3600 * reader.info.sample_rate
    for block_CT in reader.blocks():
        if (left := left - block_CT.shape[1]) < 0:
            raise AudioError("undecodable", f"{path}: must last at most {MAX_HOURS} hours, and goes on")
        with np.errstate(invalid="ignore", over="ignore"):
            total = block_CT.sum()  # one NaN or infinity makes the sum one
        if not np.isfinite(total):
            raise AudioError("not_finite", f"{path}: holds NaN or infinite samples")
        yield block_CT
    _check_alone(reader, path)


def checked_integers(path: str | Path, block_samples: int) -> Generator[NDArray[np.int16], None, None]:
    """Blocks of a file that is known to hold 16-bit integers."""
    path = Path(path)
    try:
        reader = SoundFileReader(path, recognize(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from None
    with closing(reader):
        yield from reader.integers(block_samples)
        _check_alone(reader, path)


def _check_alone(reader: Reader, path: str | Path) -> None:
    """AudioError where a decoder that came to its end has left another FLAC stream unread."""
    try:
        check_flac(Path(path), reader.kind)
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from None


class SoundFileReader:
    def __init__(self, path: Path, kind: FileKind) -> None:
        self._path, self.kind = path, kind
        self._mended = told_whole(path, kind.extent) if kind.extent and kind.extent.mends else None
        try:
            self._file = soundfile.SoundFile(self._mended or path)
        except soundfile.LibsndfileError:
            self._close_mended()
            raise
        frames = self._file.frames if self._file.frames < 1 << 62 else 0
        self.info = AudioInfo(
            sample_rate=self._file.samplerate,
            channels=self._file.channels,
            num_samples=frames,
            bits=24 if self._file.subtype in _DEEP_SUBTYPES else 16,
            lossless=self._file.subtype in _LOSSLESS_SUBTYPES,
            integers=self._file.subtype == "PCM_16",
            unsaid_delays=kind.unsaid_delays("mp3" if self._file.subtype == "MPEG_LAYER_III" else ""),
        )

    def blocks(self) -> Iterator[Samples]:
        yield from self._read(_READ_SAMPLES, "float32")

    def integers(self, block_samples: int) -> Iterator[NDArray[np.int16]]:
        yield from self._read(block_samples, "int16")

    def _read(self, block_samples: int, dtype: str) -> Iterator[Any]:
        count = 0
        try:
            while len(block_TC := self._file.read(block_samples, dtype=dtype, always_2d=True)):
                count += len(block_TC)
                yield block_TC.T
        except soundfile.LibsndfileError as error:
            if error.code == _SYSTEM_ERROR:
                raise Unavailable(f"{self._path} cannot be read: {error}") from None
            detail = f"decoding stopped after {count} samples ({error})"
            if self.info.num_samples:
                detail = f"truncated or damaged, {count} of {self.info.num_samples} samples decode ({error})"
            raise AudioError("undecodable", f"{self._path}: {detail}") from None
        if count < self.info.num_samples:
            raise truncated(self._path, f"{count} of {self.info.num_samples} samples decode")

    def close(self) -> None:
        self._file.close()
        self._close_mended()

    @property
    def is_mended(self) -> bool:
        """Whether another header is read than the file has."""
        return self._mended is not None

    def _close_mended(self) -> None:
        if self._mended is not None:
            self._mended.close()


class _AvReader:
    def __init__(self, path: Path, kind: FileKind, stream: int) -> None:
        import av

        self._path, self.kind = path, kind
        self._stack = ExitStack()
        try:
            self._container = self._stack.enter_context(av.open(str(path), metadata_errors="replace"))
        except (av.error.FFmpegError, OSError) as error:
            raise _av_error(path, error, f"no decoder knows this file ({error.strerror})") from None
        format_name = self._container.format.name
        if not _AV_FORMATS & set(format_name.split(",")):
            self.close()
            raise AudioError(
                "undecodable", f"{path}: no decoder knows this file (it may be {format_name}, or no audio)"
            )
        streams = self._container.streams.audio
        if stream >= len(streams):
            self.close()
            raise AudioError("undecodable", f"{path}: has {len(streams)} audio streams, number {stream} was asked for")
        self._stream = streams[stream]
        context: Any = self._stream.codec_context
        if context is None:  # whatever PyAV's types say: FFmpeg has no decoder for it, as for PCM of 36 bits
            self.close()
            raise AudioError("undecodable", f"{path}: no decoder knows this file (its samples are of no known codec)")
        rate = context.sample_rate
        if rate < 1 or context.layout.nb_channels < 1:  # a format guessed from the file's name
            self.close()
            raise AudioError("undecodable", f"{path}: no decoder knows this file (it states no sample rate)")
        duration, base = self._stream.duration, self._stream.time_base
        known = duration is not None and base is not None
        self.info = AudioInfo(
            sample_rate=rate,
            channels=context.layout.nb_channels,
            num_samples=round(duration * base * rate) if known else 0,  # type: ignore[operator]
            bits=24 if context.codec.lossless and context.format.bits > 16 else 16,
            lossless=context.codec.lossless,
            unsaid_delays=kind.unsaid_delays(context.codec.canonical_name),
            speakers=_speakers(context.layout),
        )

    def blocks(self) -> Iterator[Samples]:
        import av

        # The resampler only converts the sample format, rate and layout stay. Of eight planes and more PyAV reads past
        # the last, and the process dies; packed samples are one plane.
        channels = self.info.channels
        to_float = av.AudioResampler(format="fltp" if channels <= 2 else "flt")
        count = 0
        try:
            for frame in self._container.decode(self._stream):
                if frame.sample_rate != self.info.sample_rate:
                    rates = f"{self.info.sample_rate} to {frame.sample_rate} Hz"
                    raise AudioError("undecodable", f"{self._path}: the sample rate changes on the way, from {rates}")
                for converted in to_float.resample(frame):
                    if converted.layout.nb_channels != channels:
                        raise AudioError("undecodable", f"{self._path}: the channel count changes on the way")
                    values = converted.to_ndarray()
                    planes_CT = values if channels <= 2 else values.reshape(-1, channels).T
                    block_CT = np.ascontiguousarray(planes_CT, dtype=np.float32)
                    count += block_CT.shape[1]
                    yield block_CT
        except av.error.FFmpegError as error:
            if self._is_exact() and 0 < self.info.num_samples <= count:
                return  # what follows the last sample is no audio
            detail = f"decoding stopped after {count} samples ({error})"
            if self._is_exact() and self.info.num_samples:
                detail = f"truncated or damaged, {count} of {self.info.num_samples} samples decode ({error})"
            raise _av_error(self._path, error, detail) from None
        if self._is_exact() and count < self.info.num_samples - _AV_TOLERANCE_S * self.info.sample_rate:
            raise truncated(self._path, f"{count} of {self.info.num_samples} samples decode")
        if count == 0:
            raise AudioError("undecodable", f"{self._path}: no audio in it")

    def _is_exact(self) -> bool:
        names, codec = set(self._container.format.name.split(",")), self._stream.codec_context.name
        return bool(_AV_EXACT & names) or (bool(_AV_EXACT_PCM & names) and codec.startswith("pcm_"))

    def close(self) -> None:
        self._stack.close()


def _speakers(layout: Any) -> tuple[str, ...]:
    """The channels of a layout of more than two, by name; empty where the file does not say."""
    names = tuple(channel.name for channel in layout.channels)
    return names if len(names) > 2 and "NONE" not in names else ()


def _av_error(path: Path, error: Exception, detail: str) -> InputError:
    """The machine's or the file's error that stands behind one of PyAV."""
    if getattr(error, "errno", None) in _MACHINE_ERRORS:
        return Unavailable(f"{path} cannot be read: {getattr(error, 'strerror', error)}")
    return AudioError("undecodable", f"{path}: {detail}")
