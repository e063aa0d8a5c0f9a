"""Takes the audio of forgotten songs out of a store: shards are rewritten without it, manifests follow, old files go.

First every shard that holds some of it is written anew without it, then every manifest that refers to such a shard is
replaced, and only then the old shards are removed: killed anywhere, every dataset is readable, and the same command
goes on. A dataset keeps the id, the side, the licence and the digest of a song that was erased from it, so that who
learnt from it stays known. Mixes that a forgotten song is part of go as well.
"""

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets.corpus.removed_songs import REASON
from datasets.schema import SPLITS, Verdict
from datasets.shards.manifests import Shard, Song, stored_songs
from datasets.shards.shards import find_shard, open_parquet, write_shard
from datasets.store import storage
from datasets.store.atomic_json import read_json
from datasets.store.write_lock import clear_leftovers, write_lock
from pipelines.lineage import training_recordings
from pipelines.runtime.step_keys import digest

_APART_S = 1.1  # between objects of S3, which are dated to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A shard that holds audio of forgotten songs, or of mixes with them, and what of it stays."""

    spec: str
    sidecar: Mapping[str, Any]
    gone: tuple[str, ...]  # track ids
    stays: tuple[Song, ...]

    @property
    def file(self) -> str:
        return f"chunks/{self.spec}.parquet"

    @property
    def successor(self) -> str:
        """The name of the shard without them: of what stays, so that one name never stands for two files."""
        base = self.spec.partition("-without-")[0]
        return f"{base}-without-{digest(self.spec, sorted(self.gone))[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was done."""

    shards: tuple[str, ...] = ()  # that held some of it, and are gone
    manifests: tuple[str, ...] = ()  # that were replaced
    rows: int = 0  # files of a loader's cache that were removed
    songs: tuple[str, ...] = ()  # ids of songs and mixes that were taken out


def holdings(tables: str, audio: Collection[str]) -> list[Holding]:
    """Every shard of a store, referred to or not, that holds audio with one of these digests, alone or in a mix."""
    mixed = _mixes_of(tables, audio)
    holding_shards = []
    for name in storage.names(storage.join(tables, "chunks")):
        sidecar = read_json(storage.join(tables, "chunks", name)) if name.endswith(".json") else None
        if sidecar is None or "shard" not in sidecar:
            continue
        songs = stored_songs(tables, Shard(**sidecar["shard"]))
        gone = tuple(
            song.track_id for song in songs if song.audio in audio or (_is_mix(sidecar) and song.track_id in mixed)
        )
        if gone:
            stays = tuple(song for song in songs if song.track_id not in gone)
            holding_shards.append(Holding(spec=name.removesuffix(".json"), sidecar=sidecar, gone=gone, stays=stays))
    return holding_shards


def run(tables: str, audio: Collection[str], *, row_cache: str = "") -> Erased:
    """Take the audio with these digests out of the store `tables`, and out of the cache of a loader."""
    tables = storage.absolute(tables)
    with write_lock(tables):
        clear_leftovers(tables)
        _clear_unfinished(tables)
        affected = holdings(tables, audio)
        for holding in affected:
            _rewrite(tables, holding)
        replaced = _repoint(tables, affected)
        # Before the shards, which alone say what the mixes were that the songs are in.
        rows = _clear_rows(row_cache, {*audio, *_audio_of(affected)})
        for holding in affected:
            storage.remove(storage.join(tables, holding.file))
            storage.remove(storage.join(tables, f"chunks/{holding.spec}.json"))
    return Erased(
        shards=tuple(holding.file for holding in affected),
        manifests=tuple(replaced),
        rows=rows,
        songs=tuple(sorted({name for holding in affected for name in holding.gone})),
    )


def _mixes_of(tables: str, audio: Collection[str]) -> set[str]:
    """Ids of all mixes that a song with this audio is part of, as far as any plan of the store tells."""
    all_manifests = list(training_recordings.manifests(tables))
    songs: set[str] = set()
    for manifest in all_manifests:
        if manifest.step != "automix":
            songs |= {song.track_id for song in manifest.songs if song.audio in audio}
        songs |= {song["track_id"] for song in training_recordings.erased_songs(manifest) if song["audio"] in audio}
        songs |= {part["track_id"] for part in manifest.extra.get("ingredients", ()) if part["audio"] in audio}
    mixes: set[str] = set()
    for manifest in all_manifests:
        if manifest.table == "plans":
            mixes |= {
                plan["mix_id"]
                for plan in training_recordings.plans_of(manifest)
                if songs & {part["track_id"] for part in plan["parts"]}
            }
    return mixes


def _is_mix(sidecar: Mapping[str, Any]) -> bool:
    return "keys" not in sidecar["extra"]  # what ingest writes has them


def _audio_of(affected: Iterable[Holding]) -> set[str]:
    return {
        song["audio"] for holding in affected for song in holding.sidecar["songs"] if song["track_id"] in holding.gone
    }


def _clear_unfinished(tables: str) -> None:
    """Shards that a kill left without the sidecar that would finish them: nobody reads them, and they hold audio."""
    if storage.is_remote(tables):
        return  # other jobs may be writing there
    names = set(storage.names(storage.join(tables, "chunks")))
    for name in names:
        if name.endswith(".parquet") and name.removesuffix(".parquet") + ".json" not in names:
            storage.remove(storage.join(tables, "chunks", name))


def _rewrite(tables: str, holding: Holding) -> None:
    """The shard without what goes; found again where an earlier, killed command had written it."""
    if find_shard(tables, holding.successor) is not None:
        return
    extra = dict(holding.sidecar["extra"])
    if "keys" in extra:  # so that ingest knows them and decodes them never again
        by_id = {song["track_id"]: song for song in holding.sidecar["songs"]}
        extra["rejected"] = [*extra["rejected"], *(_refused(by_id[name]) for name in holding.gone)]
    sources = tuple(holding.sidecar["sources"])
    write_shard(tables, holding.successor, _rows(tables, holding), sources=sources, extra=lambda: extra)


def _rows(tables: str, holding: Holding) -> Iterator[Mapping[str, Any]]:
    with open_parquet(storage.join(tables, holding.file)) as file:
        for song in sorted(holding.stays, key=lambda song: song.first_row):
            for group in range(song.first_row, song.first_row + song.num_chunks):
                yield file.read_row_group(group).to_pylist()[0]


def _refused(song: Mapping[str, Any]) -> dict[str, Any]:
    split = song["split"] if song["split"] in SPLITS else "train"
    return asdict(
        Verdict.refused(
            song["track_id"], title=song["title"], split=split, reason=REASON, detail="its audio was erased"
        )
    )


def _repoint(tables: str, affected: Sequence[Holding]) -> list[str]:
    """Replace every manifest that refers to one of these shards; their addresses."""
    by_file = {holding.file: holding for holding in affected}
    shards: dict[str, dict[str, Any]] = {}
    places: dict[str, dict[str, Song]] = {}
    for holding in affected:
        if (new := find_shard(tables, holding.successor)) is not None:
            shards[holding.file] = asdict(new[0])
            places[holding.file] = {song.track_id: song for song in stored_songs(tables, new[0])}
    replaced: list[str] = []
    for address in _oldest_first(tables):
        content = read_json(address)
        if content is not None and any(shard["file"] in by_file for shard in content["shards"]):
            _replace(address, _without(content, by_file, shards, places))
            replaced.append(address)
        elif replaced and storage.is_remote(tables):
            storage.write(address, storage.read(address))  # or those before it would be newer than it
        if replaced and storage.is_remote(tables):
            time.sleep(_APART_S)
    return replaced


def _oldest_first(tables: str) -> list[str]:
    folder = storage.join(tables, "manifests")
    names = [name for name in storage.names(folder) if name.endswith(".json") and not name.startswith(".")]
    return sorted((storage.join(folder, name) for name in names), key=lambda address: (changed_ns(address), address))


def changed_ns(address: str) -> int:
    """When a file last changed, since the epoch; 0 where there is none."""
    stamp = storage.stamp(address)
    return stamp.changed_ns if stamp else 0


def _replace(address: str, content: Mapping[str, Any]) -> None:
    """Write a manifest anew, as old as it was: a dataset is as old as its manifest, and the newest one counts."""
    before = storage.stamp(address)
    with storage.replacing(address) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=True, sort_keys=True) + "\n").encode())
        file.flush()
        if before is not None and not storage.is_remote(address):
            os.utime(file.fileno(), ns=(before.changed_ns, before.changed_ns))


def _without(
    content: Mapping[str, Any],
    by_file: Mapping[str, Holding],
    shards: Mapping[str, dict[str, Any]],
    places: Mapping[str, Mapping[str, Song]],
) -> dict[str, Any]:
    """A manifest that refers to the new shards, and names what was erased."""
    songs, erased = [], list(content["extra"].get("erased", ()))
    for song in content["songs"]:
        holding = by_file.get(song["path"])
        if holding is None:
            songs.append(song)
        elif song["track_id"] in holding.gone:
            erased.append({name: song[name] for name in ("track_id", "title", "split", "audio", "license")})
        else:
            place = places[song["path"]][song["track_id"]]
            songs.append({**song, "path": shards[song["path"]]["file"], "first_row": place.first_row})
    kept = [shards.get(shard["file"], shard) for shard in content["shards"]]
    used = {song["path"] for song in songs}
    return {
        **content,
        "songs": songs,
        "shards": [shard for shard in kept if shard["file"] in used],
        "extra": {**content["extra"], "erased": erased},
    }


def _clear_rows(row_cache: str, audio: Collection[str]) -> int:
    """Remove the rows of these songs from a loader's cache, where each is called after the digest of its audio."""
    folder = Path(row_cache).expanduser() if row_cache else None
    if folder is None or not folder.is_dir():
        return 0
    gone = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.partition("-")[0] in audio]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
