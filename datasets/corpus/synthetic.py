"""Seeded toy songs of known tempo, key and defects: the README's first command, and the tests' ground truth.

Each song is a small arrangement (drum pattern, bass on the chord roots, pad and arpeggio, a voice-like lead)
played by synthesizers whose timbre is drawn per song. Beside the good songs stand planted bad ones, one for
each way in which real corpora go wrong, with the reason that they should be dropped for. `write_corpus` is
the way in; `compose` and `perform` are its two halves for callers that want arrays.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import butter, lfilter, sosfilt

from datasets.analysis.harmony import PITCHES
from datasets.audio.writers import AudioWriter
from datasets.errors import InputError
from datasets.schema import SOURCES
from datasets.seeding import row_rng

Samples = NDArray[np.float32]

# Raise it when the same arguments give other songs (CONTRIBUTING.md)
VERSION = 2

BEATS_PER_BAR = 4
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Scale degrees of one chord per bar. All begin on the tonic, so that the key is a matter of fact.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (0, 3, 4, 0)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 3, 4, 0)),
}
# Sixteenth-note steps of one bar.
KICKS = ((0, 4, 8, 12), (0, 8), (0, 6, 8), (0, 8, 10), (0, 3, 8, 11))
SNARES = ((4, 12), (4, 12, 15), (4, 10, 12))
HATS = ((0, 2, 4, 6, 8, 10, 12, 14), tuple(range(16)), (2, 6, 10, 14), (0, 4, 8, 12))
BASSLINES = ((0, 4, 8, 12), (0, 2, 4, 6, 8, 10, 12, 14), (0, 6, 8, 14), (0, 8), (0, 3, 6, 8, 11, 14))
# The first three formants in Hz, after Peterson and Barney's means for men (JASA 24, 1952), rounded.
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
FORMANT_BANDWIDTHS_HZ = (70, 90, 130)
FORMANT_GAINS = (1.0, 0.6, 0.35)
LEVELS_DB = {"drums": -19.0, "bass": -20.0, "other": -21.0, "vocals": -19.0}
PEAK = 0.89
FIRST_WORDS = ("Amber", "Copper", "Distant", "Early", "Hollow", "Linen", "Northern", "Paper", "Quiet", "Silver")
SECOND_WORDS = ("Harbour", "Letters", "Machine", "Meadow", "Orbit", "River", "Signal", "Station", "Weather", "Window")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteEvent:
    start_s: float
    duration_s: float
    midi: float
    velocity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SongTruth:
    """What is known about one song because we made it so."""

    folder: str  # under the corpus folder, with "/" between split and song
    title: str
    split: str  # empty where the corpus has no split folders
    defect: str  # empty, or what was done to the song
    reason: str  # empty, or the entry of `schema.REASONS` that it should be dropped for
    duration_s: float
    tempo_bpm: float
    key: str
    beats_s: tuple[float, ...]
    downbeats_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTruth:
    """The whole corpus; `folder` is where it was written."""

    folder: str
    songs: tuple[SongTruth, ...]

    @property
    def good(self) -> tuple[SongTruth, ...]:
        return tuple(song for song in self.songs if not song.defect)

    @property
    def bad(self) -> tuple[SongTruth, ...]:
        return tuple(song for song in self.songs if song.defect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """A song on paper: what `perform` plays."""

    seed: int
    song_id: str
    duration_s: float
    tempo_bpm: float
    first_beat_s: float
    tonic: int  # 0 is C
    mode: str
    chords: tuple[tuple[int, int, int], ...]  # one per bar, as semitones above the tonic

    @property
    def beats_s(self) -> tuple[float, ...]:
        count = int(np.ceil((self.duration_s - self.first_beat_s) * self.tempo_bpm / 60.0))
        times = self.first_beat_s + np.arange(max(count, 0)) * 60.0 / self.tempo_bpm
        return tuple(round(float(time), 6) for time in times)

    @property
    def downbeats_s(self) -> tuple[float, ...]:
        return self.beats_s[::BEATS_PER_BAR]

    @property
    def key(self) -> str:
        return f"{PITCHES[self.tonic]} {self.mode}"

    def rng(self, part: str) -> np.random.Generator:
        return row_rng(self.seed, "song", self.song_id, part)


def write_corpus(
    folder: str | os.PathLike[str],
    *,
    num_songs: int,
    seed: int,
    duration_s: float,
    sample_rate: int = 44100,
    splits: Mapping[str, int] | None = None,
    defects: bool = True,
) -> CorpusTruth:
    """Write the corpus and its `truth.json`, and return the truth.

    `splits` says how many songs stand in each split folder; by default about a sixth each in `valid` and
    `test`; an empty mapping puts the songs straight under `folder`. Planted bad songs come on top of
    `num_songs`. The same arguments give the same bytes; a corpus that is already there is left as it is, an
    older one of ours is replaced, and anything else in `folder` is refused.
    """
    root = Path(folder)
    if num_songs < 1 or duration_s < 1.0:
        raise InputError(f"num_songs and duration_s must be >= 1, got {num_songs} and {duration_s}")
    shares = _default_splits(num_songs) if splits is None else dict(splits) or {"": num_songs}
    if sum(shares.values()) != num_songs:
        raise InputError(f"splits {shares} do not sum to {num_songs} songs")
    spec = {
        "num_songs": num_songs,
        "seed": seed,
        "duration_s": duration_s,
        "sample_rate": sample_rate,
        "splits": shares,
        "defects": defects,
        "version": VERSION,
    }
    found = _read_truth(root)
    if found is not None and found["spec"] == json.loads(json.dumps(spec)):
        return _truth(root, found["songs"])
    if foreign := _foreign(root, found):
        more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise InputError(
            f"{root} holds files that are not a synthetic corpus as it was written ({foreign[0]}{more}); nothing was "
            "touched: give an empty or a new folder, or move them away"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        songs = _write_songs(temporary, shares, seed=seed, duration_s=duration_s, sample_rate=sample_rate)
        if defects:
            songs += _plant_defects(temporary, songs, seed=seed, duration_s=duration_s, sample_rate=sample_rate)
        rows = [asdict(song) for song in songs]
        files = {str(path.relative_to(temporary)): path for path in temporary.rglob("*") if path.is_file()}
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}
        document = {"spec": spec, "songs": rows, "files": digests}
        (temporary / "truth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        if root.exists():
            shutil.rmtree(root)
        temporary.replace(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _truth(root, rows)


def read_truth(folder: str | os.PathLike[str]) -> CorpusTruth:
    """The truth of a corpus that `write_corpus` wrote."""
    found = _read_truth(Path(folder))
    if found is None:
        raise InputError(f"{folder} holds no truth.json of a synthetic corpus")
    return _truth(Path(folder), found["songs"])


def _read_truth(root: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((root / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and {"spec", "songs"} <= set(document) else None


def _foreign(root: Path, found: Mapping[str, Any] | None) -> list[str]:
    """What in a folder `write_corpus` did not write as it is now: nothing of it may go when the corpus is replaced.

    Corpora from before their files were listed are known by their songs' folders and the names of stems.
    """
    if root.exists() and not root.is_dir():
        return [root.name]
    if found is None:
        return [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if not path.is_dir()}
    listed, folders = found.get("files"), {song["folder"] for song in found["songs"]}
    stems = {f"{source}.{form}" for source in SOURCES for form in ("flac", "wav")}

    def is_ours(name: str, path: Path) -> bool:
        if name == "truth.json":
            return True
        if listed is None:
            return str(Path(name).parent) in folders and path.name in stems
        return name in listed and hashlib.sha256(path.read_bytes()).hexdigest() == listed[name]

    return [name for name, path in files.items() if path.is_symlink() or not is_ours(name, path)]


def _truth(root: Path, songs: list[dict[str, Any]]) -> CorpusTruth:
    lists = ("beats_s", "downbeats_s")
    rows: list[dict[str, Any]] = [
        {name: tuple(value) if name in lists else value for name, value in song.items()} for song in songs
    ]
    return CorpusTruth(folder=str(root), songs=tuple(SongTruth(**row) for row in rows))


def _default_splits(num_songs: int) -> dict[str, int]:
    if num_songs < 3:
        return {"train": num_songs}
    held_out = max(1, round(num_songs / 6))
    return {"train": num_songs - 2 * held_out, "valid": held_out, "test": held_out}


def _write_songs(
    root: Path, shares: Mapping[str, int], *, seed: int, duration_s: float, sample_rate: int
) -> list[SongTruth]:
    songs: list[SongTruth] = []
    for split, count in shares.items():
        for _ in range(count):
            song_id = f"{len(songs) + 1:02d}"
            score = compose(seed, song_id, duration_s)
            title = _title(score)
            folder = f"{split}/{title}" if split else title
            _write_stems(root / folder, perform(score, sample_rate), sample_rate)
            songs.append(_song_truth(score, folder=folder, title=title, split=split))
    return songs


def _title(score: Composition) -> str:
    rng = score.rng("title")
    return f"Toy {score.song_id} - {rng.choice(FIRST_WORDS)} {rng.choice(SECOND_WORDS)}"


def _song_truth(
    score: Composition, *, folder: str, title: str, split: str, defect: str = "", reason: str = ""
) -> SongTruth:
    return SongTruth(
        folder=folder,
        title=title,
        split=split,
        defect=defect,
        reason=reason,
        duration_s=score.duration_s,
        tempo_bpm=score.tempo_bpm,
        key=score.key,
        beats_s=score.beats_s,
        downbeats_s=score.downbeats_s,
    )


def _write_stems(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    folder.mkdir(parents=True)
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        soundfile.write(folder / f"{source}.flac", stem_CT.T, sample_rate, subtype="PCM_16")


# -- bad songs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One planted fault: its name, the reason to drop the song for, and what spoils a folder of good stems."""

    name: str
    reason: str
    spoil: Callable[[Path, Samples, int], None]


def _plant_defects(
    root: Path, songs: list[SongTruth], *, seed: int, duration_s: float, sample_rate: int
) -> list[SongTruth]:
    """One bad song per defect in the first split, and a copy of its first good song under another name."""
    split = songs[0].split
    score = compose(seed, "spoilt", duration_s)
    stems_SCT = perform(score, sample_rate)  # one song for all defects: none of them should get as far as its music
    planted: list[SongTruth] = []
    for defect in DEFECTS:
        title = f"Spoilt - {defect.name}"
        folder = f"{split}/{title}" if split else title
        _write_stems(root / folder, stems_SCT, sample_rate)
        defect.spoil(root / folder, stems_SCT, sample_rate)
        truth = _song_truth(score, folder=folder, title=title, split=split, defect=defect.name, reason=defect.reason)
        planted.append(truth)
    original, title = songs[0], "Twin - exact duplicate"  # sorts after the original: of two twins the first is kept
    folder = f"{split}/{title}" if split else title
    shutil.copytree(root / original.folder, root / folder)
    copy = replace(original, folder=folder, title=title, defect="exact duplicate", reason="duplicate")
    return [*planted, copy]


def _silence_vocals(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    soundfile.write(folder / "vocals.flac", np.zeros_like(stems_SCT[3]).T, sample_rate, subtype="PCM_16")


def _lose_a_stem(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "bass.flac").unlink()


def _truncate(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "drums.flac").unlink()
    path = folder / "drums.wav"
    with AudioWriter(path, sample_rate=sample_rate, channels=stems_SCT.shape[1], format="wav16") as writer:
        writer.write(stems_SCT[0])
    os.truncate(path, path.stat().st_size * 6 // 10)


def _lengthen_one(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    """The others end 6 s before it: more than is filled with silence."""
    wanted = stems_SCT.shape[-1] + 6 * sample_rate
    long_CT = np.tile(stems_SCT[2], -(-wanted // stems_SCT.shape[-1]))[:, :wanted]
    soundfile.write(folder / "other.flac", long_CT.T, sample_rate, subtype="PCM_16")


def _halve_rate_of_one(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    soundfile.write(folder / "bass.flac", stems_SCT[1, :, ::2].T, sample_rate // 2, subtype="PCM_16")


def _leave_an_old_version(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    soundfile.write(folder / "bass_OLD.flac", stems_SCT[1, :, ::-1].T, sample_rate, subtype="PCM_16")


def _poison(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "vocals.flac").unlink()
    poisoned_CT = stems_SCT[3].copy()
    middle = poisoned_CT.shape[-1] // 2
    poisoned_CT[:, middle : middle + 64] = np.nan
    # libsndfile stamps float files with the time of writing; scipy does not.
    wavfile.write(folder / "vocals.wav", sample_rate, poisoned_CT.T)


def _write_text(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "other.flac").unlink()
    (folder / "other.wav").write_text("This was a link to a song that has moved.\n" * 40, encoding="utf-8")


def _empty(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    (folder / "vocals.flac").write_bytes(b"")


def _clip(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        loud_CT = np.clip(stem_CT * 40.0, -1.0, 1.0)
        soundfile.write(folder / f"{source}.flac", loud_CT.T, sample_rate, subtype="PCM_16")


def _cut_short(folder: Path, stems_SCT: Samples, sample_rate: int) -> None:
    for source, stem_CT in zip(SOURCES, stems_SCT, strict=True):
        short_CT = stem_CT[:, : int(0.4 * sample_rate)]
        soundfile.write(folder / f"{source}.flac", short_CT.T, sample_rate, subtype="PCM_16")


DEFECTS = (
    Defect(name="silent vocals", reason="silent_source", spoil=_silence_vocals),
    Defect(name="missing stem", reason="missing_stem", spoil=_lose_a_stem),
    Defect(name="truncated file", reason="undecodable", spoil=_truncate),
    Defect(name="length mismatch", reason="length_mismatch", spoil=_lengthen_one),
    Defect(name="rate mismatch", reason="rate_mismatch", spoil=_halve_rate_of_one),
    Defect(name="old version", reason="ambiguous_stem", spoil=_leave_an_old_version),
    Defect(name="not a number", reason="not_finite", spoil=_poison),
    Defect(name="text as audio", reason="undecodable", spoil=_write_text),
    Defect(name="zero bytes", reason="empty_file", spoil=_empty),
    Defect(name="clipped", reason="clipped", spoil=_clip),
    Defect(name="too short", reason="too_short", spoil=_cut_short),
)


# -- the song on paper ----------------------------------------------------------------------------------------


def compose(seed: int, song_id: str, duration_s: float) -> Composition:
    """Tempo (70 to 160 bpm), key and chords of one song; the same seed and id give the same song."""
    rng = row_rng(seed, "song", song_id, "score")
    mode = str(rng.choice(sorted(SCALES)))
    tempo_bpm = round(float(np.exp(rng.uniform(np.log(70.0), np.log(160.0)))), 2)
    progression = PROGRESSIONS[mode][rng.integers(len(PROGRESSIONS[mode]))]
    num_bars = int(np.ceil(duration_s * tempo_bpm / 60.0 / BEATS_PER_BAR)) + 1
    return Composition(
        seed=seed,
        song_id=song_id,
        duration_s=duration_s,
        tempo_bpm=tempo_bpm,
        first_beat_s=round(float(rng.uniform(0.05, 0.45)), 4),
        tonic=int(rng.integers(12)),
        mode=mode,
        chords=tuple(_triad(mode, progression[bar % len(progression)]) for bar in range(num_bars)),
    )


def _triad(mode: str, degree: int) -> tuple[int, int, int]:
    root, third, fifth = (SCALES[mode][(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4))
    return root, third, fifth


def _step_times(score: Composition) -> tuple[float, int]:
    """Length of a sixteenth note in seconds, and the number of bars that begin within the song."""
    step_s = 60.0 / score.tempo_bpm / 4.0
    return step_s, int(np.ceil((score.duration_s - score.first_beat_s) / (16 * step_s)))


# -- the band -------------------------------------------------------------------------------------------------


def perform(score: Composition, sample_rate: int) -> Samples:
    """The song's stems, float32 of shape (4, 2, T), below full scale both alone and summed."""
    num_samples = round(score.duration_s * sample_rate)
    players = {"drums": _drums, "bass": _bass, "other": _other, "vocals": _vocals}
    stems_SCT: NDArray[np.float64] = np.zeros((len(SOURCES), 2, num_samples))
    for index, source in enumerate(SOURCES):
        rng = score.rng(source)
        dry_CT = players[source](score, rng, num_samples, sample_rate)
        stem_CT = _room(dry_CT, rng, sample_rate, wet=0.08 if source == "bass" else 0.25)
        level_db = LEVELS_DB[source] + rng.uniform(-1.5, 1.5)
        stems_SCT[index] = stem_CT * (10.0 ** (level_db / 20.0) / _sounding_rms(stem_CT, sample_rate))
    fade = min(num_samples, round(0.01 * sample_rate))
    stems_SCT[:, :, num_samples - fade :] *= np.linspace(1.0, 0.0, fade)
    peak = max(float(np.abs(stems_SCT).max()), float(np.abs(stems_SCT.sum(axis=0)).max()))
    return (stems_SCT * min(1.0, PEAK / peak)).astype(np.float32)


def _sounding_rms(stem_CT: NDArray[np.float64], sample_rate: int) -> float:
    """RMS over the half seconds that sound, so that a source which rests is not made louder for it."""
    block = max(1, sample_rate // 2)
    usable = stem_CT.shape[1] // block * block
    power = np.square(stem_CT[:, :usable]).reshape(stem_CT.shape[0], -1, block).mean(axis=(0, 2))
    return float(np.sqrt(power[power >= 0.01 * power.max()].mean())) + 1e-12


def _room(
    dry_CT: NDArray[np.float64], rng: np.random.Generator, sample_rate: int, *, wet: float
) -> NDArray[np.float64]:
    """A few early reflections, different left and right: space at the price of a dozen additions."""
    wet_CT = dry_CT.copy()
    for channel in range(2):
        for delay_s in np.sort(rng.uniform(0.004, 0.06, size=6)):
            delay = int(delay_s * sample_rate)
            gain = wet * np.exp(-delay_s / 0.03) * rng.choice((-1.0, 1.0))
            wet_CT[channel, delay:] += gain * dry_CT[1 - channel, : dry_CT.shape[1] - delay]
    return wet_CT


def _pan(mono_T: NDArray[np.float64], position: float) -> NDArray[np.float64]:
    """Equal-power panning; -1 is left, 1 is right."""
    angle = (position + 1.0) * np.pi / 4.0
    left_right = np.array([[np.cos(angle)], [np.sin(angle)]]) * np.sqrt(2.0)
    return np.asarray(left_right * mono_T)


def _add(track_T: NDArray[np.float64], start: int, sound_T: NDArray[np.float64]) -> None:
    """Mix a sound into a track in place; what lies beyond the end is dropped."""
    end = min(start + sound_T.shape[0], track_T.shape[0])
    if start < end:
        track_T[start:end] += sound_T[: end - start]


# -- drums ----------------------------------------------------------------------------------------------------


def _drums(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    kit = _drum_kit(rng, sample_rate)
    places = {"kick": 0.0, "snare": 0.05, "hat": rng.uniform(0.2, 0.5), "crash": -0.4}
    step_s, num_bars = _step_times(score)
    kick = KICKS[rng.integers(len(KICKS))]
    snare = SNARES[rng.integers(len(SNARES))]
    hat = HATS[rng.integers(len(HATS))]
    tracks = {name: np.zeros(num_samples) for name in kit}
    for bar in range(num_bars):
        fill = bar % 4 == 3
        hits = [("kick", step, 1.0) for step in kick]
        hits += [("snare", step, 0.9 if step in (4, 12) else 0.5) for step in snare]
        hits += [("hat", step, 0.6 if step % 4 == 0 else 0.4) for step in hat if not (fill and step >= 12)]
        hits += [("snare", step, 0.6) for step in (13, 14, 15)] if fill else []
        hits += [("crash", 0, 0.7)] if bar % 4 == 0 else []
        for name, step, velocity in hits:
            start = round((score.first_beat_s + (16 * bar + step) * step_s) * sample_rate)
            _add(tracks[name], start, kit[name] * velocity * rng.uniform(0.85, 1.0))
    return np.asarray(sum(_pan(track_T, places[name]) for name, track_T in tracks.items()))


def _drum_kit(rng: np.random.Generator, sample_rate: int) -> dict[str, NDArray[np.float64]]:
    """One-shot sounds: a swept sine, a tuned burst of noise, and two lengths of metallic noise."""
    t = np.arange(round(0.3 * sample_rate)) / sample_rate
    low_hz = rng.uniform(42.0, 60.0)
    sweep_hz = low_hz + rng.uniform(90.0, 220.0) * np.exp(-t / rng.uniform(0.015, 0.035))
    kick_T = np.sin(2 * np.pi * np.cumsum(sweep_hz) / sample_rate) * np.exp(-t / rng.uniform(0.07, 0.13))
    kick_T += 0.3 * rng.standard_normal(t.shape) * np.exp(-t / 0.002)
    tone_hz = rng.uniform(160.0, 230.0)
    tone_T = np.sin(2 * np.pi * tone_hz * t) + 0.5 * np.sin(2 * np.pi * 1.83 * tone_hz * t)
    noise_T = _highpass(rng.standard_normal(t.shape), rng.uniform(900.0, 1800.0), sample_rate)
    snare_T = 0.6 * tone_T * np.exp(-t / 0.05) + 0.8 * noise_T * np.exp(-t / rng.uniform(0.05, 0.1))
    long_t = np.arange(round(0.8 * sample_rate)) / sample_rate
    metal_T = _highpass(rng.standard_normal(long_t.shape), rng.uniform(5500.0, 8000.0), sample_rate)
    hat_T = 0.55 * metal_T * np.exp(-long_t / rng.uniform(0.02, 0.05))
    crash_T = 0.4 * _highpass(rng.standard_normal(long_t.shape), 3000.0, sample_rate) * np.exp(-long_t / 0.25)
    return {"kick": 1.3 * kick_T, "snare": snare_T, "hat": hat_T, "crash": crash_T}


def _highpass(noise_T: NDArray[np.float64], cutoff_hz: float, sample_rate: int) -> NDArray[np.float64]:
    sos = butter(2, min(cutoff_hz, 0.35 * sample_rate), "highpass", fs=sample_rate, output="sos")
    return np.asarray(sosfilt(sos, noise_T))


# -- pitched instruments --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Timbre:
    """A voice of two wavetables, one always sounding and a brighter one that dies away."""

    tilt: float  # amplitude of harmonic h is h ** -tilt
    odd: float  # 0 keeps all harmonics, 1 only the odd ones
    bright: float  # share of the bright table at the attack
    bright_s: float  # time in which it falls to 1/e
    attack_s: float
    decay_s: float  # time in which a held note falls to 1/e
    release_s: float
    detune_cents: float = 0.0


def _wavetable(midi: float, tilt: float, odd: float, sample_rate: int) -> NDArray[np.float64]:
    """One period with every harmonic below 90 % of half the sample rate (at most 48), of unit RMS."""
    length = 4096
    num_harmonics = int(np.clip(0.45 * sample_rate / _hertz(midi), 1, 48))
    harmonics = np.arange(1, num_harmonics + 1)
    amplitudes = harmonics**-tilt * np.where(harmonics % 2 == 0, 1.0 - odd, 1.0)
    spectrum = np.zeros(length // 2 + 1, dtype=complex)
    # Phases that grow with the square of the harmonic keep the crest factor low (Schroeder 1970).
    spectrum[1 : num_harmonics + 1] = amplitudes * np.exp(-1j * np.pi * harmonics**2 / num_harmonics)
    table = np.fft.irfft(spectrum)
    return np.asarray(table / np.sqrt(np.mean(table**2)))


def _hertz(midi: float) -> float:
    return float(440.0 * 2.0 ** ((midi - 69.0) / 12.0))


def _play(notes: list[NoteEvent], timbre: Timbre, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    track_T = np.zeros(num_samples)
    for note in notes:
        held = max(1, round(note.duration_s * sample_rate))
        t = np.arange(held + round(4 * timbre.release_s * sample_rate)) / sample_rate
        midi = note.midi + timbre.detune_cents / 100.0
        dark = _wavetable(midi, timbre.tilt + 0.8, timbre.odd, sample_rate)
        bright = _wavetable(midi, timbre.tilt, timbre.odd, sample_rate)
        index = ((_hertz(midi) * t + 0.618 * note.midi) % 1.0 * dark.shape[0]).astype(np.int32)
        share_T = timbre.bright * np.exp(-t / timbre.bright_s)
        envelope_T = np.minimum(1.0, t / timbre.attack_s) * np.exp(-t / timbre.decay_s)
        envelope_T[held:] *= np.exp(-(t[held:] - t[held - 1]) / timbre.release_s)
        sound_T = note.velocity * envelope_T * ((1.0 - share_T) * dark[index] + share_T * bright[index])
        _add(track_T, round(note.start_s * sample_rate), sound_T)
    return track_T


def _bass(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    timbre = Timbre(
        tilt=rng.uniform(0.9, 1.4),
        odd=rng.choice((0.0, 0.9)),
        bright=rng.uniform(0.2, 0.8),
        bright_s=rng.uniform(0.05, 0.15),
        attack_s=0.006,
        decay_s=rng.uniform(0.4, 1.2),
        release_s=0.03,
    )
    step_s, num_bars = _step_times(score)
    line = BASSLINES[rng.integers(len(BASSLINES))]
    lengths = np.diff([*line, 16])
    lowest = 28 + (score.tonic - 4) % 12  # E1 to D#2
    notes = []
    for bar in range(num_bars):
        root, _, fifth = score.chords[bar]
        for step, length in zip(line, lengths, strict=True):
            jump = 0 if step == 0 else int(rng.choice((0, 0, 0, 12, fifth - root)))
            midi = lowest + root + jump
            midi -= 12 if midi > 50 else 0
            start_s = score.first_beat_s + (16 * bar + step) * step_s
            velocity = 1.0 if step == 0 else rng.uniform(0.7, 0.95)
            notes.append(NoteEvent(start_s=start_s, duration_s=0.85 * length * step_s, midi=midi, velocity=velocity))
    return _pan(_play(notes, timbre, num_samples, sample_rate), 0.0)


def _other(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """A wide pad that holds the chords, and an arpeggio above it on one side."""
    pad_CT = np.stack(
        [_play(_pad_notes(score), _pad_timbre(rng, cents), num_samples, sample_rate) for cents in (-6.0, 6.0)]
    )
    pluck = Timbre(
        tilt=rng.uniform(0.6, 1.1),
        odd=rng.choice((0.0, 0.8)),
        bright=rng.uniform(0.5, 0.9),
        bright_s=rng.uniform(0.04, 0.12),
        attack_s=0.003,
        decay_s=rng.uniform(0.12, 0.35),
        release_s=0.04,
    )
    lead_T = _play(_arpeggio_notes(score, rng), pluck, num_samples, sample_rate)
    return 0.35 * pad_CT + _pan(0.9 * lead_T, rng.uniform(-0.6, 0.6))


def _pad_timbre(rng: np.random.Generator, cents: float) -> Timbre:
    return Timbre(
        tilt=rng.uniform(1.0, 1.4),
        odd=0.0,
        bright=rng.uniform(0.3, 0.7),
        bright_s=0.8,
        attack_s=rng.uniform(0.02, 0.08),
        decay_s=8.0,
        release_s=0.06,
        detune_cents=cents,
    )


def _pad_notes(score: Composition) -> list[NoteEvent]:
    step_s, num_bars = _step_times(score)
    base = 55 + (score.tonic - 7) % 12 - 12  # the tonic between G2 and F#3, chords above it
    return [
        NoteEvent(
            start_s=score.first_beat_s + 16 * bar * step_s, duration_s=15.5 * step_s, midi=base + tone, velocity=0.6
        )
        for bar in range(num_bars)
        for tone in score.chords[bar]
    ]


def _arpeggio_notes(score: Composition, rng: np.random.Generator) -> list[NoteEvent]:
    step_s, num_bars = _step_times(score)
    every = int(rng.choice((2, 2, 4)))
    order = rng.permutation(4)
    base = 67 + (score.tonic - 7) % 12
    notes = []
    for bar in range(num_bars):
        chord = (*score.chords[bar], score.chords[bar][0] + 12)
        for position, step in enumerate(range(0, 16, every)):
            start_s = score.first_beat_s + (16 * bar + step) * step_s
            midi = base + chord[order[position % 4]]
            midi -= 12 if midi > 88 else 0
            velocity = 1.0 if step % 4 == 0 else 0.75
            notes.append(NoteEvent(start_s=start_s, duration_s=every * step_s, midi=midi, velocity=velocity))
    return notes


# -- the voice ------------------------------------------------------------------------------------------------


def _vocals(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """A pulse train through formants that change with each syllable, with vibrato, breath and sibilants."""
    syllables = _melody(score, rng)
    pitch_T, level_T, onsets = _contours(syllables, rng, num_samples, sample_rate)
    phase_T = np.cumsum(440.0 * 2.0 ** ((pitch_T - 69.0) / 12.0)) / sample_rate
    table = _wavetable(float(pitch_T.max()) + 0.5, 1.0, 0.0, sample_rate)
    pulses_T = table[((phase_T % 1.0) * table.shape[0]).astype(np.int32)]
    breath_T = rng.standard_normal(num_samples)
    voiced_T = pulses_T + rng.uniform(0.02, 0.06) * breath_T
    size = rng.uniform(1.0, 1.2)  # shorter vocal tracts have higher formants
    names = sorted(VOWELS)
    spoken = rng.integers(len(names), size=len(syllables))
    sung_T = np.zeros(num_samples)
    for number in np.unique(spoken):
        weight_T = _vowel_weight(onsets, spoken == number, num_samples, sample_rate)
        sung_T += weight_T * _formants(voiced_T, VOWELS[names[number]], size, sample_rate)
    sung_T = level_T * sung_T / (np.sqrt(np.mean(sung_T**2)) + 1e-12)
    return _pan(sung_T + _sibilants(onsets, rng, num_samples, sample_rate), rng.uniform(-0.1, 0.1))


def _melody(score: Composition, rng: np.random.Generator) -> list[NoteEvent]:
    """Phrases of syllables on scale steps near the chord, each two bars long and followed by a rest."""
    step_s, num_bars = _step_times(score)
    scale = SCALES[score.mode]
    center = 60 + (score.tonic - 6) % 12 - int(rng.choice((0, 12)))
    degree, notes, step = int(rng.integers(0, 5)), [], int(rng.choice((0, 2, 4)))
    while step < 16 * num_bars:
        length = int(rng.choice((2, 2, 3, 4, 4, 6, 8)))
        if step % 32 >= 26:
            step = (step // 32 + 1) * 32 + int(rng.choice((0, 2)))
            continue
        root = next(index for index, tone in enumerate(scale) if tone == score.chords[step // 16][0] % 12)
        near = [root + offset for offset in (-7, -5, -3, 0, 2, 4) if abs(root + offset - degree) <= 4]
        degree = int(rng.choice(near)) if near and step % 8 == 0 else int(np.clip(degree + rng.integers(-2, 3), -3, 8))
        midi = center + scale[degree % 7] + 12 * (degree // 7)
        start_s = score.first_beat_s + step * step_s
        duration_s = (length - 0.4) * step_s
        notes.append(NoteEvent(start_s=start_s, duration_s=duration_s, midi=midi, velocity=rng.uniform(0.75, 1.0)))
        step += length
    return notes


def _contours(
    syllables: list[NoteEvent], rng: np.random.Generator, num_samples: int, sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Pitch in MIDI numbers and loudness, both (T,), and the sample at which each syllable begins."""
    onsets = np.array([round(note.start_s * sample_rate) for note in syllables], dtype=np.int64)
    midi = np.array([note.midi for note in syllables])
    sounding = np.clip(np.searchsorted(onsets, np.arange(num_samples), side="right") - 1, 0, None)
    glide = np.exp(-1.0 / (0.03 * sample_rate))
    pitch_T = lfilter([1.0 - glide], [1.0, -glide], midi[sounding] - midi[0]) + midi[0]
    t = np.arange(num_samples) / sample_rate
    since_onset_s = t - onsets[sounding] / sample_rate
    depth_T = rng.uniform(0.15, 0.4) * np.clip((since_onset_s - 0.15) / 0.2, 0.0, 1.0)
    pitch_T = pitch_T + depth_T * np.sin(2 * np.pi * rng.uniform(4.8, 6.2) * t)
    level_T = np.zeros(num_samples)
    for note, onset in zip(syllables, onsets, strict=True):
        length = max(2, round(note.duration_s * sample_rate))
        shape_T = np.minimum(1.0, np.arange(length) / (0.03 * sample_rate))
        shape_T *= np.minimum(1.0, np.arange(length)[::-1] / (0.06 * sample_rate))
        _add(level_T, int(onset), note.velocity * shape_T)
    return pitch_T, level_T, onsets


def _vowel_weight(
    onsets: NDArray[np.int64], spoken: NDArray[np.bool_], num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """1 while this vowel is sung, with soft edges."""
    sounding = np.clip(np.searchsorted(onsets, np.arange(num_samples), side="right") - 1, 0, None)
    soft = np.exp(-1.0 / (0.015 * sample_rate))
    return np.asarray(lfilter([1.0 - soft], [1.0, -soft], spoken[sounding].astype(np.float64)))


def _formants(
    voiced_T: NDArray[np.float64], formants_hz: tuple[int, ...], size: float, sample_rate: int
) -> NDArray[np.float64]:
    """Parallel resonators of unit gain at their center; those beyond the band are left out."""
    out_T = np.zeros_like(voiced_T)
    for formant_hz, bandwidth_hz, gain in zip(formants_hz, FORMANT_BANDWIDTHS_HZ, FORMANT_GAINS, strict=True):
        center_hz = size * formant_hz
        if center_hz > 0.45 * sample_rate:
            continue
        radius = np.exp(-np.pi * bandwidth_hz / sample_rate)
        angle = 2 * np.pi * center_hz / sample_rate
        unit = (1.0 - radius) * np.sqrt(1.0 - 2.0 * radius * np.cos(2 * angle) + radius**2)
        out_T += lfilter([gain * unit], [1.0, -2.0 * radius * np.cos(angle), radius**2], voiced_T)
    return out_T


def _sibilants(
    onsets: NDArray[np.int64], rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Short hisses before a third of the syllables."""
    track_T = np.zeros(num_samples)
    length = round(0.07 * sample_rate)
    window_T = np.hanning(length)
    for onset in onsets[rng.random(onsets.shape[0]) < 0.33]:
        hiss_T = _highpass(rng.standard_normal(length), 4000.0, sample_rate) * window_T
        _add(track_T, max(0, int(onset) - length // 2), 0.25 * hiss_T)
    return track_T
