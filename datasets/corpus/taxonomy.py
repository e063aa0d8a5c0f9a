"""What a file's name says of the sound in it: a tree of kinds of sound, and the words that mean them.

`infra/taxonomies/default.toml` holds the words and explains how they are written down. Here one name is read by
itself; `stem_names.py` reads the names of a whole song side by side.
"""

import fnmatch
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from datasets.errors import InputError

DEFAULT = "default"
IGNORE = "ignore"
ROLES = ("words", "weak", "whole", "sum")
_SPECIAL = {
    "ignore": ("words", "patterns"), "bus": ("words",), "neutral": ("words",), "apart": ("words",),
    "version": ("words", "old"), "muted": ("words",), "sides": ("left", "right"),
}  # fmt: skip
_SAY_NOTHING = ("neutral", "apart", "version", "muted")  # of the kind of sound
_EAST = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # letters that file managers put right behind a name
_HUMP = re.compile(
    rf"(?<=[a-zß-öø-ÿ])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?={_EAST})|(?<={_EAST})(?=[A-Za-z])"
)
_MAX_WINDOW = 5  # tokens that one word of the taxonomy may be spread over


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """One meaning of a word: a kind of sound, or a table of `_SPECIAL`, and in which role."""

    kind: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one name says. No kind and not `ignored`: it says nothing that the taxonomy knows."""

    kinds: tuple[str, ...] = ()  # those named; several are no contradiction if they belong to one source
    words: str = ""  # the words that decided, as they stand in the name
    weak: bool = False  # named by weak words only
    whole: bool = False  # may be the sum of the kinds below it
    sum: bool = False  # is the sum of the kinds below it
    ignored: bool = False
    side: str | None = None  # "left" or "right"
    trailing_side: bool = False  # nothing of weight follows the side
    muted: bool = False  # says that it is not in the mix
    unexplained: tuple[str, ...] = ()  # tokens that mean nothing here


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionedName:
    """What is left of a name without the words that tell versions apart."""

    rest: tuple[str, ...]
    num_marks: int  # of those words
    old: bool  # one of them is of a file that was replaced


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """The tree and the words. `parents` maps each kind to the one above, the topmost to an empty string."""

    name: str
    parents: Mapping[str, str]
    vocabulary: Mapping[str, tuple[Sense, ...]]  # by the word without spaces
    patterns: tuple[tuple[str, str], ...]  # shell pattern, kind

    @cached_property
    def _compiled(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple((re.compile(fnmatch.translate(pattern)), kind) for pattern, kind in self.patterns)

    def lineage(self, kind: str) -> Iterator[str]:
        """The kind itself, then those above it, upwards."""
        while kind:
            yield kind
            kind = self.parents.get(kind, "")

    def holds(self, kind: str, other: str) -> bool:
        """Whether `other` lies strictly below `kind`."""
        return other != kind and kind in self.lineage(other)

    def source_of(self, kind: str, sources: Sequence[str]) -> str | None:
        """The source that a kind belongs to; empty where it belongs to none asked for.

        None when the kind holds a source that was asked for: `drums` cannot be told apart into `kick` and the rest.
        """
        for name in self.lineage(kind):
            if name in sources:
                return name
        if any(self.holds(kind, source) for source in sources):
            return None
        return "other" if "other" in sources else ""

    def read(self, name: str, tokens: Sequence[str] | None = None) -> Reading:
        """What a name without its suffix says; `tokens` are those of it to be read, if not all."""
        plain = unicodedata.normalize("NFKC", name).casefold()
        for pattern, kind in self._compiled:
            if pattern.fullmatch(plain):
                return Reading(kinds=() if kind == IGNORE else (kind,), words=plain, ignored=kind == IGNORE)
        matches = self._matches(tokens_of(name) if tokens is None else tokens)
        reading = self._weigh(matches)
        return replace(reading, muted=_is_muted(name, matches, reading))

    def version_of(self, name: str, *, is_folder: bool = False) -> VersionedName:
        """The tokens of a name without the words for versions and the numbers that count those.

        A file called "backup" alone is a vocal, a folder is not.
        """
        rest: list[str] = []
        num_marks = 0
        old, counts = False, False  # of the word before
        matches = self._matches(tokens_of(name))
        counts_as_one = is_folder or any(
            sense.role in ROLES and sense.kind in self.parents and sense.role != "weak"
            for _, known in matches
            for sense in known
        )
        for text, known in matches:
            version = [sense for sense in known if sense.kind == "version"]
            if version and (counts_as_one or len(version) == len(known)):
                num_marks += 1
                old, counts = old or any(sense.role == "old" for sense in version), True
            elif not (counts and text.isdigit()):
                counts = False
                rest += [_singular(token) for token in text.split(" ")]
        return VersionedName(rest=tuple(rest), num_marks=num_marks, old=old)

    def words_apart(self, name: str) -> tuple[str, ...]:
        """The words of a name that tell files of one sound apart that belong together."""
        tokens = {token for token in tokens_of(name) if any(sense.kind == "apart" for sense in self._senses([token]))}
        return tuple(sorted(tokens))

    def says_nothing(self, name: str) -> bool:
        """Whether a folder's name only says that files are inside, or which version of them."""
        matches = self._matches(tokens_of(name))
        return not any(_is_open(text) for text, known in matches if not known) and all(
            sense.kind in ("neutral", "version", "muted") for _, known in matches for sense in known
        )

    def explains(self, name: str) -> bool:
        """Whether every word of a name is known here, and one of them has weight or is neutral."""
        matches = self._matches(tokens_of(name))
        return any(senses for _, senses in matches) and not any(
            _is_open(text) for text, senses in matches if not senses
        )

    def _matches(self, tokens: Sequence[str]) -> list[tuple[str, tuple[Sense, ...]]]:
        """The name from left to right in known words, the longest first, and single unknown tokens without sense."""
        found: list[tuple[str, tuple[Sense, ...]]] = []
        position = 0
        while position < len(tokens):
            for length in range(min(_MAX_WINDOW, len(tokens) - position), 0, -1):
                window = tokens[position : position + length]
                senses = self._senses(window)
                if senses or length == 1:
                    found.append((" ".join(window), senses))
                    position += length
                    break
        return found

    def _senses(self, window: Sequence[str]) -> tuple[Sense, ...]:
        """The meanings of tokens written as one word, as they are or without the s of plurals or the side in "OHL"."""
        known = self.vocabulary.get("".join(window)) or self.vocabulary.get("".join(map(_singular, window)))
        if known or len(window) > 1:
            return known or ()
        word, side = window[0][:-1], window[0][-1]
        known = self.vocabulary.get(word, ()) if side in "lr" and len(word) > 1 else ()
        return (*known, *self.vocabulary.get(side, ())) if known else ()

    def _weigh(self, matches: Sequence[tuple[str, tuple[Sense, ...]]]) -> Reading:
        senses = [sense for _, known in matches for sense in known]
        named = [sense for sense in senses if sense.role in ROLES and sense.kind in self.parents]
        strong = [sense for sense in named if sense.role != "weak"]
        deciding = [
            sense
            for sense in strong or named
            if not any(self.holds(sense.kind, other.kind) for other in strong or named)
        ]
        roles = {sense.role for sense in deciding}
        words = [text for text, known in matches if any(sense in deciding for sense in known)]
        ignored = [text for text, known in matches if any(sense.kind == IGNORE for sense in known)]
        side, trailing = _side(matches)
        return Reading(
            kinds=tuple(dict.fromkeys(sense.kind for sense in deciding)),
            words=" + ".join(dict.fromkeys([*words, *ignored])),
            weak=bool(deciding) and not strong,
            whole=roles == {"whole"},
            sum="sum" in roles or any(sense.kind == "bus" for sense in senses),
            ignored=bool(ignored),
            side=side,
            trailing_side=trailing,
            unexplained=tuple(text for text, known in matches if not known and _is_open(text)),
        )


def tokens_of(name: str) -> tuple[str, ...]:
    """The name in runs of letters and runs of digits, in lower case, split where a capital follows: ldVox2, OHLeft."""
    plain = unicodedata.normalize("NFKC", name)
    runs = re.findall(r"[^\W\d_]+|\d+", plain)
    return tuple(piece.casefold() for run in runs for piece in _HUMP.split(run))


def _singular(token: str) -> str:
    return token[:-1] if len(token) > 2 and token[-1] == "s" and token[-2] != "s" else token


def _is_open(token: str) -> bool:
    """Whether an unknown token could mean something: numbers and single Latin letters count takes."""
    return not token.isdigit() and not (len(token) == 1 and token.isascii())


def _side(matches: Sequence[tuple[str, tuple[Sense, ...]]]) -> tuple[str | None, bool]:
    """The one side that a name states, and whether only numbers and neutral words follow it."""
    side, trailing, sides = None, False, set()
    for text, known in matches:
        here = [sense.role for sense in known if sense.kind == "sides"]
        if here:
            side, trailing = here[-1], True
            sides.add(side)
        elif not all(sense.kind in _SAY_NOTHING for sense in known) or (not known and _is_open(text)):
            trailing = False
    return (side, trailing) if len(sides) == 1 else (None, False)


def _is_muted(name: str, matches: Sequence[tuple[str, tuple[Sense, ...]]], reading: Reading) -> bool:
    """Whether a name says that the file is not in the mix: behind the kind, in capitals, or in brackets."""
    muted = False
    for _, known in matches:
        if any(sense.kind == "muted" for sense in known):
            muted = True
        elif any(sense.kind in reading.kinds for sense in known):
            shouted = re.search(r"[(\[]\s*(muted?|off)\s*[)\]]|(?-i:(?<![A-Za-z])(MUTED?|OFF)(?![A-Za-z]))", name, re.I)
            muted = muted and bool(shouted) and not name.isupper()
    return muted


# --- files --------------------------------------------------------------------------------------------------


def load(name: str | Path = DEFAULT) -> Taxonomy:
    """The taxonomy of a TOML file, or one that ships under `name`; InputError says what is wrong in the file."""
    tree = _read_tree(str(name))
    base = tree.pop("extends", None)
    if base is not None and base not in shipped():
        raise InputError(f"the taxonomy {name} extends {base!r}; it must extend one of {', '.join(shipped())}")
    taxonomy = _build(tree, name=str(name), within=load(str(base)) if base is not None else None)
    if not taxonomy.parents:
        raise InputError(f"the taxonomy {name} names no kind of sound: add a table such as [vocals] with words")
    return taxonomy


def shipped() -> list[str]:
    """The names of the taxonomies that come with this program."""
    entries = resources.files("infra.taxonomies").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def _read_tree(name: str) -> dict[str, Any]:
    if name in shipped():
        text = resources.files("infra.taxonomies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the taxonomy {name!r} cannot be read: {error}; give a TOML file or one of {', '.join(shipped())}"
            ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the taxonomy {name!r} is not valid TOML: {error}") from None


def _build(tree: Mapping[str, Any], *, name: str, within: Taxonomy | None) -> Taxonomy:
    """A tree with what it extends: a word listed here loses its meanings there."""
    parents: dict[str, str] = dict(within.parents) if within else {}
    listed: dict[str, list[Sense]] = {}
    patterns: list[tuple[str, str]] = []
    for kind, parent, table in _tables(tree, name):
        if table is not None and parent is not None:
            if parents.get(kind, parent) != parent:
                raise InputError(f"the taxonomy {name} has {kind!r} below {parent!r} and below {parents[kind]!r}")
            parents[kind] = parent
        for role, words in _lists(table or {}, kind=kind, special=parent is None, name=name):
            if role == "patterns":
                patterns += [(word.casefold(), kind) for word in words]
                continue
            for word in words:
                joined = "".join(tokens_of(word))
                if not joined:
                    raise InputError(
                        f"the taxonomy {name} lists {word!r} under {kind!r}: a letter or a digit is missing"
                    )
                listed.setdefault(joined, []).append(Sense(kind=kind, role=role))
    vocabulary = {
        **(within.vocabulary if within else {}),
        **{word: tuple(dict.fromkeys(s)) for word, s in listed.items()},
    }
    return Taxonomy(
        name=name, parents=parents, vocabulary=vocabulary, patterns=(*patterns, *(within.patterns if within else ()))
    )


def _tables(tree: Mapping[str, Any], name: str) -> Iterator[tuple[str, str | None, Mapping[str, Any] | None]]:
    """Each table with its last name and that of the kind above; None stands above the special ones."""
    pending: list[tuple[str, str | None, Any]] = [
        (key, None if key in _SPECIAL else "", value) for key, value in tree.items()
    ]
    while pending:
        key, parent, table = pending.pop(0)
        if not isinstance(table, Mapping):
            raise InputError(
                f"the taxonomy {name} has {key!r} outside any table; words stand in tables such as [vocals] or [ignore]"
            )
        if parent is not None and not key.isidentifier():
            raise InputError(f"the taxonomy {name} calls a kind {key!r}; use lower-case letters, digits and _")
        yield key, parent, table
        if parent is not None:
            pending += [(below, key, value) for below, value in table.items() if isinstance(value, Mapping)]


def _lists(table: Mapping[str, Any], *, kind: str, special: bool, name: str) -> Iterator[tuple[str, Sequence[str]]]:
    known = _SPECIAL[kind] if special else (*ROLES, "patterns")
    for key, value in table.items():
        if isinstance(value, Mapping) and not special:
            continue
        if key not in known:
            raise InputError(f"the taxonomy {name} has {key!r} under {kind!r}; known there: {', '.join(known)}")
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise InputError(f"the taxonomy {name} has {kind}.{key} = {value!r}; it must be a list of words in quotes")
        yield key, value
