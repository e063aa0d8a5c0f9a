"""Profiles to mixes: plans first, then the planned mixes as chunk shards of the same schema as ingest's.

A shard's name digests its plans, the audio of the songs in them and the code, so a rerun after any
interruption renders only what is missing, byte for byte the same. Titles and licenses, which may change without the
audio, stand in the manifest and not in the shards. Plans that lack a part are kept in the
table with their reason, and not rendered; a corpus in which nothing fits gives no chunks, and the road goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from datasets import audio, shards
from datasets.audio.audio_types import Samples
from datasets.corpus.layouts import separated_stems
from datasets.errors import InputError
from datasets.field_constraints import NonNegativeInt, PositiveInt, check_ranges
from datasets.mixing import mixplan
from datasets.mixing import render as rendering
from datasets.mixing.mixplan import MixRules, plan
from datasets.mixing.render import render
from datasets.schema import PLANS, SCHEMA_VERSION, SPLITS, MixPlan, Part, Profile, ShardSet
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.chunks import CHUNK_S, SongHeader, song_rows
from datasets.shards.manifests import (
    Shard,
    Song,
    find_manifest,
    read_manifest,
    read_songs,
    settings_of,
    stored_songs,
    write_manifest,
)
from datasets.shards.shards import cut_points, find_shard, read_song, sources_of, write_shard
from datasets.store import storage
from datasets.store.write_lock import clear_leftovers, write_lock
from pipelines.runtime.cluster import Resources, connect, map_rows
from pipelines.runtime.node_resources import song_bytes
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

# Raise it when the same plans and songs give other shards of mixes (CONTRIBUTING.md)
VERSION = 1
PLAN = Step(name="plan", version=VERSION, uses={"mixplan": mixplan.VERSION})
STEP = Step(
    name="automix",
    version=VERSION,
    uses={"audio": audio.VERSION, "render": rendering.VERSION, "shards": shards.VERSION},
)
_LIBRARIES_BYTES = 512 * 2**20  # of a worker before it renders anything
_SONGS_HELD = 3.0  # the stems of a mix, as long as its longest part, and what becomes of one in passing


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomixConfig:
    """How many mixes are made, and of what."""

    mixes_per_track: NonNegativeInt = 2  # mixes planned with each track as the reference; 0 makes none
    seed: NonNegativeInt = 0  # seed of all plans
    splits: tuple[str, ...] = ("train",)  # splits of which mixes are made; tracks of different splits are never mixed
    rules: MixRules = field(default_factory=MixRules)
    mixes_per_shard: PositiveInt = 4  # mixes in one Parquet file, on average

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="automix.")
        if not set(self.splits) <= set(SPLITS):
            raise InputError(f"automix.splits must be some of {', '.join(SPLITS)}, got {list(self.splits)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """All that decides on plans besides the settings."""

    profiles: str  # the digest of their table
    sources: tuple[str, ...]
    sample_rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInputs:
    """All that decides on a shard of mixes."""

    schema_version: int
    chunk_s: int
    plans: tuple[MixPlan, ...]
    songs: tuple[tuple[str, str], ...]  # id and audio of all that are in them


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomixInputs:
    """All that decides on a dataset of mixes."""

    made_from: str  # the name of the dataset that the songs are of
    plans: str  # the name of their table
    shards: tuple[str, ...]
    named: Mapping[str, tuple[str, str]]  # titles and licences, by mix


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomixResult:
    """The recipes, and the mixes made after those that are whole."""

    plans: ShardSet
    chunks: ShardSet

    def in_words(self) -> str:
        """What was made, the same in the run that makes it and in those that find it again."""
        return f"{_made(len(read_songs(self.chunks)), self.plans.num_rows)}, {self.chunks.num_rows} chunks"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """The plans that go into one shard, and the digest that names it."""

    spec: str
    plans: tuple[MixPlan, ...]


def run(
    config: AutomixConfig, chunks: ShardSet, profiles: ShardSet, *, store: str, progress: Progress | None = None
) -> AutomixResult:
    """Table PLANS and the chunk shards of the mixes; both may be empty. A finished run is found again."""
    folder = storage.absolute(store)
    songs = {song.track_id: song for song in read_songs(chunks)}
    settings = {**settings_of(read_manifest(profiles)), "automix": asdict(config)}
    plans = _plan(config, songs, profiles, folder, progress, settings=settings)
    jobs = _jobs(config, read_objects(plans, MixPlan), songs)
    named = {item.mix_id: (_title(item, songs), _license(item, songs)) for job in jobs for item in job.plans}
    made_from = chunks.uri.rsplit("/", 1)[-1].removesuffix(".json")
    about = AutomixInputs(
        made_from=made_from,
        plans=plans.uri.rsplit("/", 1)[-1].removesuffix(".json"),
        shards=tuple(job.spec for job in jobs),
        named=named,
    )
    key = STEP.key(about)
    finished = find_manifest(folder, step="automix", key=key)
    if finished is None:
        _render_missing(jobs, songs, folder, progress, num_plans=plans.num_rows)
        written = [_found(folder, job.spec) for job in jobs]
        mixes = [
            replace(mix, title=named[mix.track_id][0], license=named[mix.track_id][1])
            for shard in written
            for mix in stored_songs(folder, shard)
        ]
        extra = {
            "made_from": made_from,
            "plans": asdict(plans),
            "ingredients": _ingredients(jobs, songs),
            **separated_stems.kept_extra(read_manifest(chunks).extra),
        }
        finished = write_manifest(
            folder, table="chunks", step="automix", key=key, shards=written, songs=mixes, extra=extra, settings=settings
        )
    return AutomixResult(plans=plans, chunks=finished)


def _plan(
    config: AutomixConfig,
    songs: Mapping[str, Song],
    profiles: ShardSet,
    store: str,
    progress: Progress | None,
    *,
    settings: Mapping[str, Any],
) -> ShardSet:
    analyzed = [item for item in read_objects(profiles, Profile) if item.split in config.splits]
    like = _like_all([songs[item.track_id] for item in analyzed]) if analyzed else None
    about = PlanInputs(
        profiles=profiles.digest,
        sources=tuple(sources_of(like)) if like else (),
        sample_rate=like.sample_rate if like else 0,
    )
    key = PLAN.key(about, {name: value for name, value in asdict(config).items() if name != "mixes_per_shard"})
    finished = find_manifest(store, step="plans", key=key)
    if finished is not None:
        return finished
    with stage(progress, "plan", 0, "mixes") as plan_stage:
        plans: list[MixPlan] = []
        if like:
            plans = plan(
                analyzed,
                seed=config.seed,
                mixes_per_track=config.mixes_per_track,
                rules=config.rules,
                sources=sources_of(like),
                sample_rate=like.sample_rate,
            )
        table = write_table(store, "plans", table_of(plans, PLANS), key=key, settings=settings)
        plan_stage.finish(_words(plans))
    return table


def _like_all(songs: Sequence[Song]) -> Song:
    """Any of the songs, which are alike in all that a mix cannot bridge."""
    kinds = {(song.sample_rate, song.channels) for song in songs}
    if len(kinds) > 1:
        raise InputError(
            f"songs to be mixed must have one sample rate and number of channels, got {sorted(kinds)}: "
            "ingest them with one ingest.sample_rate, or set automix.mixes_per_track=0"
        )
    return songs[0]


def _words(plans: Sequence[MixPlan]) -> str:
    lacking = [item for item in plans if item.reason]
    if not lacking:
        return f"{len(plans)} plans"
    first = lacking[0].reason.split("; ")[0]  # the table of plans has them all
    return f"{len(plans)} plans, {len(lacking)} lack a part, such as {lacking[0].mix_id!r}: {first}"


def _jobs(config: AutomixConfig, plans: Sequence[MixPlan], songs: Mapping[str, Song]) -> list[_Job]:
    whole = sorted((item for item in plans if not item.reason), key=_mix_id)
    jobs = []
    for start, stop in cut_points([item.mix_id for item in whole], per_shard=config.mixes_per_shard):
        members = tuple(whole[start:stop])
        used = sorted({part.track_id for item in members for part in item.parts})
        about = ShardInputs(
            schema_version=SCHEMA_VERSION,
            chunk_s=CHUNK_S,
            plans=members,
            songs=tuple((track_id, songs[track_id].audio) for track_id in used),
        )
        jobs.append(_Job(spec=f"mix-{STEP.key(about)}", plans=members))
    return jobs


def _ingredients(jobs: Sequence[_Job], songs: Mapping[str, Song]) -> list[dict[str, str]]:
    """The songs that are in the mixes: whoever learns from mixes has heard these."""
    parts = {(part.track_id, mix.split) for job in jobs for mix in job.plans for part in mix.parts}
    return [{"track_id": name, "audio": songs[name].audio, "split": split} for name, split in sorted(parts)]


def _mix_id(item: MixPlan) -> str:
    return item.mix_id


def _found(store: str, spec: str) -> Shard:
    written = find_shard(store, spec)
    assert written is not None, spec
    return written[0]


def _made(num_mixes: int, num_plans: int) -> str:
    return f"{num_mixes} mixes of {num_plans} plans"


def _render_missing(
    jobs: Sequence[_Job], songs: Mapping[str, Song], store: str, progress: Progress | None, *, num_plans: int
) -> None:
    missing = [job for job in jobs if find_shard(store, job.spec) is None]
    mixes = sum(len(job.plans) for job in missing)
    with stage(progress, "automix", mixes, "mixes") as mixes_stage:
        if missing:
            with write_lock(store), connect(store=store):
                clear_leftovers(store)
                items = [_item(job, songs, store) for job in missing]
                used = [songs[part.track_id] for job in missing for item in job.plans for part in item.parts]
                longest = song_bytes(used, num_sources=len(sources_of(used[0])))
                need = Resources(memory_bytes=_LIBRARIES_BYTES + int(_SONGS_HELD * longest))
                for done in map_rows(_write_mixes, items, resources=need):
                    mixes_stage.advance(done["num_mixes"])
                    mixes_stage.note(done["last"])
        how = f"{mixes} rendered in {len(missing)} new shards, {len(jobs) - len(missing)} shards were there"
        how = how if jobs else "nothing fits, training goes on without"
        mixes_stage.finish(f"{_made(sum(len(job.plans) for job in jobs), num_plans)}: {how}")


def _item(job: _Job, songs: Mapping[str, Song], store: str) -> dict[str, Any]:
    used = sorted({part.track_id for item in job.plans for part in item.parts})
    return {
        "store": store,
        "spec": job.spec,
        "plans": [asdict(item) for item in job.plans],
        "songs": {track_id: asdict(songs[track_id]) for track_id in used},
    }


def _write_mixes(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: render the mixes of a shard and write it."""
    songs = {track_id: Song(**fields) for track_id, fields in item["songs"].items()}
    plans = [
        MixPlan(**{**fields, "parts": tuple(Part(**part) for part in fields["parts"])}) for fields in item["plans"]
    ]
    sources = sources_of(songs[plans[0].parts[0].track_id])

    def rows() -> Iterator[Mapping[str, Any]]:
        for mix in plans:
            yield from mix_rows(mix, songs, sources)

    write_shard(item["store"], item["spec"], rows(), sources=sources)
    return {"num_mixes": len(plans), "last": plans[-1].mix_id}


def _title(mix: MixPlan, songs: Mapping[str, Song]) -> str:
    """The mix by the title of its reference."""
    reference = songs[mix.parts[0].track_id]
    return mix.mix_id.replace(reference.track_id, reference.title, 1)


def _license(mix: MixPlan, songs: Mapping[str, Song]) -> str:
    """Those of all parts together."""
    return " + ".join(sorted({songs[part.track_id].license for part in mix.parts}))


def mix_rows(mix: MixPlan, songs: Mapping[str, Song], sources: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of table CHUNKS for one mix; the manifest says its title and its license."""
    header = SongHeader(
        track_id=mix.mix_id,
        title=mix.mix_id,
        split=mix.split,
        license="",
        origin="automix",
        sample_rate=songs[mix.parts[0].track_id].sample_rate,
    )
    return song_rows(mix_stems(mix, songs, sources), header, sources=sources, chunk_s=CHUNK_S)


def mix_stems(mix: MixPlan, songs: Mapping[str, Song], sources: Sequence[str]) -> Samples:
    """Stems_SCT of one planned mix, rendered here and now out of the stored songs; nothing is written."""

    def load(track_id: str, source: str) -> Samples:
        stem_CT: Samples = read_song(songs[track_id], sources=(source,))[0]
        return stem_CT

    return render(mix, load, songs[mix.parts[0].track_id].sample_rate, sources=sources)
