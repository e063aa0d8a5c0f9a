"""`make bench-remix_pictures` draws the pictures of docs/explanation/automix.md, the same bytes every time."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datasets.analysis.harmony import PITCHES, chroma
from datasets.analysis.song_profile import profile
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.mixing.mixplan import MixRules, plan
from datasets.mixing.render import find_hits, keep_hits, place, stretch
from datasets.schema import SOURCES, Part

ROOT = Path(__file__).resolve().parents[2]
RATE = 44100
COLOURS = {"drums": "#c2681c", "bass": "#2f6fb7", "other": "#2b8a6b", "vocals": "#b3447f"}
INK, SOFT = "#1d2126", "#8b929a"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=str(ROOT / "docs" / "pictures"), help="the folder they go to")
    folder = Path(parser.parse_args().out)
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update({"svg.hashsalt": "remix", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    for name, draw in (("remix-beats", beats), ("remix-hits", hits), ("remix-chroma", tones)):
        draw().savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        print(folder / f"{name}.svg")
    return 0


def songs() -> tuple[list[Samples], list[Part]]:
    """Two songs' stems, and the parts of one plan that mixes the second into the first."""
    scores = [
        replace(compose(5, name, 24.0), tempo_bpm=tempo_bpm, tonic=tonic, duration_s=14.0)
        for name, tempo_bpm, tonic in (("one", 112.0, 7), ("six", 122.0, 9))
    ]
    stems = [perform(score, RATE) for score in scores]
    heard = [
        profile(part_SCT, track_id=str(number), split="train", sources=SOURCES, sample_rate=RATE)
        for number, part_SCT in enumerate(stems)
    ]
    plans = plan(heard, seed=0, mixes_per_track=20, rules=MixRules(), sources=SOURCES)
    whole = (made for made in plans if not made.reason and made.parts[0].track_id == "0")
    chosen = next(made for made in whole if made.parts[0].source == "other")
    return stems, list(chosen.parts)


def beats() -> Figure:
    """Drums of another song under the beats of the reference, before and after."""
    stems, parts = songs()
    part = next(part for part in parts if part.source == "drums")
    drums_CT = stems[1][SOURCES.index("drums")]
    moved_CT = place(drums_CT, part, RATE, num_samples=stems[0].shape[2])
    heard = profile(stems[0], track_id="0", split="train", sources=SOURCES, sample_rate=RATE)
    figure = Figure(figsize=(7.2, 2.6))
    rows = figure.subplots(2, 1, sharex=True)
    for axes, samples_CT, told in ((rows[0], drums_CT, "before"), (rows[1], moved_CT, "after")):
        _wave(axes, samples_CT.mean(axis=0), start_s=4.0, length_s=5.0, colour=COLOURS["drums"])
        for beat in heard.beats_s:
            axes.axvline(beat, color=INK, linewidth=1.0 if beat in heard.downbeats_s else 0.5)
        axes.set_ylabel(told)
    rows[1].set_xlabel(f"seconds of the mix; lines: its beats, bars in bold. Stretched to {100 * part.stretch:.1f} %")
    return figure


def hits() -> Figure:
    """The hit that suffers most: as played, stretched like any stem, and put back."""
    drums_CT = songs()[0][1][SOURCES.index("drums")]
    factor = 1.09
    smeared_CT = stretch(drums_CT, factor, RATE)
    kept_CT = smeared_CT.copy()
    keep_hits(kept_CT, drums_CT, factor, RATE)
    hit = max(find_hits(drums_CT, RATE), key=lambda at: _early(smeared_CT, round(at * factor)) - _early(drums_CT, at))
    figure = Figure(figsize=(7.2, 3.0))
    rows = figure.subplots(3, 1)
    shown = (
        (drums_CT, hit, "as played"),
        (smeared_CT, hit * factor, "stretched"),
        (kept_CT, hit * factor, "hits kept"),
    )
    for axes, (samples_CT, at, told) in zip(rows, shown, strict=True):
        _wave(
            axes, samples_CT.mean(axis=0), start_s=at / RATE - 0.06, length_s=0.14, colour=COLOURS["drums"], columns=450
        )
        axes.set_ylabel(told)
        axes.set_xticks([])
    rows[2].set_xlabel(f"0.14 s around a hit, stretched to {100 * factor:.0f} %")
    return figure


def _early(samples_CT: Samples, at: int) -> float:
    """How loud the 30 ms before a place are against the 30 ms after it, in dB."""
    reach = round(0.03 * RATE)
    before, after = (np.square(samples_CT[:, slice(*cut)]).sum() + 1e-6
                     for cut in ((max(0, at - reach), max(0, at - 44)), (at, at + reach)))  # fmt: skip
    return float(10.0 * np.log10(before / after))


def tones() -> Figure:
    """Chroma of a bass before and after its transposition, over that of the part it is to go with."""
    stems, parts = songs()
    part = next(part for part in parts if part.source == "bass")
    own_T = stems[0][SOURCES.index("other")].mean(axis=0)
    bass_CT = stems[1][SOURCES.index("bass")]
    moved_CT = place(bass_CT, part, RATE, num_samples=stems[0].shape[2])
    figure = Figure(figsize=(7.2, 1.9))
    columns = figure.subplots(1, 2, sharey=True)
    for axes, samples_CT, told in ((columns[0], bass_CT, "before"), (columns[1], moved_CT, "after")):
        other = np.array(chroma(samples_CT.mean(axis=0), RATE))
        reference = np.array(chroma(own_T, RATE))
        axes.bar(range(12), other, color=COLOURS["bass"], width=0.8)
        axes.step(np.arange(13) - 0.5, [*reference, reference[-1]], where="post", color=INK, linewidth=1.0)
        axes.set_xticks(range(12), PITCHES)
        axes.set_title(f"{told}: {np.abs(other - reference).sum():.2f} apart", fontsize=9)
        _bare(axes)
    columns[0].set_ylabel("share")
    figure.text(
        0.5, -0.08, f"bass (bars) under the chords of the mix (line): {part.semitones:+d} semitones", ha="center"
    )
    return figure


def _wave(axes: Axes, samples_T: Samples, *, start_s: float, length_s: float, colour: str, columns: int = 600) -> None:
    """The outline of some seconds of a signal."""
    first = round(start_s * RATE)
    pieces = np.array_split(samples_T[first : first + round(length_s * RATE)], columns)
    times = start_s + np.arange(columns) * length_s / columns
    tops, bottoms = ([round(float(extreme(piece)), 3) for piece in pieces] for extreme in (np.max, np.min))
    axes.fill_between(np.round(times, 4), bottoms, tops, color=colour, linewidth=0)
    axes.set_xlim(start_s, start_s + length_s)
    axes.set_yticks([])
    _bare(axes)


def _bare(axes: Axes, sides: Sequence[str] = ("top", "right", "left")) -> None:
    for side in sides:
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=SOFT)


if __name__ == "__main__":
    sys.exit(main())
