"""Which recordings a model has learnt from: of its datasets, of its automixes, of all that it was initialized from, and
of all models that estimated stems it learned from.

The gate, `lineage`, `forget` and `gc` all ask here. A song counts when the model was trained or selected with it.
Recordings are the same when their stored audio is, or when one is recognized in the other
(`datasets/quality/fingerprint.py`). What is not known is a gap, with its reason: initial weights from a plain file, a
version or a dataset that is gone, a teacher that is not registered here.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from datasets.audio.mono_mix import mono
from datasets.corpus.layouts.separated_stems import Teacher, of_extra
from datasets.corpus.removed_songs import SAME
from datasets.errors import InputError
from datasets.quality import fingerprint
from datasets.quality.fingerprint import (
    FingerprintExtractor,
    Match,
    Signature,
    find_matches,
    pack,
    unpack,
)
from datasets.schema import Landmarks
from datasets.shards.arrow_tables import read_objects, read_table
from datasets.shards.manifests import Manifest, Song, address_of, named_table, read_manifest
from datasets.shards.shards import read_song_blocks
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.lineage import training_ancestry
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from pipelines.registry import ModelVersion
    from pipelines.registry.version_lineage import Origin

# Raise it when the same stored song gives another file of what it sounds like (CONTRIBUTING.md)
VERSION = 1
STEP = Step(name="sounds", version=VERSION, uses={"fingerprint": fingerprint.VERSION})
_TRAINED = re.compile(r"model|step-\d{9}")  # what a training calls its checkpoints; others may lie beside them
_FINGERPRINT_S = 7200.0  # of stored audio that is fingerprinted per question, where its fingerprint was not stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A song of a dataset, or a part of its mixes."""

    track_id: str
    audio: str  # digest of what is, or was, stored of it
    split: str
    dataset: str  # the manifest
    license: str = ""  # as the manifest of its songs has it; empty where that is not known
    teacher: str = ""  # key of the model that estimated its stems; empty where they are not known to be estimates


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """All recordings behind a model, and what is not known of them."""

    recordings: tuple[Recording, ...] = ()  # of every split; `heard` leaves out those kept for tests
    datasets: tuple[str, ...] = ()  # manifests, its own first
    versions: tuple[str, ...] = ()  # registered ones that it comes from, itself first, if it is one
    signatures: Mapping[str, Signature] = field(default_factory=dict)  # what they sound like, by the digest of audio
    stored: Mapping[str, Song] = field(default_factory=dict)  # where they are stored, by the digest of the audio
    mute: tuple[str, ...] = ()  # datasets that have neither fingerprints nor audio any more
    gaps: tuple[str, ...] = ()  # what is not known, and why
    teachers: Mapping[str, Teacher] = field(default_factory=dict)  # models that estimated stems of recordings, by key
    taught_by: tuple[str, ...] = ()  # registered versions whose estimates it learned from, and those they come from
    unlisted: Mapping[str, Teacher] = field(default_factory=dict)  # by its gap: a teacher whose songs are not known

    @property
    def heard(self) -> tuple[Recording, ...]:
        """What a model was trained or selected with."""
        return tuple(recording for recording in self.recordings if recording.split != "test")

    def __or__(self, added: "Ancestry") -> "Ancestry":
        return Ancestry(
            recordings=tuple(dict.fromkeys([*self.recordings, *added.recordings])),
            datasets=tuple(dict.fromkeys([*self.datasets, *added.datasets])),
            versions=tuple(dict.fromkeys([*self.versions, *added.versions])),
            signatures={**self.signatures, **added.signatures},
            stored={**added.stored, **self.stored},
            mute=tuple(dict.fromkeys([*self.mute, *added.mute])),
            gaps=tuple(dict.fromkeys([*self.gaps, *added.gaps])),
            teachers={**self.teachers, **added.teachers},
            taught_by=tuple(dict.fromkeys([*self.taught_by, *added.taught_by])),
            unlisted={**self.unlisted, **added.unlisted},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedFrom:
    """Which versions have learnt from a recording."""

    versions: tuple["ModelVersion", ...]  # all that were looked at
    same: Mapping[str, str]  # digests of audio that are the recording, and how that is known
    recordings: Mapping[str, tuple[Recording, ...]]  # by the version's address: as which recordings it learnt from it
    unknown: Mapping[str, tuple[str, ...]]  # others of which it is not known, and why
    by_digest: tuple[str, ...]  # versions some of whose songs could not be listened to: only equal audio is found


class Ancestors:
    """Answers from one reading of the registry of `store`; `tables` is where its datasets are."""

    def __init__(self, store: str, tables: str = "") -> None:
        from pipelines.registry.version_lineage import every_version

        self.tables = storage.absolute(tables or store)
        self.origins: Mapping[str, Origin] = every_version(store=store)
        self._datasets: dict[str, Ancestry] = {}
        self._sounds: dict[str, Signature] = {}  # each once, though many datasets hold it

    def versions(self) -> list["ModelVersion"]:
        """Every version of every model, by name and number."""
        return [origin.version for origin in self.origins.values()]

    def of_version(self, uri: str) -> Ancestry:
        """What a version has learnt from, back to its first weights; `uri` is models:/NAME/VERSION."""
        return self._with_teachers(self._without_teachers(uri))

    def _without_teachers(self, uri: str) -> Ancestry:
        ancestry, visited = Ancestry(), set[str]()
        while uri:
            visited.add(uri)
            origin = self.origins.get(uri)
            if origin is None:
                return ancestry | Ancestry(gaps=(f"{uri} was not registered by stemline, or is gone",))
            ancestry |= self.of_datasets(origin.datasets, of=uri) | Ancestry(versions=(uri,))
            gap = self._broken(uri, origin.start, origin.start_digest)
            if gap:
                return ancestry | Ancestry(gaps=(gap,))
            uri = "" if origin.start in visited else origin.start
        return ancestry

    def of_ref(self, ref: str, *, store: str) -> Ancestry:
        """The same for a model as commands name it: a registered one, or a checkpoint beside which its record lies."""
        from pipelines import registry

        if ref.startswith("models:"):
            return self.of_version(registry.lineage(ref, store=store).version.uri)
        folder, _, name = ref.rstrip("/").rpartition("/")
        record = training_ancestry.read(folder or ".") if _TRAINED.fullmatch(name) else None
        if record is None:
            return Ancestry(gaps=(f"{ref} is a file: what it has heard is not known",))
        return self.of_training(record["datasets"], record, of=ref)

    def versions_that_learned(
        self, requested: Ancestry, audio: Collection[str], *, min_similarity: float = SAME
    ) -> "LearnedFrom":
        """The versions that have heard these recordings, by the digests of their audio, which are among `asked`."""
        by_version = {version.uri: self.of_version(version.uri) for version in self.versions()}
        everything = requested
        for ancestry in by_version.values():
            everything |= ancestry
        audio_digests = {recording.audio for recording in everything.heard} | set(audio)
        signatures = sounds(everything, audio_digests, tables=self.tables)
        same = same_recordings(audio, signatures, min_similarity=min_similarity)
        matches = {
            uri: tuple(recording for recording in ancestry.heard if recording.audio in same)
            for uri, ancestry in by_version.items()
        }
        return LearnedFrom(
            versions=tuple(self.versions()),
            same=same,
            recordings={uri: recordings for uri, recordings in matches.items() if recordings},
            unknown={uri: ancestry.gaps for uri, ancestry in by_version.items() if ancestry.gaps and not matches[uri]},
            by_digest=tuple(
                uri
                for uri, ancestry in by_version.items()
                if {recording.audio for recording in ancestry.heard} - signatures.keys()
            ),
        )

    def of_training(self, datasets: Sequence[str], start: Mapping[str, str], *, of: str) -> Ancestry:
        """The same for a model that is not registered: its datasets, and the tags that `start_of` gave."""
        ancestry = self.of_datasets(datasets, of=of)
        start_uri = start.get("start_uri", "").removeprefix("none")
        if gap := self._broken(of, start_uri, start.get("start_digest", "")):
            ancestry |= Ancestry(gaps=(gap,))
        elif start_uri:
            ancestry |= self._without_teachers(start_uri)
        return self._with_teachers(ancestry)

    def _with_teachers(self, ancestry: Ancestry) -> Ancestry:
        """The same with what the teachers of its songs have learned from, and their teachers."""
        followed = set[str]()
        while new := {recording.teacher for recording in ancestry.heard if recording.teacher} - followed:
            followed |= new
            for key in sorted(new):
                num_songs = len({recording.audio for recording in ancestry.heard if recording.teacher == key})
                ancestry |= self._of_teacher(ancestry.teachers[key], num_songs=num_songs)
        return ancestry

    def _of_teacher(self, teacher: Teacher, *, num_songs: int) -> Ancestry:
        """What a teacher has learned from, but for its own teachers: by its weights, whatever it was called then."""
        versions = [self._by_weights(digest, teacher.name) for digest in teacher.weights]
        ancestry = Ancestry()
        for uri in filter(None, versions):
            taught = self._without_teachers(uri)
            ancestry |= replace(taught, versions=(), taught_by=taught.versions)
        if versions and all(versions):
            return ancestry
        unregistered = ", which is not registered here" if teacher.name else ""
        songs = "1 song" if num_songs == 1 else f"{num_songs} songs"
        gap = (
            f"the stems of {songs} it learned from were estimated by {teacher.in_words}{unregistered}: what that has "
            "heard is not known"
        )
        return ancestry | Ancestry(gaps=(gap,), unlisted={gap: teacher})

    def _by_weights(self, digest: str, name: str) -> str:
        """The version with these weights, `name` before others; empty where there is none."""
        same = [uri for uri, origin in self.origins.items() if origin.weights_digest == digest]
        return name if name in same else next(iter(same), "")

    def of_datasets(self, manifests: Sequence[str], *, of: str) -> Ancestry:
        """The songs of these manifests; a gap for each that is gone, and where none is given."""
        ancestry = Ancestry() if manifests else Ancestry(gaps=(f"which dataset {of} learnt from was not recorded",))
        for uri in manifests:
            if uri not in self._datasets:
                dataset = of_dataset(uri, tables=self.tables)
                shared = {audio: self._sounds.setdefault(audio, sound) for audio, sound in dataset.signatures.items()}
                self._datasets[uri] = replace(dataset, signatures=shared)
            ancestry |= self._datasets[uri]
        return ancestry

    def _broken(self, uri: str, start: str, start_digest: str) -> str:
        """Why what a model began from cannot be followed; empty where it can, or where it began from nothing."""
        if not start:
            return ""
        subject = f"{uri} began from {start}"
        if not start.startswith("models:"):
            return f"{subject}: what that file has heard is not known"
        origin = self.origins.get(start)
        if origin is None:
            moved = ", and where the alias was then is not known" if "@" in start else ", which is gone"
            return f"{subject}{moved}"
        if start_digest and origin.weights_digest and start_digest != origin.weights_digest:
            return f"{subject}, whose weights were others then"
        return ""


# --- one dataset --------------------------------------------------------------------------------------------


def of_dataset(uri: str, *, tables: str = "") -> Ancestry:
    """The songs of one manifest, including those erased since; a gap where it is gone."""
    manifest = find_dataset(uri, tables=tables)
    if manifest is None:
        return Ancestry(datasets=(uri,), gaps=(f"the dataset {uri} is gone",))
    return _automix(manifest, uri) if manifest.step == "automix" else _songs(manifest, uri)


def find_dataset(uri: str, *, tables: str = "") -> Manifest | None:
    """A manifest under its name in `tables`, or else where it was; None if it is gone.

    A copied store asks itself first: where it came from is no business of its own.
    """
    homes = [storage.join(tables, "manifests", uri.rsplit("/", 1)[-1]), uri] if tables and uri else [uri]
    for address in filter(None, homes):
        try:
            return read_manifest(address)
        except InputError:
            continue
    return None


def erased_songs(manifest: Manifest) -> list[dict[str, str]]:
    """Songs whose audio was erased from a dataset: their ids, audio digests, splits and licences."""
    return list(manifest.extra.get("erased", ()))


def _songs(manifest: Manifest, uri: str) -> Ancestry:
    teacher_of, teachers = of_extra(manifest.extra)
    members = [(song.track_id, song.audio, song.split, song.license) for song in manifest.songs]
    members += [
        (song["track_id"], song["audio"], song["split"], song.get("license", "")) for song in erased_songs(manifest)
    ]
    signatures = signatures_of(manifest)
    files = [storage.join(manifest.store, shard.file) for shard in manifest.shards]
    is_gone = not files or any(storage.stamp(file) is None for file in files)
    unavailable = not signatures and bool(manifest.songs) and is_gone
    return Ancestry(
        recordings=tuple(
            Recording(
                track_id=track_id,
                audio=audio,
                split=split,
                dataset=uri,
                license=license,
                teacher=teacher_of.get(track_id, ""),
            )
            for track_id, audio, split, license in members
        ),
        datasets=(uri,),
        teachers=teachers,
        signatures=signatures,
        mute=(uri,) if unavailable else (),
        stored={song.audio: song for song in manifest.songs},
    )


def _automix(manifest: Manifest, uri: str) -> Ancestry:
    """The songs that the mixes of a dataset were made of: recorded with it, or in the plans of its store."""
    ingredients = manifest.extra.get("ingredients")
    if ingredients is None:
        ingredients = _planned(manifest)
    made_from = str(manifest.extra.get("made_from", ""))
    parent = find_dataset(storage.join(manifest.store, "manifests", f"{made_from}.json")) if made_from else None
    unknown = bool(manifest.songs) and not ingredients
    licenses = {song.audio: song.license for song in parent.songs} if parent else {}
    teacher_of, teachers = of_extra(manifest.extra)
    return Ancestry(
        recordings=tuple(
            Recording(
                dataset=uri,
                license=licenses.get(part["audio"], ""),
                teacher=teacher_of.get(part["track_id"], ""),
                **part,
            )
            for part in ingredients
        ),
        datasets=(uri,),
        teachers=teachers,
        signatures=signatures_of(parent) if parent else {},
        stored={song.audio: song for song in parent.songs} if parent else {},
        gaps=(f"what the mixes of {uri} were made of is not known",) if unknown else (),
    )


def _planned(manifest: Manifest) -> list[dict[str, str]]:
    """The same of a dataset that was made before they were recorded: every song that a plan of a mix names."""
    mixes = {song.track_id: song.split for song in manifest.songs}
    parts: dict[str, str] = {}
    for table in manifests(manifest.store):
        for plan in plans_of(table) if table.table == "plans" else ():
            if plan["mix_id"] in mixes:
                parts |= {part["track_id"]: mixes[plan["mix_id"]] for part in plan["parts"]}
    songs = {(song.track_id, song.audio) for song in stored_songs(manifest.store)}
    return [
        {"track_id": track_id, "audio": audio, "split": parts[track_id]}
        for track_id, audio in sorted(songs)
        if track_id in parts
    ]


def manifests(tables: str) -> Iterator[Manifest]:
    """Every manifest of a store that can be read."""
    folder = storage.join(storage.absolute(tables), "manifests")
    for name in storage.names(folder):
        if name.endswith(".json") and not name.startswith("."):
            manifest = find_dataset(storage.join(folder, name))
            if manifest is not None:
                yield manifest


def stored_songs(tables: str) -> list[Song]:
    """Every song that a dataset of a store holds, mixes left out, each as often as it is held."""
    return [song for manifest in manifests(tables) if manifest.step != "automix" for song in manifest.songs]


def plans_of(manifest: Manifest) -> list[dict[str, Any]]:
    """The mixes of a table of plans, each with its `mix_id` and its `parts`."""
    rows: list[dict[str, Any]] = read_table(address_of(manifest)).select(["mix_id", "parts"]).to_pylist()
    return rows


# --- what recordings sound like -----------------------------------------------------------------------------


def signatures_of(manifest: Manifest) -> dict[str, Signature]:
    """What the songs of a dataset sound like, by the digest of their audio; empty where that is not kept with it."""
    address = named_table(manifest, "landmarks")
    if address is None:
        return {}
    try:
        rows = read_objects(address, Landmarks)
    except (InputError, OSError):
        return {}
    return {row.audio: unpack(row.signature) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestryInputs:
    """All that decides on what a recording sounds like."""

    audio: str


def sounds(
    ancestry: Ancestry, audio: Collection[str], *, tables: str, limit_s: float = _FINGERPRINT_S
) -> dict[str, Signature]:
    """What these of its recordings sound like, by the digest of the audio: kept, or heard now out of their shards.

    Left out are recordings whose shards are gone, and those beyond `limit_s` seconds of audio to listen to.
    """
    signatures = {digest: ancestry.signatures[digest] for digest in audio if digest in ancestry.signatures}
    for digest in sorted(set(audio) - signatures.keys()):
        cache = storage.join(tables, "cache", "sounds", f"{STEP.key(AncestryInputs(audio=digest))}.json")
        signature = _read_signature(cache)
        song = ancestry.stored.get(digest)
        if signature is None and song is not None and limit_s > 0:
            limit_s -= song.num_samples / song.sample_rate
            signature = _fingerprint(song)
            if signature is not None:
                write_json(cache, {"signature": pack(signature)})
        if signature is not None:
            signatures[digest] = signature
    return signatures


def _read_signature(cache: str) -> Signature | None:
    try:
        return unpack((read_json(cache) or {})["signature"])
    except (KeyError, TypeError, ValueError):
        return None


def _fingerprint(song: Song) -> Signature | None:
    extractor = FingerprintExtractor(song.sample_rate)
    try:
        for stems_SCT in read_song_blocks(song):
            extractor.add(mono(stems_SCT.sum(axis=0)))
    except InputError:
        return None
    return extractor.signature()


def same_recordings(
    requested: Iterable[str], sounds: Mapping[str, Signature], *, min_similarity: float = SAME
) -> dict[str, str]:
    """Digests of audio that are the recordings asked for, over others too, each with how it is known.

    `sounds` are the signatures of all that may be one, by the digest of the audio.
    """
    same = dict.fromkeys(requested, "the same audio")
    matches = find_matches(sounds, min_similarity=min_similarity if min_similarity <= 1 else SAME)
    near: dict[str, list[tuple[str, Match]]] = {}
    for match in matches:
        near.setdefault(match.later, []).append((match.first, match))
        near.setdefault(match.first, []).append((match.later, match))
    pending = list(same)
    while pending:
        for audio, match in near.get(pending.pop(), ()):
            if audio not in same:
                same[audio] = f"the same recording, {match.similarity:.0%} of it"
                pending.append(audio)
    return same
