"""Which held-out songs a model knows already: by the digest of their audio, and by what they sound like.

Digests find what is stored twice under whatever name. Landmarks, which curation keeps beside each dataset, also find
other masters, excerpts and other speeds (`datasets/fingerprint.py`), across all datasets that models learnt from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from datasets.errors import InputError
from datasets.fingerprint import Signature, find_matches, unpack
from datasets.schema import Landmarks, ShardSet
from datasets.shards import Manifest, Song, read_manifest, read_objects

SAME_AUDIO = "the same audio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """Songs to leave out of a comparison, and what could not be looked at."""

    songs: Mapping[str, str] = field(default_factory=dict)  # track id -> how it is known that a model learnt from it
    known: bool = True  # False where a dataset that a model learnt from is gone
    by_ear: bool = True  # False where only digests could be compared
    gaps: tuple[str, ...] = ()  # what is not known, and why, in words


def find(held_out: ShardSet, learnt_from: Sequence[str], *, split: str, min_similarity: float) -> Contamination:
    """Songs of `split` that one of the models learnt from; `learnt_from` are the manifests of their datasets.

    The candidate's own is `held_out`, so one of its training songs counts as well. `min_similarity` is the share of
    the shorter song that must be the same recording; above 1 nothing is listened to.
    """
    ours = read_manifest(held_out)
    others = [_manifest(uri) for uri in learnt_from]
    manifests = [ours, *(manifest for manifest in others if manifest is not None)]
    known = len(manifests) == 1 + len(learnt_from)
    learnt = [song for manifest in manifests for song in learnt_songs(manifest.songs, split=split)]
    found = dict.fromkeys(heard_songs(ours.songs, learnt, split=split), SAME_AUDIO)
    signatures = [_signatures(manifest) for manifest in manifests] if min_similarity <= 1 else [None]
    by_audio: dict[str, Signature] = {}
    for part in signatures:
        by_audio |= part or {}
    asked = {song.track_id: song.audio for song in ours.songs if song.split == split and song.track_id not in found}
    found |= _recognized(asked, learnt, by_audio, min_similarity=min_similarity)
    return Contamination(songs=found, known=known, by_ear=None not in signatures)


def learnt_songs(songs: Iterable[Song], *, split: str) -> list[Song]:
    """What a model was trained with, or chosen by: all but the songs that are compared and those kept for tests."""
    return [song for song in songs if song.split not in (split, "test")]


def heard_songs(songs: Iterable[Song], learnt: Iterable[Song], *, split: str) -> list[str]:
    """Ids of the songs in `split` whose audio, whatever it is called there, is among what was learnt from."""
    audio = {song.audio for song in learnt}
    return sorted(song.track_id for song in songs if song.split == split and song.audio in audio)


def _manifest(uri: str) -> Manifest | None:
    try:
        return read_manifest(uri) if uri else None
    except InputError:
        return None


def _signatures(manifest: Manifest) -> dict[str, Signature] | None:
    """What the songs of a dataset sound like, by the digest of their audio; None where that is not kept with it."""
    kept = manifest.extra.get("landmarks")
    try:
        rows = read_objects(ShardSet(**kept), Landmarks) if kept else None
    except (InputError, OSError):
        return None
    return None if rows is None else {row.audio: unpack(row.signature) for row in rows}


def _recognized(
    asked: Mapping[str, str], learnt: Iterable[Song], signatures: Mapping[str, Signature], *, min_similarity: float
) -> dict[str, str]:
    """Those of the asked songs, audio by id, in which something that was learnt from is heard, and where."""
    by_audio = {song.audio: song.track_id for song in learnt}  # each recording once, under one of its names
    # A match tells of the later name: so held-out songs sort behind those of training.
    held_out = {f"held-out {name}": name for name, audio in asked.items() if audio in signatures}
    sounds = {key: signatures[asked[name]] for key, name in held_out.items()}
    sounds |= {f"(training) {name}": signatures[audio] for audio, name in by_audio.items() if audio in signatures}
    found: dict[str, str] = {}
    for match in find_matches(sounds, min_similarity=min_similarity):
        if match.later in held_out and match.first not in held_out:
            found.setdefault(held_out[match.later], match.words)
    return found
