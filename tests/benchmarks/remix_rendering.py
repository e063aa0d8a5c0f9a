"""Half of `make bench-remix`: whether rendered parts lie where they should, how they sound, and how fast that goes.

Beats are checked on rendered sound: every stem of a song becomes clicks on the song's true beats, goes through the plan
made from what was heard in the song's real stems, and the clicks are looked for in what comes out.
"""

import json
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.analysis import beat_grids, downbeats
from datasets.analysis.song_profile import profile
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.mixing.mixplan import MixRules, has_beat, plan
from datasets.mixing.render import find_hits, keep_hits, place, render, stretch
from datasets.schema import SOURCES, MixPlan, Part, Profile
from datasets.shards.chunks import SongHeader, song_rows, stems_of
from tests.benchmarks import remix_fit
from tests.benchmarks.songs_with_truth import known_songs
from tests.benchmarks.table import Row, figure

Array = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data"
SETS = ("rendered_stems", "lmms_demos", "cc0_album")
RATE = 44100
MADE_UP = 10  # songs
MIXES = 2  # with each song as the reference
FACTORS = ((1.08, 2), (0.93, -1))  # stretch and semitones of the comparison of methods, there and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Song:
    """A song with what was heard in it and what is true."""

    heard: Profile
    beats_s: Array
    stems_SCT: Samples


def alignment() -> list[Row]:
    """Where parts lie, as the beats were heard and as they are."""
    # The rendered set is taken in its longer form, of which there are more songs, but mixtures only.
    timed = [*(song for song in read_songs() if not song.heard.track_id.startswith("rendered_stems")), *read_mixtures()]
    return [
        *residuals(timed, "shipped weights"),
        *residuals(heard_without_them(timed), "weights fitted without the song"),
        *planted_offsets(),
    ]


def rendering() -> list[Row]:
    """What mixes sound like, and what they cost."""
    songs = read_songs()
    whole = [made for made in _plans(songs) if not made.reason]
    return [cents(), *headroom_and_speed(whole, {song.heard.track_id: song for song in songs}), *methods(songs)]


def _plans(songs: list[Song]) -> list[MixPlan]:
    return plan([song.heard for song in songs], seed=0, mixes_per_track=MIXES, rules=MixRules(), sources=SOURCES)


def read_mixtures() -> Iterator[Song]:
    """Mixtures of rendered songs; every source is taken to sound."""
    for folder in sorted((DATA / "rendered_beatkey/train").glob("*/")):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        if truth["check"]["beats_confident"] is False:
            continue
        mixture_CT = soundfile.read(folder / "mixture.ogg", dtype="float32")[0].T
        stems_SCT = np.zeros((len(SOURCES), *mixture_CT.shape), np.float32)
        stems_SCT[SOURCES.index("other")] = mixture_CT
        song = _heard(f"rendered_beatkey/{folder.name}", stems_SCT, np.array(truth["beats_s"]))
        yield replace(song, heard=replace(song.heard, loudness_db=dict.fromkeys(SOURCES, -20.0)))


@cache
def read_songs() -> list[Song]:
    """Songs of the shared sets whose beats can be heard in their drums, and made-up ones of other lengths."""
    songs = []
    for folder in sorted(folder for name in SETS for folder in (DATA / name / "train").glob("*/")):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        if (truth.get("check") or {}).get("beats_confident") is False:
            continue
        stems = [soundfile.read(folder / f"{source}.flac", dtype="float32")[0].T for source in SOURCES]
        songs.append(_heard(f"{folder.parents[1].name}/{folder.name}", np.stack(stems), np.array(truth["beats_s"])))
    for number in range(MADE_UP):
        score = compose(11, f"{number}", 16.0 + number)
        songs.append(_heard(f"Made up {number}", perform(score, RATE), np.array(score.beats_s)))
    return songs


def _heard(name: str, stems_SCT: Samples, beats_s: Array) -> Song:
    heard = profile(stems_SCT, track_id=name, split="train", sources=SOURCES, sample_rate=RATE)
    return Song(heard=heard, beats_s=beats_s[beats_s >= 0.0], stems_SCT=stems_SCT)


# -- where things lie -----------------------------------------------------------------------------------------


def heard_without_them(songs: list[Song]) -> list[Song]:
    """Each song as it is heard by weights that were fitted to the others; made-up ones are in no fit."""
    grids, readings = remix_fit.choices(remix_fit.hear(known_songs(remix_fit.DATA)))
    beat_weights, bar_weights = remix_fit.fitted_without(grids), remix_fit.fitted_without(readings)
    heard = []
    for song in songs:
        title = song.heard.track_id.split("/")[-1].split(" (")[0]
        with (
            patch.object(beat_grids, "WEIGHTS", beat_weights.get(title, beat_grids.WEIGHTS)),
            patch.object(downbeats, "WEIGHTS", bar_weights.get(title, downbeats.WEIGHTS)),
        ):
            anew = _heard(song.heard.track_id, song.stems_SCT, song.beats_s)
        heard.append(replace(anew, heard=replace(anew.heard, loudness_db=song.heard.loudness_db)))
    return heard


def residuals(timed: list[Song], what: str) -> list[Row]:
    """Distances between the beats of the reference and of each other part, in rendered sound.

    Against the true beats, which asks everything of the analysis, and against the beats that it heard, which asks what
    planning and rendering add.
    """
    plans, songs = _plans(timed), {song.heard.track_id: song for song in timed}
    heard = {name: replace(song, beats_s=np.asarray(song.heard.beats_s)) for name, song in songs.items()}
    doubtful = sum(not has_beat(song.heard, MixRules()) for song in timed)
    true_ms, heard_ms = np.abs(_offsets_ms(plans, songs)), np.abs(_offsets_ms(plans[::3], heard))
    return [
        figure(f"{what}: songs with known beats", len(songs), "songs"),
        figure(f"{what}: left out, since their beats are in doubt", doubtful, "songs"),
        figure(f"{what}: parts of their mixes, in plans", sum(len(made.parts[1:]) for made in plans), "parts"),
        figure(f"{what}: beats compared after rendering", len(true_ms), "beats"),
        figure(f"{what}: residual beat offset, median", float(np.median(true_ms)), "ms", target=12.0),
        figure(f"{what}: residual, 95th percentile", float(np.percentile(true_ms, 95)), "ms", target=35.0),
        figure(f"{what}: beats more than 35 ms off", 100.0 * float(np.mean(true_ms > 35.0)), "%"),
        figure(f"{what}: residual to the beats as heard, median", float(np.median(heard_ms)), "ms"),
        figure(f"{what}: residual to the beats as heard, 95th percentile", float(np.percentile(heard_ms, 95)), "ms"),
    ]


def _offsets_ms(plans: list[MixPlan], songs: dict[str, Song]) -> Array:
    pairs = [(songs[made.parts[0].track_id], part) for made in plans for part in made.parts[1:]]
    return np.concatenate([beat_offsets_ms(reference, songs[part.track_id], part) for reference, part in pairs])


def beat_offsets_ms(reference: Song, other: Song, part: Part) -> Array:
    """From each beat of the sparser of the two grids to the nearest of the denser, where both sound."""
    length = reference.stems_SCT.shape[2]
    rendered_CT = place(clicks(other.beats_s, other.stems_SCT.shape[2]), part, RATE, num_samples=length)
    theirs, own = heard_clicks(rendered_CT), reference.beats_s
    if theirs.size < 2:
        return np.empty(0)
    own = own[(own > theirs[0] - 0.1) & (own < theirs[-1] + 0.1)]
    if own.size < 2:
        return np.empty(0)
    few, many = sorted((own, theirs), key=lambda grid: -float(np.median(np.diff(grid))))
    return np.asarray(1000.0 * (many[np.abs(many[:, None] - few).argmin(axis=0)] - few))


def clicks(times_s: Array, num_samples: int) -> Samples:
    """Short decaying tones that begin at the given times, in one channel."""
    samples_CT = np.zeros((1, num_samples), dtype=np.float32)
    t = np.arange(round(0.03 * RATE)) / RATE
    sound_T = (0.8 * np.exp(-t / 0.006) * np.sin(2 * np.pi * 900.0 * t)).astype(np.float32)
    for start in np.round(times_s * RATE).astype(int):
        room = samples_CT[:, start : start + sound_T.size]
        room += sound_T[: room.shape[1]]
    return samples_CT


def heard_clicks(samples_CT: Samples) -> Array:
    """Where clicks reach half their height, in seconds; those cut at the ends of the part are not among them."""
    level_T = np.abs(samples_CT[0])
    loud = np.nonzero(level_T > 0.3 * level_T.max())[0] if level_T.any() else np.empty(0, dtype=np.int64)
    firsts = loud[np.diff(loud, prepend=-RATE) > 0.1 * RATE]
    found = []
    for first in firsts:
        window_T = level_T[max(0, first - 2000) : first + 2000]
        found.append(max(0, first - 2000) + int(np.argmax(window_T > 0.5 * window_T.max())))
    return np.array(found) / RATE


def planted_offsets() -> list[Row]:
    """One song against itself, moved by a known time and played faster: what the plan does not make up for."""
    score = compose(3, "planted", 30.0)
    own = _heard("own", perform(score, RATE), np.array(score.beats_s))
    worst = []
    for offset_s in (-1.5, -0.5, 0.5, 1.5):
        moved_SCT = np.zeros_like(own.stems_SCT)
        cut = round(abs(offset_s) * RATE)
        target, origin = (
            (slice(cut, None), slice(None, -cut)) if offset_s > 0 else (slice(None, -cut), slice(cut, None))
        )
        moved_SCT[:, :, target] = own.stems_SCT[:, :, origin]
        other = _heard("moved", moved_SCT, own.beats_s + offset_s)
        made = plan([own.heard, other.heard], seed=1, mixes_per_track=1, rules=MixRules(), sources=SOURCES)[1]
        assert made.parts[0].track_id == "own"
        worst += [np.abs(beat_offsets_ms(own, other, part)).max() for part in made.parts[1:]]
    return [figure("planted offsets of -1.5 to 1.5 s: largest residual", max(worst), "ms", target=5.0)]


def cents() -> Row:
    return figure("transposition, largest error", worst_cents(_ours), "cents", target=5.0)


def worst_cents(bend: "Bend") -> float:
    """The largest error of pitch over all transpositions and some stretches, on tones."""
    t = np.arange(3 * RATE) / RATE
    worst = 0.0
    for semitones in range(-3, 4):
        for factor, hertz in ((1.0, 55.0), (1.08, 110.0), (0.9, 440.0), (1.12, 1318.5)):
            tone_CT = np.stack([0.3 * np.sin(2 * np.pi * hertz * t)] * 2).astype(np.float32)
            bent_T = bend(tone_CT, factor, semitones)[0, RATE // 2 : -RATE // 2]
            found = _peak_hz(bent_T, hertz * 2 ** (semitones / 12))
            worst = max(worst, abs(1200.0 * float(np.log2(found / hertz)) - 100.0 * semitones))
    return worst


def _peak_hz(samples_T: Samples, near_hz: float) -> float:
    size = 16 * samples_T.size
    spectrum = np.abs(np.fft.rfft(samples_T * np.hanning(samples_T.size), size))
    low, high = (round(near_hz * share * size / RATE) for share in (0.85, 1.18))
    return float((low + np.argmax(spectrum[low:high])) * RATE / size)


# -- whole mixes ----------------------------------------------------------------------------------------------


def headroom_and_speed(plans: list[MixPlan], songs: dict[str, Song]) -> list[Row]:
    """Real mixes, and louder ones: samples that storing cuts off, and seconds of mix per processor second."""
    clipped, peak, seconds, spent = 0, 0.0, 0.0, 0.0
    for number, made in enumerate(plans[:24]):
        loud = 12.0 if number % 4 == 0 else 0.0
        parts = tuple(replace(part, gain_db=part.gain_db + loud) for part in made.parts)

        def load(track_id: str, source: str) -> Samples:
            return songs[track_id].stems_SCT[SOURCES.index(source)]

        began = time.thread_time()
        stems_SCT = render(replace(made, parts=parts), load, RATE, sources=SOURCES)
        spent += time.thread_time() - began
        seconds += stems_SCT.shape[2] / RATE
        peak = max(peak, float(np.abs(stems_SCT).max()))
        if loud:
            clipped += _changed_by_storing(stems_SCT)
    return [
        figure("largest sample before storing, with 12 dB on top", peak, "of full scale"),
        figure("samples clipped in storage", clipped, "samples", target=0.0),
        figure(
            "rendering, seconds of mix per CPU s, all parts", seconds / spent, "x real time", target=10.0, more=True
        ),
    ]


def _changed_by_storing(stems_SCT: Samples) -> int:
    """Samples that come back from a shard's row farther off than its steps are wide."""
    header = SongHeader(track_id="a", title="a", split="train", license="", origin="automix", sample_rate=RATE)
    stored = [stems_of(row, SOURCES) for row in song_rows(stems_SCT, header, sources=SOURCES)]
    steps = max(1.0, float(np.abs(stems_SCT).max())) * 2.0**-21
    return int((np.abs(np.concatenate(stored, axis=2) - stems_SCT) > steps).sum())


# -- against other methods ------------------------------------------------------------------------------------

Bend = Callable[[Samples, float, float], Samples]  # samples_CT, factor, semitones


def methods(songs: list[Song]) -> list[Row]:
    """Each method bends real stems and bends them back: what is left of them, and what it costs.

    Pitched stems: mean distance of log spectra, over bands, of what is within 50 dB of the loudest. Drums: how loud the
    20 ms before a hit are against the 20 ms after it, above what it was in the original.
    """
    chosen = [song for song in songs if not song.heard.track_id.startswith("Made up")][::3] or songs[:4]
    rows = []
    for name, bend in available().items():
        lost_db, early_db, seconds, spent = [], [], 0.0, 0.0
        for song in chosen:
            for factor, semitones in FACTORS:
                for source in ("bass", "other", "vocals", "drums"):
                    stem_CT = song.stems_SCT[SOURCES.index(source)][:, : 8 * RATE]
                    if np.abs(stem_CT).max() < 0.01:
                        continue
                    pitch = 0 if source == "drums" else semitones
                    began = _cpu_s()
                    there_CT = bend(stem_CT, factor, pitch) if source != "drums" else _drums(bend, stem_CT, factor)
                    spent += _cpu_s() - began
                    seconds += stem_CT.shape[1] / RATE
                    back = (1.0 / factor, -pitch)
                    if source == "drums":
                        back_CT = _fitted(_drums(bend, there_CT, back[0]), stem_CT)
                        early_db.append(smear_db(back_CT, stem_CT))
                    else:
                        lost_db.append(log_spectral_distance(_fitted(bend(there_CT, *back), stem_CT), stem_CT))
        rows += [
            figure(f"{name}: pitched stems there and back, log-spectral distance", float(np.mean(lost_db)), "dB"),
            figure(f"{name}: hits there and back, smeared ahead by", float(np.mean(early_db)), "dB"),
            figure(f"{name}: largest error of pitch, 55 Hz to 1.3 kHz", worst_cents(bend), "cents"),
            figure(f"{name}: one stereo stem, speed", seconds / spent, "x real time"),
        ]
    return rows


def _drums(bend: Bend, stem_CT: Samples, factor: float) -> Samples:
    bent_CT = bend(stem_CT, factor, 0.0)
    if bend is _ours:
        keep_hits(bent_CT, stem_CT, factor, RATE)
    return bent_CT


def available() -> dict[str, Bend]:
    """The methods at hand: those of the lock, and those of Debian's ffmpeg where it is there."""
    found: dict[str, Bend] = {"ours": _ours, "Signalsmith alone": _alone, "librosa": _librosa}
    if shutil.which("ffmpeg"):
        filters = subprocess.run(["ffmpeg", "-hide_banner", "-filters"], capture_output=True, text=True).stdout
        found |= {"ffmpeg atempo": _atempo} if " atempo " in filters else {}
        found |= {"ffmpeg rubberband": _rubberband} if " rubberband " in filters else {}
    return found


def _ours(stem_CT: Samples, factor: float, semitones: float) -> Samples:
    return stretch(stem_CT, factor, RATE, semitones=semitones)


def _alone(stem_CT: Samples, factor: float, semitones: float) -> Samples:
    """Signalsmith Stretch as it is offered: it transposes itself, and drums are a stem like any other."""
    from python_stretch import Signalsmith

    stretcher = Signalsmith.Stretch(1)
    stretcher.preset(stem_CT.shape[0], float(RATE))
    stretcher.setTimeFactor(1.0 / factor)
    stretcher.setTransposeSemitones(semitones)
    return np.asarray(stretcher.process(np.ascontiguousarray(stem_CT)))


def _librosa(stem_CT: Samples, factor: float, semitones: float) -> Samples:
    """The phase vocoder, and soxr."""
    import librosa

    longer_CT = librosa.effects.time_stretch(stem_CT, rate=1.0 / (factor * 2.0 ** (semitones / 12.0)))
    if not semitones:
        return np.asarray(longer_CT, dtype=np.float32)
    turned = librosa.resample(longer_CT, orig_sr=RATE * 2.0 ** (semitones / 12.0), target_sr=RATE, res_type="soxr_hq")
    return np.asarray(turned, dtype=np.float32)


def _atempo(stem_CT: Samples, factor: float, semitones: float) -> Samples:
    """Overlapping pieces of the waveform (WSOLA), and resampling."""
    ratio = 2.0 ** (semitones / 12.0)
    return _ffmpeg(stem_CT, f"asetrate={round(RATE * ratio)},aresample={RATE},atempo={1.0 / (factor * ratio):.8f}")


def _rubberband(stem_CT: Samples, factor: float, semitones: float) -> Samples:
    """Rubber Band as ffmpeg calls it, with its own defaults."""
    return _ffmpeg(stem_CT, f"rubberband=tempo={1.0 / factor:.8f}:pitch={2.0 ** (semitones / 12.0):.8f}")


def _ffmpeg(stem_CT: Samples, filters: str) -> Samples:
    with tempfile.TemporaryDirectory(prefix="bench-remix-") as folder:
        source, made = Path(folder, "a.wav"), Path(folder, "b.wav")
        soundfile.write(source, stem_CT.T, RATE, subtype="FLOAT")
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", source, "-af", filters, "-c:a", "pcm_f32le", made]
        subprocess.run(command, check=True)
        return np.ascontiguousarray(soundfile.read(made, dtype="float32")[0].T)


def _cpu_s() -> float:
    """Of this process and of those it waited for."""
    spent = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent + children.ru_utime + children.ru_stime


def _fitted(samples_CT: Samples, like_CT: Samples) -> Samples:
    """As long as the other, and moved to where they agree best: a delay of its own must not count against a method."""
    length = like_CT.shape[1]
    fitted_CT = np.zeros_like(like_CT)
    kept = min(length, samples_CT.shape[1])
    fitted_CT[:, :kept] = samples_CT[:, :kept]
    envelopes = [np.abs(part_CT[:, : length // 64 * 64]).mean(axis=0).reshape(-1, 64).mean(axis=1)
                 for part_CT in (like_CT, fitted_CT)]  # fmt: skip
    spectra = [np.fft.rfft(envelope - envelope.mean(), 4 * envelope.size) for envelope in envelopes]
    lags = np.fft.irfft(spectra[0] * np.conj(spectra[1]))
    reach = 70  # 0.1 s
    lag = int(np.argmax(np.concatenate([lags[-reach:], lags[:reach]]))) - reach
    return np.roll(fitted_CT, 64 * lag, axis=1)


def log_spectral_distance(samples_CT: Samples, reference_CT: Samples) -> float:
    """Mean absolute difference in dB of the levels of third octaves every 23 ms, where the reference sounds."""
    levels = [_levels_db(part_CT.mean(axis=0)) for part_CT in (samples_CT, reference_CT)]
    sounding = levels[1] > levels[1].max() - 50.0
    return float(np.abs(np.maximum(levels[0], levels[1].max() - 70.0) - levels[1])[sounding].mean())


def _levels_db(mono_T: Samples) -> Array:
    frames_NT = np.lib.stride_tricks.sliding_window_view(mono_T, 2048)[::1024] * np.hanning(2048)
    power_NF = np.square(np.abs(np.fft.rfft(frames_NT, axis=1)))
    edges = np.unique(np.round(np.geomspace(2, 740, 26)).astype(int))  # 43 Hz to 16 kHz
    return np.asarray(10.0 * np.log10(np.add.reduceat(power_NF, edges, axis=1)[:, :-1] + 1e-9))


def smear_db(samples_CT: Samples, original_CT: Samples) -> float:
    """How much louder the 20 ms before hits are, against the 20 ms after, than in the original; over clear hits."""
    reach = round(0.02 * RATE)
    found = []
    for hit in find_hits(original_CT, RATE):
        if not reach < hit < original_CT.shape[1] - reach:
            continue
        ratios = []
        for part_CT in (samples_CT, original_CT):
            before, after = (np.square(part_CT[:, slice(*cut)]).mean() + 1e-9
                             for cut in ((hit - reach, hit - reach // 10), (hit, hit + reach)))  # fmt: skip
            ratios.append(10.0 * np.log10(before / after))
        if ratios[1] < -10.0:
            found.append(ratios[0] - ratios[1])
    return float(np.mean(found)) if found else 0.0
