"""A model's scores on held-out songs, beside those of the unprocessed mixture.

Actors load the model once each and take songs as they come; tasks beside them score what was separated
(`scoring.py`). A song's scores are stored at once, under a digest of the weights, the song and the protocol, and all of
them as a table: a killed evaluation goes on where it was, and the same question is never computed twice.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from datasets.audio.samples import Samples
from datasets.errors import InputError
from datasets.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ProperFraction, check_ranges
from datasets.schema import SCORES, SPLITS, Score, ShardSet
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.manifests import Song, find_manifest, find_song, read_manifest, read_songs
from datasets.shards.shards import read_song, sources_of
from datasets.store import storage
from models import inference, networks
from models import scores as score_code
from pipelines.evaluation import model_match, museval_json, scoring
from pipelines.evaluation.model_match import Resampling
from pipelines.evaluation.scoring import SCORERS, Protocol, SongResult
from pipelines.runtime.cluster import connect, quiet_data, side_by_side, song_bytes
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from models.weights.model_ref import ModelRef

# Raise it when the same model, songs and protocol give other rows of scores (CONTRIBUTING.md)
VERSION = 1
STEP = Step(
    name="evaluate",
    version=VERSION,
    uses={"inference": inference.VERSION, "networks": networks.VERSION, "scores": score_code.VERSION},
)
PRECISIONS = ("float32", "bfloat16")
_TORCH_BYTES = 2**30  # of a worker before it has a song
# Songs' worth of memory, all stems of one in float32, measured: the song, its estimates, and what is in passing.
_HELD_SEPARATING, _HELD_SCORING, _HELD_BY_MUSEVAL = 5, 9, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """On which songs and how a model is scored; fields up to the precision are the protocol, without `museval_json`."""

    split: str = "test"  # which split is scored: train, valid or test
    overlap: ProperFraction = 0.25  # share of a segment that the next one covers again
    shifts: NonNegativeInt = 0  # seeded delays to average over
    window_s: PositiveFloat = 1.0  # length of BSS Eval's windows, which do not overlap
    all_four: bool = False  # compute ISR, SIR and SAR beside SDR; some 30 ms for each second of a song
    scorer: str = "stemline"  # "stemline", or "museval", which takes some 30 times as long for the same scores
    museval_json: str = ""  # a folder for the scores of every window, as museval writes them; all_four=true only
    max_song_s: NonNegativeFloat = 0.0  # how much of each song is scored, from its start; 0 takes the whole song
    precision: str = "float32"  # "float32" or "bfloat16"
    batch_size: PositiveInt = 1  # segments that a model computes at once
    num_workers: PositiveInt = 2  # copies of the model in memory, each with a CPU
    use_gpu: bool = False  # one GPU per worker

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"evaluate.split={self.split!r}; one of {', '.join(SPLITS)} would do")
        if self.precision not in PRECISIONS:
            raise InputError(f"evaluate.precision={self.precision!r}; one of {', '.join(PRECISIONS)} would do")
        if self.scorer not in SCORERS:
            raise InputError(f"evaluate.scorer={self.scorer!r}; one of {', '.join(SCORERS)} would do")
        if self.museval_json and not self.all_four:
            raise InputError("evaluate.museval_json is set, and its files hold all four scores; all_four=true would do")
        check_ranges(self, InputError, section="evaluate.")

    @property
    def protocol(self) -> str:
        """Everything that scores depend on beside model and songs, in a line for tables."""
        length = f"first {self.max_song_s:g} s" if self.max_song_s else "whole songs"
        return (
            f"{self.split}, {length}; nSDR, BSS Eval v4 {'SDR, ISR, SIR, SAR' if self.all_four else 'SDR'} in "
            f"{self.window_s:g} s windows; "
            f"overlap {self.overlap:g}, shifts {self.shifts}, {self.precision}"
            + ("" if self.scorer == "stemline" else f"; by {self.scorer}")
        )

    @property
    def measures(self) -> Protocol:
        """What scoring a song needs to know of all this."""
        return Protocol(text=self.protocol, window_s=self.window_s, all_four=self.all_four, scorer=self.scorer)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSongInputs:
    """All that decides on the scores of a song."""

    model: str  # the digest of its weights and configuration
    audio: str
    protocol: str
    columns: tuple[str, ...]
    resampling: Resampling | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateInputs:
    """All that decides on a table of scores."""

    dataset: str  # its digest
    songs: tuple[tuple[str, EvaluateSongInputs], ...]  # by id


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScore:
    """Scores over all songs, in dB: nSDR as the mean (MDX 2021), SDR as the median over songs of medians over windows
    (SiSEC 2018); ISR, SIR and SAR as SDR, without songs on whose scores rounding errors decide.
    """

    nsdr: float
    mixture_nsdr: float  # of the unprocessed mixture as the estimate
    sdr: float | None  # None where no window of any song has a score
    mixture_sdr: float | None
    isr: float | None = None  # as sdr; None where they were not asked for
    sir: float | None = None
    sar: float | None = None
    ceiling_nsdr: float | None = None  # of the IRM2 oracle, a mask made from the true stems; no bound
    ceiling_sdr: float | None = None
    sdr_mean: float | None = None  # mean over songs of medians over windows
    si_sdr: float | None = None  # mean over songs

    @property
    def improvement(self) -> float:
        """nSDR gained over the unprocessed mixture, in dB."""
        return self.nsdr - self.mixture_nsdr


@dataclass(frozen=True, slots=True, kw_only=True)
class SongScore:
    """What the gate looks at in one song."""

    nsdr: Mapping[str, float]  # per source, dB
    leakage_db: Mapping[str, float]  # of sources with silent windows: RMS of the estimate in them, dBFS
    duration_s: float
    level_db: float  # RMS of the mixture, dBFS
    mixture_nsdr: Mapping[str, float] = field(default_factory=dict)  # of the unprocessed mixture; empty: not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """What a model scored, and exactly on what."""

    model_digest: str
    dataset_digest: str
    protocol: str
    songs: Mapping[str, SongScore]  # by track id
    sources: Mapping[str, SourceScore]
    overall: SourceScore  # mean over sources
    size_bytes: int = 0  # of the files of the weights
    real_time: float | None = None  # seconds of computing per second of song, on the machine that scored
    # Songs by what solved BSS Eval's equations, where all four scores were asked for; "lu": rounding errors decide.
    solvers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """The table of scores per song and source, and its summary."""

    scores: ShardSet
    summary: ScoreSummary


def run(
    config: EvaluateConfig,
    checkpoint: str,
    chunks: ShardSet,
    *,
    store: str,
    keep: Collection[str] | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Scores of a checkpoint, a folder or a file of weights, on the songs of the split; found again if known."""
    folder = storage.absolute(store)
    songs = _songs_of(config, chunks, keep)
    model = check(config, checkpoint, chunks, keep=keep)
    about = [_inputs(config, model, song, chunks) for song in songs]
    ids = (song.track_id for song in songs)
    key = STEP.key(EvaluateInputs(dataset=chunks.digest, songs=tuple(zip(ids, about, strict=True))))
    scores = find_manifest(folder, step="evaluate", key=key)
    if scores is None or config.museval_json:
        by_key = dict(zip(map(STEP.key, about), songs, strict=True))
        results = _results(config, checkpoint, model.digest, chunks, by_key, folder, progress)
        if config.museval_json:
            museval_json.write(config.museval_json, config.split, results)
        # Beside the table, not in it: equal questions have equal answers, but not equal durations.
        extra = {"real_time": _real_time(results)}
        rows = [score for result in results for score in result.scores]
        scores = write_table(folder, "scores", table_of(rows, SCORES), key=key, step="evaluate", extra=extra)
    summary = summarize(read_objects(scores, Score), model.digest, chunks.digest)
    took = read_manifest(scores).extra["real_time"]
    summary = replace(summary, size_bytes=model.size_bytes, real_time=took)
    return EvaluateResult(scores=scores, summary=summary)


def _inputs(config: EvaluateConfig, model: "ModelRef", song: Song, chunks: ShardSet) -> EvaluateSongInputs:
    return EvaluateSongInputs(
        model=model.digest,
        audio=song.audio or f"{chunks.digest} {song.track_id}",  # of a store from before the audio had digests
        protocol=config.protocol,
        columns=tuple(SCORES.names),
        resampling=model_match.resampling(model, song),
    )


def check(
    config: EvaluateConfig, checkpoint: str, chunks: ShardSet, *, keep: Collection[str] | None = None
) -> "ModelRef":
    """What the checkpoint is; InputError where it cannot be scored on the songs of the split, or nothing be written."""
    from models.weights import model_ref

    songs = _songs_of(config, chunks, keep)
    model = model_ref.describe(checkpoint)
    model_match.check(model, songs, who=f"the model {checkpoint}")
    if config.museval_json:
        museval_json.check(config.museval_json, config.split, [(song.title, song.track_id) for song in songs])
    return model


def summarize(scores: Sequence[Score], model_digest: str, dataset_digest: str) -> ScoreSummary:
    """Means and medians over songs, per source and overall; all scores must be of one protocol."""
    protocols = {score.protocol for score in scores}
    if len(protocols) != 1:
        raise InputError(f"scores of {len(protocols)} protocols cannot be summed up: {sorted(protocols)}")
    by_source: dict[str, list[Score]] = {}
    for score in scores:
        by_source.setdefault(score.source, []).append(score)
    sources = {source: _over_songs(rows) for source, rows in by_source.items()}
    return ScoreSummary(
        model_digest=model_digest,
        dataset_digest=dataset_digest,
        protocol=protocols.pop(),
        songs=_songs(scores),
        sources=sources,
        overall=_over_sources(list(sources.values())),
        solvers=dict(
            sorted(Counter({score.track_id: score.solver for score in scores if score.solver}.values()).items())
        ),
    )


def _songs(scores: Sequence[Score]) -> dict[str, SongScore]:
    rows: dict[str, list[Score]] = {}
    for score in sorted(scores, key=lambda score: score.track_id):
        rows.setdefault(score.track_id, []).append(score)
    return {
        track_id: SongScore(
            nsdr={score.source: score.nsdr for score in own},
            leakage_db={score.source: score.leakage_db for score in own if score.leakage_db is not None},
            duration_s=own[0].duration_s,
            level_db=own[0].level_db,
            mixture_nsdr={score.source: score.mixture_nsdr for score in own},
        )
        for track_id, own in rows.items()
    }


def _songs_of(config: EvaluateConfig, chunks: ShardSet, keep: Collection[str] | None) -> list[Song]:
    songs = read_songs(chunks)
    chosen = [song for song in songs if song.split == config.split and (keep is None or song.track_id in keep)]
    if not chosen:
        raise InputError(
            f"none of {len(songs)} songs stands in the {config.split} split; a corpus with a {config.split} folder, or "
            "a larger corpus.test_fraction would do"
        )
    return sorted(chosen, key=lambda song: song.track_id)


def _over_songs(scores: Sequence[Score]) -> SourceScore:
    median, mean = statistics.median, statistics.fmean
    sound = [score for score in scores if score.solver != scoring.ILL_CONDITIONED]
    return SourceScore(
        nsdr=mean(score.nsdr for score in scores),
        mixture_nsdr=mean(score.mixture_nsdr for score in scores),
        ceiling_nsdr=_over_known(mean, [score.ceiling_nsdr for score in scores]),
        sdr=_over_known(median, [score.sdr for score in scores]),
        mixture_sdr=_over_known(median, [score.mixture_sdr for score in scores]),
        ceiling_sdr=_over_known(median, [score.ceiling_sdr for score in scores]),
        sdr_mean=_over_known(mean, [score.sdr for score in scores]),
        si_sdr=_over_known(mean, [score.si_sdr for score in scores]),
        isr=_over_known(median, [score.isr for score in sound]),
        sir=_over_known(median, [score.sir for score in sound]),
        sar=_over_known(median, [score.sar for score in sound]),
    )


def _over_sources(scores: Sequence[SourceScore]) -> SourceScore:
    """Mean over sources, score by score."""
    names = [field.name for field in fields(SourceScore)]
    means = {name: _over_known(statistics.fmean, [getattr(score, name) for score in scores]) for name in names}
    return SourceScore(**means)  # type: ignore[arg-type]  # nSDR is always known


def _over_known(reduce: Any, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(reduce(known)) if known else None


def _real_time(results: Sequence[SongResult]) -> float:
    """Seconds that separating a second of song took."""
    return sum(result.seconds for result in results) / sum(result.scores[0].duration_s for result in results)


def _results(
    config: EvaluateConfig,
    checkpoint: str,
    model_digest: str,
    chunks: ShardSet,
    songs: Mapping[str, Song],
    store: str,
    progress: Progress | None,
) -> list[SongResult]:
    """The result of every song, by the key it is stored under: found, or separated and scored now."""

    def find(key: str) -> SongResult | None:
        return scoring.find(store, key, track_id=songs[key].track_id, title=songs[key].title)

    missing = [key for key in songs if find(key) is None]
    with stage(progress, "evaluate", len(songs), "songs") as heard:
        heard.advance(len(songs) - len(missing))
        if missing:
            with connect():
                items = [
                    {
                        "key": key,
                        "track_id": songs[key].track_id,
                        "title": songs[key].title,
                        "model_digest": model_digest,
                    }
                    for key in missing
                ]
                for title in _separate_and_score(config, checkpoint, chunks, items, store):
                    heard.advance()
                    heard.note(title)
        results = [found for key in songs if (found := find(key)) is not None]
        if len(results) < len(songs):
            raise InputError(f"scores written to {store} are not there; a folder that all nodes see, or S3, would do")
        mean = statistics.fmean(score.nsdr for result in results for score in result.scores)
        known = f", {len(songs) - len(missing)} of them known" if len(missing) < len(songs) else ""
        heard.finish(f"{len(songs)} songs{known}, mean nSDR {mean:.2f} dB")
    return results


def _separate_and_score(
    config: EvaluateConfig, checkpoint: str, chunks: ShardSet, items: Sequence[Mapping[str, str]], store: str
) -> Iterator[str]:
    """Titles of songs as they are scored, in no order: a Ray Data job, with the model in actors and scoring in tasks.

    Songs stream from one to the other, so estimates of a few are held at a time.
    """
    import ray.data

    quiet_data()
    # As JSON text: Arrow would guess types from the first song.
    dataset = ray.data.from_items([{"item": json.dumps(dict(item))} for item in items], override_num_blocks=len(items))
    size = min(config.num_workers, len(items))
    asked = {item["track_id"] for item in items}
    songs = [song for song in read_songs(chunks) if song.track_id in asked]
    memory = _memory(config, checkpoint, songs, num_actors=size)
    # Shares of a CPU: whole ones for every model would leave none to score with, and all would wait for ever.
    separating, scoring_one = (0.5, 0.5) if config.use_gpu else (0.9, 0.1)
    separated = dataset.map(
        _Separator,  # type: ignore[arg-type]  # Ray's own signature has no callable classes
        fn_constructor_args=(config, checkpoint, chunks),
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=separating,
        num_gpus=1 if config.use_gpu else None,
        memory=memory[0],
    )
    answers = separated.map(
        _score_row,  # type: ignore[arg-type]  # nor keyword arguments
        fn_kwargs={"config": config, "chunks": chunks, "store": store},
        num_cpus=scoring_one,
        memory=memory[1],
    )
    for answer in answers.iter_rows():
        if answer["input_error"]:
            raise InputError(answer["input_error"])
        yield answer["title"]


def _memory(
    config: EvaluateConfig, checkpoint: str, songs: Sequence[Song], *, num_actors: int
) -> tuple[int | None, int | None]:
    """Bytes that an actor that separates and a task that scores ask Ray for, by the longest song and the weights."""
    from models.weights.model_ref import describe

    if config.max_song_s:
        songs = [
            replace(song, num_samples=min(song.num_samples, round(config.max_song_s * song.sample_rate)))
            for song in songs
        ]
    longest = song_bytes(songs, num_sources=len(sources_of(songs[0])))
    separating = _TORCH_BYTES + 2 * describe(checkpoint).size_bytes + _HELD_SEPARATING * longest
    held = _HELD_BY_MUSEVAL if config.scorer == "museval" else _HELD_SCORING
    scoring_one = _TORCH_BYTES * (2 if config.all_four else 1) + held * longest
    return side_by_side(separating, scoring_one, num_actors=num_actors)


class _Separator:
    """An actor that holds the model."""

    def __init__(self, config: EvaluateConfig, checkpoint: str, chunks: ShardSet) -> None:
        import torch

        from models.networks.cpu_kernels import keep_freed_memory
        from models.weights.loading import load_model
        from models.weights.model_ref import describe

        self.config, self.chunks = config, chunks
        if not config.use_gpu:
            keep_freed_memory()
            torch.set_num_threads(1)  # as many actors as CPUs
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        self.model = load_model(checkpoint).to(self.device)
        self.checkpoint, self.digest = checkpoint, describe(checkpoint).digest

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
    from models.networks.bag import interface

    def separated(mixture_CT: Samples) -> Samples:
        estimates_SCT = separate(
            model,
            torch.from_numpy(mixture_CT),
            overlap=config.overlap,
            shifts=config.shifts,
            batch_size=config.batch_size,
            device=next(model.parameters()).device,
            dtype=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
        )
        made_SCT: Samples = estimates_SCT.float().cpu().numpy()
        return made_SCT

    wants, song = interface(model), find_song(chunks, track_id)
    model_match.check(wants, [song], who="the model")
    mixture_CT = _stems(config, song, wants.sources).sum(dim=0).numpy()
    began = time.monotonic()
    estimates_SCT = model_match.at_rate_of(wants, mixture_CT, song.sample_rate, separated)
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


def _score_row(row: dict[str, Any], *, config: EvaluateConfig, chunks: ShardSet, store: str) -> dict[str, Any]:
    """A task that scores one song, and stores what came out."""
    import torch

    from models.networks.cpu_kernels import keep_freed_memory

    keep_freed_memory()  # pages for the same tensors again and again would take longer than the sums
    torch.set_num_threads(1)
    item = json.loads(row["item"])
    error = item.pop("input_error")
    if not error:
        try:
            key = item.pop("key")
            scoring.keep(store, key, score_estimates(config, chunks, row["estimates_SCT"], **item))
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
    return scoring.score_song(
        config.measures,
        _stems(config, song, sources),
        torch.tensor(estimates_SCT),  # copied: what Ray hands over cannot be written to
        sources=sources,
        sample_rate=song.sample_rate,
        track_id=track_id,
        title=title,
        seconds=seconds,
    )
