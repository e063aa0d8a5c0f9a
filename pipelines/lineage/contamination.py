"""Which held-out songs a model knows already: by the digest of their audio, and by what they sound like.

Digests find what is stored twice under whatever name. Landmarks, which curation keeps beside each dataset, also find
other masters, excerpts and other speeds (`datasets/quality/fingerprint.py`), across all that models have heard
(`training_recordings.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from datasets.quality.fingerprint import Signature, find_matches
from datasets.schema import ShardSet
from datasets.shards.manifests import Song
from pipelines.lineage import training_recordings
from pipelines.lineage.training_recordings import Ancestry, Recording

SAME_AUDIO = "the same audio"
AnySong = TypeVar("AnySong", Song, Recording)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """Songs to leave out of a comparison, and what could not be looked at."""

    songs: Mapping[str, str] = field(default_factory=dict)  # track id -> how it is known that a model learnt from it
    known: bool = True  # False where a dataset is gone, or what a model began from is not known
    by_fingerprint: bool = True  # False where only digests could be compared
    gaps: tuple[str, ...] = ()  # what is not known, and why, in words


def find(
    held_out: ShardSet, learnt_from: Sequence[str | Ancestry], *, split: str, min_similarity: float
) -> Contamination:
    """Songs of `split` that one of the models learnt from: what they have heard, or the manifests of their datasets.

    The candidate's own dataset is `held_out`, so one of its training songs counts as well. `min_similarity` is the
    share of the shorter song that must be the same recording; above 1 nothing is listened to.
    """
    tables = held_out.uri.rsplit("/", 2)[0]
    ours = training_recordings.of_dataset(held_out.uri)
    both = ours
    for source in learnt_from:
        both |= training_recordings.of_dataset(source) if isinstance(source, str) else source
    held_out_songs = [song for song in ours.recordings if song.split == split]
    learnt = learnt_songs(both.recordings, split=split)
    songs = dict.fromkeys(heard_songs(ours.recordings, learnt, split=split), SAME_AUDIO)
    by_fingerprint = min_similarity <= 1
    if by_fingerprint:
        left = {song.track_id: song.audio for song in held_out_songs if song.track_id not in songs}
        wanted = {song.audio for song in learnt} | set(left.values())
        sounds = training_recordings.sounds(both, wanted, tables=tables)
        by_fingerprint = wanted <= sounds.keys() and not both.mute
        songs |= _recognized(left, learnt, sounds, min_similarity=min_similarity)
    return Contamination(songs=songs, known=not both.gaps, by_fingerprint=by_fingerprint, gaps=both.gaps)


def learnt_songs(songs: Iterable[AnySong], *, split: str) -> list[AnySong]:
    """What a model was trained with, or chosen by: all but those kept for tests.

    Songs that both were chosen by are no reason to compare nothing at all, where these are the ones compared.
    """
    spared = {"test", split} - {"train"}
    return [song for song in songs if song.split not in spared]


def heard_songs(songs: Iterable[AnySong], learnt: Iterable[AnySong], *, split: str) -> list[str]:
    """Ids of the songs in `split` whose audio, whatever it is called there, is among what was learnt from."""
    audio = {song.audio for song in learnt}
    return sorted(song.track_id for song in songs if song.split == split and song.audio in audio)


def _recognized(
    candidates: Mapping[str, str],
    learnt: Iterable[Recording],
    signatures: Mapping[str, Signature],
    *,
    min_similarity: float,
) -> dict[str, str]:
    """Those of the requested songs, audio by id, in which something that was learnt from is heard, and where."""
    by_audio = {song.audio: song.track_id for song in learnt}  # each recording once, under one of its names
    # A match tells of the later name: so held-out songs sort behind those of training.
    held_out = {f"held-out {name}": name for name, audio in candidates.items() if audio in signatures}
    sounds = {key: signatures[candidates[name]] for key, name in held_out.items()}
    sounds |= {f"(training) {name}": signatures[audio] for audio, name in by_audio.items() if audio in signatures}
    recognized: dict[str, str] = {}
    for match in find_matches(sounds, min_similarity=min_similarity):
        if match.later in held_out and match.first not in held_out:
            recognized.setdefault(held_out[match.later], match.words)
    return recognized
