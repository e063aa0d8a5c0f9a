"""`stemline forget SONG`: leaves a recording out of later runs of a store, and lists the models that learned from it.

The store keeps a list of forgotten songs (`datasets/corpus/removed_songs.py`): every copy and master of the recording
is left out, in all later runs and deployments. With `--erase` its audio is removed from the shards as well
(`pipelines/lineage/erasure.py`); without, the files that still hold it are listed.
"""

import html
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from datasets.shards import dataset_versions
from datasets.shards.manifests import Song, read_manifest
from datasets.store import storage
from datasets.store.ownership import is_store
from datasets.store.scratch import scratch
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from pipelines import registry
from pipelines.lineage import erasure, training_ancestry, training_recordings
from pipelines.lineage.training_recordings import Ancestors, Ancestry, LearnedFrom
from pipelines.registry import ModelVersion
from pipelines.registry.run_logging import SONG_TABLE
from pipelines.runs.run_place import EXAMPLES, trainings_with_examples

CANARY = "canary"  # a store inside the store: see flows/retraining/retrain_model.py


@dataclass(frozen=True, slots=True, kw_only=True)
class SongToForget:
    """Every copy of one song that a store knows."""

    track_id: str  # of the song that was named
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

    Example: `stemline forget "Falcon 69" corpus.root=SONGS store.root=STORE`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, song, erase=erase, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, song: str, *, erase: bool = False, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """The versions to retrain, and the id of a new dataset without the recording. The corpus' files stay."""
    _require_one(find_songs(config, song), song)
    if not config.corpus.root:
        raise InputError("corpus.root is not set; corpus.root=DIR names the folder with the songs for the new dataset")
    with prepared(config, verb="forget", screen=screen, debug=debug):
        from flows.build_corpus import build_corpus

        recording = _all_copies(config, song)
        for tables in _stores(config):
            write_removed_songs(tables, recording.songs.values())
        # Before the new dataset, which fails where nothing is left to train on: the audio must go even then.
        erased = _erase(config, recording, screen) if erase else []
        corpus = build_corpus(config, until="curate")
        _require_free(config, corpus.songs)
    learned = versions_trained_with(config, recording.songs)
    remaining = list(_remaining_audio(config, recording))
    titled = list(_evaluations_with_its_title(config, recording, learned.versions))
    return {
        "songs": sorted(recording.names),
        "retrain": list(learned.recordings),
        "unknown": list(learned.unknown),
        "not_known": {uri: list(gaps) for uri, gaps in learned.unknown.items()},
        "dataset": corpus.songs.digest,
        "erased": erased,
        "still_in": remaining,
        "titled_in": titled,
        "console_output": _console_output(
            recording, learned, dataset=corpus.songs.digest, erased=erased, remaining=remaining, titled=titled
        ),
    }


# --- which recording is meant -------------------------------------------------------------------------------


def find_songs(config: RunConfig, name: str) -> dict[str, set[str]]:
    """Digests of audio by the ids of the songs that a name matches, those erased since included.

    A song is called by its id, its title or a part of either, in this order; InputError where none is.
    """
    wanted = name.casefold()
    tests = (
        lambda track_id, title: track_id == name,
        lambda track_id, title: wanted in (track_id.casefold(), title.casefold()),
        lambda track_id, title: wanted in track_id.casefold() or wanted in title.casefold(),
    )
    songs = _every_song(config)
    for test in tests:
        matches: dict[str, set[str]] = {}
        for track_id, title, audio in songs:
            if test(track_id, title):
                matches.setdefault(track_id, set()).add(audio)
        if matches:
            return matches
    dataset_versions.find(config.store.tables, name)  # says which names are near
    raise InputError(f"no song of {config.store.tables} is called {name!r}")


def _every_song(config: RunConfig) -> set[tuple[str, str, str]]:
    """Id, title and digest of every song that a dataset holds or held, and of those that are forgotten."""
    songs = set()
    for tables in _stores(config):
        for manifest in training_recordings.manifests(tables):
            if manifest.step != "automix":
                songs |= {(song.track_id, song.title, song.audio) for song in manifest.songs}
                songs |= {
                    (song["track_id"], song["title"], song["audio"])
                    for song in training_recordings.erased_songs(manifest)
                }
        songs |= {(song.track_id, song.title, song.audio) for song in read_removed_songs(tables).songs}
    return songs


def _require_one(matches: Mapping[str, set[str]], name: str) -> str:
    """The one song that a name matches; InputError where it matches several."""
    if len(matches) > 1:
        raise InputError(f"{name!r} may be {', '.join(map(repr, sorted(matches)[:5]))}: give the id of one")
    return next(iter(matches))


def _all_copies(config: RunConfig, name: str) -> SongToForget:
    """The song and every copy of it that the store has, recognized by fingerprint."""
    tables = storage.absolute(config.store.tables)
    matches = find_songs(config, name)
    track_id = _require_one(matches, name)
    store = _all_songs(_stores(config))
    audio_of_all = store.stored.keys() | store.signatures.keys()
    signatures = training_recordings.sounds(store, audio_of_all, tables=tables, limit_s=float("inf"))
    removed = {song.audio: song for song in read_removed_songs(tables).songs}
    copies = training_recordings.same_recordings(
        matches[track_id], signatures, min_similarity=config.curate.min_similarity
    )
    songs = [song for song in sorted(_every_song(config)) if song[2] in copies]
    names = {audio: (copy_id, title) for copy_id, title, audio in songs}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    to_remove = {
        audio: removed.get(audio)
        or RemovedSong(
            track_id=names[audio][0],
            title=names[audio][1],
            audio=audio,
            signature=pack(signatures[audio]) if audio in signatures else "",
            at=at,
        )
        for audio in sorted(copies)
    }
    return SongToForget(track_id=track_id, names={copy_id: title for copy_id, title, _ in songs}, songs=to_remove)


def _all_songs(stores: Sequence[str]) -> Ancestry:
    """Every song of every dataset of these stores, without automixes."""
    signatures: dict[str, Signature] = {}
    stored: dict[str, Song] = {}
    for manifest in itertools.chain.from_iterable(map(training_recordings.manifests, stores)):
        if manifest.step != "automix" and manifest.table == "chunks":
            signatures |= training_recordings.signatures_of(manifest)
            stored |= {song.audio: song for song in manifest.songs}
    return Ancestry(signatures=signatures, stored=stored)


# --- which models learned from it ----------------------------------------------------------------------------


def versions_trained_with(config: RunConfig, audio: Collection[str]) -> LearnedFrom:
    """The versions of any model at the store's registry that were trained, or chosen, with these recordings."""
    stored = {song.audio: song for song in training_recordings.stored_songs(config.store.tables) if song.audio in audio}
    ancestors = Ancestors(config.store.root, config.store.tables)
    return ancestors.versions_that_learned(Ancestry(stored=stored), audio, min_similarity=config.curate.min_similarity)


# --- what is removed, and what stays -------------------------------------------------------------------------


def _require_free(config: RunConfig, songs: ShardSet) -> None:
    """A fault of the program if the new dataset holds a copy of a forgotten song."""
    manifest = read_manifest(songs)
    by_audio = training_recordings.signatures_of(manifest)
    members = {song.track_id: song.audio for song in manifest.songs}
    signatures = {track_id: by_audio[audio] for track_id, audio in members.items() if audio in by_audio}
    copies = read_removed_songs(config.store.tables).recognized(members, signatures)
    if copies:
        raise RuntimeError(f"the new dataset {songs.uri} still holds what is to be forgotten: {copies}")


def _stores(config: RunConfig) -> list[str]:
    """Places of tables that must forget: the store's, and those of its canary songs where there are any."""
    canary = storage.join(config.store.root, CANARY)
    return [config.store.tables, *([canary] if is_store(canary) else [])]


def _erase(config: RunConfig, recording: SongToForget, screen: Screen) -> list[str]:
    """The files that were removed or rewritten."""
    done: list[str] = []
    screen.start("erase", 0, "")
    for tables in _stores(config):
        result = erasure.run(tables, recording.songs.keys(), row_cache=config.train.loader.cache)
        done += [storage.join(tables, file) for file in result.shards]
        done += [f"{result.rows} rows in {config.train.loader.cache}"] if result.rows else []
    screen.finish(f"{len(done)} files with its audio are gone")
    return done


def _remaining_audio(config: RunConfig, recording: SongToForget) -> Iterator[str]:
    """Addresses below the store that hold, or may hold, audio of the recording."""
    for tables in _stores(config):
        for holding in erasure.holdings(tables, recording.songs.keys()):
            yield f"{storage.join(tables, holding.file)} ({', '.join(holding.gone)})"
    cache = Path(config.train.loader.cache) if config.train.loader.cache else None
    if cache is not None and cache.is_dir():
        rows = [path for path in cache.iterdir() if path.name.partition("-")[0] in recording.songs]
        if rows:
            yield f"{cache} ({len(rows)} rows)"
    root = config.store.root
    names = {name for pair in recording.names.items() for name in pair if name}
    in_html = {html.escape(name) for name in names} | names
    # The page of the curation was just written anew: it names the song, and holds none of its audio.
    pages = [storage.join(root, "report.html")] if storage.stamp(storage.join(root, "report.html")) else []
    listening = storage.join(root, "listening")
    pages += [storage.join(listening, name) for name in storage.names(listening) if name.endswith(".html")]
    yield from (page for page in pages if any(name in storage.read(page).decode(errors="replace") for name in in_html))
    folders = {safe_name(name) for name in names} | {safe_name(name.replace("/", " ")) for name in names}
    separated = sorted(scratch(root).glob("separated/**/*"))
    yield from (str(path) for path in separated if path.is_dir() and path.name in folders)
    for run in trainings_with_examples(root):
        if _may_hold(run, recording, tables=config.store.tables):
            remark = "seconds of a held-out song of that training, and of it in the files of its MLflow run"
            yield f"{storage.join(run, EXAMPLES)} ({remark})"


def _evaluations_with_its_title(
    config: RunConfig, recording: SongToForget, versions: Iterable[ModelVersion]
) -> Iterator[str]:
    """Evaluations of these versions whose table of songs names the recording, with their runs in MLflow."""
    for version in filter(lambda version: version.digest, versions):  # others were not registered by stemline
        for evaluation in registry.lineage(version.uri, store=config.store.root).evaluations:
            rows = registry.read_songs(evaluation.run_id, store=config.store.root)
            if any(row["track_id"] in recording.names for row in rows):
                yield f"{SONG_TABLE} of run {evaluation.run_id} in MLflow, an evaluation of {version.uri}"


def _may_hold(run: str, recording: SongToForget, *, tables: str) -> bool:
    """Whether the examples of a training may be of the recording: they are of a song of its datasets."""
    noted = training_ancestry.read(run)
    if noted is None:
        return True
    songs = [
        song for uri in noted["datasets"] for song in training_recordings.of_dataset(uri, tables=tables).recordings
    ]
    return not songs or any(song.audio in recording.songs for song in songs)


def _console_output(
    recording: SongToForget,
    learned: LearnedFrom,
    *,
    dataset: str,
    erased: Sequence[str],
    remaining: Sequence[str],
    titled: Sequence[str],
) -> list[Any]:
    alias = {version.uri: version.alias or "–" for version in learned.versions}
    rows = [[uri, alias[uri], "learned from it: retrain"] for uri in learned.recordings]
    rows += [[uri, alias[uri], f"not known: {'; '.join(gaps)}"] for uri, gaps in learned.unknown.items()]
    title = f"Versions that learned from {recording.track_id!r}"
    output = [
        table(title, ["version", "alias", ""], rows)
        if rows
        else Text(f"No registered version learned from {recording.track_id!r}."),
        Text(
            f"forgotten           {', '.join(sorted(recording.names))}\ndataset without it  {dataset}", overflow="fold"
        ),
    ]
    output += [Text(f"erased              {file}", overflow="fold") for file in erased]
    output += [Text(f"audio still in      {place}", overflow="fold") for place in remaining]
    output += [Text(f"its title is in     {place}", overflow="fold") for place in titled]
    if remaining and not erased:
        output.append(
            Text("`stemline forget SONG --erase` rewrites the shards without it; delete other files named here.")
        )
    output.append(
        Text(
            "The files of the corpus stay, and so do copies outside of the store: stems, exports, backups.", style="dim"
        )
    )
    return output
