"""`stemline lineage`: the songs, settings and code of a version, or the versions that learned from a song."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.schema import SPLITS
from datasets.shards import dataset_versions
from datasets.shards.manifests import Song
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.cli.store import forget
from flows.config import RunConfig
from flows.console.progress_display import table
from pipelines import registry
from pipelines.lineage.training_recordings import Ancestors, Ancestry, find_dataset
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

    Example: `stemline lineage models:/stemline@champion store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, what))


def run(config: RunConfig, what: str) -> dict[str, Any]:
    """The lineage of a version, where `what` is models:/NAME/N or models:/NAME@alias; else of a song by name."""
    return of_version(config, what) if what.startswith("models:") else of_song(config, what)


def of_version(config: RunConfig, ref: str) -> dict[str, Any]:
    """Songs, settings, code and decisions of a version, and all it learned from, back to its first weights."""
    lineage = registry.lineage(ref, store=config.store.root)
    songs = _songs(config, lineage.version)
    ancestry = Ancestors(config.store.root, config.store.tables).of_version(lineage.version.uri)
    return {
        **asdict(lineage),
        "songs": None if songs is None else [{"track_id": song.track_id, "split": song.split} for song in songs],
        "ancestors": list(ancestry.versions[1:]),
        "taught_by": list(ancestry.taught_by),
        "heard": [asdict(recording) for recording in ancestry.heard],
        "not_known": list(ancestry.gaps),
        "console_output": _console_output(lineage, songs, ancestry),
    }


def of_song(config: RunConfig, name: str) -> dict[str, Any]:
    """Every registered version that learned from a recording, named by the id or title of one of its songs."""
    matches = forget.find_songs(config, name)
    learned = forget.versions_trained_with(config, set().union(*matches.values()))
    alias = {version.uri: version.alias or "–" for version in learned.versions}
    known_as = {
        uri: sorted({f"{recording.track_id} ({recording.split})" for recording in recordings})
        for uri, recordings in learned.recordings.items()
    }
    rows = [[uri, alias[uri], ", ".join(names)] for uri, names in known_as.items()]
    rows += [[uri, alias[uri], f"not known: {'; '.join(gaps)}"] for uri, gaps in learned.unknown.items()]
    titles = sorted(matches)
    listed = ", ".join(titles[:MAX_ROWS])
    models = sorted({version.name for version in learned.versions} or {config.registry.name})
    nothing = Text(f"No registered version of {' or '.join(models)} learned from {listed}.")
    output = [table(f"Versions that learned from {listed}", ["version", "alias", "as"], rows) if rows else nothing]
    if by_digest := [uri for uri in learned.by_digest if uri not in learned.recordings]:
        output.append(Text(f"In {', '.join(by_digest)}, equal audio was looked for, but no copies.", overflow="fold"))
    return {
        "tracks": titles,
        "heard": known_as,
        "unknown": list(learned.unknown),
        "not_known": {uri: list(gaps) for uri, gaps in learned.unknown.items()},
        "by_digest_only": list(learned.by_digest),
        "console_output": output,
    }


def differences(config: RunConfig, first: str, second: str) -> dict[str, Any]:
    """Settings and songs in which two registered versions differ; None for both if one of the two is not registered."""
    if not all(ref.startswith("models:") for ref in (first, second)):
        hint = Text("Settings and songs are compared between registered versions, models:/NAME/N.", style="dim")
        return {"settings": None, "dataset": None, "console_output": [hint]}
    a, b = (registry.lineage(ref, store=config.store.root) for ref in (first, second))
    names = sorted(a.settings.keys() | b.settings.keys())
    settings = {name: (a.settings.get(name), b.settings.get(name)) for name in names}
    changed = {name: pair for name, pair in settings.items() if pair[0] != pair[1]}
    code = [
        ("commit", a.tags.get("commit"), b.tags.get("commit")),
        ("train_version", _train_version(a.tags), _train_version(b.tags)),
    ]
    changed |= {name: (of_a, of_b) for name, of_a, of_b in code if of_a != of_b}
    songs_a, songs_b = _songs(config, a.version), _songs(config, b.version)
    # Of the first against the second, as with the gains.
    dataset = None if songs_a is None or songs_b is None else dataset_versions.difference(songs_b, songs_a)
    return {
        "settings": changed,
        "dataset": None if dataset is None else asdict(dataset),
        "console_output": [_settings_table(changed), *_dataset_lines(dataset)],
    }


def ancestries(config: RunConfig, *refs: str) -> list[Ancestry]:
    """What each of these models has learned from."""
    ancestors = Ancestors(config.store.root, config.store.tables)
    return [ancestors.of_ref(ref, store=config.store.root) for ref in refs]


def _train_version(tags: Mapping[str, str]) -> str | None:
    """The versions of the steps that made the weights; of older versions the digest of the code."""
    code_digest = tags.get("code_digest")
    return tags.get("train_version") or (f"code {code_digest}" if code_digest else None)


def _songs(config: RunConfig, version: ModelVersion) -> tuple[Song, ...] | None:
    """The songs of the dataset that a version learned from; None where it is gone, or was never noted."""
    manifest = find_dataset(version.dataset_uri, tables=config.store.tables)
    return None if manifest is None else manifest.songs


def _console_output(lineage: Lineage, songs: Sequence[Song] | None, ancestry: Ancestry) -> list[Any]:
    version = lineage.version
    counts = Counter(song.split for song in songs or ())
    tags = {**lineage.tags, "train_version": _train_version(lineage.tags) or "–"}
    rows = [[name, tags.get(tag, "–")] for tag, name in _ORIGINS.items()]
    per_split = "gone" if songs is None else ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    rows += [["songs", per_split], ["settings", f"{len(lineage.settings)}, config.toml of run {version.run_id}"]]
    rows += [["began from", uri] for uri in ancestry.versions[1:]]
    rows += [["taught by", uri] for uri in ancestry.taught_by]
    rows += [["not known", gap] for gap in ancestry.gaps]
    rows += [["export", value] for tag, value in sorted(lineage.tags.items()) if tag.startswith("export.")]
    rows += [[entry.kind, f"{_minute(entry.at)}  {entry.reason}"] for entry in lineage.promotions]
    rows += [["scored", f"{_minute(evaluation.at)}  {evaluation.protocol}"] for evaluation in lineage.evaluations]
    for decision in lineage.decisions:
        answer = f"{'yes' if decision.promote else 'no'}: {decision.reason}"
        rows.append(["decision", f"{_minute(decision.at)}  {answer}".strip()])
    lines = [Text(f"{name:<10} {value}", overflow="fold") for name, value in rows]
    title = f"{version.uri}{f', {version.alias}' if version.alias else ''}"
    return [Text(title, style="bold"), *lines]


def _minute(at: str) -> str:
    """A time in ISO 8601 as people read it."""
    return at[:16].replace("T", " ")


def _settings_table(changed: Mapping[str, tuple[Any, Any]]) -> Any:
    if not changed:
        return Text("Equal settings and code.")
    rows = [[name, *("–" if value is None else str(value)[:40] for value in pair)] for name, pair in changed.items()]
    more = f" (the first {MAX_ROWS} of {len(rows)})" if len(rows) > MAX_ROWS else ""
    return table(f"Settings that differ{more}", ["setting", "first", "second"], rows[:MAX_ROWS])


def _dataset_lines(diff: dataset_versions.VersionDiff | None) -> list[Any]:
    if diff is None:
        return [Text("The dataset of one of the two is gone, or was never noted.")]
    counts = [
        f"{len(diff.added)} that the second lacks", f"{len(diff.removed)} that only the second has",
        f"{len(diff.changed_audio)} with other audio", f"{len(diff.changed_split)} in another split",
        f"{diff.unchanged} equal",
    ]  # fmt: skip
    return [Text(f"Songs of the first: {', '.join(counts)}.", overflow="fold")]
