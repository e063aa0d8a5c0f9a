"""The analysis half of `make bench-remix`: beats, bars, keys and tuning against the truth, and the speed of all of it.

The rival is what one would write first: librosa's `beat_track` and `chroma_cqt` at the song's own rate. Beats and bars
are scored on songs that their weights were not fitted to (`remix_fit.py`).
"""

import sys
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import soxr

from datasets.analysis.beats import beats
from datasets.analysis.harmony import chroma, chromagram, key
from datasets.analysis.librosa_analysis import beats_and_chroma
from datasets.analysis.song_profile import profile
from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.schema import SOURCES
from tests.benchmarks import remix_fit
from tests.benchmarks.songs_with_truth import KnownSong, known_songs, octave_fair, tempo_right
from tests.benchmarks.table import Row, figure, show

RATE = 44100
SONG_S = 90.0
TURNS = 3
DETUNED_CENTS = (-30.0, 20.0)


def rows() -> list[Row]:
    """Every figure of the analysis."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        songs = list(known_songs(remix_fit.DATA))
        return [
            *_beat_rows(songs),
            *_key_rows(songs),
            *_tuning_rows(songs),
            *_method_rows([song for song in songs if song.drums_T is not None]),
            *_speed_rows(),
        ]


def _beat_rows(songs: Sequence[KnownSong]) -> list[Row]:
    """Ours on songs left out of the fit, beside librosa's on the same ones."""
    import librosa

    rival: dict[str, list[float]] = {}
    for song in (song for song in songs if song.beats_s.size):
        tempo, found_s = librosa.beat.beat_track(y=song.mixture_T, sr=song.sample_rate, units="time")
        right = tempo_right(song.tempo_bpm, float(np.atleast_1d(tempo)[0]), octaves=True)
        rival.setdefault(f"beat F|{song.set}", []).append(octave_fair(song.beats_s, found_s))
        rival.setdefault(f"tempo accuracy 2|{song.set}", []).append(float(right))
    made = remix_fit.rows(songs)
    for row in made:
        name = f"{row['name'].split(', ')[0]}|{row['name'].split()[-1]}"
        if name in rival and "notated" not in row["name"]:
            row["baseline"] = float(np.mean(rival[name]))
    return made


def _key_rows(songs: Sequence[KnownSong]) -> list[Row]:
    """Weighted score of mir_eval; beside it the same templates on librosa's chroma."""
    import librosa
    import mir_eval

    ours: dict[str, list[float]] = {}
    rival: dict[str, list[float]] = {}
    for song in (song for song in songs if song.key):
        heard = chroma(song.pitched_CT, song.sample_rate)
        naive = librosa.feature.chroma_cqt(y=song.pitched_T, sr=song.sample_rate).sum(axis=1)
        for scores, tones in ((ours, heard), (rival, naive)):
            found, _ = key(tuple(tones))
            score = mir_eval.key.weighted_score(song.key, found) if found else 0.0
            scores.setdefault(song.set, []).append(score)
    return [
        figure(
            f"key, weighted, {len(scores)} of {name}", float(np.mean(scores)), "share",
            baseline=float(np.mean(rival[name])), target=0.8 if name == "rendered_beatkey" else None, more=True,
        )
        for name, scores in ours.items()
    ]  # fmt: skip


def _tuning_rows(songs: Sequence[KnownSong]) -> list[Row]:
    """Real and rendered songs played a little too fast or slow, which moves every tone by as many cents."""
    errors = []
    for song in [song for song in songs if song.key][::4]:
        usual = chromagram(song.pitched_T, song.sample_rate)[1]
        for cents in DETUNED_CENTS:
            bent_T = soxr.resample(song.pitched_T, song.sample_rate * 2.0 ** (cents / 1200.0), song.sample_rate)
            errors.append(abs(chromagram(bent_T, song.sample_rate)[1] - usual - cents))
    label = f"tuning, planted {DETUNED_CENTS[0]:g} and {DETUNED_CENTS[1]:g} cents, {len(errors)} times"
    if not errors:
        return []
    return [figure(label, float(np.median(errors)), "cents", target=5.0, spread=(min(errors), max(errors)))]


def _method_rows(songs: Sequence[KnownSong]) -> list[Row]:
    """Both of `analyze.method` on songs with stems; ours, the baseline, with the weights that are shipped."""
    import mir_eval

    beat_f: dict[str, list[tuple[float, float]]] = {}
    keys: dict[str, list[tuple[float, float]]] = {}
    for song in songs:
        assert song.drums_T is not None
        rate = song.sample_rate
        pulse, tones, _ = beats_and_chroma(song.drums_T, song.pitched_T, song.mixture_T, rate)
        if song.beats_s.size:
            found = (np.array(one.beats_s) for one in (pulse, beats(song.mixture_CT, rate)))
            score, own = (octave_fair(song.beats_s, times_s) for times_s in found)
            beat_f.setdefault(song.set, []).append((score, own))
        if song.key:
            named = [key(shares)[0] for shares in (tones, chroma(song.pitched_CT, rate))]
            score, own = (mir_eval.key.weighted_score(song.key, name) if name else 0.0 for name in named)
            keys.setdefault(song.set, []).append((score, own))
    return [
        figure(
            f"analyze.method=librosa, {what}, {len(pairs)} of {name}", float(np.mean(pairs, axis=0)[0]), "share",
            baseline=float(np.mean(pairs, axis=0)[1]), more=True,
        )
        for what, scores in (("beat F", beat_f), ("key, weighted", keys))
        for name, pairs in scores.items()
    ]  # fmt: skip


def _speed_rows() -> list[Row]:
    """CPU seconds of a whole profile out of four stems, in turns with librosa's two calls on one signal."""
    songs = [perform(compose(91, str(number), SONG_S), RATE) for number in range(2)]
    for run in (_ours, _naive, _by_librosa):
        run(songs[0][:, :, : 12 * RATE])  # compiles and imports
    ours, naive, librosa = [], [], []
    for _ in range(TURNS):
        for stems_SCT in songs:
            ours.append(_cpu_s(_ours, stems_SCT))
            naive.append(_cpu_s(_naive, stems_SCT))
            librosa.append(_cpu_s(_by_librosa, stems_SCT))
    ratios = [theirs / own for theirs, own in zip(naive, ours, strict=True)]
    spread = (min(ratios), max(ratios))
    label = f"analysis of {SONG_S:.0f} s of four stems"
    return [
        figure(f"{label}, CPU", float(np.median(ours)), "s", baseline=float(np.median(naive))),
        figure(
            f"{label}, analyze.method=librosa, CPU", float(np.median(librosa)), "s", baseline=float(np.median(ours))
        ),
        figure(f"{label}, against librosa", float(np.median(ratios)), "x", target=3.0, more=True, spread=spread),
    ]


def _cpu_s(run: Callable[[Samples], object], stems_SCT: Samples) -> float:
    began = time.process_time()
    run(stems_SCT)
    return time.process_time() - began


def _ours(stems_SCT: Samples) -> object:
    return profile(stems_SCT, track_id="song", split="train", sources=SOURCES, sample_rate=RATE)


def _by_librosa(stems_SCT: Samples) -> object:
    return profile(stems_SCT, track_id="song", split="train", sources=SOURCES, sample_rate=RATE, method="librosa")


def _naive(stems_SCT: Samples) -> object:
    import librosa

    mixture_T = stems_SCT.sum(axis=0).mean(axis=0)
    return (
        librosa.beat.beat_track(y=mixture_T, sr=RATE, units="time"),
        librosa.feature.chroma_cqt(y=mixture_T, sr=RATE),
    )


if __name__ == "__main__":
    sys.exit(show("Analysis", rows()))
