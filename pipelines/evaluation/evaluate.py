"""A model's scores on held-out songs, beside those of the unprocessed mixture.

Actors load the model once each and take songs as they come; tasks beside them score what was separated
(`scoring.py`). A song's scores are stored at once, under a digest of the weights, the song and the protocol, and all of
them as a table: a killed evaluation goes on where it was, and the same question is never computed twice.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from datasets.errors import InputError
from datasets.schema import SCORES, Score, ShardSet
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.manifests import Song, find_manifest, read_manifest, read_songs, settings_of
from datasets.store import storage
from models import inference, networks
from models import scores as score_code
from pipelines.evaluation import model_compatibility, museval_json, song_scoring
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.model_compatibility import Resampling
from pipelines.evaluation.scoring_job import separate_and_score
from pipelines.evaluation.song_scoring import SongResult
from pipelines.evaluation.summary import ScoreSummary, summarize
from pipelines.runs.stored_model import on_this_machine
from pipelines.runtime.cluster import connect
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from models.weights.model_identity import ModelRef
# Raise it when the same model, songs and protocol give other rows of scores (CONTRIBUTING.md)
VERSION = 2
STEP = Step(
    name="evaluate",
    version=VERSION,
    uses={"inference": inference.VERSION, "networks": networks.VERSION, "scores": score_code.VERSION},
)


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
    key = _key(songs, about, chunks)
    scores = find_manifest(folder, step="evaluate", key=key)
    if scores is None or config.museval_json:
        by_key = dict(zip(map(STEP.key, about), songs, strict=True))
        results = _results(config, checkpoint, model.digest, chunks, by_key, folder, progress)
        if config.museval_json:
            museval_json.write(config.museval_json, config.split, results)
        # Beside the table, not in it: equal questions have equal answers, but not equal durations.
        extra = {"real_time": _real_time(results)}
        rows = [score for result in results for score in result.scores]
        settings = {**settings_of(read_manifest(chunks)), "evaluate": asdict(config)}
        scores = write_table(
            folder, "scores", table_of(rows, SCORES), key=key, step="evaluate", extra=extra, settings=settings
        )
    return _result(scores, model, chunks)


def find(config: EvaluateConfig, checkpoint: str, chunks: ShardSet, *, store: str) -> EvaluateResult | None:
    """The result of an earlier `run` with the same arguments, None where there is none; nothing is written."""
    songs = _songs_of(config, chunks, None)
    model = check(replace(config, museval_json=""), checkpoint, chunks)
    key = _key(songs, [_inputs(config, model, song, chunks) for song in songs], chunks)
    scores = find_manifest(storage.absolute(store), step="evaluate", key=key)
    return None if scores is None else _result(scores, model, chunks)


def _result(scores: ShardSet, model: "ModelRef", chunks: ShardSet) -> EvaluateResult:
    summary = summarize(read_objects(scores, Score), model.digest, chunks.digest)
    factor = read_manifest(scores).extra["real_time"]
    summary = replace(summary, size_bytes=model.size_bytes, real_time_factor=factor)
    return EvaluateResult(scores=scores, summary=summary)


def _key(songs: Sequence[Song], about: Sequence[EvaluateSongInputs], chunks: ShardSet) -> str:
    inputs = tuple(zip((song.track_id for song in songs), about, strict=True))
    return STEP.key(EvaluateInputs(dataset=chunks.digest, songs=inputs))


def _inputs(config: EvaluateConfig, model: "ModelRef", song: Song, chunks: ShardSet) -> EvaluateSongInputs:
    return EvaluateSongInputs(
        model=model.digest,
        audio=song.audio or f"{chunks.digest} {song.track_id}",  # of a store from before the audio had digests
        protocol=config.protocol,
        columns=tuple(name for name in SCORES.names if name != "plugin_scores" or config.plugins),
        resampling=model_compatibility.resampling(model, song),
    )


def check(
    config: EvaluateConfig, checkpoint: str, chunks: ShardSet, *, keep: Collection[str] | None = None
) -> "ModelRef":
    """What the checkpoint is; InputError where it cannot be scored on the songs of the split, or nothing be written."""
    from models.weights import model_identity

    songs = _songs_of(config, chunks, keep)
    model = model_identity.describe(on_this_machine(checkpoint))
    model_compatibility.check(model, songs, who=f"the model {checkpoint}")
    if config.museval_json:
        museval_json.check(config.museval_json, config.split, [(song.title, song.track_id) for song in songs])
    return model


def _songs_of(config: EvaluateConfig, chunks: ShardSet, keep: Collection[str] | None) -> list[Song]:
    songs = read_songs(chunks)
    chosen = [song for song in songs if song.split == config.split and (keep is None or song.track_id in keep)]
    if not chosen:
        raise InputError(
            f"the {config.split} split is empty: none of {len(songs)} songs is in it; put songs into a folder "
            f"{config.split} of the corpus, or raise corpus.{'valid' if config.split == 'valid' else 'test'}_fraction"
        )
    return sorted(chosen, key=lambda song: song.track_id)


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
        return song_scoring.find(store, key, track_id=songs[key].track_id, title=songs[key].title)

    # The longest first, so that no worker is left with one at the end while the others have nothing to do.
    missing = sorted((key for key in songs if find(key) is None), key=lambda key: -songs[key].num_samples)
    with stage(progress, "evaluate", len(songs), "songs") as progress_stage:
        progress_stage.advance(len(songs) - len(missing))
        if missing:
            with connect(store=store):
                items = [
                    {
                        "key": key,
                        "track_id": songs[key].track_id,
                        "title": songs[key].title,
                        "model_digest": model_digest,
                    }
                    for key in missing
                ]
                for title in separate_and_score(config, checkpoint, chunks, items, store):
                    progress_stage.advance()
                    progress_stage.note(title)
        results = [result for key in songs if (result := find(key)) is not None]
        if len(results) < len(songs):
            raise InputError(
                f"scores written to {store} are not there: set store.root to a folder that all nodes share, or to S3"
            )
        counted = [score.nsdr for result in results for score in result.scores if score.nsdr is not None]
        mean = statistics.fmean(counted) if counted else math.nan
        cached = f", {len(songs) - len(missing)} of them known" if len(missing) < len(songs) else ""
        progress_stage.finish(f"{len(songs)} songs{cached}, mean nSDR {mean:.2f} dB")
    return results
