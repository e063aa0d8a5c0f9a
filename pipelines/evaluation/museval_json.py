"""Scores as museval 0.4 writes and reads them: one JSON file per song, with every window of every source.

Others' published scores come in this form; `read` takes them, whoever wrote them, and `medians` sums them up as
museval does. The folder has a folder per split, as museval's `EvalStore.add_eval_dir` expects.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets.corpus.scan import safe_name
from datasets.errors import InputError
from datasets.store import storage
from datasets.store.ownership import outputs, require_folder, require_ours
from pipelines.evaluation.song_scoring import METRICS, SongResult

VERSION = "0.4.1"  # of museval, whose form this is
DECIMALS = 5  # as museval rounds
_REMEDY = "choose another folder, evaluate.museval_json=DIR, or move that away"

Windows = Mapping[str, Mapping[str, Sequence[float | None]]]  # source -> metric -> dB per window


def write(folder: str, split: str, results: Iterable[SongResult]) -> list[str]:
    """One file per song; the paths. InputError, and nothing is touched, where others' scores have such a name."""
    results = list(results)
    names = _names((result.scores[0].title, result.scores[0].track_id) for result in results)
    with outputs(storage.join(folder, split), names, remedy=_REMEDY):
        for result, name in zip(results, names, strict=True):
            storage.write(storage.join(folder, split, name), (json.dumps(_content(result), indent=2) + "\n").encode())
    return [storage.join(folder, split, name) for name in names]


def check(folder: str, split: str, songs: Iterable[tuple[str, str]]) -> None:
    """InputError where `write` would refuse to write scores of songs, by title and track id: asked before scoring."""
    require_folder(storage.join(folder, split), remedy=_REMEDY)
    require_ours(storage.join(folder, split), _names(songs), remedy=_REMEDY)


def _names(songs: Iterable[tuple[str, str]]) -> list[str]:
    """Named by title, as museval does; songs of one title by their id."""
    songs = list(songs)
    titles = [title for title, _ in songs]
    return [f"{safe_name(title if titles.count(title) == 1 else track_id)}.json" for title, track_id in songs]


def _content(result: SongResult) -> dict[str, object]:
    targets = []
    for source, metrics in result.windows.items():
        columns = [[_rounded(value) for value in metrics[name]] for name in METRICS]
        frames = [
            {
                "time": place * result.window_s,
                "duration": result.window_s,
                "metrics": {name.upper(): value for name, value in zip(METRICS, values, strict=True)},
            }
            for place, values in enumerate(zip(*columns, strict=True))
        ]
        targets.append({"name": source, "frames": frames})
    return {"targets": targets, "museval_version": VERSION}


def _rounded(value: float | None) -> float:
    """museval has no infinite scores in its files."""
    return round(value, DECIMALS) if value is not None and math.isfinite(value) else math.nan


def read(folder: str | Path) -> dict[str, Windows]:
    """The windows of every song in a folder of museval's files and the folders in it, by the name of the file."""
    paths = sorted(Path(folder).glob("**/*.json"))
    if not paths:
        raise InputError(f"{folder} must be a folder that museval wrote: there is no *.json file in it")
    return {path.stem: _windows(path) for path in paths}


def _windows(path: Path) -> Windows:
    try:
        content = json.loads(path.read_bytes())
        return {
            target["name"]: {
                name: [_number(frame["metrics"][name.upper()]) for frame in target["frames"]] for name in METRICS
            }
            for target in content["targets"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no file of museval's ({error!r}); leave it out") from None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def medians(songs: Mapping[str, Windows]) -> dict[str, dict[str, float | None]]:
    """source -> metric -> median over songs of medians over windows, in dB; None where no window has a score."""
    scores: dict[str, dict[str, list[float]]] = {}
    for windows in songs.values():
        for source, metrics in windows.items():
            own = scores.setdefault(source, {name: [] for name in METRICS})
            for name, values in metrics.items():
                present = [value for value in values if value is not None]
                own[name] += [statistics.median(present)] if present else []
    return {
        source: {name: statistics.median(values) if values else None for name, values in own.items()}
        for source, own in scores.items()
    }
