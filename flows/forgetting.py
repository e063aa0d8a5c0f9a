"""`stemline forget SONG`: which models heard a song, and a dataset without it."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text

from datasets import storage, versions
from datasets.errors import InputError
from datasets.overrides import COLUMNS
from datasets.shards import Song
from flows.config import RunConfig
from flows.road import prepared
from flows.screen import Screen, table
from pipelines.ancestry import Ancestors, Ancestry, Hearers, stored_songs
from pipelines.registry import ModelVersion

FILE = "forgotten.csv"  # in the store
WHY = "to be forgotten"


def run(config: RunConfig, song: str, *, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """The versions to retrain, and the id of a new dataset without the song. The song's files stay where they are."""
    songs = _found(config, song)
    with prepared(config, verb="forget", screen=screen, debug=debug):
        from flows.build_corpus import build_corpus

        config = _without(config, songs[0].track_id)
        corpus = build_corpus(config, until="curate")
    heard, unknown = heard_by(config, {found.audio for found in songs})
    return {
        "songs": sorted({found.track_id for found in songs}),
        "retrain": [version.uri for version in heard],
        "unknown": [version.uri for version in unknown],
        "overrides": config.curate.overrides,
        "dataset": corpus.songs.digest,
        "shown": _shown(config, songs, heard, unknown, dataset=corpus.songs.digest),
    }


def _found(config: RunConfig, song: str) -> list[Song]:
    """The one song that is meant, as every dataset holds it; InputError where the name fits several."""
    found = [one for songs in versions.find(config.store.tables, song).values() for one in songs]
    ids = sorted({one.track_id for one in found})
    if len(ids) > 1:
        raise InputError(f"{song!r} may be {', '.join(map(repr, ids[:5]))}: the id of one would do")
    return found


def _without(config: RunConfig, track_id: str) -> RunConfig:
    """The settings with decisions by hand that drop the song beside those that there were."""
    if config.curate.overrides and not config.curate.overrides.endswith(".csv"):
        raise InputError(f"curate.overrides={config.curate.overrides}: a CSV file, to which a line is added, would do")
    path = Path(config.curate.overrides or Path(config.store.root) / FILE)
    rows = list(csv.reader(io.StringIO(storage.read(path).decode("utf-8-sig")))) if path.is_file() else []
    header = [name.strip() for name in rows[0]] if rows else list(COLUMNS)
    if sorted(header) != sorted(COLUMNS):
        raise InputError(f"curate.overrides={path} has the columns {header}; {','.join(COLUMNS)} would do")
    values = {"track_id": track_id, "verdict": "drop", "why": WHY}
    kept = [row for row in rows[1:] if row and row[header.index("track_id")] != track_id]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *kept, [values[name] for name in header]])
    storage.write(path, text.getvalue().encode())
    return replace(config, curate=replace(config.curate, overrides=str(path)))


def songs_called(config: RunConfig, name: str) -> dict[str, list[Song]]:
    """The songs that a name means, by id, as every dataset of the store holds them; InputError where none does."""
    found: dict[str, list[Song]] = {}
    for songs in versions.find(config.store.tables, name).values():
        for song in songs:
            found.setdefault(song.track_id, []).append(song)
    return found


def hearers(config: RunConfig, songs: Mapping[str, Sequence[Song]]) -> Hearers:
    """The versions of any model at the store's registry that were trained, or chosen, with these recordings."""
    return _hearers(config, {song.audio: song for same in songs.values() for song in same})


def _hearers(config: RunConfig, stored: Mapping[str, Song]) -> Hearers:
    ancestors = Ancestors(config.store.root, config.store.tables)
    return ancestors.hearers(Ancestry(stored=stored), stored, min_similarity=config.curate.min_similarity)


def heard_by(config: RunConfig, audio: Collection[str]) -> tuple[list[ModelVersion], list[ModelVersion]]:
    """The same for digests of audio alone: versions that heard it, and those of which that is not known."""
    ancestors = Ancestors(config.store.root, config.store.tables)
    stored = {one.audio: one for one in stored_songs(config.store.tables) if one.audio in audio}
    who = ancestors.hearers(Ancestry(stored=stored), audio, min_similarity=config.curate.min_similarity)
    return [one for one in who.versions if one.uri in who.heard], [
        one for one in who.versions if one.uri in who.unknown
    ]


def _shown(
    config: RunConfig,
    songs: Sequence[Song],
    heard: Sequence[ModelVersion],
    unknown: Sequence[ModelVersion],
    *,
    dataset: str,
) -> list[Any]:
    rows = [[version.uri, version.alias or "–", "heard it: retrain"] for version in heard]
    rows += [[version.uri, version.alias or "–", "its dataset is gone: nobody knows"] for version in unknown]
    title = f"Versions that heard {songs[0].track_id!r}"
    none = Text(f"No registered version of {config.registry.name} heard {songs[0].track_id!r}.")
    return [
        table(title, ["version", "alias", ""], rows) if rows else none,
        Text(f"dataset without it  {dataset}\ndecisions by hand   {config.curate.overrides}", overflow="fold"),
        Text(f"retrain             stemline run curate.overrides={config.curate.overrides} and your other settings"),
    ]
