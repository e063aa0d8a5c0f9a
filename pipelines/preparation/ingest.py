"""Corpus to shards: decodes every song once, checks it, and keeps it as FLAC in Parquet.

What is written is a dataset version (`datasets/shards/shard_planning.py`): songs that any shard of the store holds
are taken from there, the others go into new shards, one Ray task each, under names made from what goes into them. So a
rerun after any interruption writes only what is missing, byte for byte the same. A song that cannot be used becomes
a verdict. What the bytes of its files prove is remembered with the shards; what a machine was to blame for is not: such
a song is left out of this version alone, and the next run tries again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from datasets import audio, shards
from datasets.audio.mono_mix import mono
from datasets.corpus.file_digests import FileDigest, digest_file
from datasets.corpus.file_listing import check_root
from datasets.corpus.layouts import separated_stems
from datasets.corpus.layouts.find import LAYOUTS
from datasets.corpus.layouts.found_song import LayoutRules
from datasets.corpus.removed_songs import REASON as FORGOTTEN
from datasets.corpus.removed_songs import RemovedSong, RemovedSongs, read_removed_songs
from datasets.corpus.scan import Scan, is_listed, scan
from datasets.corpus.taxonomy import DEFAULT
from datasets.errors import AudioError, Changed, InputError, Unavailable
from datasets.field_constraints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ProperFraction,
    Range,
    check_ranges,
)
from datasets.quality.fingerprint import FingerprintExtractor
from datasets.schema import (
    SCHEMA_VERSION,
    SOURCES,
    Funnel,
    ShardSet,
    StemFile,
    Track,
    Verdict,
    chunks_schema,
    refusals_in_words,
)
from datasets.shards.chunks import CHUNK_S, DecodedTrack, decode_track, probe_stems, stems_of
from datasets.shards.dataset_versions import drawn_sides
from datasets.shards.manifests import SongOrigin, find_manifest, read_manifest, write_manifest
from datasets.shards.shard_planning import ShardPlan, StoredSongs, plan_shards, read_store, stored_bytes
from datasets.shards.shards import audio_digest, write_shard
from datasets.shards.start_delays import unsaid_starts
from datasets.store import storage
from datasets.store.verified_reads import read_proven
from datasets.store.write_lock import clear_leftovers, write_lock
from models.plugins import Plugin, PluginKind, require
from models.scores.malloc_tuning import keep_freed_memory
from pipelines.preparation.signal_stats import contents
from pipelines.runtime.cluster import Resources, connect, map_rows
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step, incomplete_key

# Raise it when the same files and settings give other songs, or other refusals (CONTRIBUTING.md)
VERSION = 2
SONG = Step(name="ingest", version=VERSION, uses={"audio": audio.VERSION, "shards": shards.VERSION})
LAYOUT = PluginKind(noun="corpus layout", group="stemline.corpus_layouts", setting="corpus.plugins", error=InputError)
DATASET = Step(name="dataset", version=VERSION)  # of songs under their keys, which hold the versions above
_NO_SONGS = Funnel(found=0, readable=0)
_ROUNDS = 3  # looks at a corpus whose files change while they are read
_SPREAD = 32  # a corpus makes at least so many shards, that many cores have work, unless they would be tiny
_TINY_BYTES = 8_000_000
_WORKER_BYTES = 500_000_000  # an interpreter with its libraries, and half a minute of all stems as floats


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusConfig:
    """Where the songs are, and what is asked of them."""

    root: str = ""  # the folder with the songs; `stemline inspect` shows how it would be read
    sources: tuple[str, ...] = SOURCES  # every song must have a stem for each
    taxonomy: str = DEFAULT  # which file names mean which source: a name that ships, or a TOML file of your own
    unknown: str = "refuse"  # "refuse" a song that has a file whose name says nothing, or "leave_out" such files
    pad_s: NonNegativeFloat = 5.0  # files of one song may end this much before the longest; filled with silence
    allow_outside: bool = False  # a CSV may name files outside the root
    # Layouts of plug-ins, asked in this order before ours: names of entry points in stemline.corpus_layouts, or
    # package.module:object
    plugins: tuple[str, ...] = ()
    license: str = "unknown"  # the licence of the songs, noted with every chunk
    split_seed: NonNegativeInt = 0  # seed of the draw that gives songs a split where no folder states one
    valid_fraction: ProperFraction = 0.1  # share of the groups of songs that the draw puts into the validation split
    test_fraction: ProperFraction = 0.2  # share of the groups of songs that the draw puts into the test split

    def __post_init__(self) -> None:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise InputError(f"corpus.sources must be one or more different names, got {list(self.sources)}")
        taken = set(chunks_schema(()).names) & set(self.sources)
        if taken or not all(source.isidentifier() and source.islower() for source in self.sources):
            raise InputError(
                f"corpus.sources must be lower-case words other than column names, got {list(self.sources)}"
                + (f"; {sorted(taken)[0]} is a column" if taken else "")
            )
        if self.unknown not in ("refuse", "leave_out"):
            raise InputError(f'corpus.unknown must be "refuse" or "leave_out", got {self.unknown!r}')
        check_ranges(self, InputError, section="corpus.")
        if self.valid_fraction + self.test_fraction >= 1:
            raise InputError(
                "corpus.valid_fraction and corpus.test_fraction together must be < 1, or nothing is left to train on; "
                f"got {self.valid_fraction} and {self.test_fraction}"
            )

    @property
    def split_rule(self) -> dict[str, float]:
        """What decides on the draw besides the songs' names."""
        return {"seed": self.split_seed, "valid_fraction": self.valid_fraction, "test_fraction": self.test_fraction}

    @property
    def rules(self) -> LayoutRules:
        """How names become sources."""
        return LayoutRules(
            taxonomy=self.taxonomy, unknown=self.unknown, pad_s=self.pad_s, allow_outside=self.allow_outside,
            plugins=layout_plugins(self.plugins),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How songs are stored."""

    sample_rate: Annotated[int, Range(ge=1, unit="Hz")] = 44100  # rate at which songs are stored; others are resampled
    # Quality of resampling, by the names of soxr; "HQ" has -136 dB of aliasing
    resample_quality: Literal["QQ", "LQ", "MQ", "HQ", "VHQ"] = "HQ"
    channels: Annotated[int, Range(ge=1, le=2)] = 2  # channels stored; mono songs are stored with both channels equal
    # Of a stored sample; "source": 16 where no file of a song has more or is lossless, else 24
    bits: Literal["source", 16, 24] = "source"
    chunk_s: PositiveInt = CHUNK_S  # seconds of one song in a row of the table of chunks
    min_song_s: NonNegativeFloat = 1.0  # shorter songs are refused
    shard_mb: PositiveInt = 384  # a shard ends with the song that takes it there; small corpora make smaller shards

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="ingest.")


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


def check(corpus: CorpusConfig) -> None:
    """InputError where there is no folder of songs or no such layout; an address in S3 is not looked at."""
    if not corpus.root:
        raise InputError("corpus.root is not set; corpus.root=DIR names the folder with the songs")
    check_root(corpus.root)
    layout_plugins(corpus.plugins)


def layout_plugins(chosen: Sequence[str]) -> tuple[Plugin, ...]:
    """The layouts of these names; InputError where one is not there, nothing to call, or has the name of ours."""
    layouts = tuple(layout for name in chosen if (layout := require(LAYOUT, name)))
    for layout in layouts:
        if layout.name in LAYOUTS:
            raise layout.failure(f"has the name of a layout of stemline's own: set {LAYOUT.setting} to {layout.ref}")
    return layouts


def run(corpus: CorpusConfig, config: IngestConfig, *, store: str, progress: Progress | None = None) -> IngestResult:
    """Chunk shards of every usable song; a finished run with the same songs, settings and code is found again.

    InputError when no song can be used at all.
    """
    folder = storage.absolute(store)
    check(corpus)
    forgotten, away = read_removed_songs(folder), dict[str, _Away]()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Away:
    """Why a song could not be read this time."""

    detail: str
    changed: bool  # a file is not the one that was listed


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
) -> dict[str, _Away]:
    """Write the songs that the store does not have; those that could not be read, by id."""
    tracks, keys, away = listed.scan.tracks, listed.keys, dict[str, _Away]()
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
                for done in map_rows(_write_plan, items, resources=need):
                    bar.advance(done["num_songs"])
                    bar.note(done["last"])
                    away |= {track_id: _Away(**why) for track_id, why in done["away"].items()}
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


class _Incomplete(Exception):
    """Some songs of a shard could not be read, so it must not get the name that stands for all of them."""


def _write_plan(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: decode the songs of a plan, write the shard, note keys and refusals in its sidecar.

    Without those that cannot be read now the others are another plan, with a name of its own.
    """
    keep_freed_memory()  # a block of samples for each stem of a stretch, again and again: 3 % of the processor time
    tracks = [_track(fields) for fields in item["tracks"]]
    away: dict[str, _Away] = {}
    while left := [track for track in tracks if track.track_id not in away]:
        (plan,) = plan_shards(left, keys=item["keys"], shard_bytes=sys.maxsize)
        try:
            _write_whole(plan, item, away)
            break
        except _Incomplete:
            continue
    unread = {track_id: asdict(why) for track_id, why in away.items()}
    return {"num_songs": len(tracks), "last": tracks[-1].title, "away": unread}


def _write_whole(plan: ShardPlan, item: Mapping[str, Any], away: dict[str, _Away]) -> None:
    """Write the shard of a plan; _Incomplete where songs were put into `away`."""
    config, sources = IngestConfig(**item["config"]), tuple(item["sources"])
    forgotten = RemovedSongs(songs=tuple(RemovedSong(**song) for song in item["forgotten"]))
    refused: list[dict[str, Any]] = []
    origins: dict[str, dict[str, Any]] = {}

    def rows() -> Iterator[Mapping[str, Any]]:
        for track in plan.tracks:
            try:
                decoded = _decoded(track, config, sources, root=storage.absolute(item["root"]))
                _refuse_forgotten(decoded.rows, forgotten, sources)
            except AudioError as error:
                refused.append(asdict(_refused(track, error.reason, str(error))))
            except Unavailable as error:
                away[track.track_id] = _Away(detail=str(error), changed=isinstance(error, Changed))
            else:
                origins[track.track_id] = asdict(_origin(decoded))
                yield from decoded.rows
        if any(track.track_id in away for track in plan.tracks):
            raise _Incomplete

    keys = {track.track_id: item["keys"][track.track_id] for track in plan.tracks}
    extra = {"keys": keys, "rejected": refused, "origins": origins}
    write_shard(item["store"], plan.spec, rows(), sources=sources, extra=lambda: extra)


def _origin(decoded: DecodedTrack) -> SongOrigin:
    return SongOrigin(
        lossless=decoded.lossless,
        bits=decoded.bits,
        sample_rate=decoded.sample_rate,
        remarks=decoded.remarks,
    )


def _refuse_forgotten(rows: Sequence[Mapping[str, Any]], forgotten: RemovedSongs, sources: Sequence[str]) -> None:
    """AudioError where a song, in whatever copy or master, is one that the store is to forget."""
    if not forgotten or not rows:
        return
    listener = FingerprintExtractor(rows[0]["sample_rate"])
    for row in rows:
        listener.add(mono(stems_of(row, sources).sum(axis=0)))
    audio, sound = audio_digest(rows, sources=sources), listener.signature()
    if reasons := forgotten.recognized({"": audio}, {"": sound}):
        raise AudioError(FORGOTTEN, reasons[""])


def _decoded(track: Track, config: IngestConfig, sources: Sequence[str], *, root: str) -> DecodedTrack:
    """A decoded track, whose files are fetched if they are elsewhere; errors and remarks name them as they stand below
    root.

    Where the corpus stands, and what its files were copied to, must not show in what is stored.
    """
    files = {file.path: file for several in track.stems.values() for file in several}
    copies: dict[str, str] = {}

    def read(local: Mapping[str, str]) -> DecodedTrack:
        copies.update({path: address for address, path in local.items()})
        here = _at(track, local)
        if not here.mixture and track.mixture and unsaid_starts(probe_stems(here, sources)):
            return read_proven(track.mixture, lambda more: read({**local, **more}))
        return decode_track(
            here,
            sources=sources,
            sample_rate=config.sample_rate,
            channels=config.channels,
            chunk_s=config.chunk_s,
            min_song_s=config.min_song_s,
            resample_quality=config.resample_quality,
            bits=config.bits,
        )

    def below_root(text: str) -> str:
        for path, address in copies.items():
            text = text.replace(path, address)
        return text.replace(f"{root}/", "")

    try:
        decoded = read_proven(list(files.values()), read, is_same=lambda: is_listed(track, sources))
    except AudioError as error:
        raise AudioError(error.reason, below_root(str(error))) from None
    except Unavailable as error:
        raise type(error)(below_root(str(error))) from None
    return replace(decoded, remarks=tuple(map(below_root, decoded.remarks)))


def _at(track: Track, local: Mapping[str, str]) -> Track:
    """The track with its files where they are on this machine; without the mixture where that is not."""
    stems = {
        source: tuple(replace(file, path=local[file.path]) for file in files) for source, files in track.stems.items()
    }
    mixture = tuple(replace(file, path=local[file.path]) for file in track.mixture if file.path in local)
    return replace(track, stems=stems, mixture=mixture)


def _track(fields: Mapping[str, Any]) -> Track:
    stems = {source: tuple(StemFile(**file) for file in files) for source, files in fields["stems"].items()}
    versions = tuple((source, first, second) for source, first, second in fields["versions"])
    mixture = tuple(StemFile(**file) for file in fields["mixture"])
    return Track(**{**fields, "stems": stems, "mixture": mixture, "versions": versions})


def _refused(track: Track, reason: str, detail: str) -> Verdict:
    return Verdict.refused(track.track_id, title=track.title, split=track.split, reason=reason, detail=detail)


def _conclude(
    listed: _Listed,
    away: Mapping[str, _Away],
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
                rejected.append(asdict(_refused(track, FORGOTTEN, why)))
                continue
            shards[shard.file] = shard
            if origin := stored.origins.get(keys[track.track_id]):
                origins[track.track_id] = asdict(replace(origin, remarks=(*track.remarks, *origin.remarks)))
            songs.append(replace(song, title=track.title, split=track.split, license=track.license))
        elif track.track_id in away:
            rejected.append(asdict(_refused(track, "unavailable", away[track.track_id].detail)))
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
