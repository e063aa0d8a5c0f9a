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
from datasets.audio.decoding import decode
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


def drop_out(stems_SCT: Samples, rng: np.random.Generator, *, times: int, sample_rate: int) -> Planted:
    """One stem at zero so many times, for 15 to 80 ms each, where it sounds."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    loud = np.flatnonzero(np.abs(stems_SCT[place]).max(axis=0) > np.sqrt(np.square(stems_SCT[place]).mean()))
    for start in rng.choice(loud, times):
        planted[place, :, start : start + round(rng.uniform(0.015, 0.08) * sample_rate)] = 0
    return Planted(stems_SCT=planted, places=(place,))


def hum(stems_SCT: Samples, rng: np.random.Generator, *, level_db: float, sample_rate: int) -> Planted:
    """One stem with hum of 50 or 60 Hz and seven multiples in both channels, so loud relative to it."""
    place, hertz = int(rng.choice(sounding(stems_SCT))), float(rng.choice([50, 60])) * (1 + rng.uniform(-1, 1) / 1000)
    planted = stems_SCT.copy()
    time_T = np.arange(stems_SCT.shape[2]) / sample_rate
    parts = [(number, rng.uniform(0.2, 1) / number, rng.uniform(0, 6.28)) for number in range(1, 9)]
    hum_T = sum(level * np.sin(2 * np.pi * hertz * number * time_T + phase) for number, level, phase in parts)
    power = np.square(stems_SCT[place]).mean() / np.square(hum_T).mean()
    planted[place] += (np.sqrt(power) * 10 ** (level_db / 20) * hum_T).astype(np.float32)
    return Planted(stems_SCT=planted, places=(place,))


def click(stems_SCT: Samples, rng: np.random.Generator, *, per_s: float, sample_rate: int) -> Planted:
    """One stem with so many clicks a second, of one to three samples and 0.2 to 1 of its peak, in any channels."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    peak = float(np.abs(stems_SCT[place]).max())
    for start in rng.integers(0, stems_SCT.shape[2] - 3, round(per_s * stems_SCT.shape[2] / sample_rate)):
        channels = slice(None) if rng.random() < 0.5 else int(rng.integers(len(stems_SCT[place])))
        height = np.float32(peak * rng.uniform(0.2, 1) * rng.choice([-1, 1]))
        planted[place, channels, start : start + int(rng.integers(1, 4))] += height
    return Planted(stems_SCT=planted, places=(place,))


def quantize(stems_SCT: Samples, rng: np.random.Generator, *, bits: int) -> Planted:
    """One stem, at a peak of 0.2 to 1, in steps of so many bits."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    scaled_CT = stems_SCT[place] / max(float(np.abs(stems_SCT[place]).max()), 1e-6) * rng.uniform(0.2, 1)
    planted[place] = np.rint(scaled_CT * 2 ** (bits - 1)) / np.float32(2 ** (bits - 1))
    return Planted(stems_SCT=planted, places=(place,))


def kill_channel(stems_SCT: Samples, rng: np.random.Generator, *, start: float) -> Planted:
    """One stem without its left or right channel from this share of the song on."""
    place, channel = int(rng.choice(sounding(stems_SCT))), int(rng.integers(2))
    planted = stems_SCT.copy()
    planted[place, channel, round(start * stems_SCT.shape[2]) :] = 0
    return Planted(stems_SCT=planted, places=(place,))


def noise(stems_SCT: Samples, rng: np.random.Generator, *, colour: str) -> Planted:
    """One stem replaced with steady noise, white or pink, of its level."""
    place = int(rng.choice(sounding(stems_SCT)))
    planted = stems_SCT.copy()
    drawn_CT = rng.standard_normal(stems_SCT.shape[1:])
    if colour == "pink":
        spectrum_CF = np.fft.rfft(drawn_CT)
        spectrum_CF[:, 0] = 0  # noise off zero would be an offset, too
        drawn_CT = np.fft.irfft(spectrum_CF / np.sqrt(np.arange(spectrum_CF.shape[1]) + 1), drawn_CT.shape[1])
    level = np.sqrt(np.square(stems_SCT[place]).mean() / np.square(drawn_CT).mean())
    planted[place] = drawn_CT * level
    return Planted(stems_SCT=planted, places=(place,))


# --- what is remarked on, and may be meant -------------------------------------------------------------------


def recode_clipped(stem_CT: Samples, rng: np.random.Generator, *, sample_rate: int) -> Samples:
    """A stem of which 0.2 to 5 % of samples were clipped, turned down and coded at 128 to 256 kbit/s."""
    share = float(np.exp(rng.uniform(np.log(0.002), np.log(0.05))))
    ceiling = max(float(np.quantile(np.abs(stem_CT), 1 - share)), 1e-6)
    clipped_CT = (np.clip(stem_CT / ceiling, -1, 1) * rng.uniform(0.2, 1)).astype(np.float32)
    codec, kbps = str(rng.choice(["mp3", "vorbis", "aac"])), int(rng.choice([128, 160, 192, 256]))
    return transcode(clipped_CT, codec=codec, kbps=kbps, sample_rate=sample_rate)


def clip_softly(stem_CT: Samples, rng: np.random.Generator, *, sample_rate: int) -> Samples:
    """A stem bent by a hyperbolic tangent at the level that 1 to 10 % of its samples exceed, and turned down."""
    share = float(np.exp(rng.uniform(np.log(0.01), np.log(0.1))))
    ceiling = max(float(np.quantile(np.abs(stem_CT), 1 - share)), 1e-6)
    return np.asarray(np.tanh(stem_CT / ceiling) * rng.uniform(0.2, 1), np.float32)


def make_mono(stem_CT: Samples, rng: np.random.Generator, *, sample_rate: int) -> Samples:
    """A stem with the mean of its channels in both."""
    return np.repeat(stem_CT.mean(axis=0, keepdims=True), len(stem_CT), axis=0)


def limit_band(stem_CT: Samples, rng: np.random.Generator, *, sample_rate: int) -> Samples:
    """A stem that once had another sample rate, of 22.05 to 32 kHz."""
    lower = int(rng.choice([22050, 24000, 32000]))
    low_CT = resample(stem_CT, source_rate=sample_rate, target_rate=lower)
    whole_CT = resample(low_CT, source_rate=lower, target_rate=sample_rate)
    return np.pad(whole_CT, ((0, 0), (0, max(0, stem_CT.shape[1] - whole_CT.shape[1]))))[:, : stem_CT.shape[1]]


# What is done to a stem, and the remark that should follow, by what the bench calls it.
REMARKED: Mapping[str, tuple[str, Callable[..., Samples]]] = {
    "clipped, then coded": ("flattened", recode_clipped),
    "clipped softly": ("flattened", clip_softly),
    "made mono": ("mono", make_mono),
    "of 22.05 to 32 kHz": ("band_limited", limit_band),
}


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
    "dropouts": lambda stems, rng, rate: drop_out(stems, rng, times=int(rng.integers(3, 12)), sample_rate=rate),
    "clicks": lambda stems, rng, rate: click(stems, rng, per_s=float(rng.uniform(5, 20)), sample_rate=rate),
    "hum": lambda stems, rng, rate: hum(stems, rng, level_db=float(rng.uniform(-20, -6)), sample_rate=rate),
    "coarse": lambda stems, rng, rate: quantize(stems, rng, bits=8),
    "one_sided": lambda stems, rng, rate: kill_channel(stems, rng, start=float(rng.choice([0.0, 0.3, 0.6]))),
    "noise": lambda stems, rng, rate: noise(stems, rng, colour=str(rng.choice(["white", "pink"]))),
}


# --- against the mixture ------------------------------------------------------------------------------------


def _change(
    change: Callable[[Samples, Samples, np.random.Generator, int], Samples],
) -> Callable[[Samples, Samples, np.random.Generator, int], Planted]:
    """A fault of one stem, given that stem and the same stem of another song."""

    def plant(stems_SCT: Samples, other_SCT: Samples, rng: np.random.Generator, sample_rate: int) -> Planted:
        place = int(rng.choice(sounding(stems_SCT)))
        planted = stems_SCT.copy()
        planted[place] = change(stems_SCT[place].copy(), other_SCT[place], rng, sample_rate)
        return Planted(stems_SCT=planted, places=(place,))

    return plant


def _level(decibels: float) -> Callable[[Samples, Samples, np.random.Generator, int], Samples]:
    return lambda stem, other, rng, rate: stem * np.float32(10 ** (decibels / 20))


def _of_another_song(stem_CT: Samples, other_CT: Samples, rng: np.random.Generator, rate: int) -> Samples:
    """The other song's stem at this one's level; where it is silent, this one backwards."""
    other_CT = np.resize(other_CT, stem_CT.shape)
    if np.square(other_CT).mean() < 10 ** (MIN_LEVEL_DB / 10):
        other_CT = stem_CT[:, ::-1]
    return np.asarray(other_CT * np.sqrt(np.square(stem_CT).mean() / np.square(other_CT).mean()), np.float32)


def _at_another_rate(stem_CT: Samples, other_CT: Samples, rng: np.random.Generator, rate: int) -> Samples:
    fast_CT = resample(stem_CT, source_rate=48000, target_rate=44100)
    return np.pad(fast_CT, ((0, 0), (0, stem_CT.shape[1] - fast_CT.shape[1])))


def _cut(stem_CT: Samples, other_CT: Samples, rng: np.random.Generator, rate: int) -> Samples:
    stem_CT[:, round(0.6 * stem_CT.shape[1]) :] = 0
    return stem_CT


def _one_channel(kind: str) -> Callable[[Samples, Samples, np.random.Generator, int], Samples]:
    def change(stem_CT: Samples, other_CT: Samples, rng: np.random.Generator, rate: int) -> Samples:
        stem_CT[int(rng.integers(2))] *= np.float32(0 if kind == "dead" else 0.5)
        return stem_CT

    return change


def _with_dropouts(stem_CT: Samples, other_CT: Samples, rng: np.random.Generator, rate: int) -> Samples:
    loud = np.flatnonzero(np.abs(stem_CT).max(axis=0) > np.sqrt(np.square(stem_CT).mean()))
    for start in rng.choice(loud, 4):
        stem_CT[:, start : start + round(0.05 * rate)] = 0
    return stem_CT


AGAINST_MIXTURE: Mapping[str, Callable[[Samples, Samples, np.random.Generator, int], Planted]] = {
    "a stem of another song": _change(_of_another_song),
    "at 48000 Hz for 44100": _change(_at_another_rate),
    "12 dB too quiet": _change(_level(-12)),
    "6 dB too loud": _change(_level(6)),
    "3 dB too quiet": _change(_level(-3)),
    "upside down": _change(lambda stem, other, rng, rate: -stem),
    "cut at 60 %": _change(_cut),
    "a dead channel": _change(_one_channel("dead")),
    "one channel 6 dB too quiet": _change(_one_channel("quiet")),
    "four dropouts of 50 ms": _change(_with_dropouts),
}


def limit(mixture_CT: Samples, sample_rate: int, *, down_db: float) -> Samples:
    """A look-ahead limiter that takes this much off the highest peak within 5 ms."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    peak_T = np.abs(mixture_CT).max(axis=0)
    gain_T = np.minimum(1, peak_T.max() * 10 ** (-down_db / 20) / np.maximum(peak_T, 1e-9))
    width = 2 * round(0.005 * sample_rate) + 1
    return (mixture_CT * uniform_filter1d(minimum_filter1d(gain_T, width), width)).astype(np.float32)


def widen(mixture_CT: Samples, *, share: float) -> Samples:
    """A wider image: this share of the difference between the channels more."""
    side_T = np.float32(share / 2) * (mixture_CT[0] - mixture_CT[1])
    return np.stack([mixture_CT[0] + side_T, mixture_CT[1] - side_T])


MASTERS: Mapping[str, Callable[[Samples, int], Samples]] = {
    "exact": lambda mixture, rate: mixture,
    "limited by 6 dB": lambda mixture, rate: limit(mixture, rate, down_db=6.0),
    "equalized, driven, softly limited": lambda mixture, rate: remaster(
        mixture, np.random.default_rng(5), sample_rate=rate
    ),
    "wider and limited by 6 dB": lambda mixture, rate: limit(widen(mixture, share=0.5), rate, down_db=6.0),
    "mp3 at 64 kbit/s": lambda mixture, rate: transcode(mixture, codec="mp3", kbps=64, sample_rate=rate),
    "25 ms late": lambda mixture, rate: np.pad(mixture, ((0, 0), (rate // 40, 0)))[:, : mixture.shape[1]],
}
