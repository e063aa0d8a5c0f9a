"""Corpus to shards: decodes every song once, checks it, and keeps it as FLAC in Parquet.

What is written is a dataset version (`datasets/shards/shard_planning.py`): songs that any shard of the store holds
are taken from there, the others go into new shards, one Ray task each, under names made from what goes into them. So a
rerun after any interruption writes only what is missing, byte for byte the same. A song that cannot be used becomes
a verdict. What the bytes of its files prove is remembered with the shards; what a machine was to blame for is not: such
a song is left out of this version alone, and the next run tries again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from datasets import audio, shards
from datasets.corpus.file_digests import FileDigest, digest_file
from datasets.corpus.layouts import separated_stems
from datasets.corpus.removed_songs import REASON as FORGOTTEN
from datasets.corpus.removed_songs import RemovedSongs, read_removed_songs
from datasets.corpus.scan import Scan, scan
from datasets.errors import InputError
from datasets.schema import (
    SCHEMA_VERSION,
    Funnel,
    ShardSet,
    StemFile,
    Track,
    Verdict,
    refusals_in_words,
)
from datasets.shards.dataset_versions import drawn_sides
from datasets.shards.manifests import find_manifest, read_manifest, write_manifest
from datasets.shards.shard_planning import ShardPlan, StoredSongs, plan_shards, read_store, stored_bytes
from datasets.store import storage
from datasets.store.write_lock import clear_leftovers, write_lock
from pipelines.preparation.ingest.ingest_config import CorpusConfig, IngestConfig, check, layout_plugins
from pipelines.preparation.ingest.shard_task import UnreadSong, refusal_of, write_planned
from pipelines.preparation.signal_stats import contents
from pipelines.runtime.cluster import Resources, connect, map_rows
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step, incomplete_key

# Raise it when the same files and settings give other songs, or other refusals (CONTRIBUTING.md)
VERSION = 2
SONG = Step(name="ingest", version=VERSION, uses={"audio": audio.VERSION, "shards": shards.VERSION})
DATASET = Step(name="dataset", version=VERSION)  # of songs under their keys, which hold the versions above
_NO_SONGS = Funnel(found=0, readable=0)
_ROUNDS = 3  # looks at a corpus whose files change while they are read
_SPREAD = 32  # a corpus makes at least so many shards, that many cores have work, unless they would be tiny
_TINY_BYTES = 8_000_000
_WORKER_BYTES = 500_000_000  # an interpreter with its libraries, and half a minute of all stems as floats


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSongInputs:
    """All that decides on the audio stored for a song besides the settings."""

    schema_version: int
    sources: tuple[str, ...]
    track_id: str
    fingerprint: str  # of the content of its files
    parts: Mapping[str, tuple[tuple[int | None, str | None, str], ...]]  # stream, side and `apart`, by source
    versions: tuple[tuple[str, int, int], ...]
    mixture: tuple[str, ...]  # the content of the mixture that came with it, which may tell how late lossy files are
    pad_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestInputs:
    """All that decides on a dataset."""

    songs: tuple[tuple[str, ...], ...]  # key, id, title, split and licence
    rejected: tuple[Verdict, ...]
    about: Mapping[str, Any]  # the layout, what was drawn and by which rule, the sources
    forgotten: tuple[str, ...]  # recordings that the store is to forget


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """The address of the stored songs, and what became of the others."""

    chunks: ShardSet
    rejected: tuple[Verdict, ...]
    layout: str
    drawn: tuple[str, ...]  # the splits that no folder stated
    funnel: Funnel = _NO_SONGS  # from the songs found to those stored
    remarks: tuple[str, ...] = ()  # what the owner of the corpus should know of the folder as a whole
    # What came with the stems, by track id, where it lies: curation reads it, no store holds it.
    mixtures: Mapping[str, tuple[StemFile, ...]] = field(default_factory=dict)


def run(corpus: CorpusConfig, config: IngestConfig, *, store: str, progress: Progress | None = None) -> IngestResult:
    """Chunk shards of every usable song; a finished run with the same songs, settings and code is found again.

    InputError when no song can be used at all.
    """
    folder = storage.absolute(store)
    check(corpus)
    forgotten, away = read_removed_songs(folder), dict[str, UnreadSong]()
    for _ in range(_ROUNDS):
        listed = _list(corpus, config, forgotten, folder, progress)
        finished = find_manifest(folder, step="ingest", key=listed.key)
        if finished is not None:
            break
        away = _write_missing(listed, config, corpus, forgotten, folder, progress)
        if not any(song.changed for song in away.values()):  # what has changed since is listed anew
            break
    if finished is None:
        settings = {"corpus": asdict(corpus), "ingest": asdict(config)}
        finished = _conclude(listed, away, forgotten, store=folder, settings=settings)
    mixtures = {track.track_id: track.mixture for track in listed.scan.tracks if track.mixture}
    result = replace(_result(finished), mixtures=mixtures, remarks=listed.scan.remarks)
    _require(result.chunks.num_rows, result.rejected, corpus)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """What a look at the corpus found, and the key of the version that it makes."""

    scan: Scan
    keys: Mapping[str, str]  # of each track's audio
    about: Mapping[str, Any]
    key: str


def _list(
    corpus: CorpusConfig, config: IngestConfig, forgotten: RemovedSongs, store: str, progress: Progress | None
) -> _Listed:
    listing = _scan(corpus, drawn_sides(store, corpus.split_rule), store, progress)
    _require(listing.tracks, listing.rejected, corpus, listing.remarks)
    keys = {track.track_id: song_key(track, config, corpus.sources) for track in listing.tracks}
    about = {
        "layout": listing.layout,
        "drawn": listing.drawn_splits,
        "split_rule": corpus.split_rule,
        "sources": corpus.sources,
        "left_out": {track.track_id: track.remarks for track in listing.tracks if track.remarks},
        **({"plugins": [layout.version for layout in layout_plugins(corpus.plugins)]} if corpus.plugins else {}),
        **separated_stems.as_extra(listing.teachers),
    }
    songs = tuple((keys[t.track_id], t.track_id, t.title, t.split, t.license) for t in listing.tracks)
    names = tuple(forgotten.names)
    inputs = IngestInputs(songs=songs, rejected=listing.rejected, about=about, forgotten=names)
    return _Listed(scan=listing, keys=keys, about=about, key=DATASET.key(inputs))


def song_key(track: Track, config: IngestConfig, sources: Sequence[str]) -> str:
    """The name under which the audio of a track is stored, or why it is refused."""
    inputs = IngestSongInputs(
        schema_version=SCHEMA_VERSION,
        sources=tuple(sources),
        track_id=track.track_id,
        fingerprint=track.fingerprint,
        parts={
            source: tuple((file.stream, file.side, file.apart) for file in files)
            for source, files in track.stems.items()
        },
        versions=track.versions,
        mixture=contents(track.mixture),
        pad_s=track.pad_s,
    )
    return SONG.key(inputs, _decisive(config))


def _decisive(config: IngestConfig) -> dict[str, Any]:
    """The settings that decide on what is stored of a song."""
    return {name: value for name, value in asdict(config).items() if name != "shard_mb"}


def _scan(corpus: CorpusConfig, drawn: Mapping[str, str], store: str, progress: Progress | None) -> Scan:
    with stage(progress, "scan", 0, "MB") as bar:
        listing = scan(
            corpus.root,
            sources=corpus.sources,
            split_seed=corpus.split_seed,
            valid_fraction=corpus.valid_fraction,
            test_fraction=corpus.test_fraction,
            known=drawn,
            license=corpus.license,
            rules=corpus.rules,
            cache=storage.join(store, "cache", "fingerprints.json"),
            advance=lambda num_bytes: bar.advance(num_bytes / 1e6),
            digest=lambda batches: _digest_on_nodes(batches, store),
        )
        refused = f", {len(listing.rejected)} refused by their names or files" if listing.rejected else ""
        bar.finish(f"{len(listing.tracks) + len(listing.rejected)} found{refused}, layout {listing.layout}")
    return listing


def _digest_on_nodes(batches: Sequence[Sequence[str]], store: str) -> Iterator[list[FileDigest]]:
    """The digests of batches of files, each batch a task where the songs will be decoded."""
    with connect(store=store):
        for done in map_rows(_digest_batch, [{"paths": batch} for batch in batches]):
            yield [FileDigest(**file) for file in done["files"]]


def _digest_batch(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"files": [asdict(digest_file(path)) for path in item["paths"]]}


def _write_missing(
    listed: _Listed,
    config: IngestConfig,
    corpus: CorpusConfig,
    forgotten: RemovedSongs,
    store: str,
    progress: Progress | None,
) -> dict[str, UnreadSong]:
    """Write the songs that the store does not have; those that could not be read, by id."""
    tracks, keys, away = listed.scan.tracks, listed.keys, dict[str, UnreadSong]()
    stored = read_store(store)
    missing = [track for track in tracks if not _settled(keys[track.track_id], stored, forgotten)]
    sizes = {track.track_id: stored_bytes(track) for track in tracks}
    # Of the whole corpus, not of what is missing: a job that goes on plans as the killed one did.
    aim = min(config.shard_mb * 1_000_000, max(sum(sizes.values()) // _SPREAD, _TINY_BYTES))
    plans = plan_shards(missing, keys=keys, shard_bytes=aim)
    with stage(progress, "ingest", len(missing), "songs") as bar:
        if plans:
            # A task holds what is encoded of one song until the song is known to be whole.
            need = Resources(memory_bytes=_WORKER_BYTES + 2 * max(sizes[track.track_id] for track in missing))
            with write_lock(store), connect(store=store):
                clear_leftovers(store)
                # The longest first, so that no core is left with one at the end while the others have nothing to do.
                plans.sort(key=lambda plan: -sum(sizes[track.track_id] for track in plan.tracks))
                items = [_item(plan, keys, config, corpus, forgotten, store) for plan in plans]
                for done in map_rows(write_planned, items, resources=need):
                    bar.advance(done["num_songs"])
                    bar.note(done["last"])
                    away |= {track_id: UnreadSong(**why) for track_id, why in done["away"].items()}
        unread = f", {len(away)} could not be read and are left to the next run" if away else ""
        have = len(tracks) - len(missing)
        bar.finish(f"{len(missing) - len(away)} songs in {len(plans)} new shards, {have} were there{unread}")
    return away


def _settled(key: str, stored: StoredSongs, forgotten: RemovedSongs) -> bool:
    """Whether a song needs no decoding: what was refused to be forgotten is decoded again once nothing is."""
    return key in stored.songs or (
        key in stored.refused and (stored.refused[key]["reason"] != FORGOTTEN or bool(forgotten))
    )


def _item(
    plan: ShardPlan,
    keys: Mapping[str, str],
    config: IngestConfig,
    corpus: CorpusConfig,
    forgotten: RemovedSongs,
    store: str,
) -> dict[str, Any]:
    return {
        "forgotten": [asdict(song) for song in forgotten.songs],
        "store": store,
        "root": corpus.root,
        "sources": corpus.sources,
        "config": asdict(config),
        "tracks": [asdict(track) for track in plan.tracks],
        "keys": {track.track_id: keys[track.track_id] for track in plan.tracks},
    }


def _conclude(
    listed: _Listed,
    away: Mapping[str, UnreadSong],
    forgotten: RemovedSongs,
    *,
    store: str,
    settings: Mapping[str, Any],
) -> ShardSet:
    """The manifest of the version: what the store has of these tracks, with the titles and splits of today.

    Where songs could not be read it is not the version that was asked for, so that the next run does not find it.
    """
    listing, keys, about = listed.scan, listed.keys, listed.about
    unread = sorted((track_id, why.detail) for track_id, why in away.items())
    key = incomplete_key(listed.key, unread) if unread else listed.key
    stored: StoredSongs = read_store(store)
    rejected = [asdict(verdict) for verdict in listing.rejected]
    shards, songs, origins = {}, [], {}
    for track in listing.tracks:
        if keys[track.track_id] in stored.songs:
            shard, song = stored.songs[keys[track.track_id]]
            if why := forgotten.recognized({track.track_id: song.audio}, {}).get(track.track_id):
                rejected.append(asdict(refusal_of(track, FORGOTTEN, why)))
                continue
            shards[shard.file] = shard
            if origin := stored.origins.get(keys[track.track_id]):
                origins[track.track_id] = asdict(replace(origin, remarks=(*track.remarks, *origin.remarks)))
            songs.append(replace(song, title=track.title, split=track.split, license=track.license))
        elif track.track_id in away:
            rejected.append(asdict(refusal_of(track, "unavailable", away[track.track_id].detail)))
        else:
            rejected.append({**stored.refused[keys[track.track_id]], "title": track.title, "split": track.split})
    rejected.sort(key=lambda verdict: verdict["track_id"])
    return write_manifest(
        store,
        table="chunks",
        step="ingest",
        key=key,
        shards=[shards[file] for file in sorted(shards)],
        songs=songs,
        extra={**about, "rejected": rejected, "origins": origins},
        settings=settings,
    )


def _result(chunks: ShardSet) -> IngestResult:
    manifest = read_manifest(chunks)
    extra, readable = manifest.extra, len(manifest.songs)
    return IngestResult(
        chunks=chunks,
        rejected=tuple(Verdict(**verdict) for verdict in extra["rejected"]),
        funnel=Funnel(found=readable + len(extra["rejected"]), readable=readable),
        layout=extra["layout"],
        drawn=tuple(extra["drawn"]),
    )


def _require(usable: Any, rejected: Sequence[Verdict], corpus: CorpusConfig, remarks: Sequence[str] = ()) -> None:
    """InputError with the reasons and their counts when nothing is usable."""
    if usable:
        return
    lines = refusals_in_words(rejected)
    advice = ""
    if any(verdict.reason == "missing_stem" for verdict in rejected):
        advice = f"\ncorpus.sources={list(corpus.sources)} asks for these stems; leave out what the songs do not have"
        advice = advice.replace("'", '"')
    lines += [f"  - {remark}" for remark in remarks]
    raise InputError(f"none of the {len(rejected)} songs in {corpus.root} can be used:\n" + "\n".join(lines) + advice)
