"""`stemline lineage`: from a version to its songs, settings and code, and from a song to the versions that heard it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from datasets import versions
from datasets.errors import InputError
from datasets.schema import SPLITS
from datasets.shards import Song, read_manifest
from flows.config import RunConfig
from flows.forgetting import heard_by
from flows.screen import table
from pipelines import registry
from pipelines.registry import Lineage, ModelVersion

MAX_ROWS = 20
# Of a version's tags, in the order shown; `stemline lineage --json` has all.
_ORIGINS = {
    "commit": "commit", "code_digest": "code", "corpus_digest": "corpus", "dataset_digest": "dataset",
    "dataset_uri": "manifest", "weights_digest": "weights", "scores_digest": "scores", "protocol": "protocol",
}  # fmt: skip


def run(config: RunConfig, what: str) -> dict[str, Any]:
    """The lineage of a version, where `what` is models:/NAME/N or models:/NAME@alias; else of a song by name."""
    return of_version(config, what) if what.startswith("models:") else of_song(config, what)


def of_version(config: RunConfig, ref: str) -> dict[str, Any]:
    """Songs, settings, code and decisions behind a version."""
    found = registry.lineage(ref, store=config.store.root)
    songs = _songs(found.version)
    return {
        **asdict(found),
        "songs": None if songs is None else [{"track_id": song.track_id, "split": song.split} for song in songs],
        "shown": _shown(found, songs),
    }


def of_song(config: RunConfig, name: str) -> dict[str, Any]:
    """Every registered version that learnt from a song, by its id, its title or a part of one."""
    found = {song.audio: song for songs in versions.find(config.store.tables, name).values() for song in songs}
    heard, unknown = heard_by(config, set(found))
    known_as = {version.uri: _known_as(version, set(found)) for version in heard}
    rows = [[version.uri, version.alias or "–", ", ".join(known_as[version.uri])] for version in heard]
    rows += [[version.uri, version.alias or "–", "its dataset is gone: nobody knows"] for version in unknown]
    titles = sorted({song.track_id for song in found.values()})
    none = Text(f"No registered version of {config.registry.name} heard {', '.join(titles[:MAX_ROWS])}.")
    shown = table(f"Versions that heard {', '.join(titles[:MAX_ROWS])}", ["version", "alias", "heard"], rows)
    return {
        "tracks": titles,
        "heard": known_as,
        "unknown": [version.uri for version in unknown],
        "shown": [shown if rows else none],
    }


def differences(config: RunConfig, first: str, second: str) -> dict[str, Any]:
    """Settings and songs in which two registered versions differ; None for each where one of the two is no version."""
    if not all(ref.startswith("models:") for ref in (first, second)):
        words = Text("Settings and songs are compared between registered versions, models:/NAME/N.", style="dim")
        return {"settings": None, "dataset": None, "shown": [words]}
    one, two = (registry.lineage(ref, store=config.store.root) for ref in (first, second))
    names = sorted(one.settings.keys() | two.settings.keys())
    settings = {name: (one.settings.get(name), two.settings.get(name)) for name in names}
    changed = {name: pair for name, pair in settings.items() if pair[0] != pair[1]}
    code = [(name, one.tags.get(name), two.tags.get(name)) for name in ("commit", "code_digest")]
    changed |= {name: (before, now) for name, before, now in code if before != now}
    songs = [_songs(lineage.version) for lineage in (one, two)]
    # What the first has otherwise than the second, as with the gains.
    dataset = None if songs[0] is None or songs[1] is None else versions.difference(songs[1], songs[0])
    return {
        "settings": changed,
        "dataset": None if dataset is None else asdict(dataset),
        "shown": [_changed(changed), *_of_datasets(dataset)],
    }


def datasets(config: RunConfig, *refs: str) -> list[str]:
    """The manifests of the datasets that the registered ones among these models learnt from."""
    registered = [ref for ref in refs if ref.startswith("models:")]
    return [registry.lineage(ref, store=config.store.root).version.dataset_uri for ref in registered]


def _songs(version: ModelVersion) -> tuple[Song, ...] | None:
    """The songs of the dataset that a version learnt from; None where it is gone, or was never told."""
    try:
        return read_manifest(version.dataset_uri).songs if version.dataset_uri else None
    except InputError:
        return None


def _known_as(version: ModelVersion, audio: Collection[str]) -> list[str]:
    """Ids and splits of songs with this audio in the dataset of a version."""
    return [f"{song.track_id} ({song.split})" for song in _songs(version) or () if song.audio in audio]


def _shown(found: Lineage, songs: Sequence[Song] | None) -> list[Any]:
    version = found.version
    sides = Counter(song.split for song in songs or ())
    rows = [[name, found.tags.get(tag, "–")] for tag, name in _ORIGINS.items()]
    counted = "gone" if songs is None else ", ".join(f"{sides[split]} {split}" for split in SPLITS)
    rows += [["songs", counted], ["settings", f"{len(found.settings)}, config.toml of run {version.run_id}"]]
    rows += [["export", told] for tag, told in sorted(found.tags.items()) if tag.startswith("export.")]
    rows += [[entry.kind, f"{entry.at[:16].replace('T', ' ')}  {entry.reason}"] for entry in found.promotions]
    if found.decision:
        rows.append(["decision", str(found.decision.get("reason", ""))])
    lines = [Text(f"{name:<10} {value}", overflow="fold") for name, value in rows]
    title = f"{version.uri}{f', {version.alias}' if version.alias else ''}"
    return [Text(title, style="bold"), *lines]


def _changed(changed: Mapping[str, tuple[Any, Any]]) -> Any:
    if not changed:
        return Text("Equal settings and code.")
    rows = [[name, *("–" if value is None else str(value)[:40] for value in pair)] for name, pair in changed.items()]
    more = f" (the first {MAX_ROWS} of {len(rows)})" if len(rows) > MAX_ROWS else ""
    return table(f"Settings that differ{more}", ["setting", "first", "second"], rows[:MAX_ROWS])


def _of_datasets(found: versions.Difference | None) -> list[Any]:
    if found is None:
        return [Text("The dataset of one of the two is gone, or was never told.")]
    counts = [
        f"{len(found.added)} that the second lacks", f"{len(found.removed)} that only the second has",
        f"{len(found.changed_audio)} with other audio", f"{len(found.changed_split)} in another split",
        f"{found.unchanged} equal",
    ]  # fmt: skip
    return [Text(f"Songs of the first: {', '.join(counts)}.", overflow="fold")]
