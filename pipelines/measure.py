"""Signal measures of many songs: one Ray task per few minutes of audio, remembered by the song's audio.

Adding ten songs to thousands measures ten; a song that is stored under another name measures none. What is measured
of one song is in `datasets/quality.py`; `curate.py` decides with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets.fingerprint import Signature, pack, unpack
from datasets.quality import Meter, Moment, Rules
from datasets.shards import Song, read_json, read_song_blocks, write_json
from pipelines.cluster import connect, map_rows
from pipelines.progress import Progress, stage
from pipelines.provenance import code_digest, digest

_TASK_S = 300.0  # of audio that one task measures, unless one song is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the signal of one song says."""

    measures: Mapping[str, float]
    moments: tuple[Moment, ...]  # its worst seconds
    signature: Signature


def run(
    rules: Rules, songs: Sequence[Song], *, sources: Sequence[str], store: Path, progress: Progress | None = None
) -> dict[str, Measured]:
    """What was measured of every song, by the digest of its audio."""
    # The level that counts as silence is the only rule that decides on measures.
    spec = [rules.silence_db, list(sources), code_digest("datasets.quality")]  # which reaches all that it imports
    caches = {song.audio: store / "cache" / "measures" / f"{digest(song.audio, spec)}.json" for song in songs}
    found = {audio: known for audio, path in caches.items() if (known := _read(path)) is not None}
    missing = list({song.audio: song for song in songs if song.audio not in found}.values())
    with stage(progress, "curate", len(missing), "songs") as heard:
        if missing:
            common = {"sources": list(sources), "silence_db": rules.silence_db}
            items = [
                {**common, "songs": [[asdict(song), str(caches[song.audio])] for song in group]}
                for group in _groups(missing)
            ]
            with connect():
                for done in map_rows(_measure_songs, items):
                    heard.advance(done["num_songs"])
        heard.finish(f"{len(songs)} songs, {len(missing)} of them measured now")
    return found | {song.audio: known for song in missing if (known := _read(caches[song.audio])) is not None}


def _groups(songs: Sequence[Song]) -> Iterator[list[Song]]:
    """Neighbours that one task measures: starting a task costs more than measuring a short song."""
    group: list[Song] = []
    total_s = 0.0
    for song in songs:
        group.append(song)
        total_s += song.num_samples / song.sample_rate
        if total_s >= _TASK_S:
            yield group
            group, total_s = [], 0.0
    if group:
        yield group


def _measure_songs(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: the measures of some songs, each into a small file."""
    for fields, cache in item["songs"]:
        song = Song(**fields)
        meter = Meter(sources=item["sources"], sample_rate=song.sample_rate, silence_db=item["silence_db"])
        for stems_SCT in read_song_blocks(song, sources=item["sources"]):
            meter.add(stems_SCT)
        moments = [asdict(moment) for moment in meter.worst()]
        write_json(cache, {"measures": meter.measures(), "moments": moments, "signature": pack(meter.signature())})
    return {"num_songs": len(item["songs"])}


def _read(path: Path) -> Measured | None:
    """What an earlier task wrote; None when it is missing or damaged."""
    try:
        row = read_json(path) or {}
        moments = tuple(Moment(**moment) for moment in row["moments"])
        return Measured(measures=row["measures"], moments=moments, signature=unpack(row["signature"]))
    except (KeyError, TypeError, ValueError):
        return None
