"""Corpus to shards: decodes every song once, checks it, and keeps it as FLAC in Parquet.

One Ray task writes one shard under a name made from what goes into it, so a rerun after any interruption
writes only what is missing, byte for byte the same. A song that cannot be used becomes a verdict.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets.chunks import CHUNK_S, track_rows
from datasets.corpus import Scan, scan
from datasets.errors import AudioError, InputError
from datasets.schema import REASONS, SOURCES, ShardSet, StemFile, Track, Verdict, chunks_schema
from datasets.shards import (
    Shard,
    ShardPlan,
    clear_leftovers,
    exclusive,
    find_manifest,
    find_shard,
    plan_shards,
    read_manifest,
    write_manifest,
    write_shard,
)
from pipelines.cluster import connect, map_rows
from pipelines.progress import Progress, stage
from pipelines.provenance import code_digest, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusConfig:
    """Where the songs are, and what is asked of them."""

    root: str = ""  # the folder with the songs; see datasets/corpus.py for the layouts
    sources: tuple[str, ...] = SOURCES  # every song must have a stem for each
    license: str = "unknown"  # carried along to every chunk
    split_seed: int = 0  # draws the splits that no folder states
    valid_fraction: float = 0.1  # of the groups of songs that the draw is about
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise InputError(f"corpus.sources is {list(self.sources)}; one or more different names would do")
        taken = set(chunks_schema(()).names) & set(self.sources)
        if taken or not all(source.isidentifier() and source.islower() for source in self.sources):
            raise InputError(
                f"corpus.sources is {list(self.sources)}; lower-case words would do, other than column names"
                + (f" such as {sorted(taken)[0]}" if taken else "")
            )
        if min(self.valid_fraction, self.test_fraction) < 0 or self.valid_fraction + self.test_fraction >= 1:
            raise InputError(
                f"corpus.valid_fraction={self.valid_fraction} and corpus.test_fraction={self.test_fraction} leave "
                "nothing to train on; together they must stay below 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How songs are stored."""

    sample_rate: int = 44100  # Hz; other rates are resampled by soxr HQ
    channels: int = 2  # mono songs are stored with both channels equal
    chunk_s: int = CHUNK_S  # seconds of one song per row
    min_song_s: float = 1.0  # shorter songs are refused
    songs_per_shard: int = 4  # on average; four full-length songs make shards of about 256 MB

    def __post_init__(self) -> None:
        for name in ("sample_rate", "channels", "chunk_s", "songs_per_shard"):
            if getattr(self, name) < 1:
                raise InputError(f"ingest.{name}={getattr(self, name)}; 1 or more would do")
        if self.channels > 2:
            raise InputError(f"ingest.channels={self.channels}; 1 or 2 would do")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """The address of the stored songs, and what became of the others."""

    chunks: ShardSet
    rejected: tuple[Verdict, ...]
    layout: str
    drawn: tuple[str, ...]  # the splits that no folder stated


def run(corpus: CorpusConfig, config: IngestConfig, *, store: str, progress: Progress | None = None) -> IngestResult:
    """Chunk shards of every usable song; a finished run with the same songs, settings and code is found again.

    InputError when no song can be used at all.
    """
    folder = Path(store).expanduser().absolute()
    if not corpus.root:
        raise InputError("corpus.root is not set; corpus.root=DIR names the folder with the songs")
    found = _scan(corpus, folder, progress)
    _require(found.tracks, found.rejected, corpus)
    spec = digest(config, corpus.sources, code_digest("datasets.chunks"))
    plans = plan_shards(found.tracks, songs_per_shard=config.songs_per_shard, spec=spec)
    rule = {"seed": corpus.split_seed, "valid_fraction": corpus.valid_fraction, "test_fraction": corpus.test_fraction}
    about = {"layout": found.layout, "drawn": found.drawn, "split_rule": rule, "sources": corpus.sources}
    key = digest([plan.spec for plan in plans], found.rejected, about)
    finished = find_manifest(folder, step="ingest", key=key)
    if finished is None:
        _write_missing(plans, config, corpus, folder, progress)
        finished = _conclude(plans, found.rejected, about, store=folder, key=key)
    result = _result(finished)
    _require(result.chunks.num_rows, result.rejected, corpus)
    return result


def _scan(corpus: CorpusConfig, store: Path, progress: Progress | None) -> Scan:
    with stage(progress, "scan", 0, "MB") as heard:
        found = scan(
            corpus.root,
            sources=corpus.sources,
            split_seed=corpus.split_seed,
            valid_fraction=corpus.valid_fraction,
            test_fraction=corpus.test_fraction,
            license=corpus.license,
            cache=store / "cache" / "fingerprints.json",
            advance=lambda num_bytes: heard.advance(num_bytes / 1e6),
        )
        heard.finish(f"{len(found.tracks)} songs, {len(found.rejected)} refused, layout {found.layout}")
    return found


def _write_missing(
    plans: Sequence[ShardPlan], config: IngestConfig, corpus: CorpusConfig, store: Path, progress: Progress | None
) -> None:
    missing = [plan for plan in plans if find_shard(store, plan.spec) is None]
    songs = sum(len(plan.tracks) for plan in missing)
    with stage(progress, "ingest", songs, "songs") as heard:
        if missing:
            with exclusive(store), connect():
                clear_leftovers(store)
                common = {"store": str(store), "root": corpus.root, "sources": corpus.sources, "config": asdict(config)}
                for done in map_rows(_write_plan, [{**common, "plan": asdict(plan)} for plan in missing]):
                    heard.advance(done["num_songs"])
                    heard.note(done["last"])
        heard.finish(f"{songs} songs in {len(missing)} new shards, {len(plans) - len(missing)} shards were there")


def _write_plan(item: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one task: decode the songs of a plan, write the shard, note the refused ones in its sidecar."""
    config, sources = IngestConfig(**item["config"]), tuple(item["sources"])
    tracks = [_track(fields) for fields in item["plan"]["tracks"]]
    prefix = str(Path(item["root"]).expanduser().absolute()) + "/"
    refused: list[dict[str, Any]] = []

    def rows() -> Iterator[Mapping[str, Any]]:
        for track in tracks:
            try:
                yield from track_rows(
                    track,
                    sources=sources,
                    sample_rate=config.sample_rate,
                    channels=config.channels,
                    chunk_s=config.chunk_s,
                    min_song_s=config.min_song_s,
                )
            except AudioError as error:
                # Where the corpus stands must not show in what is stored.
                refused.append(asdict(_refused(track, error.reason, str(error).replace(prefix, ""))))

    write_shard(item["store"], item["plan"]["spec"], rows(), sources=sources, extra=lambda: {"rejected": refused})
    return {"num_songs": len(tracks), "last": tracks[-1].title}


def _track(fields: Mapping[str, Any]) -> Track:
    stems = {source: tuple(StemFile(**file) for file in files) for source, files in fields["stems"].items()}
    return Track(**{**fields, "stems": stems})


def _refused(track: Track, reason: str, detail: str) -> Verdict:
    return Verdict(
        track_id=track.track_id,
        title=track.title,
        split=track.split,
        keep=False,
        reason=reason,
        detail=detail,
        duration_s=0.0,
        measures={},
    )


def _conclude(
    plans: Sequence[ShardPlan], refused: Sequence[Verdict], about: Mapping[str, Any], *, store: Path, key: str
) -> ShardSet:
    shards: list[Shard] = []
    rejected = [asdict(verdict) for verdict in refused]
    for plan in plans:
        written = find_shard(store, plan.spec)
        assert written is not None, plan.spec
        shards.append(written[0])
        rejected += written[1]["rejected"]
    rejected.sort(key=lambda verdict: verdict["track_id"])
    extra = {**about, "rejected": rejected}
    return write_manifest(store, table="chunks", step="ingest", key=key, shards=shards, extra=extra)


def _result(chunks: ShardSet) -> IngestResult:
    extra = read_manifest(chunks).extra
    return IngestResult(
        chunks=chunks,
        rejected=tuple(Verdict(**verdict) for verdict in extra["rejected"]),
        layout=extra["layout"],
        drawn=tuple(extra["drawn"]),
    )


def _require(usable: Any, rejected: Sequence[Verdict], corpus: CorpusConfig) -> None:
    """InputError with the reasons and their counts when nothing is usable."""
    if usable:
        return
    lines = []
    for reason, count in Counter(verdict.reason for verdict in rejected).most_common():
        example = next(verdict for verdict in rejected if verdict.reason == reason)
        lines.append(f"  - {reason} ({REASONS[reason]}): {count} songs, such as {example.title!r}: {example.detail}")
    advice = ""
    if any(verdict.reason == "missing_stem" for verdict in rejected):
        advice = f"\ncorpus.sources={list(corpus.sources)} asks for these stems; leave out what the songs do not have"
        advice = advice.replace("'", '"')
    raise InputError(f"none of the {len(rejected)} songs in {corpus.root} can be used:\n" + "\n".join(lines) + advice)
