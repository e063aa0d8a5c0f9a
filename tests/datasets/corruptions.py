"""Plants known faults in good songs, so that what curation finds can be counted.

Each function takes stems_SCT, 44.1 kHz or any other rate, and gives new ones; what is drawn comes from a generator, so
that the same seed and song give the same fault. `datasets/corpus/synthetic` plants broken files; here the files
are fine and the music is not.
"""

import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datasets.audio.audio_types import Samples
from datasets.audio.files import decode
from datasets.audio.resampling import resample

MIN_LEVEL_DB = -60.0  # of a stem that something can be done to


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A song with one fault: the stems, and which of them are concerned (places in the first axis)."""

    stems_SCT: Samples
    places: tuple[int, ...]


def sounding(stems_SCT: Samples) -> list[int]:
    """The stems that are not silent."""
    power = np.square(stems_SCT, dtype=np.float64).mean(axis=(1, 2))
    return [int(place) for place in np.flatnonzero(power > 10 ** (MIN_LEVEL_DB / 10))]


def swap_labels(stems_SCT: Samples, rng: np.random.Generator) -> Planted:
    """Two stems under each other's name."""
    one, other = (int(place) for place in rng.choice(sounding(stems_SCT), 2, replace=False))
    planted = stems_SCT.copy()
    planted[[one, other]] = stems_SCT[[other, one]]
    return Planted(stems_SCT=planted, places=(one, other))


def silence(stems_SCT: Samples, rng: np.random.Generator, *, share: float = 0.9) -> Planted:
    """One stem silent in this share of the song."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    length = stems_SCT.shape[2]
    start = int(rng.uniform(0, length))
    planted[place, :, np.arange(start, start + round(share * length)) % length] = 0
    return Planted(stems_SCT=planted, places=(place,))


def clip(stems_SCT: Samples, rng: np.random.Generator, *, share: float, gain: float = 1.0) -> Planted:
    """One stem driven into full scale so that this share of its samples is cut off, then turned down by `gain`.

    In steps of 16 bits, as files have them.
    """
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    ceiling = np.quantile(np.abs(stems_SCT[place]), 1 - share)
    clipped_CT = np.clip(stems_SCT[place] / max(ceiling, 1e-6), -1, 1) * gain
    planted[place] = np.rint(clipped_CT * 32767) / 32767
    return Planted(stems_SCT=planted, places=(place,))


def bleed(stems_SCT: Samples, rng: np.random.Generator, *, level_db: float, kind: str, sample_rate: int) -> Planted:
    """One stem with another in it at this level below that other.

    `kind` is "plain", "spill" (up to 6 ms later and without treble) or "room" (spill and as much reverberation).
    """
    from scipy.signal import butter, fftconvolve, sosfilt

    into, onto = (int(place) for place in rng.choice(sounding(stems_SCT), 2, replace=False))
    heard_CT = stems_SCT[onto].astype(np.float64)
    if kind != "plain":
        late = int(rng.uniform(0, 0.006) * sample_rate)
        heard_CT = sosfilt(butter(1, 6000, fs=sample_rate, output="sos"), heard_CT)
        heard_CT = np.pad(heard_CT, ((0, 0), (late, 0)))[:, : stems_SCT.shape[2]]
    if kind == "room":
        tail = rng.standard_normal(sample_rate // 10) * np.exp(-np.arange(sample_rate // 10) / (0.012 * sample_rate))
        tail[: sample_rate // 1000] = 0
        response = np.r_[np.sqrt(np.square(tail).sum()), tail[1:]]
        response /= np.sqrt(np.square(response).sum())
        heard_CT = fftconvolve(heard_CT, response[None], axes=1)[:, : stems_SCT.shape[2]]
    planted = stems_SCT.copy()
    planted[into] += (10 ** (level_db / 20) * heard_CT).astype(np.float32)
    return Planted(stems_SCT=planted, places=(into, onto))


def misalign(stems_SCT: Samples, rng: np.random.Generator, *, shift_s: float, sample_rate: int) -> Planted:
    """One stem later (or, below zero, earlier) by this much; what leaves at one end comes back at the other."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    planted[place] = np.roll(stems_SCT[place], round(shift_s * sample_rate), axis=-1)
    return Planted(stems_SCT=planted, places=(place,))


def add_offset(stems_SCT: Samples, rng: np.random.Generator, *, level: float) -> Planted:
    """One stem off zero by this part of full scale."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    planted[place] += np.float32(level)
    return Planted(stems_SCT=planted, places=(place,))


def invert(stems_SCT: Samples, rng: np.random.Generator) -> Planted:
    """One stem as mono with the right channel upside down."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    middle_T = stems_SCT[place].mean(axis=0)
    planted[place] = np.stack([middle_T, -middle_T])
    return Planted(stems_SCT=planted, places=(place,))


# --- copies -------------------------------------------------------------------------------------------------


def transcode(samples_CT: Samples, *, codec: str, kbps: int, sample_rate: int) -> Samples:
    """The samples after a round trip through mp3, vorbis or aac at about this bit rate; codecs may delay them."""
    decoded_CT = _through_aac(samples_CT, kbps, sample_rate) if codec == "aac" else None
    if decoded_CT is None:
        kind, level = _LEVELS[codec](kbps)
        buffer = io.BytesIO()
        with soundfile.SoundFile(buffer, "w", sample_rate, len(samples_CT), format=kind, **level) as file:
            for start in range(0, samples_CT.shape[1], sample_rate):  # libsndfile's Vorbis dies of long blocks
                file.write(samples_CT.T[start : start + sample_rate])
        buffer.seek(0)
        decoded_CT = soundfile.read(buffer, dtype="float32", always_2d=True)[0].T
    short = max(0, samples_CT.shape[1] - decoded_CT.shape[1])
    return np.ascontiguousarray(np.pad(decoded_CT, ((0, 0), (0, short)))[:, : samples_CT.shape[1]])


# libsndfile's compression level runs from 0 (320 kbit/s, or Vorbis' quality 10) to 1 (32 kbit/s, quality 0).
_LEVELS: Mapping[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "mp3": lambda kbps: ("MP3", {"compression_level": (320 - kbps) / (320 - 32), "bitrate_mode": "CONSTANT"}),
    "vorbis": lambda kbps: ("OGG", {"compression_level": float(np.interp(kbps, (64, 320), (1.0, 0.1)))}),
}


def _through_aac(samples_CT: Samples, kbps: int, sample_rate: int) -> Samples:
    import av

    with tempfile.TemporaryDirectory(prefix="transcode-") as folder:
        path = Path(folder, "song.m4a")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=sample_rate, bit_rate=kbps * 1000)
            assert isinstance(stream, av.AudioStream), stream
            layout = "stereo" if len(samples_CT) == 2 else "mono"
            stream.codec_context.layout = layout
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_CT), format="fltp", layout=layout)
            frame.sample_rate = sample_rate
            fifo = av.AudioFifo()
            fifo.write(frame)
            while (part := fifo.read(1024, partial=True)) is not None:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        return decode(path)[0]


def remaster(samples_CT: Samples, rng: np.random.Generator, *, sample_rate: int) -> Samples:
    """Another master: treble and bass turned by up to 6 dB each, louder by 3 to 9 dB into a soft limiter."""
    from scipy.signal import butter, sosfilt

    treble = sosfilt(butter(1, 3000, "high", fs=sample_rate, output="sos"), samples_CT)
    deep = sosfilt(butter(1, 200, fs=sample_rate, output="sos"), samples_CT)
    turned = samples_CT + (10 ** (rng.uniform(-6, 6) / 20) - 1) * treble + (10 ** (rng.uniform(-6, 6) / 20) - 1) * deep
    driven = turned / max(np.abs(turned).max(), 1e-6) * 10 ** (rng.uniform(3, 9) / 20)
    limited: Samples = (0.9 * np.tanh(driven)).astype(np.float32)
    return limited


def change_speed(samples_CT: Samples, factor: float, *, sample_rate: int) -> Samples:
    """Faster and higher by this factor, as a tape is."""
    return resample(samples_CT, source_rate=round(sample_rate * factor), target_rate=sample_rate)


def transpose(samples_CT: Samples, semitones: float, *, sample_rate: int) -> Samples:
    """Higher by this many semitones, at the same speed."""
    return _stretched(samples_CT, sample_rate, semitones=semitones, factor=1.0)


def change_tempo(samples_CT: Samples, factor: float, *, sample_rate: int) -> Samples:
    """Faster by this factor, at the same pitch."""
    return _stretched(samples_CT, sample_rate, semitones=0.0, factor=factor)


def _stretched(samples_CT: Samples, sample_rate: int, *, semitones: float, factor: float) -> Samples:
    import python_stretch

    stretch = python_stretch.Signalsmith.Stretch()
    stretch.preset(len(samples_CT), sample_rate)
    stretch.setTransposeSemitones(semitones)
    stretch.setTimeFactor(factor)
    result: Samples = np.asarray(stretch.process(np.ascontiguousarray(samples_CT)), np.float32)
    return result


def excerpt(samples_CT: Samples, rng: np.random.Generator, *, share: float) -> Samples:
    """A stretch of this share of the song."""
    length = round(share * samples_CT.shape[1])
    start = int(rng.integers(0, samples_CT.shape[1] - length + 1))
    return samples_CT[:, start : start + length]


# Every fault of a song's stems in a form that should be found, by the reason that it should be found for.
FAULTS: Mapping[str, Callable[[Samples, np.random.Generator, int], Planted]] = {
    "swapped": lambda stems, rng, rate: swap_labels(stems, rng),
    "silent_source": lambda stems, rng, rate: silence(stems, rng),
    "clipped": lambda stems, rng, rate: clip(
        stems, rng, share=float(np.exp(rng.uniform(np.log(0.002), np.log(0.05)))), gain=float(rng.uniform(0.2, 1))
    ),
    "bleed": lambda stems, rng, rate: bleed(
        stems, rng, level_db=float(rng.uniform(-20, -6)), kind=str(rng.choice(["plain", "spill"])), sample_rate=rate
    ),
    "misaligned": lambda stems, rng, rate: misalign(
        stems,
        rng,
        shift_s=float(np.exp(rng.uniform(np.log(0.005), np.log(0.6))) * rng.choice([-1, 1])),
        sample_rate=rate,
    ),
    "offset": lambda stems, rng, rate: add_offset(stems, rng, level=float(rng.uniform(0.02, 0.1))),
    "inverted": lambda stems, rng, rate: invert(stems, rng),
}
