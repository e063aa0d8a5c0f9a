"""`stemline inspect`: how every file of a corpus folder would be read, before anything is decoded."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from datasets.corpus.layouts.found_song import ADVICE, FoundSong, as_text
from datasets.corpus.licenses import one_line
from datasets.corpus.scan import SongSurvey, survey
from datasets.corpus.splits import DrawnShare, nothing_to_train_on
from datasets.corpus.stem_names import STATUSES, FileNote
from datasets.errors import InputError
from datasets.schema import REASONS, SPLITS, by_reason
from datasets.shards.dataset_versions import drawn_sides
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from pipelines.runtime.progress import stage

MAX_ROWS = 40
MAX_KINDS = 5


@dataclass(slots=True, kw_only=True)
class _Name:
    """One name of files, counted over all songs."""

    name: str
    status: str
    source: str
    kind: str
    example: str
    files: int = 0
    songs: set[str] = field(default_factory=set)
    details: list[str] = field(default_factory=list)  # what is wrong, as its first file has it


def inspect(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Show how every file of a folder would be read: which source, which split, what is refused. Decodes nothing.

    Example: `stemline inspect corpus.root=SONGS`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, screen=screen))


def run(config: RunConfig, *, screen: Screen) -> dict[str, Any]:
    """The songs, the names and what they were read as; the exit code is 2 if no song can be used."""
    corpus = config.corpus
    if not corpus.root:
        raise InputError("corpus.root is not set; corpus.root=DIR names the folder with the songs")
    with stage(screen, "inspect", 0, "songs") as progress:
        surveyed = survey(
            corpus.root,
            sources=corpus.sources,
            split_seed=corpus.split_seed,
            valid_fraction=corpus.valid_fraction,
            test_fraction=corpus.test_fraction,
            known=drawn_sides(config.store.root, corpus.split_rule),
            rules=corpus.rules,
        )
        refused = sum(bool(song.reason) for song in surveyed.songs)
        files = sum(len(song.notes) for song in surveyed.songs)
        usable = len(surveyed.songs) - refused
        funnel = f"{len(surveyed.songs)} found → {usable} usable by their names"
        progress.finish(f"{funnel}, {files} files; only names were read")
    names = _names(surveyed.songs)
    return {
        "root": corpus.root,
        "layouts": dict(Counter(song.layout for song in surveyed.songs)),
        "drawn_splits": list(surveyed.drawn_splits),
        "drawn_shares": {share.split: _share(share) for share in surveyed.shares},
        "nothing_to_train_on": nothing_to_train_on(list(surveyed.sides)),
        "stray": [as_text(name) for name in surveyed.stray],
        "csv_files": [
            {"name": file.name, "is_list": file.is_list, "detail": file.detail} for file in surveyed.csv_files
        ],
        "licenses": _licenses(surveyed, one_line(corpus.license)),
        "songs": [_song(song, surveyed) for song in surveyed.songs],
        "names": [_as_dict(name) for name in names],
        "console_output": [
            *_tables(surveyed, names, corpus.sources),
            *_license_line(surveyed, one_line(corpus.license)),
        ],
        "exit_code": 0 if refused < len(surveyed.songs) else 2,
    }


def _licenses(surveyed: SongSurvey, otherwise: str) -> dict[str, int]:
    """Usable songs by licence, the most frequent first."""
    usable = [song.name for song in surveyed.songs if not song.reason]
    return dict(Counter(surveyed.licenses.get(name, otherwise) for name in usable).most_common())


def _license_line(surveyed: SongSurvey, otherwise: str) -> list[Text]:
    counts = _licenses(surveyed, otherwise)
    listed = ", ".join(f"{license} {count}" for license, count in list(counts.items())[:MAX_KINDS])
    more = f" and {len(counts) - MAX_KINDS} more" if len(counts) > MAX_KINDS else ""
    return [Text(""), Text(f"Licences, by song: {listed}{more}.", overflow="fold")] if counts else []


def _share(share: DrawnShare) -> dict[str, float]:
    return {"asked": share.fraction, "drawn": round(share.num_songs / share.pool, 4)}


def _names(songs: Sequence[FoundSong]) -> list[_Name]:
    """Distinct names, the most frequent first."""
    names: dict[tuple[str, str, str, str], _Name] = {}
    for song in songs:
        for note in song.notes:
            key = (note.words.lower(), note.status, note.source, note.kind)
            if key not in names:
                spelling, status, source, kind = key
                names[key] = _Name(
                    name=as_text(spelling), status=status, source=source, kind=kind, example=_example(song, note)
                )
                names[key].details += [as_text(note.detail)] if note.detail else []
            names[key].files += 1
            names[key].songs.add(song.name)
    return sorted(names.values(), key=lambda name: (-name.files, name.name))


def _example(song: FoundSong, note: FileNote) -> str:
    """The path of the file; in layouts of songs across folders the note has the whole path already."""
    return as_text(note.path if song.layout in ("csv", "stem-folders") else f"{song.name}/{note.path}")


def _song(song: FoundSong, surveyed: SongSurvey) -> dict[str, Any]:
    files = [
        {
            "path": as_text(note.path), "status": note.status, "source": note.source, "kind": note.kind,
            "side": note.side, "version_of": as_text(note.version_of),
        }
        for note in song.notes
    ]  # fmt: skip
    split, group = surveyed.sides[song.name]
    return {
        "track_id": song.name, "title": song.title, "layout": song.layout, "split": split, "group": group,
        "reason": song.reason, "detail": song.detail, "files": files,
    }  # fmt: skip


def _as_dict(name: _Name) -> dict[str, Any]:
    return {
        "name": name.name, "status": name.status, "source": name.source, "kind": name.kind, "files": name.files,
        "songs": len(name.songs), "example": name.example,
    }  # fmt: skip


# --- tables -------------------------------------------------------------------------------------------------


def _tables(surveyed: SongSurvey, names: Sequence[_Name], sources: Sequence[str]) -> list[Any]:
    used = [name for name in names if name.status == "used"]
    left_out = [name for name in names if name.status in ("unused", "ignored", "sum")]
    draw = [Text(f"{share.words}.") for share in surveyed.shares if not share.is_far_off]
    tables = [_splits_table(surveyed), *draw, _sources_table(surveyed.songs, sources)]
    if any(song.layout not in ("musdb18", "musdb18-hq", "folders") for song in surveyed.songs):
        tables.append(_names_table("Names, and the source they were read as", used, sources))
    if left_out:
        rows = [[name.name, STATUSES[name.status], _kind(name), str(name.files), name.example] for name in left_out]
        tables.append(_capped("Left out", ["name", "because", "kind", "files", "example"], rows))
    versions = [(song, note) for song in surveyed.songs for note in song.notes if note.version_of]
    if versions:
        rows = [[_example(song, note), as_text(note.version_of)] for song, note in versions]
        title = "Versions by their names: used once if ingest finds equal audio in both, else refused"
        tables.append(_capped(title, ["example", "may be a version of"], rows))
    for status in ("unknown", "ambiguous", "coarse"):
        doubtful = [name for name in names if name.status == status]
        if doubtful:
            tables += _doubts(status, doubtful)
    tables += [Text(f"{remark}.", style="yellow") for remark in surveyed.remarks]
    refused = [song for song in surveyed.songs if song.reason]
    if refused:
        tables.append(_refused_table(refused))
    return [part for grid in tables for part in (Text(""), grid)][1:]


def _splits_table(surveyed: SongSurvey) -> Any:
    rows = []
    for label, keep in (("usable", True), ("refused", False)):
        sides = Counter(surveyed.sides[song.name][0] for song in surveyed.songs if bool(song.reason) != keep)
        rows.append([label, *(str(sides[split]) for split in SPLITS), str(sum(sides.values()))])
    layouts = Counter(song.layout for song in surveyed.songs)
    title = f"Songs ({', '.join(f'{count} {layout}' for layout, count in layouts.most_common())})"
    drawn = [f"{split}, drawn" if split in surveyed.drawn_splits else split for split in SPLITS]
    return table(title, ["", *drawn, "all"], rows)


def _sources_table(songs: Sequence[FoundSong], sources: Sequence[str]) -> Any:
    files: Counter[str] = Counter()
    sides: Counter[tuple[str, str]] = Counter()
    holding: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for song in songs:
        for note in song.notes:
            if note.status == "used":
                files[note.source] += 1
                holding[note.source].add(song.name)
                kinds[note.source][note.kind] += 1
                if note.side:
                    sides[note.source, note.side] += 1
    rows = []
    for source in sources:
        several = [f"{kind.replace('_', ' ')} {count}" for kind, count in kinds[source].most_common(MAX_KINDS)]
        more = "…" if len(kinds[source]) > MAX_KINDS else ""
        pairs = f"{sides[source, 'left']} + {sides[source, 'right']}" if sides[source, "left"] else "–"
        rows.append([source, str(len(holding[source])), str(files[source]), pairs, ", ".join(several) + more])
    return _text_table("Sources, refused songs included", ["source", "songs", "files", "left + right", "kinds"], rows)


def _names_table(title: str, names: Sequence[_Name], sources: Sequence[str]) -> Any:
    ordered = sorted(names, key=lambda name: (list(sources).index(name.source), -name.files, name.name))
    rows = [[name.name, name.source, _kind(name), str(name.files), name.example] for name in ordered]
    return _capped(title, ["name", "source", "kind", "files", "example"], rows)


def _doubts(status: str, names: Sequence[_Name]) -> list[Any]:
    title = {"unknown": "Unknown names", "ambiguous": "Ambiguous names", "coarse": "Files that hold several sources"}
    rows = [
        [name.name, str(name.files), str(len(name.songs)), name.example, "" if status == "unknown" else name.details[0]]
        for name in names
    ]
    columns = ["name", "files", "songs", "example", "" if status == "unknown" else "why"]
    return [_capped(title[status], columns, rows), Text(f"Remedy: {ADVICE[status]}.", style="yellow")]


def _refused_table(songs: Sequence[FoundSong]) -> Any:
    rows = []
    for reason, count, first in by_reason(songs):
        detail = first.detail.removesuffix(f"; {ADVICE['unknown']}")  # said above
        rows.append([REASONS[reason], str(count), f"{first.title}: {detail}"])
    return _text_table("Songs refused", ["because", "songs", "for example"], rows)


def _kind(name: _Name) -> str:
    return name.kind.replace("_", " ")


def _capped(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    more = f" (the first {MAX_ROWS} of {len(rows)}; --json has all)" if len(rows) > MAX_ROWS else ""
    return _text_table(title + more, columns, rows[:MAX_ROWS])


def _text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table of text, aligned left; only counts are aligned right."""
    grid = table(title, columns, rows)
    for column in grid.columns:
        if column.header not in ("files", "songs", "left + right"):
            column.justify, column.overflow = "left", "fold"
    return grid
