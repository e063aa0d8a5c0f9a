"""`stemline lineage`: from a version to its songs, settings and code, and from a song to the versions that heard it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.schema import SPLITS
from datasets.shards import versions
from datasets.shards.manifests import Song
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.cli.store import forget
from flows.config import RunConfig
from flows.console.progress_display import table
from pipelines import registry
from pipelines.lineage.ancestry import Ancestors, Ancestry, find_dataset
from pipelines.registry import Lineage, ModelVersion

MAX_ROWS = 20
# Of a version's tags, in the order shown; `stemline lineage --json` has all.
_ORIGINS = {
    "commit": "commit", "train_version": "version", "corpus_digest": "corpus", "dataset_digest": "dataset",
    "dataset_uri": "manifest", "weights_digest": "weights", "scores_digest": "scores", "protocol": "protocol",
}  # fmt: skip


def lineage(
    what: Annotated[str, Parameter(help="models:/NAME/VERSION or models:/NAME@alias; or a song, by id or title.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Show what a version was made from (songs, settings, code), or which versions learned from a song.

    Example: `stemline lineage models:/stemline@champion store.root=store`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, what))


def run(config: RunConfig, what: str) -> dict[str, Any]:
    """The lineage of a version, where `what` is models:/NAME/N or models:/NAME@alias; else of a song by name."""
    return of_version(config, what) if what.startswith("models:") else of_song(config, what)


def of_version(config: RunConfig, ref: str) -> dict[str, Any]:
    """Songs, settings, code and decisions behind a version, and what it has heard back to its first weights."""
    found = registry.lineage(ref, store=config.store.root)
    songs = _songs(config, found.version)
    ancestry = Ancestors(config.store.root, config.store.tables).of_version(found.version.uri)
    return {
        **asdict(found),
        "songs": None if songs is None else [{"track_id": song.track_id, "split": song.split} for song in songs],
        "ancestors": list(ancestry.versions[1:]),
        "heard": [asdict(recording) for recording in ancestry.heard],
        "not_known": list(ancestry.gaps),
        "shown": _shown(found, songs, ancestry),
    }


def of_song(config: RunConfig, name: str) -> dict[str, Any]:
    """Every registered version that learnt from a recording, named by the id or title of one of its songs."""
    found = forget.songs_called(config, name)
    who = forget.hearers(config, set().union(*found.values()))
    alias = {version.uri: version.alias or "–" for version in who.versions}
    known_as = {uri: sorted({f"{one.track_id} ({one.split})" for one in met}) for uri, met in who.heard.items()}
    rows = [[uri, alias[uri], ", ".join(names)] for uri, names in known_as.items()]
    rows += [[uri, alias[uri], f"not known: {'; '.join(gaps)}"] for uri, gaps in who.unknown.items()]
    titles = sorted(found)
    named = ", ".join(titles[:MAX_ROWS])
    models = sorted({version.name for version in who.versions} or {config.registry.name})
    none = Text(f"No registered version of {' or '.join(models)} heard {named}.")
    shown = [table(f"Versions that heard {named}", ["version", "alias", "heard"], rows) if rows else none]
    if deaf := [uri for uri in who.by_digest if uri not in who.heard]:
        shown.append(Text(f"Of {', '.join(deaf)} only equal audio could be looked for, no copies.", overflow="fold"))
    return {
        "tracks": titles,
        "heard": known_as,
        "unknown": list(who.unknown),
        "not_known": {uri: list(gaps) for uri, gaps in who.unknown.items()},
        "by_digest_only": list(who.by_digest),
        "shown": shown,
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
    code = [
        ("commit", one.tags.get("commit"), two.tags.get("commit")),
        ("train_version", _train_version(one.tags), _train_version(two.tags)),
    ]
    changed |= {name: (before, now) for name, before, now in code if before != now}
    songs = [_songs(config, lineage.version) for lineage in (one, two)]
    # What the first has otherwise than the second, as with the gains.
    dataset = None if songs[0] is None or songs[1] is None else versions.difference(songs[1], songs[0])
    return {
        "settings": changed,
        "dataset": None if dataset is None else asdict(dataset),
        "shown": [_changed(changed), *_of_datasets(dataset)],
    }


def ancestries(config: RunConfig, *refs: str) -> list[Ancestry]:
    """What each of these models has heard."""
    ancestors = Ancestors(config.store.root, config.store.tables)
    return [ancestors.of_ref(ref, store=config.store.root) for ref in refs]


def _train_version(tags: Mapping[str, str]) -> str | None:
    """The versions of the steps that a training's weights came from; before there were any, a digest of the code."""
    before = tags.get("code_digest")
    return tags.get("train_version") or (f"code {before}" if before else None)


def _songs(config: RunConfig, version: ModelVersion) -> tuple[Song, ...] | None:
    """The songs of the dataset that a version learnt from; None where it is gone, or was never told."""
    manifest = find_dataset(version.dataset_uri, tables=config.store.tables)
    return None if manifest is None else manifest.songs


def _shown(found: Lineage, songs: Sequence[Song] | None, ancestry: Ancestry) -> list[Any]:
    version = found.version
    sides = Counter(song.split for song in songs or ())
    tags = {**found.tags, "train_version": _train_version(found.tags) or "–"}
    rows = [[name, tags.get(tag, "–")] for tag, name in _ORIGINS.items()]
    counted = "gone" if songs is None else ", ".join(f"{sides[split]} {split}" for split in SPLITS)
    rows += [["songs", counted], ["settings", f"{len(found.settings)}, config.toml of run {version.run_id}"]]
    rows += [["began from", uri] for uri in ancestry.versions[1:]]
    rows += [["not known", gap] for gap in ancestry.gaps]
    rows += [["export", told] for tag, told in sorted(found.tags.items()) if tag.startswith("export.")]
    rows += [[entry.kind, f"{entry.at[:16].replace('T', ' ')}  {entry.reason}"] for entry in found.promotions]
    rows += [["scored", f"{one.at[:16].replace('T', ' ')}  {one.protocol}"] for one in found.evaluations]
    for note in found.decisions:
        said = f"{'yes' if note.promote else 'no'}: {note.reason}"
        rows.append(["decision", f"{note.at[:16].replace('T', ' ')}  {said}".strip()])
    lines = [Text(f"{name:<10} {value}", overflow="fold") for name, value in rows]
    title = f"{version.uri}{f', {version.alias}' if version.alias else ''}"
    return [Text(title, style="bold"), *lines]


def _changed(changed: Mapping[str, tuple[Any, Any]]) -> Any:
    if not changed:
        return Text("Equal settings and code.")
    rows = [[name, *("–" if value is None else str(value)[:40] for value in pair)] for name, pair in changed.items()]
    more = f" (the first {MAX_ROWS} of {len(rows)})" if len(rows) > MAX_ROWS else ""
    return table(f"Settings that differ{more}", ["setting", "first", "second"], rows[:MAX_ROWS])


def _of_datasets(found: versions.VersionDiff | None) -> list[Any]:
    if found is None:
        return [Text("The dataset of one of the two is gone, or was never told.")]
    counts = [
        f"{len(found.added)} that the second lacks", f"{len(found.removed)} that only the second has",
        f"{len(found.changed_audio)} with other audio", f"{len(found.changed_split)} in another split",
        f"{found.unchanged} equal",
    ]  # fmt: skip
    return [Text(f"Songs of the first: {', '.join(counts)}.", overflow="fold")]
