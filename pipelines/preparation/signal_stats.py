"""Signal measures of many songs: one Ray task per few minutes of audio, remembered by the song's audio.

Adding ten songs to thousands measures ten; a song that is stored under another name measures none. Where a mixture
came with the stems it is read beside them, from where it lies: it is never stored. Where it cannot be read now, the
song is measured without it for this once, and nothing of that is remembered; where its bytes are no usable audio, the
song is measured without it for good, and that is said. What is measured of one song is in
`datasets/quality/measures.py`; `curate.py` decides with it by `datasets/quality/rules`.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from datasets import audio
from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode_blocks
from datasets.errors import AudioError, Unavailable
from datasets.quality import fingerprint, measures
from datasets.quality.fingerprint import Signature, pack, unpack
from datasets.quality.measures import StemStatistics, WorstSegment
from datasets.quality.rules.quality_rules import QualityRules
from datasets.schema import StemFile
from datasets.shards.manifests import Song
from datasets.shards.shards import read_song_blocks
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from datasets.store.verified_reads import read_proven
from pipelines.runtime.cluster import connect, map_rows
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

# Raise it when the same song gives another file of measures (CONTRIBUTING.md)
VERSION = 1
STEP = Step(
    name="signal_stats",
    version=VERSION,
    uses={"audio": audio.VERSION, "fingerprint": fingerprint.VERSION, "measures": measures.VERSION},
)
_TASK_S = 300.0  # of audio that one task measures, unless one song is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalStatsInputs:
    """All that decides on the measures of a song; of the rules the level that counts as silence does."""

    audio: str
    sources: tuple[str, ...]
    mixture: tuple[str, ...]  # what `contents` says of the files that came with it
    silence_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SongStats:
    """What the signal of one song says."""

    measures: Mapping[str, float]
    moments: tuple[WorstSegment, ...]  # its worst seconds
    signature: Signature
    stem_signatures: Mapping[str, Signature]
    unread: str = ""  # why the mixture that came with the song could not be compared this time
    broken: str = ""  # why it never can be: what its bytes are


def run(
    rules: QualityRules,
    songs: Sequence[Song],
    *,
    sources: Sequence[str],
    mixtures: Mapping[str, Sequence[StemFile]],
    store: str,
    progress: Progress | None = None,
) -> dict[str, SongStats]:
    """What was measured of every song, by its id; `mixtures` are the files that came with the stems of some songs."""
    caches = {}
    for song in songs:
        mixture = contents(mixtures.get(song.track_id, ()))
        about = SignalStatsInputs(
            audio=song.audio, sources=tuple(sources), mixture=mixture, silence_db=rules.silence_db
        )
        caches[song.track_id] = storage.join(store, "cache", "measures", f"{STEP.key(about)}.json")
    cached = {cache: _read(cache) for cache in set(caches.values())}
    missing = list({caches[song.track_id]: song for song in songs if cached[caches[song.track_id]] is None}.values())
    with stage(progress, "curate", len(missing), "songs") as songs_stage:
        if missing:
            common = {"sources": list(sources), "silence_db": rules.silence_db}
            items = [
                {**common, "songs": [_work(song, caches[song.track_id], mixtures) for song in group]}
                for group in _groups(missing)
            ]
            unread: dict[str, Any] = {}
            with connect(store=store):
                for done in map_rows(_measure_songs, items):
                    songs_stage.advance(done["num_songs"])
                    unread |= done["unread"]
            for cache in {caches[song.track_id] for song in missing}:
                cached[cache] = _measured(unread[cache]) if cache in unread else _read(cache)
        songs_stage.finish(f"{len(songs)} songs, {len(missing)} of them measured now")
    return {song.track_id: stats for song in songs if (stats := cached[caches[song.track_id]]) is not None}


def contents(files: Sequence[StemFile]) -> tuple[str, ...]:
    """What files outside the store hold, wherever they lie: the streams that are read, and the scan's fingerprints."""
    return tuple(f"{file.content} {file.stream}" for file in files)


def _work(song: Song, cache: str, mixtures: Mapping[str, Sequence[StemFile]]) -> dict[str, Any]:
    files = [asdict(file) for file in mixtures.get(song.track_id, ())]
    return {"song": asdict(song), "cache": cache, "mixture": files}


def _groups(songs: Sequence[Song]) -> Iterator[list[Song]]:
    """Neighbours that one task measures: starting a task costs more than measuring a short song."""
    group: list[Song] = []
    total_s = 0.0
    for song in songs:
        group.append(song)
        total_s += song.num_samples / song.sample_rate
        if total_s >= _TASK_S:
            yield group
            group, total_s = [], 0.0
    if group:
        yield group


def _measure_songs(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: the measures of some songs, each into a small file, unless its mixture was out of reach."""
    unread: dict[str, Any] = {}
    for work in item["songs"]:
        song = Song(**work["song"])
        options = {"sources": item["sources"], "silence_db": item["silence_db"]}
        mixture = [StemFile(**file) for file in work["mixture"]]
        problems = {"unread": "", "broken": ""}
        try:
            meter = _heard_with(mixture, song, **options)
        except AudioError as error:  # of the mixture; the stems were read before and stand in the store
            meter, problems["broken"] = _heard(song, [], **options), str(error)
        except Unavailable as error:
            meter, problems["unread"] = _heard(song, [], **options), str(error)
        moments = [asdict(moment) for moment in meter.worst()]
        row = {
            "measures": meter.measures(),
            "moments": moments,
            "signature": pack(meter.signature()),
            "stem_signatures": {source: pack(marks) for source, marks in meter.stem_signatures().items()},
            **problems,
        }
        if problems["unread"]:
            unread[work["cache"]] = row
        else:
            write_json(work["cache"], row)
    return {"num_songs": len(item["songs"]), "unread": unread}


def _heard_with(mixture: Sequence[StemFile], song: Song, **options: Any) -> StemStatistics:
    """A meter that heard the song beside its mixture; AudioError and Unavailable as `read_proven` has them."""

    def read(local: Mapping[str, str]) -> StemStatistics:
        return _heard(song, [replace(file, path=local[file.path]) for file in mixture], **options)

    return read_proven(mixture, read)


def _heard(song: Song, mixture: Sequence[StemFile], *, sources: Sequence[str], silence_db: float) -> StemStatistics:
    """A meter that heard the whole song, and the mixture that came with it where there is one."""
    meter = StemStatistics(sources=sources, sample_rate=song.sample_rate, silence_db=silence_db)
    with ExitStack() as stack:
        files = [stack.enter_context(closing(_stretches(file, song))) for file in mixture]
        for stems_SCT in read_song_blocks(song, sources=sources):
            if not files:
                meter.add(stems_SCT)
                continue
            mixture_CT: Samples = np.zeros(stems_SCT.shape[1:], np.float32)
            for file in files:
                part_CT = next(file, mixture_CT[:, :0])[:, : mixture_CT.shape[1]]  # a mixture may end early or late
                mixture_CT[:, : part_CT.shape[1]] += part_CT
            meter.add(stems_SCT, mixture_CT)
    return meter


def _stretches(file: StemFile, song: Song) -> Generator[Samples, None, None]:
    """A file as long as the song's chunks, at its rate and channel count."""
    yield from decode_blocks(
        file.path,
        sample_rate=song.sample_rate,
        channels=song.channels,
        stream=file.stream,
        block_samples=song.chunk_samples,
    )


def _read(path: str) -> SongStats | None:
    """What an earlier task wrote; None when it is missing or damaged."""
    try:
        return _measured(read_json(path) or {})
    except (KeyError, TypeError, ValueError):
        return None


def _measured(row: Mapping[str, Any]) -> SongStats:
    return SongStats(
        measures=row["measures"],
        moments=tuple(WorstSegment(**moment) for moment in row["moments"]),
        signature=unpack(row["signature"]),
        stem_signatures={source: unpack(marks) for source, marks in row["stem_signatures"].items()},
        unread=row["unread"],
        broken=row["broken"],
    )
