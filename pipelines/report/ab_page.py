"""Pages that play two models and the true stems of a song from one clock: `index.html`, and one file per song.

Everything is inside the page, the audio as 16-bit FLAC, so that a folder of pages works from disk, a web server or an
e-mail. `ab_page.js` plays all stems of all versions at once and only changes their gains: the version changes, the
position does not.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from datasets.audio.audio_types import Samples
from datasets.audio.writers import encode_flac
from pipelines.report.audio_players import band_levels, spectrogram, waveform
from pipelines.report.formatting import decibels
from pipelines.report.html_page import document, render

SOLO_KEYS = "qwertyuiop"  # of the first ten stems
KEYS = (
    ("space", "play or stop"), ("1 2 3", "reference, first, second (blind: reference, A, B)"),
    ("q w e r", "solo of a stem"), ("Shift + q w e r", "mute of a stem"), ("← →", "a second back or on"),
    ("Home", "to the start of the loop"), ("[ ]", "loop from here, to here"), ("l", "loop all"), ("b", "blind"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ABEntry:
    """One song of the folder: its page, and nSDR in dB of the first and the second model, by source."""

    file: str
    title: str
    gain: float  # of the first over the second, mean over sources
    scores: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ABPair:
    """An excerpt of one song as the reference and two models have it: stems (S, C, T) by name, the reference first."""

    title: str
    license: str
    sample_rate: int
    start_s: float  # of the excerpt in the song
    sources: tuple[str, ...]
    versions: Mapping[str, Samples]


def index_page(entries: Sequence[ABEntry], names: tuple[str, str], *, protocol: str) -> str:
    """The songs, the one that lost most first."""
    title = f"{names[0]} against {names[1]}"
    body = render(
        "ab/index.html.j2",
        title=title,
        names=names,
        protocol=protocol,
        songs=[_song(entry) for entry in entries],
    )
    return document(title, body, parts=("page", "ab_page"))


def _song(entry: ABEntry) -> dict[str, Any]:
    """What the list shows of a song."""
    means = [fmean(scores[place] for scores in entry.scores.values()) for place in (0, 1)]
    gains = {source: first - second for source, (first, second) in entry.scores.items()}
    worst = min(gains, key=lambda source: gains[source])
    return {
        "file": entry.file,
        "title": entry.title,
        "numbers": [*(f"{mean:.2f}" for mean in means), decibels(entry.gain, signed=True)],
        "worst": worst,
        "worst_gain": decibels(gains[worst], signed=True),
    }


def song_page(pair: ABPair, entry: ABEntry, *, around: tuple[str, str], about: str) -> str:
    """One song: the choice of versions, its stems, and the sound itself; `around` are the pages before and after."""
    seconds = next(iter(pair.versions.values())).shape[-1] / pair.sample_rate
    minutes, rest = divmod(round(pair.start_s), 60)
    body = render(
        "ab/song.html.j2",
        title=pair.title,
        file=entry.file,
        around=[(around[0], "prev", "← Song before"), (around[1], "next", "Next song →")],
        length=f"{seconds:.0f}",
        start=f"{minutes}:{rest:02d}",
        gain=decibels(entry.gain, signed=True),
        rate=pair.sample_rate,
        seconds=repr(seconds),
        versions=list(zip(pair.versions, ("", "first", "second"), strict=True)),
        stems=list(_stems(pair, entry)),
        keys=KEYS,
        license=pair.license,
        sounds=list(_sounds(pair)),
    )
    return document(pair.title, body, parts=("page", "ab_page"), about=about)


def _stems(pair: ABPair, entry: ABEntry) -> Iterator[dict[str, Any]]:
    """What the page shows of each stem: its scores, and a picture for each version."""
    # One scale for all pictures: what leaks is as dark as it is quiet.
    mixture_CT = next(iter(pair.versions.values())).sum(axis=0)
    loudest_db = max(-60.0, float(band_levels(mixture_CT).max()))
    peak = max(1e-3, *(float(abs(stems_SCT).max(initial=0.0)) for stems_SCT in pair.versions.values()))
    for place, source in enumerate(pair.sources):
        first, second = entry.scores[source]
        yield {
            "source": source,
            "key": SOLO_KEYS[place : place + 1],
            "first": f"{first:.2f}",
            "second": f"{second:.2f}",
            "gain": decibels(first - second, signed=True),
            "layers": [
                {
                    "name": name,
                    "waveform": waveform(stems_SCT[place], peak=peak),
                    "picture": _base64(spectrogram(stems_SCT[place], loudest_db=loudest_db)),
                }
                for name, stems_SCT in pair.versions.items()
            ],
        }


def _sounds(pair: ABPair) -> Iterator[dict[str, Any]]:
    for version, stems_SCT in enumerate(pair.versions.values()):
        for stem, stem_CT in enumerate(stems_SCT):
            flac = encode_flac(stem_CT[:2], sample_rate=pair.sample_rate, bits=16)
            yield {"version": version, "stem": stem, "flac": _base64(flac)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
