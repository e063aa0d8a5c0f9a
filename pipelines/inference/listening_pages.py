"""A/B listening pages: two models and the true stems of chosen songs, switched in the middle of a note.

Both models separate each song whole, as it was scored. What is kept is the stretch in which the first loses most
against the second, or gains most where it is the better one over the song; `pipelines/report/ab_page.py` makes a
page of it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.corpus.scan import distinct_names, safe_name
from datasets.errors import InputError
from datasets.field_constraints import NonNegativeInt, Range, check_ranges
from datasets.schema import ShardSet
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song
from datasets.store import storage
from datasets.store.ownership import outputs, require_folder, require_ours
from models import inference, networks
from pipelines.evaluation import model_compatibility
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import Pairs
from pipelines.evaluation.model_compatibility import Resampling
from pipelines.evaluation.scoring_job import separate_song
from pipelines.evaluation.summary import ScoreSummary
from pipelines.report.ab_page import ABEntry, ABPair, index_page, song_page
from pipelines.report.html_page import POLICY
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

# Raise it when the same models and songs give pages that sound or say something else (CONTRIBUTING.md)
VERSION = 2
STEP = Step(
    name="listening_pages",
    version=VERSION,
    uses={"inference": inference.VERSION, "networks": networks.VERSION},
)
INDEX = "index.html"
_REMEDY = "choose another folder with --out, or move that away"
_ENERGY_FLOOR = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """What is put on the pages of `stemline listen`."""

    songs: NonNegativeInt = 8  # songs on the pages, those that lost most first; 0 takes all
    # Take only songs whose track ids match one of these patterns, such as */Jazz*; empty: any
    only: tuple[str, ...] = ()
    seconds: Annotated[float, Range(gt=0, le=120, unit="s")] = 15.0  # length of the excerpt of each song

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="listen.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenInputs:
    """All that decides on the page of a song."""

    models: tuple[str, ...]  # digests of weights and configuration
    names: tuple[str, ...]
    protocol: str
    seconds: float
    audio: str
    license: str
    around: tuple[str, str]  # the pages before and after
    entry: ABEntry  # title and scores
    resampling: tuple[Resampling | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedModel:
    """A model to listen to: its reference, its checkpoint on this machine, and its scores."""

    name: str
    checkpoint: str
    scores: ScoreSummary


def run(
    config: ListenConfig,
    scoring: EvaluateConfig,
    rivals: tuple[ComparedModel, ComparedModel],
    pairs: Pairs,
    chunks: ShardSet,
    *,
    out: str,
    progress: Progress | None = None,
) -> str:
    """Write a page per chosen song and `index.html` into the folder `out`; the path of the latter.

    Pages that are there already, made from the same models and settings, are kept. InputError, and nothing is
    touched, where a file of somebody's has the name of a page.
    """
    from models.weights.model_identity import describe

    first, second = rivals
    chosen = _chosen(config, pairs, read_songs(chunks))
    models = [describe(rival.checkpoint) for rival in rivals]
    for model, rival in zip(models, rivals, strict=True):
        model_compatibility.check(model, chosen, who=rival.name)
    separators = _Separators(scoring, (first.checkpoint, second.checkpoint), chunks)
    files = page_names([song.track_id for song in chosen])
    entries = [
        ABEntry(
            file=file,
            title=song.title,
            gain=pairs.songs[song.track_id],
            scores=_scores(first, second, song.track_id),
        )
        for song, file in zip(chosen, files, strict=True)
    ]
    pages = [*(entry.file for entry in entries), INDEX]
    with _writing(out, pages), stage(progress, "listen", len(chosen), "songs") as pages_stage:
        for place, (song, entry) in enumerate(zip(chosen, entries, strict=True)):
            around = _around(files, place)
            inputs = ListenInputs(
                models=tuple(model.digest for model in models),
                names=(first.name, second.name),
                protocol=scoring.protocol,
                seconds=config.seconds,
                audio=song.audio,
                license=song.license,
                around=around,
                entry=entry,
                resampling=tuple(model_compatibility.resampling(model, song) for model in models),
            )
            about = STEP.key(inputs)
            if not _stands(storage.join(out, entry.file), about):
                duel = separators.duel(song, entry, (first.name, second.name), config.seconds)
                page = song_page(duel, entry, around=around, about=about)
                storage.write(storage.join(out, entry.file), page.encode("utf-8", "replace"))
            pages_stage.advance()
            pages_stage.note(song.title)
        index = index_page(entries, (first.name, second.name), protocol=first.scores.protocol)
        storage.write(storage.join(out, INDEX), index.encode("utf-8", "replace"))
        pages_stage.finish(f"{storage.join(out, INDEX)}: {len(chosen)} songs")
    return storage.join(out, INDEX)


def _around(files: Sequence[str], place: int) -> tuple[str, str]:
    """The pages before and after one; empty where there is none."""
    before, _, after = ["", *files, ""][place : place + 3]
    return before, after


def page_names(track_ids: Sequence[str]) -> list[str]:
    """A file per song, none of which is another's or `index.html`."""
    wanted = (safe_name(track_id.replace("/", " ")) for track_id in track_ids)
    return [f"{name}.html" for name in distinct_names(wanted, taken=[Path(INDEX).stem])]


def check(out: str) -> None:
    """InputError where it is no folder, or has an `index.html` of somebody's: found out before hours of scoring."""
    require_folder(out, remedy=_REMEDY)
    require_ours(out, [INDEX], remedy=_REMEDY, also_ours=lambda name: _is_page(storage.join(out, name)))


def _writing(out: str, pages: Sequence[str]) -> AbstractContextManager[None]:
    return outputs(out, pages, remedy=_REMEDY, also_ours=lambda name: _is_page(storage.join(out, name)))


def _is_page(page: str) -> bool:
    """Whether a file is a page of ours, from before there was a record of them."""
    return POLICY in _beginning(page)


def _chosen(config: ListenConfig, pairs: Pairs, songs: Sequence[Song]) -> list[Song]:
    """The songs that lost most come first."""
    by_id = {song.track_id: song for song in songs}
    order = sorted(pairs.songs, key=lambda track_id: (pairs.songs[track_id], track_id))
    fitting = [
        by_id[track_id]
        for track_id in order
        if not config.only or any(fnmatchcase(track_id, pattern) for pattern in config.only)
    ]
    if not fitting:
        raise InputError(
            f"none of {len(order)} scored songs is called {' or '.join(config.only)}; the first is {order[0]!r}"
        )
    return fitting[: config.songs or None]


def _scores(first: ComparedModel, second: ComparedModel, track_id: str) -> dict[str, tuple[float, float]]:
    """nSDR in dB of both models, by source that sounds in the song."""
    ours, theirs = first.scores.songs[track_id].nsdr, second.scores.songs[track_id].nsdr
    return {source: (ours[source], theirs[source]) for source in ours}


def _stands(page: str, about: str) -> bool:
    return about in _beginning(page)


def _beginning(page: str) -> str:
    """The first text of a page; empty where it cannot be read."""
    try:
        return storage.read(page, 4096).decode(errors="replace")
    except OSError:
        return ""


class _Separators:
    """Two models in memory, from the first song on."""

    def __init__(self, config: EvaluateConfig, checkpoints: tuple[str, str], chunks: ShardSet) -> None:
        self._config, self._checkpoints, self._chunks = config, checkpoints, chunks
        self._models: list[Any] = []

    def duel(self, song: Song, entry: ABEntry, names: tuple[str, str], seconds: float) -> ABPair:
        """The excerpt of one song as all three have it, at one gain that lets nothing clip."""
        sources = tuple(entry.scores)
        limit = round(self._config.max_song_s * song.sample_rate) or None
        stems_SCT = read_song(song, sources=sources, num_samples=limit)
        estimates = [self._separate(model, song, sources) for model in self._loaded()]
        start, stop = excerpt(
            stems_SCT, estimates[0], estimates[1], size=round(seconds * song.sample_rate), window=song.sample_rate,
            better=entry.gain > 0,
        )  # fmt: skip
        versions = {
            name: samples_SCT[:, :, start:stop]
            for name, samples_SCT in zip(("Reference", *names), (stems_SCT, *estimates), strict=True)
        }
        # Any choice of stems may be heard together: the sum of all magnitudes passes full scale in none.
        peak = max(1.0, *(float(np.abs(item_SCT).sum(axis=0).max(initial=0.0)) for item_SCT in versions.values()))
        return ABPair(
            title=song.title,
            license=song.license,
            sample_rate=song.sample_rate,
            start_s=start / song.sample_rate,
            sources=sources,
            versions={name: item_SCT / np.float32(peak) for name, item_SCT in versions.items()},
        )

    def _loaded(self) -> list[Any]:
        import torch

        from models.weights.loading import load_model

        if not self._models:
            device = torch.device("cuda" if self._config.use_gpu else "cpu")
            self._models = [load_model(checkpoint).to(device) for checkpoint in self._checkpoints]
        return self._models

    def _separate(self, model: Any, song: Song, sources: Sequence[str]) -> Samples:
        from models.networks.bag import interface

        estimates_SCT, _ = separate_song(self._config, model, self._chunks, song.track_id)
        order = [interface(model).sources.index(source) for source in sources]
        return np.asarray(estimates_SCT[order], np.float32)


def excerpt(
    reference_SCT: Samples, first_SCT: Samples, second_SCT: Samples, *, size: int, window: int, better: bool
) -> tuple[int, int]:
    """Start and stop, in samples, of the stretch where the first model loses most against the second.

    Where `better`, of the stretch where it gains most. Judged by the mean over sources of the difference of the two
    errors in dB, over windows of `window` samples; silent ones count for nothing.
    """
    length = reference_SCT.shape[-1]
    whole = min(size, length)
    windows = max(1, length // window)
    errors = [_power(reference_SCT - estimate_SCT, window, windows) for estimate_SCT in (first_SCT, second_SCT)]
    gain_W = (10 * np.log10(errors[1] / errors[0])).mean(axis=0) * (1 if better else -1)
    gain_W[_power(reference_SCT, window, windows).max(axis=0) <= 2 * _ENERGY_FLOOR] = 0.0
    span = min(windows, max(1, whole // window))
    sums = np.convolve(gain_W, np.ones(span), mode="valid")
    start = min(int(np.argmax(sums)) * window, length - whole)
    return start, start + whole


def _power(samples_SCT: Samples, window: int, windows: int) -> NDArray[np.float64]:
    """Mean square of each source in each window (S, W), a little above zero."""
    cut_SCT = samples_SCT[:, :, : windows * window] if samples_SCT.shape[-1] >= window else samples_SCT
    parts = np.stack(
        [np.square(part, dtype=np.float64).mean(axis=(1, 2)) for part in np.array_split(cut_SCT, windows, 2)]
    )
    return np.asarray(parts.T + _ENERGY_FLOOR)
