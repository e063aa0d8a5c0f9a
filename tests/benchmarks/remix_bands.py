"""`python -m tests.benchmarks.remix_bands FOLDER LIBRARY...`: songs in hundreds of styles, with beats, bars and keys.

Musical MIDI Accompaniment plays each style of its libraries on the chords of a toy song, FluidSynth renders drums, bass
and the rest each on its own, and in every second song the toy song's voice sings to it. Both programs and two sound
fonts are Debian's (mma, fluidsynth, fluid-soundfont-gm, timgm6mb-soundfont; GPL and
MIT). Each song is seeded by its name. The library `zoom` has drums only; the toy band plays with those.
"""

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from datasets.analysis.harmony import PITCHES, PROFILES
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import Composition, compose, perform
from datasets.schema import SOURCES
from datasets.seeding import row_rng

LIBRARY = Path("/usr/share/mma/lib")
FONTS = ("sf2/FluidR3_GM.sf2", "sf2/TimGM6mb.sf2", "sf2/TimGM6mb.sf2")
SEED = 2026
RATE = 22050
SONG_S = 30.0
SPARE_BARS = 5
LEVELS_DB = {"drums": -19.0, "bass": -20.0, "other": -21.0, "vocals": -20.0}
# Tempi in bpm by what the style is called; the first that is found counts
TEMPI = (
    ("slow|ballad|lullaby|hymn|bolero|serenade|spiritual|ambient|trip", (60.0, 95.0)),
    ("fast|quick|bebop|polka|merengue|samba|bluegrass|jive|charleston|dixie|rag|bo[og]g|twist|zydeco|punk|dnb",
     (150.0, 205.0)),
    ("trance|techno|rave|dance|house|disco", (118.0, 145.0)),
    ("waltz|34", (90.0, 180.0)),
    ("", (80.0, 150.0)),
)  # fmt: skip
OTHER_PARTS = re.compile(r"(Intro|End|Fill|Break|Count|Cnt|Only)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One style of a library, with what it calls its grooves."""

    library: str
    name: str
    metre: int
    grooves: tuple[str, ...]


def styles(library: str) -> list[Style]:
    """Those of three or four plain beats to a bar; compound metres have two right answers and are left out."""
    found = []
    for path in sorted((LIBRARY / library).glob("*.mma")):
        text = path.read_text(encoding="latin-1")
        metre = re.search(r"^\s*Time\s+(\d+)", text, re.MULTILINE)
        signature = re.search(r"^\s*TimeSig\s+(\d+)\s*/?\s*(\d+)", text, re.MULTILINE | re.IGNORECASE)
        grooves = tuple(re.findall(r"^\s*DefGroove\s+(\S+)", text, re.MULTILINE))
        main = tuple(groove for groove in grooves if not OTHER_PARTS.search(groove))
        plain = signature is None or (signature[2] == "4" and metre is not None and signature[1] == metre[1])
        if metre and metre[1] in "34" and plain and main and not path.stem.startswith(("metronome", "none", "count")):
            found.append(Style(library=library, name=path.stem, metre=int(metre[1]), grooves=main))
    return found


def write_song(folder: Path, style: Style, number: int) -> bool:
    """Four stems, their mixture and the truth; False where the style has no bass, no chords or no drums to play."""
    name = f"{style.library} {style.name} {number}"
    rng = row_rng(SEED, "band", name)
    low, high = next(span for words, span in TEMPI if re.search(words, style.name))
    tempo_bpm = float(round(np.exp(rng.uniform(np.log(low), np.log(high)))))  # mma drops what is behind the point
    bar_s = style.metre * 60.0 / tempo_bpm
    bars = int(np.ceil(SONG_S / bar_s)) + SPARE_BARS
    score = compose(SEED, name, (bars + 1) * bar_s)
    # A bar of rest ahead, so that nothing is cut off there
    score = replace(score, tempo_bpm=tempo_bpm, first_beat_s=bar_s, chords=score.chords[:4] * bars)
    stems = _play(style, score, rng)
    if stems is None:
        return False
    begin_s = bar_s * float(rng.uniform(1.2, 3.0))  # somewhere in the music, most often not on a beat
    cut = slice(round(begin_s * RATE), round((begin_s + SONG_S) * RATE))
    stems = {
        source: _level(samples_CT[:, cut], LEVELS_DB[source] + rng.uniform(-4.0, 4.0))
        for source, samples_CT in stems.items()
    }
    total_CT = np.sum(list(stems.values()), axis=0)
    gain = min(1.0, 0.9 / float(np.abs(total_CT).max()))
    folder.mkdir(parents=True)
    for source, samples_CT in {**stems, "mixture": total_CT}.items():
        soundfile.write(folder / f"{source}.flac", gain * samples_CT.T, RATE, subtype="PCM_16")
    _write_truth(folder, style, score, begin_s)
    return True


def _play(style: Style, score: Composition, rng: np.random.Generator) -> dict[str, Samples] | None:
    """Stems of the whole piece, from a bar before its first beat on."""
    bar = round(score.first_beat_s * RATE)
    band = dict.fromkeys(SOURCES, np.zeros((2, round(score.duration_s * RATE)), np.float32))
    if style.metre == 4 and (style.library == "zoom" or rng.random() < 0.3):
        toys = dict(zip(SOURCES, perform(score, RATE), strict=True))
        band |= toys if style.library == "zoom" else {"vocals": toys["vocals"]}
    font = Path("/usr/share/sounds") / FONTS[rng.integers(len(FONTS))]
    with tempfile.TemporaryDirectory(prefix="bands-") as folder:
        chunks = _midi(Path(folder), style, score, rng)
        parts = {"drums": {"Drum"}, "bass": {"Bass", "Walk"}}
        parts["other"] = {track for track, _ in chunks[1:]} - parts["drums"] - parts["bass"]
        for source, tracks in parts.items():
            chosen = [chunk for track, chunk in chunks[1:] if track in tracks]
            if chosen:
                played_CT = _render(Path(folder), [chunks[0][1], *chosen], font)
                band[source] = np.concatenate([np.zeros((2, bar), np.float32), played_CT], axis=1)
    shortest = min(samples_CT.shape[1] for samples_CT in band.values())
    band = {source: samples_CT[:, :shortest] for source, samples_CT in band.items()}
    sounding = [source for source, samples_CT in band.items() if np.abs(samples_CT).max() > 1e-3]
    return band if {"drums", "bass", "other"} <= set(sounding) or len(sounding) > 2 else None


def _midi(folder: Path, style: Style, score: Composition, rng: np.random.Generator) -> list[tuple[str, bytes]]:
    """The tracks of the piece, each with the first word of its name; the first holds the tempo."""
    first, second = rng.choice(style.grooves, 2)
    lines = ["RndSeed 1", f"Use {style.library}/{style.name}", f"Tempo {score.tempo_bpm:.0f}"]
    for number in range(int(score.duration_s / score.first_beat_s) - 1):
        if number % 8 == 0:
            lines.append(f"Groove {(first, second)[number // 8 % 2]}")
        root, third, _ = score.chords[number % len(score.chords)]
        minor = "m" if (third - root) % 12 == 3 else ""
        lines.append(f"{number + 1} {PITCHES[(score.tonic + root) % 12]}{minor}")
    Path(folder, "song.mma").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["mma", "-f", str(folder / "song.mid"), str(folder / "song.mma")]
    subprocess.run(command, check=True, capture_output=True)
    return _tracks((folder / "song.mid").read_bytes())


def _tracks(midi: bytes) -> list[tuple[str, bytes]]:
    found, place = [], 14
    while place < len(midi):
        (length,) = struct.unpack(">I", midi[place + 4 : place + 8])
        chunk = midi[place : place + 8 + length]
        at = chunk.find(b"\xff\x03")
        name = chunk[at + 3 : at + 3 + chunk[at + 2]].decode("latin-1") if at >= 0 else ""
        found.append((re.split(r"[-0-9]", name)[0], chunk))
        place += 8 + length
    return found


def _render(folder: Path, tracks: Sequence[bytes], font: Path) -> Samples:
    (folder / "part.mid").write_bytes(b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), 192) + b"".join(tracks))
    made = folder / "part.wav"
    command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE), "-F", str(made), str(font)]
    subprocess.run([*command, str(folder / "part.mid")], check=True, capture_output=True)
    samples, rate = soundfile.read(made, dtype="float32")
    assert rate == RATE
    return np.ascontiguousarray(samples.T)


def _level(samples_CT: Samples, level_db: float) -> Samples:
    """At this level over the half seconds that sound."""
    blocks = samples_CT[:, : samples_CT.shape[1] // 11025 * 11025].reshape(2, -1, 11025)
    power = np.square(blocks).mean(axis=(0, 2))
    if power.max() < 1e-9:
        return samples_CT
    return np.asarray(samples_CT * 10.0 ** (level_db / 20.0) / np.sqrt(power[power > 0.01 * power.max()].mean()))


def _write_truth(folder: Path, style: Style, score: Composition, begin_s: float) -> None:
    step_s = 60.0 / score.tempo_bpm
    beats_s = score.first_beat_s - begin_s + step_s * np.arange(400)
    first = [round(float(beat), 5) for beat in beats_s[:: style.metre] if 0.0 <= beat < SONG_S]
    truth = {
        "rendered": True,
        "title": folder.name,
        "tempo_bpm": score.tempo_bpm,
        "time_signature": f"{style.metre}/4",
        "beats_s": [round(float(beat), 5) for beat in beats_s if 0.0 <= beat < SONG_S],
        "downbeats_s": first,
        "key": score.key if legible(score) else None,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


def legible(score: Composition) -> bool:
    """Whether the chords' tones tell the key that they were written in, by each of three published profiles.

    Minor loops without a leading tone often do not: A minor, F, C and G are C major's chords as well, and whoever hears
    them from the middle on cannot know better.
    """
    tones_D = np.bincount([tone % 12 for chord in score.chords[:4] for tone in chord], minlength=12)
    found = set()
    for number in (0, 1, 3):  # Krumhansl and Kessler, Temperley 1999, Aarden
        match = [
            (float(np.corrcoef(np.roll(PROFILES[mode][number], tonic), tones_D)[0, 1]), tonic, mode)
            for mode in PROFILES
            for tonic in range(12)
        ]
        found.add(max(match)[1:])
    return found == {(0, score.mode)}  # chords are written from the tonic up


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("libraries", nargs="+", choices=sorted(path.name for path in LIBRARY.glob("*/")))
    parser.add_argument("--takes", type=int, default=1, help="songs in each style")
    arguments = parser.parse_args()
    for library in arguments.libraries:
        for style in styles(library):
            for number in range(arguments.takes):
                folder = arguments.folder / library / f"{library} - {style.name} ({number})"
                if not folder.exists() and not write_song(folder, style, number):
                    print("left out:", folder.name, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
