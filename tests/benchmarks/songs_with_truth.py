"""Songs whose beats, bars and keys are known: those beside the checkout, and toy songs."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform

Array = NDArray[np.float64]

SETS = ("rendered_beatkey", "rendered_stems", "lmms_demos", "cc0_album", "real_mixtures_beatkey")
TOY_RATE = 22050


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSong:
    """One excerpt, and what is known about it; empty where nothing is."""

    set: str
    title: str  # the same for all excerpts of one song
    sample_rate: int
    mixture_CT: Samples
    pitched_CT: Samples  # bass and other; the mixture where there are no stems
    drums_T: Samples | None
    tempo_bpm: float
    beats_s: Array
    downbeats_s: Array  # of songs whose metre is written in the score
    key: str

    @property
    def mixture_T(self) -> Samples:
        return np.asarray(self.mixture_CT.mean(axis=0))

    @property
    def pitched_T(self) -> Samples:
        return np.asarray(self.pitched_CT.mean(axis=0))


def known_songs(data: Path, *, num_toys: int = 12) -> Iterator[KnownSong]:
    """Excerpts of every set that is there, without those whose beats their own README calls doubtful; then toys."""
    for name in SETS:
        for folder in sorted((data / name / "train").iterdir()) if (data / name).is_dir() else ():
            truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
            sure = truth.get("check", {}).get("beats_confident", True)
            yield _read(name, folder, truth, beats=sure, bars="none written" not in str(truth.get("time_signature")))
    for number in range(num_toys):
        score = compose(77, str(number), 14.0)
        stems_SCT = perform(score, TOY_RATE)
        yield KnownSong(
            set="toys", title=f"toy {number}", sample_rate=TOY_RATE, mixture_CT=stems_SCT.sum(axis=0),
            pitched_CT=stems_SCT[1] + stems_SCT[2], drums_T=stems_SCT[0].mean(axis=0), tempo_bpm=score.tempo_bpm,
            beats_s=np.array(score.beats_s), downbeats_s=np.array(score.downbeats_s), key="",
        )  # fmt: skip


def for_fitting(title: str) -> bool:
    """Whether rules may be fitted to songs of a band: half of the styles, by a hash of the name; the rest judges."""
    style = title.split(" (")[0]
    return hashlib.sha1(style.encode(), usedforsecurity=False).digest()[-1] % 2 == 0


def band_songs(folder: Path, *, fitting: bool | None = None) -> Iterator[KnownSong]:
    """Songs of `remix_bands.py`, all takes of a style under one title: all, those for fitting, or those that judge."""
    for path in sorted(folder.rglob("truth.json")):
        title = path.parent.name.split(" (")[0]
        if fitting is None or for_fitting(title) == fitting:
            yield _read("bands", path.parent, json.loads(path.read_text(encoding="utf-8")), beats=True, bars=True)


def with_excerpts(songs: Iterable[KnownSong]) -> Iterator[KnownSong]:
    """Songs as they are, and (of those of 20 s and more) 8 s and 12 s out of them."""
    for song in songs:
        yield song
        if song.mixture_CT.shape[1] >= 20.0 * song.sample_rate:
            yield from (_excerpt(song, start_s, start_s + seconds) for start_s, seconds in ((11.0, 8.0), (3.0, 12.0)))


def _excerpt(song: KnownSong, start_s: float, stop_s: float) -> KnownSong:
    part = slice(round(start_s * song.sample_rate), round(stop_s * song.sample_rate))
    beats_s, downbeats_s = (
        times_s[(times_s >= start_s) & (times_s < stop_s)] - start_s for times_s in (song.beats_s, song.downbeats_s)
    )
    return replace(
        song,
        mixture_CT=song.mixture_CT[:, part],
        pitched_CT=song.pitched_CT[:, part],
        drums_T=None if song.drums_T is None else song.drums_T[part],
        beats_s=beats_s,
        downbeats_s=downbeats_s,
    )


def _read(name: str, folder: Path, truth: dict[str, Any], *, beats: bool, bars: bool) -> KnownSong:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".flac", ".ogg")]
    found = {path.stem: soundfile.read(path, dtype="float32", always_2d=True) for path in paths}
    heard = {stem: np.ascontiguousarray(samples.T) for stem, (samples, _) in found.items()}
    return KnownSong(
        set=name,
        title=folder.name.split(" (")[0],
        sample_rate=found["mixture"][1],
        mixture_CT=heard["mixture"],
        pitched_CT=heard["bass"] + heard["other"] if "bass" in heard else heard["mixture"],
        drums_T=heard["drums"].mean(axis=0) if "drums" in heard else None,
        tempo_bpm=float(truth.get("tempo_bpm") or 0.0) if beats else 0.0,
        beats_s=np.array(truth.get("beats_s") or []) if beats else np.empty(0),
        downbeats_s=np.array(truth.get("downbeats_s") or []) if beats and bars else np.empty(0),
        key=truth.get("key") or "",
    )


def octave_fair(reference_s: Array, estimate_s: Array) -> float:
    """The best F-measure against the reference at its own tempo, at double, and at half on either beat."""
    return max(plain_f(version, estimate_s) for version in _at_octaves(reference_s))


def _at_octaves(times_s: Array) -> tuple[Array, ...]:
    double = np.interp(np.arange(0, times_s.size - 0.5, 0.5), np.arange(times_s.size), times_s)
    return times_s, double, times_s[::2], times_s[1::2]


def plain_f(reference_s: Array, estimate_s: Array) -> float:
    """F-measure at 70 ms (mir_eval) of times in seconds; 0 where nothing was found."""
    import mir_eval

    return float(mir_eval.beat.f_measure(reference_s, estimate_s)) if len(estimate_s) else 0.0


def tempo_right(reference_bpm: float, estimate_bpm: float, *, octaves: bool) -> bool:
    """Within 4 %: accuracy 1, or with `octaves` accuracy 2, where double, triple, half and third count."""
    factors = (1.0, 2.0, 3.0, 1 / 2, 1 / 3) if octaves else (1.0,)
    return any(abs(estimate_bpm / (reference_bpm * factor) - 1.0) <= 0.04 for factor in factors)
