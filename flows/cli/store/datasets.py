"""`stemline datasets`: which datasets a store holds, how two of them differ, and which hold a song."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.text import Text

from datasets.shards import dataset_versions
from datasets.shards.dataset_versions import Version, VersionDiff
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.console.progress_display import table

MAX_ROWS = 20
_CHANGES = {"changed_audio": "other audio", "changed_split": "other split", "changed_license": "other license"}
_FIELDS = {"added": "added", "removed": "removed", **_CHANGES}


datasets = App(name="datasets", help="List a store's datasets, how two differ, and which hold a song.")


@datasets.default
def list_datasets(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List the datasets of a store: songs, hours, splits, size, and which settings changed.

    Example: `stemline datasets store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: list_all(config.store.tables))


@datasets.command
def diff(
    first: Annotated[str, Parameter(help="The beginning of a dataset's id, as `stemline datasets` lists it.")],
    second: Annotated[str, Parameter(help="The same for the dataset that it is compared with.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Show which songs the second dataset adds, drops or changes; ids as `stemline datasets` lists them.

    Example: `stemline datasets diff 3f2a9c 81bb04 store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: difference(config.store.tables, first, second))


@datasets.command
def find(
    song: Annotated[str, Parameter(help="Its id, its title or a part of one.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Show which datasets hold a song, by its id, its title or a part of one.

    Example: `stemline datasets find "Falcon 69" store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: find_song(config.store.tables, song))


def list_all(store: str) -> dict[str, Any]:
    """Every dataset of a store, the newest first."""
    listed = dataset_versions.list_versions(store)
    if not listed:
        command = f"stemline ingest corpus.root=SONGS store.root={store}"
        message = Text(f"No dataset in {store} yet; `{command}` makes one.", overflow="fold")
        return {"versions": [], "console_output": [message]}
    columns = ["id", "step", "made, UTC", "songs", "train/\nvalid/test", "left\nout", "hours", "size"]
    output: list[Any] = [table("Datasets", columns, [_row(version) for version in listed])]
    for version in listed:
        output += [Text(f"{version.id}  {line}", style="dim", overflow="fold") for line in _remarks(version)]
    return {"versions": [asdict(version) for version in listed], "console_output": output}


def difference(store: str, first: str, second: str) -> dict[str, Any]:
    """What the second dataset adds, drops and changes."""
    changes = dataset_versions.diff(store, first, second)
    rows = [[name, str(len(getattr(changes, field)))] for field, name in _FIELDS.items()]
    rows.append(["unchanged", str(changes.unchanged)])
    summary = table(f"From {first} to {second}", ["", "songs"], rows)
    return {**asdict(changes), "console_output": [summary, *_details(changes)]}


def find_song(store: str, song: str) -> dict[str, Any]:
    """The datasets that hold a song, and as what."""
    by_version = dataset_versions.find(store, song)
    rows = [
        [version, item.track_id, item.split, f"{item.num_samples / item.sample_rate:.1f}", item.audio[:8], item.license]
        for version, songs in by_version.items()
        for item in songs
    ]
    songs_table = table(f"Datasets with {song!r}", ["id", "track", "split", "s", "audio", "license"], rows[:MAX_ROWS])
    more = [Text(f"and {len(rows) - MAX_ROWS} more", style="dim")] if len(rows) > MAX_ROWS else []
    ids = {version: [asdict(item) for item in songs] for version, songs in by_version.items()}
    return {"found": ids, "console_output": [songs_table, *more]}


def _row(version: Version) -> list[str]:
    made_at = datetime.fromisoformat(version.made_at).strftime("%Y-%m-%d %H:%M")
    sides = "/".join(str(count) for count in version.splits.values())
    cells = [version.id, version.step, made_at, str(version.num_songs), sides, str(version.num_left_out)]
    return [*cells, f"{version.hours:.2f}", _size(version.num_bytes)]


def _remarks(version: Version) -> list[str]:
    made_from = [f"from {version.made_from}"] if version.made_from else []
    changes = version.changed_settings.items()
    return [*made_from, *(f"{name}: {_as_text(old)} → {_as_text(new)}" for name, (old, new) in changes)]


def _as_text(value: Any) -> str:
    return "unset" if value is None else str(value)


def _details(changes: VersionDiff) -> list[Text]:
    """The songs of each kind of difference, as many as fit on a screen."""
    lines = []
    for field, name in _FIELDS.items():
        content: Sequence[str] | Mapping[str, tuple[str, str]] = getattr(changes, field)
        pairs = content if isinstance(content, Mapping) else dict.fromkeys(content, ("", ""))
        for song, (old, new) in list(pairs.items())[:MAX_ROWS]:
            lines.append(Text(f"{name}: {song}" + (f" ({old} → {new})" if field in _CHANGES and old != new else "")))
        if len(pairs) > MAX_ROWS:
            lines.append(Text(f"{name}: and {len(pairs) - MAX_ROWS} more; --json has them all", style="dim"))
    return lines


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
