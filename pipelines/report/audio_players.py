"""Audio players with pictures: an excerpt of a separated song, as the mixture, its stems and the estimates.

All players show the same seconds of the song, found once, at one common gain, so they can be compared by ear.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode_blocks
from datasets.audio.mono_mix import mono
from datasets.audio.writers import encode_for_page
from datasets.schema import StemFile
from pipelines.report.html_page import render, source_class

PAGE_RATE = 44_100
RANGE_DB = 75.0  # from the darkest colour to the lightest
NUM_BANDS = 96
NUM_COLUMNS = 480
COLOURS = ((8, 8, 20), (58, 20, 92), (140, 41, 106), (214, 84, 70), (249, 160, 63), (252, 245, 191))


@dataclass(frozen=True, slots=True, kw_only=True)
class SongAudio:
    """A separated song: where its mixture, its estimates and (if it has them) its true stems are."""

    title: str
    mixture: StemFile
    estimates: Mapping[str, str]  # source -> file
    references: Mapping[str, tuple[StemFile, ...]]  # source -> files, summed; empty for a song without stems
    license: str = ""  # who made it, and under which terms it may be played here


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One player: what it holds, and its samples (C, T) at `PAGE_RATE`."""

    source: str  # "mixture", or the source's name
    kind: str  # "Mixture", "Reference" or "Estimate"
    samples_CT: Samples


def clips_of(song: SongAudio, *, seconds: float) -> list[Clip]:
    """The loudest `seconds` of the song (or all of it, if shorter): mixture, then each source's two."""
    start = _loudest_start(song.mixture, seconds)
    window = (start, start + round(seconds * PAGE_RATE))
    clips = [Clip(source="mixture", kind="Mixture", samples_CT=_cut([song.mixture], window))]
    for source, path in song.estimates.items():
        if source in song.references:
            clips.append(Clip(source=source, kind="Reference", samples_CT=_cut(song.references[source], window)))
        clips.append(Clip(source=source, kind="Estimate", samples_CT=_cut([StemFile(path=path)], window)))
    peak = max(1.0, *(float(np.abs(clip.samples_CT).max(initial=0.0)) for clip in clips))
    return [Clip(source=clip.source, kind=clip.kind, samples_CT=clip.samples_CT / np.float32(peak)) for clip in clips]


def _blocks(file: StemFile) -> Iterator[Samples]:
    return decode_blocks(file.path, sample_rate=PAGE_RATE, stream=file.stream, block_samples=PAGE_RATE)


def _loudest_start(mixture: StemFile, seconds: float) -> int:
    """First sample of the loudest stretch, on whole seconds."""
    energy = np.array([float(np.square(block_CT, dtype=np.float64).sum()) for block_CT in _blocks(mixture)])
    length = min(max(1, round(seconds)), len(energy))
    sums = np.convolve(energy, np.ones(length), mode="valid")
    return int(np.argmax(sums)) * PAGE_RATE


def _cut(files: Sequence[StemFile], window: tuple[int, int]) -> Samples:
    """The window of the sum of some files, read in blocks; shorter where they end."""
    total = np.zeros((2, window[1] - window[0]), np.float32)
    longest = 0
    for file in files:
        position = 0
        for block_CT in _blocks(file):
            first, last = max(window[0], position), min(window[1], position + block_CT.shape[-1])
            if first < last:
                total[:, first - window[0] : last - window[0]] += block_CT[:, first - position : last - position]
                longest = max(longest, last - window[0])
            position += block_CT.shape[-1]
            if position >= window[1]:
                break
    return total[:, :longest]


def players(song: SongAudio, clips: Sequence[Clip]) -> list[tuple[str, Markup]]:
    """All players of a song, each with the name of the source that begins with it, empty within a source."""
    # One scale for all pictures: what leaks into an estimate is then as dark as it is quiet.
    loudest_db = max(-60.0, float(band_levels(clips[0].samples_CT).max()))
    peak = max(1e-3, float(np.abs(clips[0].samples_CT).max(initial=0.0)))
    parts = []
    for clip in clips:
        begins = clip.kind != "Mixture" and (clip.kind == "Reference" or clip.source not in song.references)
        whole = clip.kind == "Mixture" or clip.source not in song.references
        drawn = player(clip, song.title, loudest_db=loudest_db, peak=peak, whole=whole)
        parts.append((clip.source if begins else "", drawn))
    return parts


def player(
    clip: Clip,
    title: str,
    *,
    loudest_db: float,
    peak: float,
    whole: bool,
    moment_s: tuple[float, float] | None = None,
    preload: str = "metadata",
) -> Markup:
    """One excerpt: its button, its waveform and spectrogram, and the sound itself inside the page.

    `moment_s` marks a stretch of the waveform. Players that come in numbers, as those do, are decoded when started
    only: `preload` "none".
    """
    data, mime = encode_for_page(clip.samples_CT, PAGE_RATE)
    name = f"{clip.kind}, {clip.source}" if clip.source != "mixture" else clip.kind
    length_s = clip.samples_CT.shape[-1] / PAGE_RATE
    moment = None if moment_s is None else (moment_s[0] / length_s, moment_s[1] / length_s)
    return render(
        "player.html.j2",
        described=f"{name} of {title}",
        kind=clip.kind,
        picture=_data(spectrogram(clip.samples_CT, loudest_db=loudest_db), "image/png"),
        preload=preload if moment_s is None else "none",
        seconds=f"{length_s:.1f}",
        sound=_data(data, mime),
        style="source-mixture" if clip.source == "mixture" else source_class(clip.source),
        waveform=waveform(clip.samples_CT, peak=peak, moment=moment),
        whole=whole,
    )


def waveform(
    samples_CT: Samples, *, peak: float, num_columns: int = 400, moment: tuple[float, float] | None = None
) -> Markup:
    """Least and greatest sample of each of `num_columns` stretches; `peak` reaches the edges.

    `moment` is a stretch to mark, as shares of the length.
    """
    mono_T = np.clip(mono(samples_CT) / peak, -1, 1)
    pieces = np.array_split(mono_T, min(num_columns, max(1, len(mono_T))))
    tops = [(index, 50 - 48 * float(piece.max(initial=0.0))) for index, piece in enumerate(pieces)]
    bottoms = [(index, 50 - 48 * float(piece.min(initial=0.0))) for index, piece in enumerate(pieces)]
    points = "L".join(f"{x} {y:.1f}" for x, y in [*tops, *bottoms[::-1]])
    mark = ""
    if moment is not None:
        first, last = (len(pieces) * share for share in moment)
        mark = f'<rect class="moment" x="{first:.1f}" width="{last - first:.1f}" height="100"/>'
    return Markup(
        f'<svg viewBox="0 0 {len(pieces)} 100" preserveAspectRatio="none" aria-hidden="true">{mark}'
        f'<path d="M{points}Z"/><path d="M0 49.5H{len(pieces)}V50.5H0Z"/></svg>'
    )


def spectrogram(samples_CT: Samples, *, loudest_db: float) -> bytes:
    """A PNG of the magnitudes, 40 Hz to 16 kHz on a logarithmic axis; `loudest_db` has the lightest colour."""
    level_FN = 1 + (band_levels(samples_CT) - loudest_db) / RANGE_DB
    return _png((np.clip(level_FN[::-1], 0, 1) * 255).astype(np.uint8))


def band_levels(samples_CT: Samples) -> NDArray[np.float64]:
    """Power of what is drawn in dB, `NUM_BANDS` bands by about `NUM_COLUMNS` moments; a sine of 1 has 0 dB."""
    mono_T = mono(samples_CT)
    size = 4096
    hop = max(1, len(mono_T) // NUM_COLUMNS)
    padded_T = np.pad(mono_T, (size // 2, size))
    starts = range(0, max(1, len(mono_T)), hop)
    window_T = np.hanning(size)
    frames_NT = np.stack([padded_T[start : start + size] * window_T for start in starts])
    power_NF = np.abs(np.fft.rfft(frames_NT, axis=-1) / (size / 4)) ** 2
    edges_hz = np.geomspace(40, 16_000, NUM_BANDS + 1)
    bins = np.round(edges_hz * size / PAGE_RATE).astype(int)
    # Low bands are narrower than a bin: each shows the bin that it falls into.
    bands_NF = [power_NF[:, low : max(low + 1, high)].max(axis=1) for low, high in pairwise(bins)]
    return 10 * np.log10(np.stack(bands_NF) + 1e-12)


def _png(grey_YX: NDArray[np.uint8]) -> bytes:
    """An image of 256 colours from dark to light, as PNG bytes."""
    height, width = grey_YX.shape
    at = np.linspace(0, len(COLOURS) - 1, 256)
    palette = np.stack([np.interp(at, range(len(COLOURS)), channel) for channel in zip(*COLOURS, strict=True)], axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in grey_YX)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    body = chunk(b"PLTE", palette.round().astype(np.uint8).tobytes()) + chunk(b"IDAT", zlib.compress(lines, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def _data(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
