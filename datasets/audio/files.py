"""Samples out of files and into them: decode, resample, channel layout, FLAC to and from bytes.

libsndfile reads what it can (wav, flac, ogg, mp3, aiff); PyAV, which carries ffmpeg's libraries in its
wheel, reads the rest. Both stop silently at the end of a cut-off file, so what the header promises is
compared with what came out. Next to read: `chunks.py`, which cuts songs for storage.
"""

import errno
import io
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.audio.containers import chained, check
from datasets.audio.downmix import means
from datasets.errors import AudioError, InputError, Unavailable

Samples = NDArray[np.float32]

# Containers that libsndfile does not know; asking it first would only cost time.
_AV_SUFFIXES = {".m4a", ".mp4", ".aac", ".mka", ".mkv", ".webm", ".wma", ".mov", ".ac3"}
# Formats whose stated duration is a promise rather than an estimate from the bit rate.
_AV_EXACT = {"mov", "mp4", "m4a", "matroska", "webm", "flac", "wav", "aiff"}
_AV_TOLERANCE_S = 0.25
_READ_SAMPLES = 1 << 15  # stays in the cache until it has been checked and copied
_CACHED_SAMPLES = 16384  # that a core keeps beside it while they are worked on
# What PyAV may take a file for. It knows formats without any header, too, and decodes a web page as a telephone call.
_AV_FORMATS = {"aac", "ac3", "aiff", "asf", "au", "caf", "eac3", "flac", "matroska", "mov", "mp3", "ogg", "w64", "wav"}
_UNKNOWN_SIZE = 0x7FFF0000  # what writers into a pipe put into a WAV header, and more
_FULL_SCALE = 1 << 15  # of 16-bit integers
_WAV_LIMIT_BYTES = 0xFFFFFFFF - 4096
_MP3_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_DEEP_SUBTYPES = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}
_SUBTYPES = {
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_SCAN_BYTES = 1 << 20
_FLAC_MARKS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_SYSTEM_ERROR = 2  # of libsndfile: the operating system refused
# What FFmpeg passes on from the operating system, and never says of a file's content. EIO is not among them.
_MACHINE_ERRORS = {
    errno.ENOENT, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT,
    errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET,
    errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENOTCONN, errno.EBUSY, errno.ENODEV, errno.ENXIO,
}  # fmt: skip
_INTEGER_BITS = {"wav16": 16, "wav24": 24, "flac": 24}


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """16-bit samples as a file holds them, full scale at 32768; no array, so that none is taken for floats."""

    ints_CT: NDArray[np.int16]

    def __post_init__(self) -> None:
        if self.ints_CT.dtype != np.int16 or self.ints_CT.ndim != 2:
            raise ValueError(
                f"16-bit samples must be int16 of shape (C, T), got {self.ints_CT.dtype} of {self.ints_CT.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and samples."""
        channels, num_samples = self.ints_CT.shape
        return channels, num_samples

    def floats(self) -> Samples:
        """The float32 samples that they stand for; exact."""
        return self.ints_CT.astype(np.float32) / np.float32(_FULL_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What a file says of itself; `num_samples` is 0 where it does not say, and an estimate in some containers."""

    sample_rate: int
    channels: int
    num_samples: int
    bits: int  # 24 for samples of more than 16 bits that are coded without loss, else 16
    integers: bool = False  # 16 bits each, which `integer_blocks` reads as they are


class _Reader(Protocol):
    info: AudioInfo

    def blocks(self) -> Iterator[Samples]: ...
    def close(self) -> None: ...


def probe(path: str | Path, *, stream: int | None = None) -> AudioInfo:
    """Rate, channels and length as the header states them; `stream` counts a container's audio streams from 0."""
    with closing(_open(path, stream)) as reader:
        return reader.info


def decode(path: str | Path, *, stream: int | None = None) -> tuple[Samples, int]:
    """The whole file as samples_CT at its own rate, and that rate."""
    with closing(_open(path, stream)) as reader:
        blocks = list(_checked(reader, path))
        if not blocks:
            return np.zeros((reader.info.channels, 0), np.float32), reader.info.sample_rate
        return np.concatenate(blocks, axis=1), reader.info.sample_rate


def decode_blocks(
    path: str | Path,
    *,
    sample_rate: int,
    channels: int = 2,
    stream: int | None = None,
    block_samples: int = 1 << 18,
    resample_quality: str = "HQ",
) -> Iterator[Samples]:
    """The file in blocks of exactly `block_samples` (the last may be shorter), resampled, in bounded memory.

    At the file's own rate the samples pass through unchanged; `resample_quality` is one of soxr's names. AudioError
    after the last block where one channel is asked for and the file's two cancel each other, so that nothing is left.
    """
    with closing(_open(path, stream)) as reader:
        blocks = _checked(reader, path)
        if channels == 1 < reader.info.channels:
            blocks = means(blocks, str(path))
        else:
            blocks = (to_channels(block, channels) for block in blocks)
        resampled = resample_blocks(
            blocks, source_rate=reader.info.sample_rate, target_rate=sample_rate, quality=resample_quality
        )
        yield from _rebatch(resampled, block_samples)


def integer_blocks(path: str | Path, *, block_samples: int) -> Iterator[Integers]:
    """A file that holds 16-bit integers (`AudioInfo.integers`) in blocks of them, the last one shorter."""
    with closing(_SoundFileReader(Path(path))) as reader:
        yield from map(Integers, reader.integers(block_samples))


def resample(samples_CT: Samples, *, source_rate: int, target_rate: int, quality: str = "HQ") -> Samples:
    """The same sound at another rate, by soxr; -136 dB of aliasing at "HQ"."""
    if source_rate == target_rate:
        return samples_CT
    import soxr

    resampled_TC = soxr.resample(np.ascontiguousarray(samples_CT.T), source_rate, target_rate, quality=quality)
    return np.ascontiguousarray(resampled_TC.T, dtype=np.float32)


def resample_blocks(
    blocks: Iterable[Samples], *, source_rate: int, target_rate: int, quality: str = "HQ"
) -> Iterator[Samples]:
    """A song in blocks (C, T) at another rate, as if resampled whole; blocks come out in other lengths."""
    if source_rate == target_rate:
        yield from blocks
        return
    import soxr

    stream = None
    for block_CT in blocks:
        if stream is None:
            stream = soxr.ResampleStream(source_rate, target_rate, len(block_CT), dtype="float32", quality=quality)
            end_TC = np.zeros((0, len(block_CT)), np.float32)
        yield np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(block_CT.T)).T)
    if stream is not None:
        yield np.ascontiguousarray(stream.resample_chunk(end_TC, last=True).T)


def to_channels(samples_CT: Samples, channels: int) -> Samples:
    """Mono is repeated; anything else becomes mono by its mean, or stereo by its first two channels."""
    have = samples_CT.shape[0]
    if have == channels:
        return samples_CT
    if have == 1:
        return np.repeat(samples_CT, channels, axis=0)
    if channels == 1:
        mean_CT: Samples = samples_CT.mean(axis=0, keepdims=True, dtype=np.float32)
        return mean_CT
    if have > channels:
        return samples_CT[:channels]
    raise ValueError(f"cannot spread {have} channels over {channels}; 1 or {channels} would do")


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


def encode_for_page(samples_CT: Samples, sample_rate: int) -> tuple[bytes, str]:
    """Small audio for a player in a web page, and its MIME type: MP3, which every browser plays."""
    rate = sample_rate if sample_rate in _MP3_RATES else 44100
    samples_CT = resample(samples_CT, source_rate=sample_rate, target_rate=rate)
    buffer = io.BytesIO()
    samples_TC = np.clip(to_channels(samples_CT, min(2, samples_CT.shape[0])).T, -1.0, 1.0)
    # VARIABLE at 0.5 is about 130 kbit/s for stereo music.
    soundfile.write(buffer, samples_TC, rate, format="MP3", compression_level=0.5, bitrate_mode="VARIABLE")
    return buffer.getvalue(), "audio/mpeg"


class AudioWriter:
    """Writes blocks to a temporary name beside `path`, which appears only when the `with` block ends well.

    `format` is wav16, wav24, float, flac (24 bit) or mp3. The same samples give the same bytes. Integer formats hold
    the nearest of their steps, without dither, so silence stays silence. Samples beyond full scale are cut off in all
    formats but float: at the lowest and the highest step, -1 and 1 - 2^(1 - bits), or in MP3 at -1 and 1.
    """

    def __init__(self, path: str | Path, *, sample_rate: int, channels: int, format: str = "wav16") -> None:
        if format not in _SUBTYPES:
            raise InputError(f"unknown audio format {format!r}; one of {', '.join(_SUBTYPES)} would do")
        if format == "mp3" and (sample_rate not in _MP3_RATES or channels > 2):
            raise InputError(
                f"MP3 holds one or two channels at {', '.join(map(str, _MP3_RATES))} Hz, "
                f"not {channels} at {sample_rate} Hz; flac would do"
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
            raise InputError(f"{self.path.name} would pass the 4 GiB that a WAV file can hold; flac would do")
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


def _clear_peak_time(path: Path) -> None:
    """libsndfile stamps the time of day into the PEAK chunk of float WAVs; equal audio should be equal bytes."""
    with path.open("r+b") as file:
        at = file.read(256).find(b"PEAK")
        if at >= 0:
            file.seek(at + 12)
            file.write(bytes(4))


def _open(path: str | Path, stream: int | None) -> _Reader:
    """A reader of a file; AudioError where its bytes are no audio, Unavailable where they cannot be read."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError("undecodable", f"{path}: not a file")
        if size == 0:
            raise AudioError("empty_file", f"{path}: a file of zero bytes")
        check(path)
        unsized = _is_mp3_without_length(path) or _is_wav_without_length(path)
        if stream is None and path.suffix.lower() not in _AV_SUFFIXES and not unsized:
            try:
                return _SoundFileReader(path)
            except soundfile.LibsndfileError as error:
                if error.code == _SYSTEM_ERROR:
                    raise Unavailable(f"{path} cannot be read: {error}") from None
                # else PyAV may know the format
        path.open("rb").close()  # the errors of PyAV do not tell a file that it may not read from one it cannot decode
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from None
    return _AvReader(path, stream or 0)


def _av_error(path: Path, error: Exception, detail: str) -> InputError:
    """The machine's or the file's error that stands behind one of PyAV."""
    if getattr(error, "errno", None) in _MACHINE_ERRORS:
        return Unavailable(f"{path} cannot be read: {getattr(error, 'strerror', error)}")
    return AudioError("undecodable", f"{path}: {detail}")


def _checked(reader: _Reader, path: str | Path) -> Iterator[Samples]:
    for block_CT in reader.blocks():
        with np.errstate(invalid="ignore", over="ignore"):
            total = block_CT.sum()  # one NaN or infinity makes the sum one
        if not np.isfinite(total):
            raise AudioError("not_finite", f"{path}: holds NaN or infinite samples")
        yield block_CT


class _SoundFileReader:
    def __init__(self, path: Path) -> None:
        self._path = path
        _check_whole(path)
        self._file = soundfile.SoundFile(path)
        frames = self._file.frames if self._file.frames < 1 << 62 else 0
        self.info = AudioInfo(
            sample_rate=self._file.samplerate,
            channels=self._file.channels,
            num_samples=frames,
            bits=24 if self._file.subtype in _DEEP_SUBTYPES else 16,
            integers=self._file.subtype == "PCM_16",
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
            raise AudioError("undecodable", f"{self._path}: decoding stopped after {count} samples ({error})") from None
        if count < self.info.num_samples:
            raise _truncated(self._path, f"{count} of {self.info.num_samples} samples decode")
        if self._file.format == "FLAC" and _is_chained_flac(self._path):
            raise chained(self._path)

    def close(self) -> None:
        self._file.close()


class _AvReader:
    def __init__(self, path: Path, stream: int) -> None:
        import av

        self._path = path
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
        context = self._stream.codec_context
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
        )

    def blocks(self) -> Iterator[Samples]:
        import av

        # Planar float; the resampler only converts the sample format, rate and layout stay.
        to_float = av.AudioResampler(format="fltp")
        count = 0
        try:
            for frame in self._container.decode(self._stream):
                if frame.sample_rate != self.info.sample_rate:
                    rates = f"{self.info.sample_rate} to {frame.sample_rate} Hz"
                    raise AudioError("undecodable", f"{self._path}: the sample rate changes on the way, from {rates}")
                for converted in to_float.resample(frame):
                    block_CT = np.ascontiguousarray(converted.to_ndarray(), dtype=np.float32)
                    if block_CT.shape[0] != self.info.channels:
                        raise AudioError("undecodable", f"{self._path}: the channel count changes on the way")
                    count += block_CT.shape[1]
                    yield block_CT
        except av.error.FFmpegError as error:
            raise _av_error(self._path, error, f"decoding stopped after {count} samples ({error})") from None
        exact = bool(_AV_EXACT & set(self._container.format.name.split(",")))
        if exact and count < self.info.num_samples - _AV_TOLERANCE_S * self.info.sample_rate:
            raise _truncated(self._path, f"{count} of {self.info.num_samples} samples decode")
        if count == 0:
            raise AudioError("undecodable", f"{self._path}: no audio in it")

    def close(self) -> None:
        self._stack.close()


def _truncated(path: Path, detail: str) -> AudioError:
    return AudioError("undecodable", f"{path}: truncated, {detail}")


def _check_whole(path: Path) -> None:
    """Refuse files whose header or last page shows that the end is missing, which libsndfile hides."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            promised = _chunk_end(file, b"data", "little")
            if _follows(file, head, "little"):
                raise chained(path)
        elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            promised = _chunk_end(file, b"SSND", "big")
            if _follows(file, head, "big"):
                raise chained(path)
        elif head[:4] == b"OggS":
            if _is_chained_ogg(file):
                raise chained(path)
            file.seek(max(0, size - 65536))
            if not _ogg_ends(file.read()):
                raise _truncated(path, "its last page is missing")
            return
        else:
            return
    if promised > size:
        raise _truncated(path, f"its header promises {promised} bytes and it has {size}")


def _is_chained_ogg(file: io.BufferedReader) -> bool:
    """Whether a stream begins after another's first pages: Ogg files that were put one behind the other."""
    file.seek(0)
    under_way = False
    while len(header := file.read(27)) == 27 and header[:4] == b"OggS":
        begins = bool(header[5] & 2)
        if begins and under_way:
            return True
        under_way = under_way or not begins
        file.seek(sum(file.read(header[26])), os.SEEK_CUR)
    return False


def _is_chained_flac(path: Path) -> bool:
    """Whether a second stream begins in a FLAC file, whose frames do not tell where the first one ends.

    What a stream begins with, its name and the head of a STREAMINFO block, stands in no other place by chance.
    """
    try:
        with path.open("rb") as file:
            file.seek(_after_id3(file, 0) + 1)  # behind the first byte of the first mark
            before = b""
            while block := file.read(_SCAN_BYTES):
                text = before + block
                if any(mark in text for mark in _FLAC_MARKS):
                    return True
                before = text[1 - len(_FLAC_MARKS[0]) :]
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from None
    return False


def _ogg_ends(tail: bytes) -> bool:
    """Whether the last page in these bytes is marked as the last of its stream and is all there."""
    last = tail.rfind(b"OggS")
    header = tail[last : last + 27]
    if last < 0 or len(header) < 27 or not header[5] & 4:
        return False
    segments = tail[last + 27 : last + 27 + header[26]]
    return len(segments) == header[26] and last + 27 + header[26] + sum(segments) <= len(tail)


def _chunk_end(file: io.BufferedReader, name: bytes, byteorder: str) -> int:
    """Where the named RIFF or AIFF chunk ends; 0 when it is not there or its size is a placeholder."""
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[4:], byteorder)  # type: ignore[arg-type]
        if header[:4] == name:
            return 0 if length >= _UNKNOWN_SIZE else file.tell() + length
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def _follows(file: io.BufferedReader, head: bytes, byteorder: str) -> bool:
    """Whether another file begins where the RIFF or AIFF file with this head says that it ends."""
    end = 8 + int.from_bytes(head[4:8], byteorder)  # type: ignore[arg-type]
    file.seek(end + end % 2)
    after = file.read(12)
    return after[:4] == head[:4] and after[8:] == head[8:]


def _is_mp3_without_length(path: Path) -> bool:
    """An MP3 with no Xing or Info header: libsndfile guesses its length from the bit rate and stops there.

    AudioError where more audio follows the end that such a header states.
    """
    if path.suffix.lower() != ".mp3":
        return False
    with path.open("rb") as file:
        start = _after_id3(file, 0)
        file.seek(start)
        head = file.read(4096)
        tag = re.search(rb"Xing|Info", head)
        if tag is None:
            return True
        flags = head[tag.end() + 3 : tag.end() + 4]
        if flags and flags[0] & 2:  # bytes of audio, after the number of frames where that is stated
            at = tag.end() + 4 + 4 * (flags[0] & 1)
            file.seek(_after_id3(file, start + int.from_bytes(head[at : at + 4], "big")))
            follows = file.read(4)
            if len(follows) == 4 and _is_mpeg_frame(follows):
                raise chained(path)
    return False


def _is_wav_without_length(path: Path) -> bool:
    """A WAV that says 0 bytes of audio, as of a recorder that lost power, and has more than chunks behind that."""
    with path.open("rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE" or _chunk_end(file, b"data", "little") != file.tell():
            return False
        after = file.read(8)
        is_chunk = after[:4].isascii() and after[:4].decode().isprintable()
        return len(after) > 0 and not (is_chunk and file.tell() + int.from_bytes(after[4:], "little") <= size)


def _after_id3(file: io.BufferedReader, start: int) -> int:
    """Where an ID3v2 tag that begins at `start` ends; `start` where there is none."""
    file.seek(start)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    return start + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _is_mpeg_frame(header: bytes) -> bool:
    """Whether four bytes are the header of a frame of layer III, with a bit rate and a sample rate."""
    sync = header[0] == 0xFF and header[1] & 0xE6 == 0xE2
    return sync and header[1] & 0x18 != 0x08 and 0 < header[2] >> 4 < 15 and header[2] >> 2 & 3 != 3


def _rebatch(blocks: Iterable[Samples], block_samples: int) -> Iterator[Samples]:
    """The same samples in blocks of one length, each copied once.

    A reader that waits keeps no whole block: songs of eighty raw files are read side by side.
    """
    out_CT: Samples | None = None
    filled = 0
    for block_CT in blocks:
        taken = 0
        while taken < block_CT.shape[1]:
            if out_CT is None:
                out_CT, filled = np.empty((block_CT.shape[0], block_samples), np.float32), 0
            take = min(block_samples - filled, block_CT.shape[1] - taken)
            out_CT[:, filled : filled + take] = block_CT[:, taken : taken + take]
            filled, taken = filled + take, taken + take
            if filled == block_samples:
                whole_CT, out_CT = out_CT, None
                yield whole_CT
                del whole_CT
    if out_CT is not None:
        yield out_CT[:, :filled].copy()
