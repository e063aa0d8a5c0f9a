"""Under which licences the songs stand that a model learned from: what the gate, the report and the model's card say.

A song's licence is what its corpus states (`datasets/corpus/licenses.py`), as the manifest of its dataset has it; it
counts whether the model was trained or selected with the song, itself, as weights that it began from, or as a teacher
that estimated stems it learned from. Of a teacher that is not registered here, what was noted with its stems counts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from datasets.corpus.layouts.separated_stems import Teacher
from datasets.corpus.licenses import UNKNOWN, is_non_commercial, is_unknown
from datasets.shards.manifests import Song
from pipelines.lineage.training_recordings import Ancestry

MAX_NAMED = 6  # licences in a sentence
NONE: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class LicensedSongs:
    """Songs under one licence; hours of those whose audio is still stored."""

    num_songs: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SongLicenses:
    """Songs by licence, the most frequent first; those without one are under `unknown`."""

    songs: Mapping[str, LicensedSongs] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()  # what else the model learned from, of which no song is known

    @property
    def num_songs(self) -> int:
        return sum(group.num_songs for group in self.songs.values())

    @property
    def hours(self) -> float:
        return sum(group.hours for group in self.songs.values())

    @property
    def non_commercial(self) -> int:
        """Songs whose licence forbids commercial use."""
        return sum(group.num_songs for license, group in self.songs.items() if is_non_commercial(license))

    @property
    def not_known(self) -> int:
        """Songs without a licence."""
        return sum(group.num_songs for license, group in self.songs.items() if is_unknown(license))

    @property
    def commercial_use(self) -> str:
        """What the licences say of commercial use, in a word for a tag: "forbidden", "not known" or "not forbidden"."""
        if self.non_commercial:
            return "forbidden"
        return "not known" if self.not_known or self.gaps or not self.songs else "not forbidden"

    @property
    def summary(self) -> str:
        """Licences and their songs in words, with what forbids commercial use or is not known."""
        named = [f"{license} ({group.num_songs})" for license, group in self.songs.items()]
        more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        parts = [", ".join(named[:MAX_NAMED]) + more or "none are recorded"]
        if self.non_commercial:
            parts.append(f"{self.non_commercial} of {self.num_songs} songs forbid commercial use")
        if self.not_known:
            parts.append(f"of {self.not_known} songs the licence is not known")
        return "; ".join([*parts, *self.gaps])


def of_ancestry(ancestry: Ancestry) -> SongLicenses:
    """Of every recording that a model was trained or selected with, each once; of several licences its own counts.

    Songs of teachers that are only noted with their stems come on top, whichever they are.
    """
    recordings = {recording.audio: recording for recording in ancestry.heard}
    stated: dict[str, str] = {}
    for recording in ancestry.heard:  # the model's own datasets come first
        if not is_unknown(recording.license):
            stated.setdefault(recording.audio, recording.license)
    seconds = {audio: song.num_samples / song.sample_rate for audio, song in ancestry.stored.items()}
    noted = {teacher.key: teacher for teacher in ancestry.unlisted.values()}.values()
    beyond = Counter[str]()
    for teacher in noted:
        beyond.update(teacher.licenses)
    return SongLicenses(
        songs=_grouped(((stated.get(audio, UNKNOWN), seconds.get(audio, 0.0)) for audio in recordings), beyond),
        gaps=tuple(gap for gap in ancestry.gaps if gap not in ancestry.unlisted or not ancestry.unlisted[gap].complete),
    )


def as_teacher(uri: str, ancestry: Ancestry) -> Teacher:
    """What is noted beside stems of the version that estimated them, for those who ask without its registry."""
    licenses = of_ancestry(ancestry)
    counts = {license: group.num_songs for license, group in licenses.songs.items()}
    return Teacher(name=uri, licenses=counts, complete=bool(counts) and not licenses.gaps)


def of_songs(songs: Iterable[Song]) -> SongLicenses:
    """Of the songs of one dataset."""
    return SongLicenses(
        songs=_grouped(
            (UNKNOWN if is_unknown(song.license) else song.license, song.num_samples / song.sample_rate)
            for song in songs
        )
    )


def _grouped(songs: Iterable[tuple[str, float]], beyond: Mapping[str, int] = NONE) -> dict[str, LicensedSongs]:
    """Songs by licence with their seconds, and those `beyond` of which only the number is known."""
    seconds, counts = defaultdict[str, float](float), Counter(beyond)
    for license, length_s in songs:
        seconds[license] += length_s
        counts[license] += 1
    order = sorted(counts, key=lambda license: (-counts[license], license))
    return {license: LicensedSongs(num_songs=counts[license], hours=seconds[license] / 3600) for license in order}
