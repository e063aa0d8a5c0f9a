"""Songs separated by actors that hold the model, and scored by tasks beside them: a Ray Data job."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets.audio.audio_types import Samples
from datasets.errors import InputError
from datasets.schema import Score, ShardSet
from datasets.shards.manifests import Song, find_song, read_songs
from datasets.shards.shards import read_song, sources_of
from pipelines.evaluation import model_compatibility, song_scoring
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.song_scoring import SongResult
from pipelines.runs.stored_model import on_this_machine
from pipelines.runtime.cluster import quiet_data
from pipelines.runtime.node_resources import side_by_side, song_bytes, workers_that_fit

_TORCH_BYTES = 2**30  # of a worker before it has a song
_HELD_LOADING = 2  # models' worth of memory: weights as they are read, beside the network that they fill
# Songs' worth of memory, all stems of one in float32, measured: the song, its estimates, and what is in passing.
_HELD_SEPARATING, _HELD_SCORING, _HELD_BY_MUSEVAL = 5, 9, 16


def separate_and_score(
    config: EvaluateConfig, checkpoint: str, chunks: ShardSet, items: Sequence[Mapping[str, str]], store: str
) -> Iterator[str]:
    """Titles of songs as they are scored, in no order: a Ray Data job of actors with the model, and others that score.

    Songs stream from one to the other, so estimates of a few are held at a time.
    """
    import ray.data

    quiet_data()
    # As JSON text: Arrow would guess types from the first song.
    dataset = ray.data.from_items([{"item": json.dumps(dict(item))} for item in items], override_num_blocks=len(items))
    requested = {item["track_id"] for item in items}
    songs = [song for song in read_songs(chunks) if song.track_id in requested]
    needed = _needed_bytes(config, checkpoint, songs)
    fitting = config.num_workers or workers_that_fit(needed[0], use_gpu=config.use_gpu, beside_bytes=needed[1])
    size = min(fitting, len(items))
    memory = side_by_side(*needed, num_actors=size)
    # Shares of a CPU: whole ones for every model would leave none to score with, and all would wait for ever.
    separating, scoring_one = (0.5, 0.5) if config.use_gpu else (0.9, 0.1)
    separated = dataset.map(
        Separator,  # type: ignore[arg-type]  # Ray's own signature has no callable classes
        fn_constructor_args=(config, checkpoint, chunks),
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=separating,
        num_gpus=1 if config.use_gpu else None,
        memory=memory[0],
    )
    answers = separated.map(
        Scorer,  # type: ignore[arg-type]
        fn_constructor_args=(config, chunks, store),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
        num_cpus=scoring_one,
        memory=memory[1],
    )
    for answer in answers.iter_rows():
        if answer["input_error"]:
            raise InputError(answer["input_error"])
        yield answer["title"]


def _needed_bytes(config: EvaluateConfig, checkpoint: str, songs: Sequence[Song]) -> tuple[int, int]:
    """Bytes that an actor that separates and one that scores need, by the longest song and the weights."""
    from models.weights.model_identity import loaded_bytes

    if config.max_song_s:
        songs = [
            replace(song, num_samples=min(song.num_samples, round(config.max_song_s * song.sample_rate)))
            for song in songs
        ]
    longest = song_bytes(songs, num_sources=len(sources_of(songs[0])))
    weights = _HELD_LOADING * loaded_bytes(on_this_machine(checkpoint))
    separating = _TORCH_BYTES + weights + _HELD_SEPARATING * longest
    factor = _HELD_BY_MUSEVAL if config.scorer == "museval" else _HELD_SCORING
    scoring_one = _TORCH_BYTES * (2 if config.full_bss_eval else 1) + factor * longest
    return separating, scoring_one


class Separator:
    """An actor that holds the model."""

    def __init__(self, config: EvaluateConfig, checkpoint: str, chunks: ShardSet) -> None:
        import torch

        from models.weights.loading import load_model
        from models.weights.model_identity import describe

        self.config, self.chunks = config, chunks
        if not config.use_gpu:
            torch.set_num_threads(1)  # as many actors as CPUs
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        here = on_this_machine(checkpoint)
        self.model = load_model(here).to(self.device)
        self.checkpoint, self.digest = checkpoint, describe(here).digest

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        from models.networks.bag import interface

        item = json.loads(row["item"])
        item |= {"sources": list(interface(self.model).sources), "input_error": ""}
        estimates_SCT = np.zeros((0, 0, 0), np.float32)
        try:
            if item.pop("model_digest") != self.digest:  # its scores would be kept under another's name
                raise InputError(f"the model {self.checkpoint} was changed while it was being scored: run this again")
            estimates_SCT, item["seconds"] = separate_song(self.config, self.model, self.chunks, item["track_id"])
        except ValueError as error:  # an InputError or ModelError would reach the driver wrapped in Ray's own
            item["input_error"] = f"{item['title']}: {error}"
        return {"item": json.dumps(item), "estimates_SCT": estimates_SCT}


def separate_song(config: EvaluateConfig, model: Any, chunks: ShardSet, track_id: str) -> tuple[Any, float]:
    """Estimates of one song (S, C, T) as a NumPy array in float32, and the seconds that separating took.

    They have the song's rate and length, whatever rate the model works at, and the model's order of sources.
    """
    import torch

    from models.inference.separate import separate
    from models.mixed_precision import DTYPES
    from models.networks.bag import interface

    def separated(mixture_CT: Samples) -> Samples:
        estimates_SCT = separate(
            model,
            torch.from_numpy(mixture_CT),
            overlap=config.overlap,
            shifts=config.shifts,
            batch_size=config.batch_size,
            device=next(model.parameters()).device,
            dtype=DTYPES[config.precision],
        )
        made_SCT: Samples = estimates_SCT.float().cpu().numpy()
        return made_SCT

    wants, song = interface(model), find_song(chunks, track_id)
    model_compatibility.check(wants, [song], who="the model")
    mixture_CT = _stems(config, song, wants.sources).sum(dim=0).numpy()
    began = time.monotonic()
    estimates_SCT = model_compatibility.at_rate_of(wants, mixture_CT, song.sample_rate, separated)
    return estimates_SCT, time.monotonic() - began


def score_track(
    config: EvaluateConfig, model: Any, chunks: ShardSet, *, track_id: str, title: str
) -> tuple[list[Score], float]:
    """One song through a model in this process: a score per source, and the seconds that separating it took."""
    from models.networks.bag import interface

    estimates_SCT, seconds = separate_song(config, model, chunks, track_id)
    result = score_estimates(
        config, chunks, estimates_SCT, track_id=track_id, title=title, sources=interface(model).sources, seconds=seconds
    )
    return list(result.scores), seconds


def _stems(config: EvaluateConfig, song: Song, sources: Sequence[str]) -> Any:
    import torch

    limit = round(config.max_song_s * song.sample_rate) or None
    return torch.from_numpy(read_song(song, sources=sources, num_samples=limit))


class Scorer:
    """An actor that scores songs, and stores what came out.

    No task: Ray ends a process that rests for a second where there are as many as CPUs, which the actors with the model
    are, so that almost every song would wait for imports.
    """

    def __init__(self, config: EvaluateConfig, chunks: ShardSet, store: str) -> None:
        import torch

        from models.scores.malloc_tuning import keep_freed_memory

        keep_freed_memory()  # pages for the same tensors again and again would take longer than the sums
        torch.set_num_threads(1)
        self.config, self.chunks, self.store = config, chunks, store

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = json.loads(row["item"])
        error = item.pop("input_error")
        if not error:
            try:
                key = item.pop("key")
                result = score_estimates(self.config, self.chunks, row["estimates_SCT"], **item)
                song_scoring.keep(self.store, key, result)
            except ValueError as seen:
                error = str(seen)
        return {"title": item["title"], "input_error": error}


def score_estimates(
    config: EvaluateConfig, chunks: ShardSet, estimates_SCT: Any, *, track_id: str, title: str, sources: Sequence[str],
    seconds: float, sample_rate: int | None = None,
) -> SongResult:  # fmt: skip
    """What is known of one song, its estimates being an array as `separate_song` makes it, at the song's rate."""
    import torch

    song = find_song(chunks, track_id)
    if sample_rate not in (None, song.sample_rate):
        raise InputError(
            f"{title}: estimates at {sample_rate} Hz of a song at {song.sample_rate} Hz: resample them to the song's"
        )
    return song_scoring.score_song(
        config.measures,
        _stems(config, song, sources),
        torch.tensor(estimates_SCT),  # copied: what Ray hands over cannot be written to
        sources=sources,
        sample_rate=song.sample_rate,
        track_id=track_id,
        title=title,
        seconds=seconds,
    )
