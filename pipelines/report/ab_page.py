"""Pages that play two models and the true stems of a song from one clock: `index.html`, and one file per song.

Everything is inside the page, the audio as 16-bit FLAC, so that a folder of pages works from disk, a web server or an
e-mail. `ab_page.js` plays all stems of all versions at once and only changes their gains: the version changes, the
position does not.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from datasets.audio.samples import Samples
from datasets.audio.writers import encode_flac
from pipelines.report.listening import band_levels, spectrogram, waveform
from pipelines.report.page import document, section, source_class, table, text

KEYS = "qwertyuiop"  # solo of the first ten stems


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
    rows = [
        [
            f'<a href="{text(entry.file)}">{text(entry.title)}</a>',
            *(f"{fmean(scores[place] for scores in entry.scores.values()):.2f}" for place in (0, 1)),
            _signed(entry.gain),
            _worst(entry),
            f'<span class="votes" data-song="{text(entry.file)}"></span>',
        ]
        for entry in entries
    ]
    headers = ["song", "first", "second", "gain", "largest loss, or smallest gain", "blind votes"]
    lead = (
        f"<b>First</b> is {text(names[0])}, <b>second</b> is {text(names[1])}. nSDR in dB, mean over sources: "
        f"{text(protocol)}. Each page plays the seconds that differ most."
    )
    listed = table(headers, rows, numeric=(1, 2, 3))
    total = '<p class="note votes-total" aria-live="polite"></p>'
    title = f"{names[0]} against {names[1]}"
    songs = section("Songs", listed, total, lead=lead)
    return document(title, f'<h1>{text(title)}</h1><div class="versus-index">{songs}</div>', parts=("page", "ab_page"))


def _worst(entry: ABEntry) -> str:
    gains = {source: first - second for source, (first, second) in entry.scores.items()}
    source = min(gains, key=lambda name: gains[name])
    return (
        f'<span class="{source_class(source)}"><span class="dot"></span></span>{text(source)} {_signed(gains[source])}'
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def song_page(pair: ABPair, entry: ABEntry, *, around: tuple[str, str], about: str) -> str:
    """One song: what is heard, its stems, and the sound itself; `around` are the pages before and after."""
    seconds = next(iter(pair.versions.values())).shape[-1] / pair.sample_rate
    pages = [
        f'<a href="{text(file)}" rel="{rel}">{word}</a>' if file else f'<span class="note">{word}</span>'
        for file, rel, word in ((around[0], "prev", "← Song before"), (around[1], "next", "Next song →"))
    ]
    minutes, rest = divmod(round(pair.start_s), 60)
    body = (
        f'<nav><a href="index.html">All songs</a>{"".join(pages)}</nav><h1>{text(pair.title)}</h1>'
        f'<p class="lead">{seconds:.0f} s from {minutes}:{rest:02d} on, where the two differ most. '
        f'<span class="open">Over the whole song the first gains {_signed(entry.gain)} dB nSDR.</span></p>'
        f'<div class="versus" data-rate="{pair.sample_rate}" data-seconds="{seconds!r}" data-song="{text(entry.file)}">'
        f"{_transport(list(pair.versions))}{_stems(pair, entry)}{_blind()}{_help()}</div>"
        f'<p class="note">{text(pair.license)}</p>{_sounds(pair)}'
    )
    return document(pair.title, body, parts=("page", "ab_page"), about=about)


def _transport(names: Sequence[str]) -> str:
    roles = ("", "first", "second")
    versions = "".join(
        f'<button type="button" class="version" aria-pressed="false" aria-keyshortcuts="{place + 1}">'
        f'<kbd>{place + 1}</kbd> <span class="who">{text(name)}</span>'
        f'<small class="role">{roles[place]}</small></button>'
        for place, name in enumerate(names)
    )
    return (
        '<div class="transport">'
        '<button type="button" class="play" aria-label="Play" aria-pressed="false" disabled>▶</button>'
        '<time>0:00.0</time><span class="note loop-told" aria-live="polite">the excerpt repeats</span>'
        f"{_chip('from', 'Loop from here')}{_chip('to', 'to here')}{_chip('all', 'Loop all')}</div>"
        f'<div class="versions" role="group" aria-label="What is heard">{versions}</div>'
    )


def _chip(kind: str, words: str, *, label: str = "", key: str = "", more: str = "") -> str:
    """A small button; `label` is what a screen reader says instead of the words, `more` further attributes."""
    spoken = f' aria-label="{text(label)}"' if label else ""
    shortcut, shown = (f' aria-keyshortcuts="{key}"', f" <kbd>{key}</kbd>") if key else ("", "")
    return f'<button type="button" class="chip {kind}"{spoken}{shortcut}{more}>{text(words)}{shown}</button>'


def _stems(pair: ABPair, entry: ABEntry) -> str:
    # One scale for all pictures: what leaks is as dark as it is quiet.
    mixture_CT = next(iter(pair.versions.values())).sum(axis=0)
    loudest_db = max(-60.0, float(band_levels(mixture_CT).max()))
    peak = max(1e-3, *(float(abs(stems_SCT).max(initial=0.0)) for stems_SCT in pair.versions.values()))
    unpressed = ' aria-pressed="false"'
    rows = []
    for place, source in enumerate(pair.sources):
        layers = "".join(
            f'<div class="layer"{" hidden" if number else ""}>{waveform(stems_SCT[place], peak=peak)}'
            f'<img alt="Spectrogram of {text(source)}: {text(name)}" '
            f'src="data:image/png;base64,{_base64(spectrogram(stems_SCT[place], loudest_db=loudest_db))}"></div>'
            for number, (name, stems_SCT) in enumerate(pair.versions.items())
        )
        first, second = entry.scores[source]
        key = KEYS[place : place + 1]
        rows.append(
            f'<div class="stem {source_class(source)}"><div class="strip">'
            f'<h3><span class="dot"></span>{text(source.capitalize())}</h3>'
            f"{_chip('solo', 'Solo', label=f'Solo {source}', key=key, more=unpressed)} "
            f"{_chip('mute', 'Mute', label=f'Mute {source}', more=unpressed)}"
            f'<p class="note open">first {first:.2f}, second {second:.2f} dB<br><b>'
            f"{_signed(first - second)} dB</b></p></div>"
            f'<div class="picture">{layers}<div class="region"></div><div class="head"></div></div></div>'
        )
    return f'<div class="stems">{"".join(rows)}</div>'


def _blind() -> str:
    votes = (("1", "A is better"), ("2", "B is better"), ("0", "No difference"))
    ballot = "".join(_chip("vote", words, more=f' data-vote="{vote}"') for vote, words in votes)
    pressed = ' aria-pressed="false"'
    lead = (
        "The two models become A and B, in an order that is drawn again after each vote; names, scores and pictures "
        "are hidden until then."
    )
    return section(
        "Blind",
        f'<p>{_chip("blind", "Listen blind", key="b", more=pressed)} <span class="ballot" hidden>{ballot}</span></p>',
        '<p class="note told" aria-live="polite"></p>',
        lead=lead,
    )


def _help() -> str:
    keys = (
        ("space", "play or stop"), ("1 2 3", "reference, first, second (blind: reference, A, B)"),
        ("q w e r", "solo of a stem"), ("Shift + q w e r", "mute of a stem"), ("← →", "a second back or on"),
        ("Home", "to the start of the loop"), ("[ ]", "loop from here, to here"), ("l", "loop all"), ("b", "blind"),
    )  # fmt: skip
    rows = "".join(f"<dt><kbd>{text(key)}</kbd></dt><dd>{text(action)}</dd>" for key, action in keys)
    return (
        '<p class="note">A click on a picture goes there; dragging over it chooses what is repeated.</p>'
        f"<details><summary>Keys</summary><dl class=keys>{rows}</dl></details>"
    )


def _sounds(pair: ABPair) -> str:
    """Blocks of data, which no policy has to allow: they are not run."""
    return "".join(
        f'<script type="audio/flac" data-version="{number}" data-stem="{place}">'
        f"{_base64(encode_flac(stem_CT[:2], sample_rate=pair.sample_rate, bits=16))}</script>"
        for number, stems_SCT in enumerate(pair.versions.values())
        for place, stem_CT in enumerate(stems_SCT)
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
