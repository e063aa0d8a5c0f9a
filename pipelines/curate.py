"""Stored songs to verdicts: measures every song, keeps or drops it with a reason, and selects what is kept.

Measures are taken once per shard and remembered, so that another threshold or one more song costs next to
nothing. Whatever follows curation reads its `chunks`, a selection of the same shards: the songs that were
kept, each on its final side of the split.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.corpus import assign_splits
from datasets.errors import InputError
from datasets.quality import Meter, Rules, Signature, find_duplicates, judge, silent_sources
from datasets.schema import REASONS, SPLITS, VERDICTS, ShardSet, Verdict
from datasets.shards import (
    Song,
    find_manifest,
    read_json,
    read_manifest,
    read_objects,
    read_song_blocks,
    read_songs,
    table_of,
    write_json,
    write_manifest,
    write_table,
)
from pipelines.cluster import connect, map_rows
from pipelines.ingest import IngestResult
from pipelines.progress import Progress, stage
from pipelines.provenance import code_digest, digest

CurateConfig = Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateResult:
    """The verdicts on all songs, readable or not, and the selection of those that were kept."""

    verdicts: ShardSet
    chunks: ShardSet
    kept: tuple[str, ...]
    summary: Mapping[str, Any]  # songs, kept, dropped by reason, songs per split, hours


def run(
    config: CurateConfig,
    ingested: IngestResult,
    *,
    store: str,
    progress: Progress | None = None,
    require: Sequence[str] = ("train",),
) -> CurateResult:
    """A verdict for every song; InputError when a split of `require` has no song left.

    Of several songs with the same audio the first in the order of ids is kept. Where the corpus' folders state
    no splits and dropping songs leaves a drawn one empty, the kept songs are dealt again.
    """
    folder = Path(store).expanduser().absolute()
    code = code_digest("datasets.quality", "datasets.corpus")
    key = digest(config, Path(ingested.chunks.uri).stem, ingested.chunks.digest, code)
    finished = find_manifest(folder, step="curate", key=key)
    if finished is None or find_manifest(folder, step="verdicts", key=key) is None:
        about = read_manifest(ingested.chunks).extra
        heard = _measure_all(config, ingested, tuple(about["sources"]), folder, progress)
        verdicts = _verdicts(config, heard, about, ingested.rejected)
        table = write_table(folder, "verdicts", table_of(verdicts, VERDICTS), key=key)
        finished = _select(verdicts, table, ingested, store=folder, key=key)
    result = _result(finished)
    for split in require:
        if not result.summary["splits"].get(split):
            raise InputError(_nothing_left(split, config, ingested, result))
    return result


# --- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What was measured of one song."""

    song: Song
    measures: Mapping[str, float]
    signature: Signature


def _measure_all(
    config: CurateConfig, ingested: IngestResult, sources: Sequence[str], store: Path, progress: Progress | None
) -> list[_Heard]:
    """Measures of every stored song, in the order of the shards."""
    manifest = read_manifest(ingested.chunks)
    by_path: dict[str, list[Song]] = {}
    for song in read_songs(ingested.chunks):
        by_path.setdefault(song.path, []).append(song)
    # The level that counts as silence is the only rule that decides on measures.
    spec = [config.silence_db, list(sources), code_digest("datasets.quality")]
    caches = {
        str(Path(manifest.store) / shard.file): store / "cache" / "measures" / f"{digest(shard.sha256, spec)}.json"
        for shard in manifest.shards
    }
    missing = [path for path in by_path if _cached(caches[path], by_path[path]) is None]
    with stage(progress, "curate", sum(len(by_path[path]) for path in missing), "songs") as heard:
        if missing:
            common = {"sources": list(sources), "silence_db": config.silence_db}
            items = [
                {**common, "songs": [asdict(song) for song in by_path[path]], "cache": str(caches[path])}
                for path in missing
            ]
            with connect():
                for done in map_rows(_measure_shard, items):
                    heard.advance(done["num_songs"])
        rows = {path: _cached(caches[path], songs) for path, songs in by_path.items()}
        heard.finish(f"{sum(map(len, by_path.values()))} songs measured")
    return [
        _Heard(song=song, measures=row["measures"], signature=_unpack(row["signature"]))
        for path, songs in by_path.items()
        for song, row in zip(songs, rows[path] or [], strict=True)
    ]


def _measure_shard(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: the measures of the songs of one shard, into a small file."""
    rows = []
    for fields in item["songs"]:
        song = Song(**fields)
        meter = Meter(sources=item["sources"], sample_rate=song.sample_rate, silence_db=item["silence_db"])
        for stems_SCT in read_song_blocks(song, sources=item["sources"]):
            meter.add(stems_SCT)
        rows.append({"track_id": song.track_id, "measures": meter.measures(), "signature": _pack(meter.signature())})
    write_json(item["cache"], {"songs": rows})
    return {"num_songs": len(rows)}


def _cached(path: Path, songs: Sequence[Song]) -> list[dict[str, Any]] | None:
    """The rows of an earlier measurement of these songs; None when there is none."""
    rows: list[dict[str, Any]] = (read_json(path) or {}).get("songs", [])
    return rows if [row["track_id"] for row in rows] == [song.track_id for song in songs] else None


def _pack(signature: Signature) -> list[Any]:
    signs = [base64.b64encode(np.packbits(signature == sign).tobytes()).decode() for sign in (1, -1)]
    return [len(signature), *signs]


def _unpack(packed: Sequence[Any]) -> Signature:
    rises, falls = (
        np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=packed[0]).astype(np.int8)
        for text in packed[1:]
    )
    signature: Signature = rises - falls
    return signature


# --- judging ------------------------------------------------------------------------------------------------


def _verdicts(
    config: CurateConfig, heard: Sequence[_Heard], about: Mapping[str, Any], rejected: Sequence[Verdict]
) -> list[Verdict]:
    """Verdicts on all songs, in the order of their ids."""
    verdicts = []
    for item in heard:
        keep, reason, detail = judge(item.measures, config, sources=about["sources"])
        verdicts.append(
            Verdict(
                track_id=item.song.track_id,
                title=item.song.title,
                split=item.song.split,
                keep=keep,
                reason=reason,
                detail=detail,
                duration_s=item.measures["duration_s"],
                measures=item.measures,
            )
        )
    kept = {verdict.track_id for verdict in verdicts if verdict.keep}
    signatures = {item.song.track_id: item.signature for item in heard if item.song.track_id in kept}
    first_of = find_duplicates(signatures, min_similarity=config.min_similarity)
    verdicts = [
        replace(verdict, keep=False, reason="duplicate", detail=f"the same audio as {first_of[verdict.track_id]}")
        if verdict.track_id in first_of
        else verdict
        for verdict in verdicts
    ]
    return sorted([*_dealt_again(verdicts, about), *rejected], key=lambda verdict: verdict.track_id)


def _dealt_again(verdicts: list[Verdict], about: Mapping[str, Any]) -> list[Verdict]:
    """The same verdicts; where a split that was drawn has no kept song, the kept ones are drawn anew."""
    kept = [verdict for verdict in verdicts if verdict.keep]
    filled = {verdict.split for verdict in kept}
    drawn = set(about["drawn"])
    if not drawn or filled >= {"train", *drawn}:
        return verdicts
    splits = assign_splits([verdict.track_id for verdict in kept], **about["split_rule"])
    return [replace(verdict, split=splits[verdict.track_id][0]) if verdict.keep else verdict for verdict in verdicts]


def _select(verdicts: Sequence[Verdict], table: ShardSet, ingested: IngestResult, *, store: Path, key: str) -> ShardSet:
    kept = {verdict.track_id: verdict.split for verdict in verdicts if verdict.keep}
    summary = {
        "songs": len(verdicts),
        "kept": len(kept),
        "dropped": dict(Counter(verdict.reason for verdict in verdicts if not verdict.keep)),
        "splits": {split: list(kept.values()).count(split) for split in SPLITS},
        "hours": sum(verdict.duration_s for verdict in verdicts if verdict.keep) / 3600,
    }
    whole = read_manifest(ingested.chunks)
    songs = [replace(song, split=kept[song.track_id]) for song in whole.songs if song.track_id in kept]
    extra = {"verdicts": asdict(table), "summary": summary, "made_from": f"{whole.step}-{whole.key}"}
    return write_manifest(store, table="chunks", step="curate", key=key, shards=whole.shards, songs=songs, extra=extra)


def _result(chunks: ShardSet) -> CurateResult:
    manifest = read_manifest(chunks)
    return CurateResult(
        verdicts=ShardSet(**manifest.extra["verdicts"]),
        chunks=chunks,
        kept=tuple(song.track_id for song in manifest.songs),
        summary=manifest.extra["summary"],
    )


def _nothing_left(split: str, config: CurateConfig, ingested: IngestResult, result: CurateResult) -> str:
    """Which rules left a split empty, how often, and what setting would let songs through."""
    verdicts = read_objects(result.verdicts, Verdict)
    sources = read_manifest(ingested.chunks).extra["sources"]
    summary = result.summary
    lines = [f"{summary['kept']} of {summary['songs']} songs passed curation and none is left to {split} on."]
    for reason, count in Counter(v.reason for v in verdicts if not v.keep).most_common():
        example = next(v for v in verdicts if v.reason == reason)
        lines.append(f"  - {reason} ({REASONS[reason]}): {count} songs, such as {example.title!r}: {example.detail}")
    silent = [silent_sources(v.measures, config, sources=sources) for v in verdicts if v.reason == "silent_source"]
    if silent:
        always = set.intersection(*map(set, silent)) or {
            Counter(s for group in silent for s in group).most_common(1)[0][0]
        }
        heard = ",".join(f'"{source}"' for source in sources if source not in always)
        leave = f"corpus.sources=[{heard}] leaves out {', '.join(sorted(always))}; " if heard else ""
        lines.append(f"{leave}curate.min_presence=0 keeps silent stems.")
    if summary["dropped"].get("clipped"):
        lines.append("curate.max_clipped=1 keeps clipped stems.")
    if summary["dropped"].get("duplicate"):
        lines.append("curate.min_similarity=2 keeps duplicates.")
    if summary["kept"]:
        lines.append(f"Songs per split: {summary['splits']}; more songs, or another corpus.split_seed, would do.")
    return "\n".join(lines)
