"""Songs to profiles: tempo, beats, chroma, key, singing and loudness of every kept song, one Ray task per song.

A profile is kept by the content of its song, so a rerun, or a corpus with one more song, hears only what has changed.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from datasets import analysis, audio
from datasets.analysis.song_profile import profile
from datasets.analysis.vocal_activity import RANGE_DB
from datasets.errors import InputError
from datasets.field_constraints import Range, check_ranges
from datasets.schema import PROFILES, Profile, ShardSet
from datasets.shards.arrow_tables import table_of, write_table
from datasets.shards.manifests import Song, find_manifest, read_manifest, read_songs, settings_of
from datasets.shards.shards import read_song, sources_of
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.runtime.cluster import Resources, connect, map_rows
from pipelines.runtime.node_resources import song_bytes
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

# Raise it when the same songs give another table of profiles (CONTRIBUTING.md)
VERSION = 1
STEP = Step(name="analyze", version=VERSION, uses={"analysis": analysis.VERSION, "audio": audio.VERSION})
_LIBRARIES_BYTES = 512 * 2**20  # of a worker before it hears anything
# A song, copies of it in passing, and its spectra: measured 2.2, and 4.2 beside more libraries
_SONGS_HELD = {"stemline": 2.3, "librosa": 4.8}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzeConfig:
    """How songs are analyzed."""

    # "stemline", or "librosa": its beat tracker on the drums and its chroma of the rest, as in Demucs' automix, without
    # downbeats; takes 8 times as long, and the first use compiles for 20 s
    method: Literal["stemline", "librosa"] = "stemline"
    # Vocals that are more than this below their peaks count as no singing
    singing_range_db: Annotated[float, Range(gt=0, le=100)] = RANGE_DB

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="analyze.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzeSongInputs:
    """All that decides on the profile of a song besides the settings."""

    track_id: str
    split: str
    audio: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzeInputs:
    """All that decides on a table of profiles besides the settings."""

    dataset: str  # the digest of all its songs
    songs: tuple[str, ...]  # the ids of those that are kept


def run(
    config: AnalyzeConfig,
    chunks: ShardSet,
    *,
    kept: Collection[str] | None = None,
    store: str,
    progress: Progress | None = None,
) -> ShardSet:
    """Table PROFILES of the songs of `chunks` that are in `kept` (all without it), in the order of their ids."""
    folder = storage.absolute(store)
    songs = sorted((song for song in read_songs(chunks) if kept is None or song.track_id in kept), key=_id)
    about = {
        song.track_id: AnalyzeSongInputs(track_id=song.track_id, split=song.split, audio=song.audio) for song in songs
    }
    table_key = STEP.key(AnalyzeInputs(dataset=chunks.digest, songs=tuple(about)), config)
    finished = find_manifest(folder, step="profiles", key=table_key)
    if finished is not None:
        return finished
    with stage(progress, "analyze", len(songs), "songs") as songs_stage:
        names = {track_id: STEP.key(inputs, config) for track_id, inputs in about.items()}
        paths = {name: storage.join(folder, "cache", "profiles", f"{key}.json") for name, key in names.items()}
        cached = {track_id: profile_row for track_id, path in paths.items() if (profile_row := _read_profile(path))}
        songs_stage.advance(len(cached))
        missing = [song for song in songs if song.track_id not in cached]
        if missing:
            with connect(store=folder):
                items = [
                    {"song": asdict(song), "config": asdict(config), "path": paths[song.track_id]} for song in missing
                ]
                longest = song_bytes(missing, num_sources=len(sources_of(missing[0])))
                need = Resources(memory_bytes=_LIBRARIES_BYTES + int(_SONGS_HELD[config.method] * longest))
                for row in map_rows(_analyze_song, items, resources=need):
                    cached[row["track_id"]] = _profile(row)
                    songs_stage.advance()
                    songs_stage.note(row["title"])
        profiles = [cached[song.track_id] for song in songs]
        settings = {**settings_of(read_manifest(chunks)), "analyze": asdict(config)}
        made_table = write_table(folder, "profiles", table_of(profiles, PROFILES), key=table_key, settings=settings)
        beating = sum(profile_row.tempo_bpm > 0 for profile_row in profiles)
        songs_stage.finish(f"{len(profiles)} songs, {beating} with a beat, {len(profiles) - len(missing)} known before")
    return made_table


def _id(song: Song) -> str:
    return song.track_id


def _read_profile(path: str) -> Profile | None:
    try:
        return _profile(read_json(path) or {})
    except (ValueError, KeyError, TypeError):
        return None


def _profile(fields: Mapping[str, Any]) -> Profile:
    values = {name: fields[name] for name in PROFILES.names if name != "schema_version"}
    lists = {name: tuple(values[name]) for name in ("beats_s", "downbeats_s", "chroma")}
    lists["vocals_s"] = tuple((start, stop) for start, stop in values["vocals_s"])
    levels = dict(sorted(values["loudness_db"].items()))  # the same order from a worker as from the cache
    return Profile(**{**values, **lists, "loudness_db": levels})


def _analyze_song(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: hear a song, keep its profile, and return it."""
    song = Song(**item["song"])
    analyzed = profile(
        read_song(song),
        track_id=song.track_id,
        split=song.split,
        sources=sources_of(song),
        sample_rate=song.sample_rate,
        **item["config"],
    )
    row = {**asdict(analyzed), "title": song.title}
    write_json(item["path"], row)
    return row
