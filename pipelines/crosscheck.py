"""How a model hears every stem alone: the label rule of the HT Demucs paper (Rouard et al. 2023).

Stem i of a song is the model's whole input. P[i, j] is the share of the seconds in which stem i sounds where the
model's output j is at most 10 dB quieter than the stem itself. A song whose labels are right has P[i, i] > 70 % and
P[i, j] < 30 %. Levels per second are remembered by the song's audio and the model, so that another threshold or one
more song costs nothing. Read `run`, then `levels_of` for one song; `pipelines/curate.py` decides with the matrices.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.audio import Samples, resample_blocks, to_channels
from datasets.errors import InputError
from datasets.shards import Song, read_json, read_song_blocks, write_json
from pipelines.cluster import connect, quiet_data
from pipelines.progress import Progress, stage
from pipelines.provenance import code_digest, digest

if TYPE_CHECKING:
    from torch import nn

Decibels = NDArray[np.float32]
Shares = NDArray[np.float64]

_FLOOR_DB = -120.0
_STEPS_PER_DB = 100  # levels are remembered in hundredths


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Mean powers per whole second n in dBFS; a song shorter than a second counts as one."""

    own_NS: Decibels  # of stem s
    heard_NSS: Decibels  # of the model's output j (last axis) for stem i alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A model that stems can be held against, and the digest that its results are remembered by."""

    path: str
    digest: str
    sources: tuple[str, ...]

    def check(self, sources: Sequence[str]) -> None:
        """InputError unless the model separates exactly these sources."""
        if set(self.sources) != set(sources):
            raise InputError(
                f"curate.model {self.path} separates {', '.join(self.sources)}, the corpus has {', '.join(sources)}; "
                "a model of the corpus' sources, or another corpus.sources, would do"
            )


def load(path: str) -> "nn.Module":
    """The model of a checkpoint folder, a file of weights, a published package (.th) or a bag (.yaml)."""
    from models.checkpoint import load_model
    from models.errors import ModelError
    from models.interop import load_bag, load_package

    loaders: dict[str, Callable[[str], nn.Module]] = {".yaml": load_bag, ".yml": load_bag, ".th": load_package}
    try:
        return loaders.get(Path(path).suffix, load_model)(path).eval()
    except ModelError as error:
        raise InputError(f"curate.model {path}: {error}") from error


def listener(path: str) -> Listener:
    """The model at `path`, known by its weights and its configuration, wherever it lies."""
    from models.separate import layout

    model = load(path)
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        total.update(value.detach().cpu().contiguous().flatten().numpy().tobytes())
    for member in model.modules():  # a bag's members may differ in nothing but their shares and segments
        total.update(
            f"{type(member).__name__} {getattr(member, 'config', '')} {getattr(member, 'shares', '')}\0".encode()
        )
    code = code_digest("models.separate", "models.catalog")
    return Listener(path=path, digest=digest(total.hexdigest(), code), sources=layout(model).sources)


# --- the job ------------------------------------------------------------------------------------------------


def run(
    songs: Mapping[str, Song],
    model: Listener,
    *,
    sources: Sequence[str],
    store: Path,
    num_workers: int,
    use_gpu: bool,
    batch_size: int,
    progress: Progress | None = None,
) -> dict[str, Levels]:
    """Levels of every song, by track id; `songs` maps the digest of a song's audio to the song."""
    model.check(sources)
    code = code_digest("pipelines.crosscheck")
    caches = {
        audio: store / "cache" / "heard" / f"{digest(audio, list(sources), model.digest, code)}.json" for audio in songs
    }
    found = {audio: levels for audio, path in caches.items() if (levels := read_levels(path)) is not None}
    missing = [audio for audio in songs if audio not in found]
    if missing:
        items = [{"song": asdict(songs[audio]), "cache": str(caches[audio])} for audio in missing]
        actor = {"sources": list(sources), "use_gpu": use_gpu, "batch_size": batch_size}
        with stage(progress, "cross-check", len(songs), "songs") as heard, connect():
            heard.advance(len(found))
            for title in _listen(items, model.path, actor, num_workers=num_workers):
                heard.advance()
                heard.note(title)
            heard.finish(f"{len(missing)} songs heard by the model, {len(found)} known before")
    # Read back even when just computed: rounded as a later run will find them.
    return {
        song.track_id: levels
        for audio, song in songs.items()
        if (levels := found.get(audio) or read_levels(caches[audio])) is not None
    }


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

        from models.tiled import keep_freed_memory

        if not options["use_gpu"]:
            keep_freed_memory()
            torch.set_num_threads(1)  # as many actors as CPUs
        self.device = "cuda" if options["use_gpu"] else "cpu"
        self.sources, self.batch_size = options["sources"], options["batch_size"]
        self.model = load_from(path).to(self.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        item = json.loads(row["item"])
        song = Song(**item["song"])
        try:
            levels = levels_of(self.model, song, sources=self.sources, batch_size=self.batch_size, device=self.device)
        except ValueError as error:  # an InputError or ModelError would reach the driver wrapped in Ray's own
            return {"title": "", "input_error": f"{song.title}: {error}"}
        write_levels(item["cache"], levels)
        return {"title": song.title, "input_error": ""}


# --- one song -----------------------------------------------------------------------------------------------


def levels_of(
    model: "nn.Module", song: Song, *, sources: Sequence[str], batch_size: int = 1, device: str = "cpu"
) -> Levels:
    """What the model makes of each stem of a song, per second and in the order of `sources`.

    Each stem is read twice, for its statistics and for the network, in memory that does not grow with the song.
    """
    import torch

    from models.separate import layout, separate_stream, track_statistics

    shape = layout(model)
    order = [shape.sources.index(source) for source in sources]
    own, heard = [], []
    for source in sources:
        stem = _Seconds(shape.sample_rate)
        mean, std = track_statistics(
            torch.from_numpy(stem.add(block_CT))
            for block_CT in _stem(song, source, shape.sample_rate, shape.audio_channels)
        )
        outputs = _Seconds(shape.sample_rate)
        blocks = _stem(song, source, shape.sample_rate, shape.audio_channels)
        for estimates_SCT in separate_stream(
            model, map(torch.from_numpy, blocks), mean=mean, std=std, batch_size=batch_size, device=device
        ):
            outputs.add(estimates_SCT.cpu().numpy()[order])
        own.append(stem.levels()[:, 0])
        heard.append(outputs.levels())
    levels = Levels(own_NS=np.stack(own, axis=1), heard_NSS=np.stack(heard, axis=1))
    if not np.isfinite(levels.heard_NSS).all():
        raise InputError("the model gives values that are not finite; another checkpoint would do")
    return levels


def _stem(song: Song, source: str, sample_rate: int, channels: int) -> Iterator[Samples]:
    """One stem (C, T) in blocks, at the model's rate and channel count."""
    blocks = (to_channels(block_SCT[0], channels) for block_SCT in read_song_blocks(song, sources=[source]))
    return resample_blocks(blocks, source_rate=song.sample_rate, target_rate=sample_rate)


class _Seconds:
    """Mean powers per second of audio that comes in blocks of any length."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.rest: Samples | None = None
        self.powers: list[NDArray[np.float64]] = []

    def add(self, block: Samples) -> Samples:
        """Hear a block of (C, T) or (S, C, T), and hand it on."""
        joined = block if self.rest is None else np.concatenate([self.rest, block], axis=-1)
        whole = joined.shape[-1] // self.sample_rate
        cut = whole * self.sample_rate
        seconds = joined[..., :cut].reshape(*joined.shape[:-1], whole, self.sample_rate)
        self.powers += list(_power(np.moveaxis(seconds, -2, 0)))
        self.rest = joined[..., cut:].copy()
        return block

    def levels(self) -> Decibels:
        """dBFS of whole seconds, shape (N, S); what is shorter than one counts as one."""
        powers = self.powers or ([] if self.rest is None or not self.rest.size else list(_power(self.rest[None])))
        return (10 * np.log10(np.maximum(np.stack(powers), 10 ** (_FLOOR_DB / 10)))).astype(np.float32)


def _power(seconds_NSCT: Samples) -> NDArray[np.float64]:
    """Mean squares over channels and samples, (N, S) of (N, S, C, T), (N, 1) of (N, C, T)."""
    mean = np.square(seconds_NSCT, dtype=np.float64).mean(axis=(-2, -1))
    return mean if seconds_NSCT.ndim == 4 else mean[:, None]


# --- matrices -----------------------------------------------------------------------------------------------


def matrix(levels: Levels, *, silence_db: float, heard_db: float) -> Shares:
    """P[i, j], shares from 0 to 1; a row of NaN where stem i never sounds."""
    present_NS = levels.own_NS > silence_db
    heard_NSS = (levels.heard_NSS - levels.own_NS[:, :, None] > heard_db) & present_NS[:, :, None]
    with np.errstate(invalid="ignore"):
        shares: Shares = heard_NSS.sum(axis=0) / present_NS.sum(axis=0)[:, None]
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A stem that the model does not hear as what it is called, or hears as something else too."""

    source: str  # what the stem is called
    heard_as: str  # what the model hears most, other than that
    own: float  # share of its seconds heard as what it is called
    foreign: float  # share of its seconds heard as `heard_as`


def confusions(shares_SS: Shares, *, sources: Sequence[str], min_own: float, max_foreign: float) -> list[Confusion]:
    """The stems that break the rule; those that never sound break none."""
    found = []
    for index, source in enumerate(sources):
        own, others = float(shares_SS[index, index]), np.delete(shares_SS[index], index)
        foreign = float(others.max(initial=0.0))
        if np.isnan(own) or (own > min_own and foreign < max_foreign):
            continue
        heard_as = [name for name in sources if name != source][int(others.argmax())] if len(others) else ""
        found.append(Confusion(source=source, heard_as=heard_as, own=own, foreign=foreign))
    return found


def in_words(found: Sequence[Confusion], *, max_foreign: float) -> str:
    """The confusions as a sentence; two that point at each other are called swapped."""
    told = []
    clear = {one.source: one.heard_as for one in found if one.foreign >= max_foreign and one.foreign > one.own}
    swapped = sorted({tuple(sorted((a, b))) for a, b in clear.items() if clear.get(b) == a})
    told += [f"{one} and {other} look swapped" for one, other in swapped]
    for one in found:
        if one.foreign >= max_foreign:
            own = f", as {one.source} in {one.own:.0%}"
            told.append(f"the stem called {one.source} is heard as {one.heard_as} in {one.foreign:.0%} of seconds{own}")
        else:
            told.append(f"the stem called {one.source} is heard as {one.source} in only {one.own:.0%} of seconds")
    return "; ".join(told)


def worst_second(levels: Levels, *, index: int, heard_as: int, silence_db: float) -> int:
    """The second in which stem `index` sounds and the model hears most of another source in it."""
    own_N, heard_N = levels.own_NS[:, index], levels.heard_NSS[:, index]
    excess_N = heard_N[:, heard_as] - heard_N[:, index]
    return int(np.where(own_N > silence_db, excess_N, -np.inf).argmax())


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
