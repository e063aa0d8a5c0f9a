"""The work of one Ray task: the songs of a planned shard decoded, checked and written.

A song that cannot be used becomes a verdict in the shard's sidecar; one that cannot be read now is told of instead.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from datasets.audio.mono_mix import mono
from datasets.corpus.removed_songs import REASON as FORGOTTEN
from datasets.corpus.removed_songs import RemovedSong, RemovedSongs
from datasets.corpus.scan import is_listed
from datasets.errors import AudioError, Changed, Unavailable
from datasets.quality.fingerprint import FingerprintExtractor
from datasets.schema import StemFile, Track, Verdict
from datasets.shards.chunks import DecodedTrack, decode_track, probe_stems, stems_of
from datasets.shards.manifests import SongOrigin
from datasets.shards.shard_planning import ShardPlan, plan_shards
from datasets.shards.shards import audio_digest, write_shard
from datasets.shards.start_delays import unsaid_starts
from datasets.store import storage
from datasets.store.verified_reads import read_proven
from models.scores.malloc_tuning import keep_freed_memory
from pipelines.preparation.ingest.ingest_config import IngestConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadSong:
    """Why a song could not be read this time."""

    detail: str
    changed: bool  # a file is not the one that was listed


def write_planned(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: decode the songs of a plan, write the shard, note keys and refusals in its sidecar.

    Without those that cannot be read now the others are another plan, with a name of its own.
    """
    keep_freed_memory()  # a block of samples for each stem of a stretch, again and again: 3 % of the processor time
    tracks = [_track(fields) for fields in item["tracks"]]
    away: dict[str, UnreadSong] = {}
    while left := [track for track in tracks if track.track_id not in away]:
        (plan,) = plan_shards(left, keys=item["keys"], shard_bytes=sys.maxsize)
        try:
            _write_whole(plan, item, away)
            break
        except _Incomplete:
            continue
    unread = {track_id: asdict(why) for track_id, why in away.items()}
    return {"num_songs": len(tracks), "last": tracks[-1].title, "away": unread}


class _Incomplete(Exception):
    """Some songs of a shard could not be read, so it must not get the name that stands for all of them."""


def _write_whole(plan: ShardPlan, item: Mapping[str, Any], away: dict[str, UnreadSong]) -> None:
    """Write the shard of a plan; _Incomplete where songs were put into `away`."""
    config, sources = IngestConfig(**item["config"]), tuple(item["sources"])
    forgotten = RemovedSongs(songs=tuple(RemovedSong(**song) for song in item["forgotten"]))
    refused: list[dict[str, Any]] = []
    origins: dict[str, dict[str, Any]] = {}

    def rows() -> Iterator[Mapping[str, Any]]:
        for track in plan.tracks:
            try:
                decoded = _decoded(track, config, sources, root=storage.absolute(item["root"]))
                _refuse_forgotten(decoded.rows, forgotten, sources)
            except AudioError as error:
                refused.append(asdict(refusal_of(track, error.reason, str(error))))
            except Unavailable as error:
                away[track.track_id] = UnreadSong(detail=str(error), changed=isinstance(error, Changed))
            else:
                origins[track.track_id] = asdict(_origin(decoded))
                yield from decoded.rows
        if any(track.track_id in away for track in plan.tracks):
            raise _Incomplete

    keys = {track.track_id: item["keys"][track.track_id] for track in plan.tracks}
    extra = {"keys": keys, "rejected": refused, "origins": origins}
    write_shard(item["store"], plan.spec, rows(), sources=sources, extra=lambda: extra)


def _origin(decoded: DecodedTrack) -> SongOrigin:
    return SongOrigin(
        lossless=decoded.lossless,
        bits=decoded.bits,
        sample_rate=decoded.sample_rate,
        remarks=decoded.remarks,
    )


def _refuse_forgotten(rows: Sequence[Mapping[str, Any]], forgotten: RemovedSongs, sources: Sequence[str]) -> None:
    """AudioError where a song, in whatever copy or master, is one that the store is to forget."""
    if not forgotten or not rows:
        return
    listener = FingerprintExtractor(rows[0]["sample_rate"])
    for row in rows:
        listener.add(mono(stems_of(row, sources).sum(axis=0)))
    audio, sound = audio_digest(rows, sources=sources), listener.signature()
    if reasons := forgotten.recognized({"": audio}, {"": sound}):
        raise AudioError(FORGOTTEN, reasons[""])


def _decoded(track: Track, config: IngestConfig, sources: Sequence[str], *, root: str) -> DecodedTrack:
    """A decoded track, whose files are fetched if they are elsewhere; errors and remarks name them as they stand below
    root.

    Where the corpus stands, and what its files were copied to, must not show in what is stored.
    """
    files = {file.path: file for several in track.stems.values() for file in several}
    copies: dict[str, str] = {}

    def read(local: Mapping[str, str]) -> DecodedTrack:
        copies.update({path: address for address, path in local.items()})
        here = _at(track, local)
        if not here.mixture and track.mixture and unsaid_starts(probe_stems(here, sources)):
            return read_proven(track.mixture, lambda more: read({**local, **more}))
        return decode_track(
            here,
            sources=sources,
            sample_rate=config.sample_rate,
            channels=config.channels,
            chunk_s=config.chunk_s,
            min_song_s=config.min_song_s,
            resample_quality=config.resample_quality,
            bits=config.bits,
        )

    def below_root(text: str) -> str:
        for path, address in copies.items():
            text = text.replace(path, address)
        return text.replace(f"{root}/", "")

    try:
        decoded = read_proven(list(files.values()), read, is_same=lambda: is_listed(track, sources))
    except AudioError as error:
        raise AudioError(error.reason, below_root(str(error))) from None
    except Unavailable as error:
        raise type(error)(below_root(str(error))) from None
    return replace(decoded, remarks=tuple(map(below_root, decoded.remarks)))


def _at(track: Track, local: Mapping[str, str]) -> Track:
    """The track with its files where they are on this machine; without the mixture where that is not."""
    stems = {
        source: tuple(replace(file, path=local[file.path]) for file in files) for source, files in track.stems.items()
    }
    mixture = tuple(replace(file, path=local[file.path]) for file in track.mixture if file.path in local)
    return replace(track, stems=stems, mixture=mixture)


def _track(fields: Mapping[str, Any]) -> Track:
    stems = {source: tuple(StemFile(**file) for file in files) for source, files in fields["stems"].items()}
    versions = tuple((source, first, second) for source, first, second in fields["versions"])
    mixture = tuple(StemFile(**file) for file in fields["mixture"])
    return Track(**{**fields, "stems": stems, "mixture": mixture, "versions": versions})


def refusal_of(track: Track, reason: str, detail: str) -> Verdict:
    return Verdict.refused(track.track_id, title=track.title, split=track.split, reason=reason, detail=detail)
