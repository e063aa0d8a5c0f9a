"""Which source each file of one song belongs to, from the names of all its files side by side.

Nothing is guessed: a name that says nothing, or two things, is noted as such with what would settle it, and
`layouts/found_song.py` makes a verdict of that. A file that may be a version of another one is noted beside it. Next to
read: `taxonomy.py`, which reads one name by itself, and `stem_file_versions.py`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from datasets.corpus.file_listing import without_suffix
from datasets.corpus.stem_file_versions import name_doubts, version_keys, without_conflict
from datasets.corpus.taxonomy import Reading, Taxonomy, tokens_of

STATUSES = {
    "used": "part of a stem",
    "unused": "belongs to no source asked for",
    "ignored": "no stem by its name",
    "sum": "the sum of other files",
    "muted": "muted, by its name",
    "lossy": "a lossy copy of a file beside it",
    "unknown": "a name that the taxonomy does not know",
    "ambiguous": "a name with several meanings",
    "coarse": "holds several sources in one",
}
_MIN_SHARED = 3  # files of a song that must share a beginning before it counts as the song's own name


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNote:
    """How one file was read."""

    path: str  # under the song's folder; for what is no file in one, a name
    status: str  # of `STATUSES`
    source: str = ""  # empty unless used
    kind: str = ""  # of the taxonomy
    words: str = ""  # the words of the name that decided; of an unknown name, those that did not
    side: str | None = None
    detail: str = ""  # what is wrong
    sum: bool = False
    whole: bool = False
    version_of: str = ""  # the path of a used file that this one may be another version of, by its name
    apart: str = ""  # kind of sound and words that tell it from files that belong beside it, as in `StemFile`


def read_song(paths: Sequence[str], *, taxonomy: Taxonomy, sources: Sequence[str]) -> list[FileNote]:
    """A note for each audio file of a song, in the order given; a name is read in the light of its folders' names.

    A file named exactly like a source asked for is that source. Words that all names share at their beginning or
    end are the song's and say nothing. Of a left and a right file of one name each knows its side.
    """
    stems = [without_conflict(_stem(path)) for path in paths]
    tokens = _own_tokens(stems, shared_counts=len(sources) > 1)
    own = [taxonomy.read(stem, own) for stem, own in zip(stems, tokens, strict=True)]
    readings = [
        _in_context(path, stem, reading, taxonomy, sources)
        for path, stem, reading in zip(paths, stems, own, strict=True)
    ]
    notes = [_note(path, reading, taxonomy, sources) for path, reading in zip(paths, readings, strict=True)]
    notes = [_without_muted(note, reading, taxonomy) for note, reading in zip(notes, own, strict=True)]
    notes = _leave_out_sums(notes, taxonomy)
    notes = _doubt_wholes(notes, taxonomy)
    notes = _doubt_versions(notes, taxonomy)
    return _with_sides(notes, readings)


def read_label(label: str, *, taxonomy: Taxonomy, sources: Sequence[str]) -> FileNote:
    """The note of a word that stands for a source by itself, such as a folder's name or a column's value."""
    exact = label.casefold()
    reading = Reading(kinds=(exact,), words=exact) if exact in sources else taxonomy.read(label)
    return _note(label, reading, taxonomy, sources)


# --- one file -----------------------------------------------------------------------------------------------


def _in_context(path: str, stem: str, own: Reading, taxonomy: Taxonomy, sources: Sequence[str]) -> Reading:
    """The reading of a file's name, or of the nearest folder's where the name says too little or only weak words."""
    exact = stem.casefold()
    if exact in sources:
        agrees = _belongs(own, taxonomy, sources) == {exact}
        return own if agrees and not own.ignored else Reading(kinds=(exact,), words=exact, side=own.side)
    for folder in reversed(path.split("/")[:-1]):
        above = (
            Reading(kinds=(folder.casefold(),), words=folder) if folder.casefold() in sources else taxonomy.read(folder)
        )
        if not above.kinds and not above.ignored:
            continue
        return _with_folder(own, above, taxonomy, sources)
    return own


def _with_folder(own: Reading, above: Reading, taxonomy: Taxonomy, sources: Sequence[str]) -> Reading:
    if own.ignored and not own.kinds:
        return own
    below = _belongs(own, taxonomy, sources)
    folder = _belongs(above, taxonomy, sources)
    says_little = not own.kinds or (own.weak and not above.weak) or (len(below) > 1 and folder < below)
    if says_little:
        return replace(
            above, side=own.side, trailing_side=own.trailing_side, ignored=above.ignored or own.ignored,
            sum=own.sum, whole=False, unexplained=own.unexplained,
        )  # fmt: skip
    if above.ignored or (below != folder and not above.weak):
        kinds = tuple(dict.fromkeys((*own.kinds, *above.kinds)))
        return replace(own, kinds=kinds, ignored=own.ignored or above.ignored, words=f"{above.words} / {own.words}")
    return own


def _belongs(reading: Reading, taxonomy: Taxonomy, sources: Sequence[str]) -> set[str | None]:
    return {taxonomy.source_of(kind, sources) for kind in reading.kinds}


def _note(path: str, reading: Reading, taxonomy: Taxonomy, sources: Sequence[str]) -> FileNote:
    note = FileNote(path=path, status="used", words=reading.words, sum=reading.sum, whole=reading.whole)
    belongs = _belongs(reading, taxonomy, sources)
    if reading.ignored and reading.kinds:
        return replace(note, status="ambiguous", detail=f"{_name(path)} may be a stem or a bounce of the song")
    if reading.ignored:
        return replace(note, status="ignored")
    if not reading.kinds:
        words = " ".join(reading.unexplained) or _stem(path).casefold()
        return replace(note, status="unknown", words=words, detail=f"{_name(path)} says nothing that is known")
    note = replace(note, kind=reading.kinds[0])
    if len(belongs) > 1:
        meanings = " or ".join(kind.replace("_", " ") for kind in sorted(reading.kinds))
        return replace(note, status="ambiguous", detail=f"{_name(path)} may be {meanings}")
    (source,) = belongs
    if source is None:
        below = [name for name in sources if taxonomy.holds(reading.kinds[0], name)]
        return replace(note, status="coarse", detail=f"{_name(path)} holds {', '.join(below)} in one")
    return replace(note, status="used" if source else "unused", source=source)


# --- the files of a song beside each other --------------------------------------------------------------------


def _own_tokens(stems: Sequence[str], *, shared_counts: bool) -> list[tuple[str, ...]]:
    """The tokens of each name, without those that all begin or end with; all of them where too little would be left."""
    tokens = [tokens_of(stem) for stem in stems]
    if not shared_counts or len(tokens) < _MIN_SHARED:
        return tokens
    for backwards in (False, True):
        turned = [names[::-1] for names in tokens] if backwards else tokens
        shared = 0
        while len({names[shared : shared + 1] for names in turned}) == 1 and turned[0][shared : shared + 1]:
            shared += 1
        cut = [names[shared:] for names in turned]
        bare = sum(all(token.isdigit() or len(token) == 1 for token in names) for names in cut)
        if bare <= 1:  # one file may bear the song's name alone
            tokens = [names[::-1] for names in cut] if backwards else cut
    return tokens


def _leave_out_sums(notes: Sequence[FileNote], taxonomy: Taxonomy) -> list[FileNote]:
    """Sums are left out where a part of them is there; two different sums of one kind are in doubt."""
    placed = [note for note in notes if note.status in ("used", "unused", "coarse")]

    def settled(note: FileNote) -> FileNote:
        if not note.sum or note not in placed:
            return note
        others = [other for other in placed if other is not note]
        if any(
            taxonomy.holds(note.kind, other.kind) or (other.kind == note.kind and not other.sum) for other in others
        ):
            return replace(note, status="sum", source="", detail="")
        for other in others:
            if other.kind == note.kind and _without_counts(other.path) != _without_counts(note.path):
                return _in_doubt(note, f"{_name(note.path)} and {_name(other.path)} may be the same sum")
        return note

    return [settled(note) for note in notes]


def _doubt_wholes(notes: Sequence[FileNote], taxonomy: Taxonomy) -> list[FileNote]:
    """A file such as "drums" beside "kick" may be the sum of it and others, or a stem of its own."""

    def settled(note: FileNote) -> FileNote:
        if not note.whole or note.sum or note.status not in ("used", "unused"):
            return note
        parts = [_name(other.path) for other in notes if not other.sum and taxonomy.holds(note.kind, other.kind)]
        if not parts:
            return note
        return _in_doubt(note, f"{_name(note.path)} may be the sum of {_listed(parts)}, or a part beside")

    return [settled(note) for note in notes]


def _without_muted(note: FileNote, own: Reading, taxonomy: Taxonomy) -> FileNote:
    """The note of a file that its own name, or that of a folder it is in, calls muted."""
    if own.muted or any(taxonomy.read(folder).muted for folder in note.path.split("/")[:-1]):
        return replace(note, status="muted", source="", detail="")
    return note


def _doubt_versions(notes: Sequence[FileNote], taxonomy: Taxonomy) -> list[FileNote]:
    """Files that may be versions of others say of which; a replaced file that stands alone of its kind is in doubt."""
    paths = [note.path for note in notes]
    keys = version_keys([without_suffix(path) for path in paths], taxonomy)
    settled = list(notes)
    for doubt in name_doubts(paths, keys, [note.kind if note.status == "used" else "" for note in notes], taxonomy):
        note, other = notes[doubt.position], paths[doubt.other]
        settled[doubt.position] = (
            replace(note, status="lossy", source="", detail=f"a lossy copy of {other}")
            if doubt.lossy
            else replace(note, version_of=other)
        )
    fresh = any(note.status == "used" and not key.old for note, key in zip(settled, keys, strict=True))
    return [
        _in_doubt(note, f"{note.path} may be left from an older version, or a part of the song")
        if fresh and key.in_old_folder and note.status == "used" and not note.version_of
        else replace(note, apart=apart_of(note.kind, note.path, taxonomy))
        for note, key in zip(settled, keys, strict=True)
    ]


def apart_of(kind: str, path: str, taxonomy: Taxonomy) -> str:
    """What tells a file from those that belong beside it, by the kind of its sound and its path; for `StemFile`."""
    return " ".join([kind, *taxonomy.words_apart(without_suffix(path))])


def _with_sides(notes: Sequence[FileNote], readings: Sequence[Reading]) -> list[FileNote]:
    """The side of each file whose name ends with one, or whose other side is there too."""
    sides: dict[str, set[str]] = defaultdict(set)
    for note, reading in zip(notes, readings, strict=True):
        if reading.side:
            sides[without_side(note.path)].add(reading.side)
    return [
        replace(note, side=reading.side)
        if reading.side
        and note.status == "used"
        and (reading.trailing_side or len(sides[without_side(note.path)]) == 2)
        else note
        for note, reading in zip(notes, readings, strict=True)
    ]


def _in_doubt(note: FileNote, detail: str) -> FileNote:
    return replace(note, status="ambiguous", source="", detail=detail)


# --- names --------------------------------------------------------------------------------------------------

_SIDE = re.compile(r"(?<![a-z])(l|r|left|right|lft|rgt)(?![a-z])|(?<=[a-z]{2})[lr](?=\W*$)")


def without_side(path: str) -> str:
    return _SIDE.sub("~", without_suffix(path).casefold())


def _without_counts(path: str) -> str:
    return re.sub(r"\d+", "", without_side(path))


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _stem(path: str) -> str:
    return _name(without_suffix(path))


def _listed(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
