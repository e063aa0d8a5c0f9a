"""`make bench-remix SONGS=FOLDER`: what is heard in songs whose beats are known, and where their mixes put them.

A song is a folder with audio and a truth.json (beats_s; tempo_bpm, downbeats_s and key where they are known), however
deep it lies; a folder of `datasets.corpus.synthetic` with its one truth.json is read as well. Songs are heard whole
and by their first 12 s. Of stems where there are some, of the mixture otherwise. Nothing is rendered: a plan says
where each beat of a part comes to lie, and that is held against the true beats of the reference.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.analysis.harmony import key
from datasets.analysis.song_profile import profile
from datasets.mixing.mixplan import MixRules, has_beat, plan
from datasets.schema import SOURCES, Part, Profile
from tests.benchmarks.songs_with_truth import octave_fair, plain_f, tempo_right
from tests.benchmarks.table import Row, figure

Array = NDArray[np.float64]
Samples = NDArray[np.float32]

SHORT_S = 12.0
AUDIO = (".flac", ".ogg", ".wav")
MIXES = 2  # with each song as the reference
OFF_MS = 35.0
RIGHT = 0.7  # F-measure from which beats count as found
EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0001)  # of the reliability curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of an excerpt; empty where nothing is."""

    set: str
    tempo_bpm: float
    beats_s: Array
    downbeats_s: Array  # of songs whose metre is written
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An excerpt: what is true of it, and what was heard in its stems and in its mixture alone."""

    truth: Truth
    heard: Profile
    of_mixture: Profile

    @property
    def beats_right(self) -> bool:
        """On the beats, at any octave."""
        return octave_fair(self.truth.beats_s, np.asarray(self.heard.beats_s)) >= RIGHT

    @property
    def half_off(self) -> bool:
        """Between the beats, at any octave."""
        beats_s = self.truth.beats_s
        between_s = (beats_s[1:] + beats_s[:-1]) / 2
        return not self.beats_right and octave_fair(between_s, np.asarray(self.heard.beats_s)) >= RIGHT

    @property
    def bars_right(self) -> bool:
        """Bars begin where bars begin, though some may be left out."""
        near = np.abs(np.asarray(self.heard.downbeats_s)[:, None] - self.truth.downbeats_s).min(axis=1) < 0.07
        return float(near.mean()) >= 0.8


def rows(folder: Path) -> list[Row]:
    """All figures, of whole songs and of their first 12 s."""
    found = list(read(folder))
    made: list[Row] = []
    for label, seconds in (("whole", None), (f"{SHORT_S:.0f} s", SHORT_S)):
        heard = [hear(*song, seconds=seconds) for song in found]
        if heard:
            made += [{**row, "name": f"{label}: {row['name']}"} for row in figures(heard)]
    return made


def read(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Each song's folder, and its truth."""
    for path in sorted(folder.rglob("truth.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        songs = truth.get("songs")
        if songs is None:
            yield path.parent, truth
        for song in songs or ():
            if not song["defect"]:
                yield path.parent / song["folder"], song


def hear(folder: Path, truth: Mapping[str, Any], *, seconds: float | None = None) -> Heard:
    """The first `seconds` of a song, or all of it."""
    paths = {path.stem: path for path in folder.iterdir() if path.suffix in AUDIO}
    stop = None if seconds is None else int(seconds * soundfile.info(next(iter(paths.values()))).samplerate)
    read = {name: soundfile.read(path, dtype="float32", always_2d=True, stop=stop) for name, path in paths.items()}
    rate = next(iter(read.values()))[1]
    audio = {name: np.ascontiguousarray(samples.T) for name, (samples, _) in read.items()}
    stems = {name: audio[name] for name in SOURCES if name in audio}
    mixture_CT = audio["mixture"] if "mixture" in audio else np.sum(list(stems.values()), axis=0)
    name = f"{folder.parent.name}/{folder.name}"
    of_mixture = profile(mixture_CT[None], track_id=name, split="train", sources=("other",), sample_rate=rate)
    of_mixture = replace(of_mixture, loudness_db=dict.fromkeys(SOURCES, -20.0))  # every source is taken to sound
    heard = of_mixture
    if stems:
        heard = profile(
            np.stack(list(stems.values())), track_id=name, split="train", sources=tuple(stems), sample_rate=rate
        )
    return Heard(truth=truth_of(folder, truth, heard.duration_s), heard=heard, of_mixture=of_mixture)


def truth_of(folder: Path, truth: Mapping[str, Any], duration_s: float) -> Truth:
    """Of so many seconds; without the beats and bars that the truth itself calls doubtful."""
    sure = (truth.get("check") or {}).get("beats_confident") is not False
    written = "none written" not in str(truth.get("time_signature"))

    def within(name: str) -> Array:
        times_s = np.array(truth.get(name) or [], dtype=np.float64)
        return times_s[(times_s >= 0.0) & (times_s < duration_s)]

    beats_s = within("beats_s") if sure and truth.get("tempo_bpm") else np.empty(0)
    return Truth(
        set=folder.name.split(" - ")[0],
        tempo_bpm=float(truth.get("tempo_bpm") or 0.0),
        beats_s=beats_s,
        downbeats_s=within("downbeats_s") if beats_s.size and written else np.empty(0),
        key=str(truth.get("key") or ""),
    )


# -- figures ----------------------------------------------------------------------------------------------------


def figures(songs: Sequence[Heard]) -> list[Row]:
    """Of excerpts of one length."""
    timed = [song for song in songs if song.truth.beats_s.size]
    keyed = [song for song in songs if song.truth.key]
    return [
        *(beat_rows(timed) if timed else ()),
        *(reliability(timed) if timed else ()),
        *(mix_rows(timed) if len(timed) > 1 else ()),
        *(key_rows(keyed) if keyed else ()),
    ]


def beat_rows(songs: Sequence[Heard]) -> list[Row]:
    """Beats, tempo and bars; of all songs, and of those that are sure enough for mixes."""
    rules = MixRules()
    sure = [song for song in songs if has_beat(song.heard, rules)]
    found = [np.asarray(song.heard.beats_s) for song in songs]
    fair = [octave_fair(song.truth.beats_s, beats_s) for song, beats_s in zip(songs, found, strict=True)]
    plain = [plain_f(song.truth.beats_s, beats_s) for song, beats_s in zip(songs, found, strict=True)]
    octaves = [not tempo_right(song.truth.tempo_bpm, song.heard.tempo_bpm, octaves=False) for song in songs]
    wrong = [not tempo_right(song.truth.tempo_bpm, song.heard.tempo_bpm, octaves=True) for song in songs]
    barred = [song for song in songs if song.truth.downbeats_s.size > 1 and song.heard.downbeats_s]
    made = [
        figure("songs with known beats", len(songs), "songs"),
        figure("beat F, octave-fair", float(np.mean(fair)), "share", target=0.92, more=True),
        figure("beat F, notated octave", float(np.mean(plain)), "share"),
        figure("half a beat off", 100.0 * float(np.mean([song.half_off for song in songs])), "%"),
        figure("another octave than the notated one", 100.0 * float(np.mean(octaves) - np.mean(wrong)), "%"),
        figure("another tempo", 100.0 * float(np.mean(wrong)), "%"),
        figure("left out, since their beats are in doubt", 100.0 * (1 - len(sure) / len(songs)), "%", target=25.0),
    ]
    if sure:
        off = 100.0 * float(np.mean([not song.beats_right for song in sure]))
        made.append(figure("of the others: beats not found", off, "%"))
    if barred:
        right = 100.0 * float(np.mean([song.bars_right for song in barred]))
        known = sum(song.truth.downbeats_s.size > 1 for song in songs)
        made.append(figure(f"bars right, where claimed ({len(barred)} of {known})", right, "%", target=90.0, more=True))
    return made


def reliability(songs: Sequence[Heard]) -> list[Row]:
    """How often beats are right among songs of about the same confidence, which should be that confidence."""
    sure = np.array([song.heard.phase_confidence for song in songs])
    right = np.array([song.beats_right for song in songs], dtype=np.float64)
    made = []
    for low, high in itertools.pairwise(EDGES):
        inside = (sure >= low) & (sure < high)
        if inside.any():
            name = f"beats right at confidence {low:g} to {min(high, 1.0):g} ({int(inside.sum())} songs)"
            made.append(figure(name, float(right[inside].mean()), "share", baseline=float(sure[inside].mean())))
    made.append(figure("confidence, mean squared error", float(np.square(sure - right).mean()), ""))
    return made


def key_rows(songs: Sequence[Heard]) -> list[Row]:
    """Weighted scores of mir_eval: of the likeliest keys, and of those that are sure enough to be named."""
    from mir_eval.key import weighted_score

    made = []
    for what, profiles in (
        ("stems", [(song.truth.key, song.heard) for song in songs if song.heard is not song.of_mixture]),
        ("mixtures", [(song.truth.key, song.of_mixture) for song in songs]),
    ):
        likeliest = [(true, key(heard.chroma)[0]) for true, heard in profiles]
        named = [weighted_score(true, heard.key) for true, heard in profiles if heard.key]
        if likeliest:
            scores = [weighted_score(true, found) if found else 0.0 for true, found in likeliest]
            made.append(figure(f"key from {what}, weighted ({len(scores)} songs)", float(np.mean(scores)), "share"))
        if named:
            name = f"key from {what}, weighted, where named ({len(named)} of {len(profiles)})"
            made.append(figure(name, float(np.mean(named)), "share", target=0.8, more=True))
    return made


def mix_rows(songs: Sequence[Heard]) -> list[Row]:
    """Where the true beats and bars of parts come to lie, against those of the song they play along with."""
    known = {song.heard.track_id: song for song in songs}
    heard = [replace(song.heard, loudness_db=dict.fromkeys(SOURCES, -20.0)) for song in songs]
    plans = plan(heard, seed=0, mixes_per_track=MIXES, rules=MixRules(), sources=SOURCES)
    pairs = [(known[made.parts[0].track_id], known[part.track_id], part) for made in plans for part in made.parts[1:]]
    if not pairs:
        return [figure("parts of mixes", 0, "parts")]
    moved = [np.abs(1000.0 * _distances_s(own.truth.beats_s, _moved(other.truth.beats_s, part)))
             for own, other, part in pairs]  # fmt: skip
    off_ms = np.concatenate(moved)
    barred = {name for name, song in known.items() if song.truth.downbeats_s.size > 1 and song.heard.downbeats_s}
    bars = [_on_bars(*pair) for pair in pairs if {song.heard.track_id for song in pair[:2]} <= barred]
    made = [
        figure("parts of mixes", len(pairs), "parts"),
        figure("residual between beats, median", float(np.median(off_ms)), "ms", target=12.0),
        figure("residual between beats, 95th percentile", float(np.percentile(off_ms, 95)), "ms", target=OFF_MS),
        figure("beats more than 35 ms off", 100.0 * float(np.mean(off_ms > OFF_MS)), "%"),
    ]
    if bars:
        right = 100.0 * float(np.mean(bars))
        made.append(figure(f"bars on bars ({len(bars)} parts)", right, "%", target=90.0, more=True))
    return made


def _moved(times_s: Array, part: Part, sample_rate: int = 44100) -> Array:
    return part.stretch * times_s + part.shift_samples / sample_rate


def _distances_s(own_s: Array, theirs_s: Array) -> Array:
    """From each of the sparser grid to the nearest of the denser, where both are."""
    low, high = max(own_s[0], theirs_s[0]) - 0.1, min(own_s[-1], theirs_s[-1]) + 0.1
    grids = [grid[(grid > low) & (grid < high)] for grid in (own_s, theirs_s)]
    if min(grid.size for grid in grids) < 2:
        return np.empty(0)
    few, many = sorted(grids, key=lambda grid: -float(np.median(np.diff(grid))))
    return np.asarray(many[np.abs(many[:, None] - few).argmin(axis=0)] - few)


def _on_bars(own: Heard, other: Heard, part: Part) -> bool:
    off_s = np.abs(_distances_s(own.truth.downbeats_s, _moved(other.truth.downbeats_s, part)))
    return bool(off_s.size and float(np.mean(off_s < 0.07)) >= 0.8)
