"""`stemline forget SONG`: a recording goes out of all that this store makes from now on, and who heard it is named.

The store remembers what it is to forget (`datasets/corpus/removed_songs.py`): every copy and master of the recording,
in all later runs and deployments. With `--erase` the audio goes out of its shards as well
(`pipelines/lineage/erasure.py`); without, the places where it still lies are named.
"""

import html
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.corpus.removed_songs import RemovedSong, read_removed_songs, write_removed_songs
from datasets.corpus.scan import safe_name
from datasets.errors import InputError
from datasets.quality.fingerprint import Signature, pack
from datasets.schema import ShardSet
from datasets.shards import versions
from datasets.shards.manifests import Song, read_manifest
from datasets.store import storage
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from pipelines.lineage import ancestry, erasure
from pipelines.lineage.ancestry import Ancestors, Ancestry, Hearers

CANARY = "canary"  # a store inside the store: see flows/deployments.py


@dataclass(frozen=True, slots=True, kw_only=True)
class SongToForget:
    """Every copy of one song that a store knows."""

    track_id: str  # as it was asked for
    names: Mapping[str, str]  # title by track id
    songs: Mapping[str, RemovedSong]  # by the digest of the audio


def forget(
    song: Annotated[str, Parameter(help="Its id, its title or a part of one, as `stemline datasets find` takes it.")],
    /,
    *overrides: Overrides,
    erase: Annotated[
        bool, Parameter(negative="", show_default=False, help="Remove its audio from the stored shards as well.")
    ] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Leave a recording out of every later run, make a dataset without it, and list versions that learned from it.

    Example: `stemline forget "Falcon 69" corpus.root=songs store.root=store`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, song, erase=erase, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, song: str, *, erase: bool = False, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """The versions to retrain, and the id of a new dataset without the recording. The corpus' files stay."""
    _one(songs_called(config, song), song)
    if not config.corpus.root:
        raise InputError("corpus.root is not set; corpus.root=DIR names the folder with the songs for the new dataset")
    with prepared(config, verb="forget", screen=screen, debug=debug):
        from flows.build_corpus import build_corpus

        recording = _recording(config, song)
        for tables in _stores(config):
            write_removed_songs(tables, recording.songs.values())
        # Before the new dataset: a corpus with nothing left to train on must not keep the audio from going.
        erased = _erase(config, recording, screen) if erase else []
        corpus = build_corpus(config, until="curate")
        _require_free(config, corpus.songs)
    who = hearers(config, recording.songs)
    lies = list(_where_it_lies(config, recording))
    return {
        "songs": sorted(recording.names),
        "retrain": list(who.heard),
        "unknown": list(who.unknown),
        "not_known": {uri: list(gaps) for uri, gaps in who.unknown.items()},
        "dataset": corpus.songs.digest,
        "erased": erased,
        "still_in": lies,
        "shown": _shown(recording, who, dataset=corpus.songs.digest, erased=erased, lies=lies),
    }


# --- which recording is meant -------------------------------------------------------------------------------


def songs_called(config: RunConfig, name: str) -> dict[str, set[str]]:
    """Digests of audio by the ids of the songs that a name means, those erased since included.

    A song is called by its id, its title or a part of either, in this order; InputError where none is.
    """
    wanted = name.casefold()
    tests = (
        lambda track_id, title: track_id == name,
        lambda track_id, title: wanted in (track_id.casefold(), title.casefold()),
        lambda track_id, title: wanted in track_id.casefold() or wanted in title.casefold(),
    )
    known = _known(config)
    for test in tests:
        found: dict[str, set[str]] = {}
        for track_id, title, audio in known:
            if test(track_id, title):
                found.setdefault(track_id, set()).add(audio)
        if found:
            return found
    versions.find(config.store.tables, name)  # says which names are near
    raise InputError(f"no song of {config.store.tables} is called {name!r}")


def _known(config: RunConfig) -> set[tuple[str, str, str]]:
    """Id, title and digest of every song that a dataset holds or held, and of those that are forgotten."""
    found = set()
    for tables in _stores(config):
        for manifest in ancestry.manifests(tables):
            if manifest.step != "automix":
                found |= {(song.track_id, song.title, song.audio) for song in manifest.songs}
                found |= {(one["track_id"], one["title"], one["audio"]) for one in ancestry.erased_songs(manifest)}
        found |= {(song.track_id, song.title, song.audio) for song in read_removed_songs(tables).songs}
    return found


def _one(found: Mapping[str, set[str]], name: str) -> str:
    """The one song that is meant; InputError where the name fits several."""
    if len(found) > 1:
        raise InputError(f"{name!r} may be {', '.join(map(repr, sorted(found)[:5]))}: give the id of one")
    return next(iter(found))


def _recording(config: RunConfig, name: str) -> SongToForget:
    """The song and every copy of it that the store knows, by ear."""
    tables = storage.absolute(config.store.tables)
    called = songs_called(config, name)
    track_id = _one(called, name)
    store = _whole(_stores(config))
    heard = ancestry.sounds(store, store.stored.keys() | store.signatures.keys(), tables=tables, limit_s=float("inf"))
    before = {song.audio: song for song in read_removed_songs(tables).songs}
    same = ancestry.same_recordings(called[track_id], heard, min_similarity=config.curate.min_similarity)
    known = [one for one in sorted(_known(config)) if one[2] in same]
    names = {audio: (known_id, title) for known_id, title, audio in known}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    songs = {
        audio: before.get(audio)
        or RemovedSong(
            track_id=names[audio][0],
            title=names[audio][1],
            audio=audio,
            signature=pack(heard[audio]) if audio in heard else "",
            at=at,
        )
        for audio in sorted(same)
    }
    ids = {known_id: title for known_id, title, _ in known}
    return SongToForget(track_id=track_id, names=ids, songs=songs)


def _whole(stores: Sequence[str]) -> Ancestry:
    """Every song of every dataset of these stores that is no mix."""
    signatures: dict[str, Signature] = {}
    stored: dict[str, Song] = {}
    for manifest in (one for tables in stores for one in ancestry.manifests(tables)):
        if manifest.step != "automix" and manifest.table == "chunks":
            signatures |= ancestry.signatures_of(manifest)
            stored |= {song.audio: song for song in manifest.songs}
    return Ancestry(signatures=signatures, stored=stored)


# --- who heard it -------------------------------------------------------------------------------------------


def hearers(config: RunConfig, audio: Collection[str]) -> Hearers:
    """The versions of any model at the store's registry that were trained, or chosen, with these recordings."""
    stored = {one.audio: one for one in ancestry.stored_songs(config.store.tables) if one.audio in audio}
    ancestors = Ancestors(config.store.root, config.store.tables)
    return ancestors.hearers(Ancestry(stored=stored), audio, min_similarity=config.curate.min_similarity)


# --- what is made, and what stays ---------------------------------------------------------------------------


def _require_free(config: RunConfig, songs: ShardSet) -> None:
    """A fault of ours where the new dataset holds what is to be forgotten, in whatever copy."""
    manifest = read_manifest(songs)
    sounds = ancestry.signatures_of(manifest)
    members = {song.track_id: song.audio for song in manifest.songs}
    heard = {track_id: sounds[audio] for track_id, audio in members.items() if audio in sounds}
    found = read_removed_songs(config.store.tables).recognized(members, heard)
    if found:
        raise RuntimeError(f"the new dataset {songs.uri} still holds what is to be forgotten: {found}")


def _stores(config: RunConfig) -> list[str]:
    """Where the tables are that must forget: the store's, and those of its canary songs where there are any."""
    canary = Path(config.store.root) / CANARY
    return [config.store.tables, *([str(canary)] if canary.is_dir() else [])]


def _erase(config: RunConfig, recording: SongToForget, screen: Screen) -> list[str]:
    """What was removed or rewritten."""
    done: list[str] = []
    screen.start("erase", 0, "")
    for tables in _stores(config):
        made = erasure.run(tables, recording.songs.keys(), row_cache=config.train.loader.cache)
        done += [storage.join(tables, file) for file in made.shards]
        done += [f"{made.rows} rows in {config.train.loader.cache}"] if made.rows else []
    screen.finish(f"{len(done)} files with its audio are gone")
    return done


def _where_it_lies(config: RunConfig, recording: SongToForget) -> Iterator[str]:
    """Addresses below the store that hold, or may hold, audio of the recording."""
    for tables in _stores(config):
        for holding in erasure.holdings(tables, recording.songs.keys()):
            yield f"{storage.join(tables, holding.file)} ({', '.join(holding.gone)})"
    cache = Path(config.train.loader.cache) if config.train.loader.cache else None
    if cache is not None and cache.is_dir():
        rows = [path for path in cache.iterdir() if path.name.partition("-")[0] in recording.songs]
        if rows:
            yield f"{cache} ({len(rows)} rows)"
    root = Path(config.store.root)
    words = {one for pair in recording.names.items() for one in pair if one}
    told = {html.escape(word) for word in words} | words
    # The page of the curation was just written anew: it names the song, and plays nothing of it.
    pages = [root / "report.html", *sorted(root.glob("listening/*.html"))]
    pages = [page for page in pages if page.is_file()]
    yield from (str(page) for page in pages if any(word in page.read_text("utf-8", "replace") for word in told))
    folders = {safe_name(word) for word in words} | {safe_name(word.replace("/", " ")) for word in words}
    yield from (str(one) for one in sorted(root.glob("separated/**/*")) if one.is_dir() and one.name in folders)
    for folder in sorted(root.glob("runs/*/examples")):
        if _may_hold(folder, recording, tables=config.store.tables):
            yield f"{folder} (seconds of a held-out song of that training, and of it in the files of its MLflow run)"


def _may_hold(examples: Path, recording: SongToForget, *, tables: str) -> bool:
    """Whether the song that a training's examples are of may be the recording: one that it was chosen with."""
    kept = ancestry.noted(examples.parent)
    if kept is None:
        return True
    songs = [one for uri in kept["datasets"] for one in ancestry.of_dataset(uri, tables=tables).recordings]
    return not songs or any(one.audio in recording.songs for one in songs)


def _shown(
    recording: SongToForget, who: Hearers, *, dataset: str, erased: Sequence[str], lies: Sequence[str]
) -> list[Any]:
    alias = {version.uri: version.alias or "–" for version in who.versions}
    rows = [[uri, alias[uri], "heard it: retrain"] for uri in who.heard]
    rows += [[uri, alias[uri], f"not known: {'; '.join(gaps)}"] for uri, gaps in who.unknown.items()]
    title = f"Versions that heard {recording.track_id!r}"
    shown = [
        table(title, ["version", "alias", ""], rows)
        if rows
        else Text(f"No registered version heard {recording.track_id!r}."),
        Text(
            f"forgotten           {', '.join(sorted(recording.names))}\ndataset without it  {dataset}", overflow="fold"
        ),
    ]
    shown += [Text(f"erased              {one}", overflow="fold") for one in erased]
    shown += [Text(f"audio still in      {one}", overflow="fold") for one in lies]
    if lies and not erased:
        shown.append(
            Text("`stemline forget SONG --erase` rewrites the shards without it; delete other files named here.")
        )
    shown.append(
        Text(
            "The files of the corpus stay, and so do copies outside of the store: stems, exports, backups.", style="dim"
        )
    )
    return shown
