"""What a model hears in the stems of many songs, each alone: a Ray Data job with the model in actors.

Levels per second are remembered by the song's audio and the model, so that another threshold or one more song costs
nothing. What is computed of one song is in `label_rule.py`; `curate.py` decides with it.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets import audio as audio_code
from datasets.audio.audio_types import Samples
from datasets.errors import InputError
from datasets.shards.manifests import Song
from datasets.shards.shards import read_song_blocks
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from models import inference, networks
from pipelines.evaluation import model_compatibility
from pipelines.preparation.label_rule import Decibels, Levels, levels_of
from pipelines.runtime.cluster import connect, quiet_data
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from torch import nn

# Raise it when the same model hears other levels in the same stems (CONTRIBUTING.md)
VERSION = 1
STEP = Step(
    name="label_check",
    version=VERSION,
    uses={"audio": audio_code.VERSION, "inference": inference.VERSION, "networks": networks.VERSION},
)
_STEPS_PER_DB = 100  # levels are remembered in hundredths


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheckInputs:
    """All that decides on the levels that a model hears in a song."""

    audio: str
    sources: tuple[str, ...]
    model: str  # the digest of its weights and configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelModel:
    """A model that stems can be held against, known by its weights and configuration, wherever it lies."""

    path: str
    digest: str
    sources: tuple[str, ...]

    def check(self, sources: Sequence[str]) -> None:
        """InputError unless the model separates exactly these sources."""
        model_compatibility.check_sources(self.sources, sources, who=f"curate.model {self.path}", what="the songs")


def load(path: str) -> "nn.Module":
    """The model of a checkpoint folder, a file of weights, a published package (.th) or a bag (.yaml)."""
    from models.errors import ModelError
    from models.weights.loading import load_model

    try:
        return load_model(path).eval()
    except ModelError as error:
        raise InputError(f"curate.model {path}: {error}") from error


def label_model(path: str) -> LabelModel:
    """The model at `path`."""
    from models.errors import ModelError
    from models.weights.model_identity import describe

    try:
        model = describe(path)
    except ModelError as error:
        raise InputError(f"curate.model {path}: {error}") from error
    return LabelModel(path=path, digest=model.digest, sources=model.sources)


# --- the job ------------------------------------------------------------------------------------------------


def run(
    songs: Mapping[str, Song],
    model: LabelModel,
    *,
    sources: Sequence[str],
    store: str,
    num_workers: int,
    use_gpu: bool,
    batch_size: int,
    progress: Progress | None = None,
) -> dict[str, Levels]:
    """Levels by the digest of a song's audio, of which `songs` names one song each."""
    model.check(sources)
    keys = {
        audio: STEP.key(LabelCheckInputs(audio=audio, sources=tuple(sources), model=model.digest)) for audio in songs
    }
    caches = {audio: storage.join(store, "cache", "heard", f"{key}.json") for audio, key in keys.items()}
    cached = {audio: levels for audio, path in caches.items() if (levels := read_levels(path)) is not None}
    missing = [audio for audio in songs if audio not in cached]
    if missing:
        items = [{"song": asdict(songs[audio]), "cache": caches[audio]} for audio in missing]
        actor = {"sources": list(sources), "use_gpu": use_gpu, "batch_size": batch_size}
        with stage(progress, "cross-check", len(songs), "songs") as songs_stage, connect(store=store):
            songs_stage.advance(len(cached))
            for title in _listen(items, model.path, actor, num_workers=num_workers):
                songs_stage.advance()
                songs_stage.note(title)
            songs_stage.finish(f"{len(missing)} songs heard by the model, {len(cached)} known before")
    # Read back even when just computed: rounded, as a later run will find them.
    computed = {audio: levels for audio in missing if (levels := read_levels(caches[audio])) is not None}
    return {**cached, **computed}


def _listen(
    items: Sequence[Mapping[str, Any]], path: str, options: Mapping[str, Any], *, num_workers: int
) -> Iterator[str]:
    """Titles of the songs as they are finished, in no order: a Ray Data job with the model in actors."""
    import ray.data

    quiet_data()
    dataset = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=len(items))
    answers = dataset.map(
        _Listening,  # type: ignore[arg-type]  # Ray's own signature has no callable classes
        fn_constructor_args=(load, path, dict(options)),
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(items))),
        num_cpus=1,
        num_gpus=1 if options["use_gpu"] else None,
    )
    for answer in answers.iter_rows():
        if answer["input_error"]:
            raise InputError(answer["input_error"])
        yield answer["title"]


class _Listening:
    """An actor that holds the model and writes what it hears of a song into a small file."""

    def __init__(self, load_from: Callable[[str], "nn.Module"], path: str, options: Mapping[str, Any]) -> None:
        import torch

        if not options["use_gpu"]:
            torch.set_num_threads(1)  # as many actors as CPUs
        self.device = "cuda" if options["use_gpu"] else "cpu"
        self.sources, self.batch_size = options["sources"], options["batch_size"]
        self.model = load_from(path).to(self.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        item = json.loads(row["item"])
        song = Song(**item["song"])
        try:
            levels = levels_of(
                self.model,
                lambda source: stem_blocks(song, source),
                sources=self.sources,
                sample_rate=song.sample_rate,
                batch_size=self.batch_size,
                device=self.device,
            )
        except ValueError as error:  # an InputError or ModelError would reach the driver wrapped in Ray's own
            return {"title": "", "input_error": f"{song.title}: {error}"}
        write_levels(item["cache"], levels)
        return {"title": song.title, "input_error": ""}


def stem_blocks(song: Song, source: str) -> Iterator[Samples]:
    """One stem (C, T) of a stored song, chunk by chunk."""
    return (block_SCT[0] for block_SCT in read_song_blocks(song, sources=[source]))


# --- files --------------------------------------------------------------------------------------------------


def write_levels(path: str | Path, levels: Levels) -> None:
    """Levels as a small JSON file, rounded to hundredths of a decibel."""
    num_seconds, num_sources = levels.own_NS.shape
    packed = {name: _pack(getattr(levels, name)) for name in ("own_NS", "heard_NSS")}
    write_json(path, {"num_seconds": num_seconds, "num_sources": num_sources, **packed})


def read_levels(path: str | Path) -> Levels | None:
    """What `write_levels` wrote; None when it is missing or damaged."""
    content = read_json(path)
    try:
        shape = content["num_seconds"], content["num_sources"]  # type: ignore[index]
        own_NS = _unpack(content["own_NS"]).reshape(shape)  # type: ignore[index]
        heard_NSS = _unpack(content["heard_NSS"]).reshape(*shape, shape[1])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    return Levels(own_NS=own_NS, heard_NSS=heard_NSS)


def _pack(levels: Decibels) -> str:
    steps = np.rint(levels.astype(np.float64) * _STEPS_PER_DB).astype("<i2")
    return base64.b64encode(steps.tobytes()).decode()


def _unpack(packed: str) -> Decibels:
    steps = np.frombuffer(base64.b64decode(packed), "<i2")
    return (steps / _STEPS_PER_DB).astype(np.float32)
