"""Which side of the split each song stands on, by names alone; no song, and no artist, stands on two.

A folder that states a split is taken at its word, also where it is the only one. What no folder states is drawn from
what may be trained on, group by group: a group's lot depends on the seed and its name alone, so a corpus that grows or
shrinks moves nobody. What was drawn before can be handed in, and stays (`dataset_versions.drawn_sides` reads it from
a store).
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from datasets.corpus.file_listing import upwards
from datasets.corpus.musdb18_metadata import validation_songs
from datasets.schema import SPLITS

# Raise it when the same names and settings are dealt otherwise (CONTRIBUTING.md)
VERSION = 2

_ALIASES = {"validation": "valid", "val": "valid", "training": "train"}
_MIN_ARTISTS = 3  # that must be named before names are taken for artists
_MOST_SONGS = 100  # in a folder that is taken for an artist; what holds more is a collection
NO_SIDES: Mapping[str, str] = MappingProxyType({})

# All of these look at plain text: see `_normalized`.
_TRACK_NUMBER = re.compile(r"(\d{1,2}[-.])?\d{2,3} (?=\w)|(\d{1,2}[-.])?\d{1,3} ?[-.)] ?(?=\S)")
_BRACKET = re.compile(r" ?[(\[{][^()\[\]{}]*[)\]}]$")
_PART = re.compile(
    r"(^|[ \-.,:]+)(part|pt|teil|take|excerpt|segment|section|movement|mvt|clip|vol(ume)?|cd|dis[ck])[ .\-]*"
    r"(\d+|[ivx]+|[a-d]|one|two|three|four|five|six|seven|eight|nine|ten)( ?(of|/) ?\d+)?$"
)
# "Beatles, The" as libraries sort it, at the end of a name or before its dash.
_ARTICLE_LAST = re.compile(r"(?P<name>\S[^\-]*), (?P<article>the|die|der|das|les|le|la|los|las|el|il)(?= - |$)")
_ARTIST_DASH = re.compile(r" - ?| ?- ")
_GUESTS = re.compile(r"[ (\[]+(feat|ft|featuring)\b.*?(?= - |$)")
# "Song - Live at the Barn", "Song - 2011 Remaster": another recording of a song; in brackets they go with all others.
_VERSION = re.compile(
    r"(?<=\S) - (live\b.*|(.+ )?(re)?mix|(.+ )?(edit|version|demo|acoustic|instrumental|take|live|remaster(ed)?)"
    r"( \d{4})?)$"
)
# What tells two deliveries of one song apart: "WAV" and "MP3 320", "24bit 96k".
_ONE_FORMAT = (
    r"(wave?|mp3|flac|aiff?|ogg|opus|m4a|aac|alac|wma|lossless|lossy|hi-?res|\d{2,3} ?-?(kbps|kbits?(/s)?)|320|"
    r"(16|24|32) ?-?bits?( float)?|(44|48|88|96|176|192)([.,]\d)? ?-?k(hz)?)"
)
_FORMAT = re.compile(rf"{_ONE_FORMAT}([ ,/+-]+{_ONE_FORMAT})*")
_FORMAT_LAST = re.compile(rf"(?<=\S)[ -]+{_FORMAT.pattern}$")
# A folder that a file manager has copied: "Song - Kopie", "Copy of Song".
_COPY_WORD = r"(copy|kopie|copie|copia|c[óò]pia|kopia|kopi|копия|コピー|副本|复件|복사본|backup)"
_COPY = re.compile(rf"^{_COPY_WORD}( \(\d+\))? (of|von|van|de|di|av|af) |(?<=\S)[ -]+{_COPY_WORD}( \d+)?$")
_DISC = re.compile(r"(cd|dis[ck]|lp|side|vinyl)[ .\-]*(\d+|[a-d]|one|two|three|four)")
# Folders and names of many artists, which make no group.
_COLLECTIONS = {"various artists", "various", "va", "v.a.", "compilation", "compilations", "soundtrack", "soundtracks"}


def assign_splits(
    names: Iterable[str],
    *,
    seed: int,
    valid_fraction: float,
    test_fraction: float,
    titles: Mapping[str, str] | None = None,
    known: Mapping[str, str] = NO_SIDES,
    pairs: Collection[tuple[str, str]] = (),
) -> dict[str, tuple[str, str]]:
    """The split and the group of each song, by its name under the root; `titles` are for songs that have another.

    Songs in folders named train, valid or test stay where they are, and MUSDB18's published validation songs are moved
    from train to valid. A split that has no song is then drawn from the songs in train or in no such folder; where
    there are none, as in a corpus with test/ alone, nothing is drawn and nothing can be trained on. What is drawn are
    groups (see `groups`): songs of a group stand on one side.

    A group goes where its lot falls between 0 and 1, so a small corpus meets its fractions only roughly: of ten groups,
    0.2 for test gives 2 on average and 1 to 4 in nine cases of ten. A split that would have none takes the group whose
    lot is nearest, if there are groups enough: one for train, then one for test, then one for valid.

    `pairs` are songs that must not be parted: their groups count as one.

    `known` are sides drawn before, by name: those songs keep them, and new songs of their groups join them. Only a
    split that would be empty takes a song from another side.
    """
    names = list(names)
    sides, missing = stated_sides(names)
    group_of = joined(groups(names, titles or {}), pairs)
    fractions = {"test": test_fraction, "valid": valid_fraction}
    wanted = {split: fractions[split] for split in missing if fractions[split] > 0}
    pool = [name for name in names if sides[name] == "train"]
    before = {name: known[name] for name in pool if known.get(name) in ("train", *wanted)}
    drawn = _draw({group_of[name] for name in pool}, _majorities(before, group_of), seed=seed, fractions=wanted)
    moved = {group for group, (_, moved) in drawn.items() if moved}
    for name in pool:
        group = group_of[name]
        sides[name] = before[name] if name in before and group not in moved else drawn[group][0]
    return {name: (sides[name], group_of[name]) for name in names}


def on_one_side(
    sides: Mapping[str, str], *, titles: Mapping[str, str], pairs: Collection[tuple[str, str]], free: Collection[str]
) -> dict[str, str]:
    """The sides, where groups that one of `pairs` joins go where most of their songs are; of equally many, to train.

    Only songs on `free` sides are moved.
    """
    apart = groups(list(sides), titles)
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in joined(apart, pairs).items():
        if sides[name] in free:
            members[group].append(name)
    result = dict(sides)
    for names in members.values():
        if len({apart[name] for name in names}) > 1 or any({*pair} <= {*names} for pair in pairs):
            counts = Counter(sides[name] for name in names)
            usual = max(counts, key=lambda side: (counts[side], -SPLITS.index(side)))
            result |= dict.fromkeys(names, usual)
    return result


def joined(group_of: Mapping[str, str], pairs: Collection[tuple[str, str]]) -> dict[str, str]:
    """The groups of names, those that `pairs` of names join under the name of the first of them."""
    into = {group: group for group in group_of.values()}
    for one, other in sorted(pairs):
        first, last = sorted((into[group_of[one]], into[group_of[other]]))
        into = {group: first if target == last else target for group, target in into.items()}
    return {name: into[group] for name, group in group_of.items()}


def stated_split(name: str) -> str:
    """The split that the first folder of a name states; empty when it states none."""
    first = name.split("/")[0]
    return split_alias(first) if "/" in name else ""


def split_alias(folder: str) -> str:
    """The split that a folder is called after; empty for any other name."""
    lower = _ALIASES.get(folder.lower(), folder.lower())
    return lower if lower in SPLITS else ""


def last_part(name: str) -> str:
    """The last part of a name under the root."""
    return name.rsplit("/", 1)[-1]


def song_title(name: str) -> str:
    """The last part of a name under the root that is not called after a format of files, as "WAV" and "MP3" are."""
    parts = [part for part in name.split("/") if not _FORMAT.fullmatch(_normalized(part))]
    return parts[-1] if parts and not (len(parts) == 1 and split_alias(parts[0])) else last_part(name)


def stated_sides(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Where the folders put each song, and the splits that must be drawn because no folder states them."""
    sides = {name: stated_split(name) for name in names}
    pool = [name for name, side in sides.items() if side in ("", "train")]
    sides |= {name: "valid" if last_part(name) in validation_songs() else "train" for name in pool}
    return sides, [split for split in ("test", "valid") if pool and split not in sides.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnShare:
    """What a draw has made of the share of songs that was asked for a split."""

    split: str
    fraction: float  # that was asked for, of the songs that could be drawn
    num_songs: int  # that were drawn
    pool: int  # songs that could be drawn
    largest_group: str
    largest: int  # songs in the largest group

    @property
    def is_far_off(self) -> bool:
        """Whether it misses what was asked for by more than two songs and more than half."""
        wanted = self.fraction * self.pool
        return abs(self.num_songs - wanted) > max(2.0, wanted / 2)

    @property
    def words(self) -> str:
        asked = f"{self.split}: {self.num_songs / self.pool:.0%} of the songs, {self.fraction:.0%} asked for"
        why = f"groups stay together, and the largest, {self.largest_group!r}, has {self.largest} of {self.pool} songs"
        return f"{asked}; {why}" if self.is_far_off and self.largest > 1 else asked


def drawn_shares(
    sides: Mapping[str, tuple[str, str]], drawn: Sequence[str], *, valid_fraction: float, test_fraction: float
) -> list[DrawnShare]:
    """What came of the draw of `drawn` splits, for what `assign_splits` has returned."""
    pool = {name: side for name, side in sides.items() if stated_split(name) in ("", "train")}
    if not pool:
        return []
    largest_group, largest = Counter(group for _, group in pool.values()).most_common(1)[0]
    return [
        DrawnShare(
            split=split, fraction=fraction, num_songs=sum(side == split for side, _ in pool.values()), pool=len(pool),
            largest_group=largest_group, largest=largest,
        )
        for split, fraction in (("valid", valid_fraction), ("test", test_fraction))
        if split in drawn
    ]  # fmt: skip


def nothing_to_train_on(names: Sequence[str]) -> str:
    """What to say where folders put every song on another side than train; empty where they do not."""
    stated = Counter(name.split("/")[0] for name in names if stated_split(name) in ("valid", "test"))
    if not stated or stated.total() < len(names):
        return ""
    folders = " and ".join(f"{folder}/ ({count})" for folder, count in sorted(stated.items()))
    return (
        f"all songs are in {folders}, and folders of such names are taken at their word: there is nothing to train on. "
        "Put songs into train/ or directly into the corpus folder, or give the folder another name"
    )


# --- the draw -------------------------------------------------------------------------------------------------


def _majorities(known: Mapping[str, str], group_of: Mapping[str, str]) -> dict[str, str]:
    """The side on which most known songs of each group stand; of equally many the stricter."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, side in known.items():
        counts[group_of[name]][side] += 1
    return {group: max(sides, key=lambda side: (sides[side], SPLITS.index(side))) for group, sides in counts.items()}


def _draw(
    groups: set[str], known: Mapping[str, str], *, seed: int, fractions: Mapping[str, float]
) -> dict[str, tuple[str, bool]]:
    """The side of each group, and whether it was moved there from its own because that split would be empty."""
    lots = {group: _lot(seed, group) for group in sorted(groups)}
    sides = {group: known.get(group) or _window(lot, fractions) for group, lot in lots.items()}
    wanted, by_lot = ["train", *fractions], [*fractions, "train"]
    moved: set[str] = set()
    for rank, split in enumerate(wanted[: len(groups)]):  # two groups are one for train and one for test
        members = {side: [group for group in sides if sides[group] == side] for side in wanted}
        if members[split]:
            continue
        spare = [side for side in wanted if len(members[side]) > 1]
        givers = spare or [side for side in wanted[rank:] if members[side]]
        giver = "train" if "train" in givers else max(givers, key=lambda side: len(members[side]))
        sign = 1 if by_lot.index(giver) > by_lot.index(split) else -1
        # The nearest lot; songs that no model learned from yet come first.
        chosen = min(members[giver], key=lambda group: (group in known, sign * lots[group]))
        sides[chosen] = split
        moved.add(chosen)
    return {group: (side, group in moved) for group, side in sides.items()}


def _lot(seed: int, group: str) -> float:
    data = hashlib.sha256(f"split\x1f{seed}\x1f{group}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(data[:8], "little") / 2.0**64


def _window(lot: float, fractions: Mapping[str, float]) -> str:
    """The split in whose share of the numbers from 0 to 1 a lot falls; what is left is train's."""
    low = 0.0
    for split, fraction in fractions.items():
        if low <= lot < low + fraction:
            return split
        low += fraction
    return "train"


# --- groups ---------------------------------------------------------------------------------------------------


def groups(names: Sequence[str], titles: Mapping[str, str]) -> dict[str, str]:
    """The group of each song: its artist where one is known, else the song itself without what tells its parts apart.

    An artist is what stands before the dash of "Artist - Title", without guests ("feat.") and track numbers, where at
    least three are named; else the folder, where at least three stand side by side with at most 100 songs each. Folders
    of discs ("CD 1") and of many artists ("Various Artists") are none. A song inside another one's folder is in its
    group.
    """
    whole = {name: _without_parts(_without_number(_normalized(titles.get(name, song_title(name))))) for name in names}
    artists = {name: _artist(song) for name, song in whole.items()}
    if len({artist for artist in artists.values() if artist}) < _MIN_ARTISTS:
        artists = dict.fromkeys(names, "")
    songs = {
        name: _article_first(_without_parts(_VERSION.sub("", _GUESTS.sub("", song)))) for name, song in whole.items()
    }
    folders = _artist_folders(names)
    found = {name: artists[name] or folders[name] or songs[name] or name for name in names}
    outermost = {name: [above for above in upwards(name) if above in found][-1] for name in names}
    return {name: found[outermost[name]] for name in names}


def _normalized(text: str) -> str:
    """A name without what differs between two spellings of it: case, kinds of dashes, underscores, spaces."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    text = "".join("-" if unicodedata.category(letter) == "Pd" or letter == "\u2212" else letter for letter in text)
    return " ".join(text.split())


def _without_number(text: str) -> str:
    """Without the track number in front: "01 - ", "1-01 ", "07. "."""
    while number := _TRACK_NUMBER.match(text):  # of "07 99 Problems" both, as of "99 Problems"
        text = text[number.end() :]
    return text


def _without_parts(text: str) -> str:
    """Without what is in brackets at the end, counts parts, names a format or a copy: "(2)", "Pt. II", "copy"."""
    before = ""
    while text != before:
        before = text
        for pattern in (_BRACKET, _PART, _FORMAT_LAST, _COPY):
            text = pattern.sub("", text).strip(" -") or text
    return text


def _artist(song: str) -> str:
    """What stands before the dash of "Artist - Title", without guests; empty where there is none, or a number."""
    dash = _ARTIST_DASH.search(song)
    artist = _article_first(_GUESTS.sub("", song[: dash.start()]).strip()) if dash else ""
    return "" if artist.isdigit() or artist in _COLLECTIONS or _DISC.fullmatch(artist) else artist


def _article_first(name: str) -> str:
    """ "The Beatles" of "Beatles, The", so that both are one."""
    return _ARTICLE_LAST.sub(r"\g<article> \g<name>", name)


def _artist_folders(names: Sequence[str]) -> dict[str, str]:
    """The folder above each song that is an artist's; empty where none is."""
    above = {name: tuple(name.split("/")[1 if stated_split(name) else 0 : -1]) for name in names}
    songs_below: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for folders in above.values():
        for depth, folder in enumerate(folders):
            songs_below[folders[:depth]][folder] += 1

    def artist(folders: tuple[str, ...]) -> str:
        for depth, folder in enumerate(folders):
            beside, text = songs_below[folders[:depth]], _normalized(folder)
            if text in _COLLECTIONS or _DISC.fullmatch(text) or _FORMAT.fullmatch(text):
                continue
            if len(beside) >= _MIN_ARTISTS and beside[folder] <= _MOST_SONGS:
                # "Artist - Album" is a folder's name too, and "Album CD 1" that of one of its discs
                return _artist(text) or _article_first(_PART.sub("", _GUESTS.sub("", text)).strip(" -") or text)
        return ""

    return {name: artist(folders) for name, folders in above.items()}
