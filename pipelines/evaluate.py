"""A model's scores on held-out songs, beside those of the unprocessed mixture.

Actors load the model once each and take songs as they come. Scores are stored under a digest of the weights, the
songs and the protocol, so the same question is never computed twice.
"""

import json
import math
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import storage
from datasets.errors import InputError
from datasets.schema import SCORES, SPLITS, Score, ShardSet
from datasets.shards import (
    find_manifest,
    read_manifest,
    read_objects,
    read_songs,
    read_track,
    table_of,
    write_table,
)
from pipelines.cluster import connect, quiet_data
from pipelines.progress import Progress, stage
from pipelines.provenance import code_digest, digest

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """On which songs and how a model is scored; the first six fields and the precision are the protocol."""

    split: str = "test"
    overlap: float = 0.25  # of neighbouring segments
    shifts: int = 0  # seeded delays to average over
    window_s: float = 1.0  # BSS Eval's, without overlap
    all_four: bool = False  # ISR, SIR and SAR beside SDR; some 30 ms for each second of a song
    max_song_s: float = 0.0  # from the start of each song; 0 takes the whole song
    precision: str = "float32"  # or "bfloat16"
    batch_size: int = 1  # segments at once
    num_workers: int = 2  # models in memory, each with a CPU
    use_gpu: bool = False  # one GPU per worker

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"evaluate.split={self.split!r}; one of {', '.join(SPLITS)} would do")
        if self.precision not in PRECISIONS:
            raise InputError(f"evaluate.precision={self.precision!r}; one of {', '.join(PRECISIONS)} would do")
        if self.num_workers < 1 or self.window_s <= 0 or self.max_song_s < 0:
            raise InputError(
                f"evaluate.num_workers={self.num_workers}, window_s={self.window_s}, max_song_s={self.max_song_s}; "
                "at least 1, more than 0, and at least 0 would do"
            )

    @property
    def protocol(self) -> str:
        """Everything that scores depend on beside model and songs, in a line for tables."""
        length = f"first {self.max_song_s:g} s" if self.max_song_s else "whole songs"
        return (
            f"{self.split}, {length}; nSDR, BSS Eval v4 {'SDR, ISR, SIR, SAR' if self.all_four else 'SDR'} in "
            f"{self.window_s:g} s windows; "
            f"overlap {self.overlap:g}, shifts {self.shifts}, {self.precision}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScore:
    """Scores over all songs, in dB: nSDR as the mean, SDR as the median over songs of medians over windows."""

    nsdr: float
    mixture_nsdr: float  # of the unprocessed mixture as the estimate
    sdr: float | None  # None where no window of any song has a score
    mixture_sdr: float | None
    isr: float | None = None  # as sdr; None where they were not asked for
    sir: float | None = None
    sar: float | None = None

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
    tracks = _tracks(config, chunks, keep)
    model_digest = _digest_of(Path(checkpoint))
    code = code_digest("models.metrics", "models.bsseval", "models.separate", "models.catalog")
    track_ids = [track["track_id"] for track in tracks]
    key = digest(model_digest, chunks.digest, track_ids, config.protocol, SCORES.names, code)
    scores = find_manifest(folder, step="evaluate", key=key)
    if scores is None:
        rows, real_time = _score_all(config, checkpoint, chunks, tracks, progress)
        # Beside the table, not in it: equal questions have equal answers, but not equal durations.
        extra = {"real_time": real_time}
        scores = write_table(folder, "scores", table_of(rows, SCORES), key=key, step="evaluate", extra=extra)
    summary = summarize(read_objects(scores, Score), model_digest, chunks.digest)
    took = read_manifest(scores).extra["real_time"]
    summary = replace(summary, size_bytes=_bytes_of(Path(checkpoint)), real_time=took)
    return EvaluateResult(scores=scores, summary=summary)


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
        )
        for track_id, own in rows.items()
    }


def _tracks(config: EvaluateConfig, chunks: ShardSet, keep: Collection[str] | None) -> list[dict[str, str]]:
    songs = read_songs(chunks)
    tracks = [
        {"track_id": song.track_id, "title": song.title}
        for song in sorted(songs, key=lambda song: song.track_id)
        if song.split == config.split and (keep is None or song.track_id in keep)
    ]
    if not tracks:
        raise InputError(
            f"none of {len(songs)} songs stands in the {config.split} split; a corpus with a {config.split} folder, or "
            "a larger corpus.test_fraction would do"
        )
    return tracks


def _digest_of(checkpoint: Path) -> str:
    from models.checkpoint import weights_digest

    return weights_digest(checkpoint)


def _bytes_of(checkpoint: Path) -> int:
    from models.checkpoint import weights_bytes

    return weights_bytes(checkpoint)


def _over_songs(scores: Sequence[Score]) -> SourceScore:
    return SourceScore(
        nsdr=statistics.fmean(score.nsdr for score in scores),
        mixture_nsdr=statistics.fmean(score.mixture_nsdr for score in scores),
        sdr=_over_known(statistics.median, [score.sdr for score in scores]),
        mixture_sdr=_over_known(statistics.median, [score.mixture_sdr for score in scores]),
        isr=_over_known(statistics.median, [score.isr for score in scores]),
        sir=_over_known(statistics.median, [score.sir for score in scores]),
        sar=_over_known(statistics.median, [score.sar for score in scores]),
    )


def _over_sources(scores: Sequence[SourceScore]) -> SourceScore:
    return SourceScore(
        nsdr=statistics.fmean(score.nsdr for score in scores),
        mixture_nsdr=statistics.fmean(score.mixture_nsdr for score in scores),
        sdr=_over_known(statistics.fmean, [score.sdr for score in scores]),
        mixture_sdr=_over_known(statistics.fmean, [score.mixture_sdr for score in scores]),
        isr=_over_known(statistics.fmean, [score.isr for score in scores]),
        sir=_over_known(statistics.fmean, [score.sir for score in scores]),
        sar=_over_known(statistics.fmean, [score.sar for score in scores]),
    )


def _over_known(reduce: Any, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(reduce(known)) if known else None


def _score_all(
    config: EvaluateConfig,
    checkpoint: str,
    chunks: ShardSet,
    tracks: Sequence[Mapping[str, str]],
    progress: Progress | None,
) -> tuple[list[Score], float]:
    """A score per song and source, and the seconds that separating a second of song took."""
    scores: list[Score] = []
    took_s = song_s = 0.0
    with stage(progress, "evaluate", len(tracks), "songs") as heard, connect():
        for answer, seconds in _separate_and_score(config, checkpoint, chunks, tracks):
            scores += [Score(**row) for row in answer]
            took_s, song_s = took_s + seconds, song_s + scores[-1].duration_s
            heard.advance()
            heard.note(answer[0]["title"])
        mean = statistics.fmean(score.nsdr for score in scores)
        heard.finish(f"{len(tracks)} songs, mean nSDR {mean:.2f} dB")
    order = {source: place for place, source in enumerate(dict.fromkeys(score.source for score in scores))}
    return sorted(scores, key=lambda score: (score.track_id, order[score.source])), took_s / song_s


def _separate_and_score(
    config: EvaluateConfig, checkpoint: str, chunks: ShardSet, tracks: Sequence[Mapping[str, str]]
) -> Iterator[tuple[list[dict[str, Any]], float]]:
    """Rows of scores and seconds of separating per song, in no order: a Ray Data job with the model in actors."""
    import ray.data

    quiet_data()
    # As JSON text: Arrow would guess types of missing scores from the first song.
    dataset = ray.data.from_items(
        [{"track": json.dumps(dict(track))} for track in tracks], override_num_blocks=len(tracks)
    )
    size = min(config.num_workers, len(tracks))
    answers = dataset.map(
        _Scorer,  # type: ignore[arg-type]  # Ray's own signature has no callable classes
        fn_constructor_args=(config, checkpoint, chunks),
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=1 if config.use_gpu else None,
    )
    for answer in answers.iter_rows():
        if answer["input_error"]:
            raise InputError(answer["input_error"])
        yield json.loads(answer["rows"]), answer["seconds"]


class _Scorer:
    """An actor that holds the model."""

    def __init__(self, config: EvaluateConfig, checkpoint: str, chunks: ShardSet) -> None:
        import torch

        from models.checkpoint import load_model
        from models.tiled import keep_freed_memory

        self.config, self.chunks = config, chunks
        if not config.use_gpu:
            keep_freed_memory()
            torch.set_num_threads(1)  # as many actors as CPUs
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        self.model = load_model(checkpoint).to(self.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        track = json.loads(row["track"])
        try:
            scores, seconds = score_track(self.config, self.model, self.chunks, **track)
        except ValueError as error:  # an InputError or ModelError would reach the driver wrapped in Ray's own
            return {"rows": "", "seconds": 0.0, "input_error": f"{track['title']}: {error}"}
        return {"rows": json.dumps([asdict(score) for score in scores]), "seconds": seconds, "input_error": ""}


def score_track(
    config: EvaluateConfig, model: Any, chunks: ShardSet, *, track_id: str, title: str
) -> tuple[list[Score], float]:
    """One song through a model: a score per source, and the seconds that separating it took."""
    import torch

    from models.metrics import leakage, nsdr, sdr_windows
    from models.separate import layout, separate

    wants = layout(model)
    limit = round(config.max_song_s * wants.sample_rate) or None
    stems_SCT = torch.from_numpy(read_track(chunks, track_id, sources=wants.sources, num_samples=limit))
    mixture_CT = stems_SCT.sum(dim=0)
    began = time.monotonic()
    estimates_SCT = separate(
        model,
        mixture_CT,
        overlap=config.overlap,
        shifts=config.shifts,
        batch_size=config.batch_size,
        device=next(model.parameters()).device,
        dtype=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
    )
    seconds = time.monotonic() - began
    unprocessed_SCT = mixture_CT.expand_as(stems_SCT)
    window_samples = round(config.window_s * wants.sample_rate)
    columns = zip(
        nsdr(stems_SCT, estimates_SCT).tolist(),
        nsdr(stems_SCT, unprocessed_SCT).tolist(),
        _medians(sdr_windows(stems_SCT, estimates_SCT, window_samples)),
        _medians(sdr_windows(stems_SCT, unprocessed_SCT, window_samples)),
        _known(leakage(stems_SCT, estimates_SCT, window_samples)),
        *_others(config, stems_SCT, estimates_SCT, window_samples),
        strict=True,
    )
    power = float(mixture_CT.double().square().mean())
    level_db = 10 * math.log10(power) if power > 1e-12 else -120.0
    scores = [
        Score(
            track_id=track_id,
            title=title,
            source=source,
            protocol=config.protocol,
            duration_s=mixture_CT.shape[-1] / wants.sample_rate,
            level_db=level_db,
            leakage_db=leaked_db,
            nsdr=model_nsdr,
            mixture_nsdr=mixture_nsdr,
            sdr=sdr,
            mixture_sdr=mixture_sdr,
            isr=isr,
            sir=sir,
            sar=sar,
        )
        for source, (model_nsdr, mixture_nsdr, sdr, mixture_sdr, leaked_db, isr, sir, sar) in zip(
            wants.sources, columns, strict=True
        )
    ]
    return scores, seconds


def _others(
    config: EvaluateConfig, reference_SCT: Any, estimate_SCT: Any, window_samples: int
) -> list[Sequence[float | None]]:
    """ISR, SIR and SAR of every source, where they were asked for."""
    from models.bsseval import bss_eval

    if not config.all_four:
        return [[None] * len(reference_SCT)] * 3
    scores = bss_eval(reference_SCT, estimate_SCT, window_samples)
    return [_medians(windows_SW) for windows_SW in (scores.isr_SW, scores.sir_SW, scores.sar_SW)]


def _medians(scores_SW: Any) -> list[float | None]:
    """Median over windows; None where every window was dropped."""
    from models.metrics import sdr_median

    return _known(sdr_median(scores_SW))


def _known(values_S: Any) -> list[float | None]:
    """None where there is no number."""
    return [None if value != value else value for value in values_S.tolist()]
