"""Stored songs to verdicts: measures every song, keeps or drops it with a reason, and selects what is kept.

What is measured and what a model hears is remembered by the song's audio, so that another threshold or one more
song costs next to nothing. A person may overrule any verdict (`datasets/quality/verdict_overrides.py`). What follows
curation reads its `chunks`, a selection of the same shards: the songs that were kept, each on its final side of the
split. `report/curation/curation_page.py` shows why.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets.corpus import splits
from datasets.corpus.layouts import separated_stems
from datasets.corpus.removed_songs import RemovedSongs, read_removed_songs
from datasets.errors import InputError
from datasets.quality.fingerprint import Signature, pack
from datasets.quality.rules.violations import silent_sources
from datasets.quality.verdict_overrides import Overrides, read_overrides
from datasets.schema import LANDMARKS, SPLITS, VERDICTS, Funnel, Landmarks, ShardSet, Verdict, refusals_in_words
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.dataset_versions import drawn_sides
from datasets.shards.manifests import (
    Manifest,
    Song,
    find_manifest,
    named_table,
    read_manifest,
    settings_of,
    write_manifest,
)
from datasets.store import storage
from pipelines.preparation import label_check, relaxed_rules, signal_stats
from pipelines.preparation.corpus_rules import verdicts_on
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.ingest import IngestResult
from pipelines.preparation.label_check import LabelModel
from pipelines.preparation.song_rules import cross_checked, curation_rules, judged, ruled
from pipelines.report.curation import curation_page, page_input
from pipelines.report.curation.page_input import CurationInput
from pipelines.runtime.progress import Progress
from pipelines.runtime.step_keys import Step, incomplete_key

# Raise it when the same measures and levels give other verdicts (CONTRIBUTING.md)
VERSION = 3
STEP = Step(name="curate", version=VERSION, uses={"splits": splits.VERSION, **signal_stats.STEP.versions})
# How the model is run, and where to find what else decides: the key holds the content instead.
_NOT_DECISIVE = ("model", "overrides", "num_workers", "use_gpu", "batch_size", "plugins")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateInputs:
    """All that decides on the verdicts besides the rules."""

    dataset: str  # the name of what ingest wrote, which tells refusals and splits
    songs: str  # the digest of its songs
    mixtures: Mapping[str, tuple[str, ...]]  # the contents of the files that came with songs, by track id
    model: Mapping[str, Any]  # that is asked: its digest, and the versions of the code that asks it
    by_hand: str  # the digest of a person's decisions
    forgotten: tuple[str, ...]  # recordings that the store is to forget


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateResult:
    """The verdicts on all songs, readable or not, and the selection of those that were kept."""

    verdicts: ShardSet
    chunks: ShardSet
    kept: tuple[str, ...]
    summary: Mapping[str, Any]  # songs, readable, kept, dropped by reason, songs per split, hours, what settings keep
    page: str  # the path of curation_page.html

    @property
    def funnel(self) -> Funnel:
        """From the songs found to those kept."""
        return Funnel(found=self.summary["songs"], readable=self.summary["readable"], kept=self.summary["kept"])


def run(
    config: CurateConfig,
    ingested: IngestResult,
    *,
    store: str,
    home: str = "",
    progress: Progress | None = None,
    require: Sequence[str] = ("train",),
) -> CurateResult:
    """A verdict for every song; InputError when a split of `require` has no song left.

    `home` is the store of the page and the registry, unless it is that of the songs.

    Of several songs with the same audio the one on the stricter side of the split is kept (test before valid before
    train), then the better copy: without loss, deeper, at the higher rate, of the wider band, longer; then the first in
    the order of ids. Where the corpus' folders state no splits and dropping songs leaves
    a drawn one empty, that split takes a group of the kept songs.
    """
    folder, here = storage.absolute(store), storage.absolute(home or store)
    stored = read_manifest(ingested.chunks)
    by_hand = _by_hand(config, stored.songs, ingested.rejected)
    model = _listener(config, stored.extra["sources"], here)
    decisive: dict[str, Any] = {name: value for name, value in asdict(config).items() if name not in _NOT_DECISIVE}
    if rules := curation_rules(config.plugins):
        decisive["plugins"] = [rule.version for rule in rules]
    forgotten = read_removed_songs(folder)
    about = CurateInputs(
        dataset=Path(ingested.chunks.uri).stem,
        songs=ingested.chunks.digest,
        mixtures={track_id: signal_stats.contents(files) for track_id, files in sorted(ingested.mixtures.items())},
        model={"digest": model.digest, **label_check.STEP.versions} if model else {},
        by_hand=by_hand.digest,
        forgotten=tuple(forgotten.names),
    )
    key = STEP.key(about, decisive)
    finished = find_manifest(folder, step="curate", key=key)
    if (
        finished is None
        or find_manifest(folder, step="verdicts", key=key) is None
        or not curation_page.is_about(here, key)
    ):
        finished = _curate(
            config, ingested, stored, by_hand, forgotten, model, store=folder, home=here, key=key, progress=progress
        )
    result = _result(finished, here)
    for split in require:
        if not result.summary["splits"].get(split):
            raise InputError(_nothing_left(split, config, ingested, result))
    return result


def _by_hand(config: CurateConfig, songs: Sequence[Song], rejected: Sequence[Verdict]) -> Overrides:
    if not config.overrides:
        return Overrides(songs={}, digest="")
    unstored = {verdict.track_id: f"{verdict.reason}: {verdict.detail}" for verdict in rejected}
    return read_overrides(config.overrides, known=[*(song.track_id for song in songs), *unstored], unstored=unstored)


def _listener(config: CurateConfig, sources: Sequence[str], store: str) -> LabelModel | None:
    """The model that is asked, or None where the rule is off."""
    if not config.model:
        return None
    from pipelines import registry

    model = label_check.label_model(str(registry.resolve(config.model, store=store)))
    model.check(sources)
    return model


def _curate(
    config: CurateConfig,
    ingested: IngestResult,
    stored: Manifest,
    by_hand: Overrides,
    forgotten: RemovedSongs,
    model: LabelModel | None,
    *,
    store: str,
    home: str,
    key: str,
    progress: Progress | None,
) -> ShardSet:
    """Measure, judge, write the verdicts, the page and, last, the selection."""
    sources = tuple(stored.extra["sources"])
    measured = signal_stats.run(
        config, stored.songs, sources=sources, mixtures=ingested.mixtures, store=store, progress=progress
    )
    if unread := sorted((track_id, stats.unread) for track_id, stats in measured.items() if stats.unread):
        key = incomplete_key(
            key, unread
        )  # not the verdicts that were asked for: the next run measures these songs again
    rules = curation_rules(config.plugins)
    songs_judged = [ruled(judged(song, measured[song.track_id], config, sources), rules) for song in stored.songs]
    if model is not None:
        songs_judged = cross_checked(songs_judged, config, model, sources, store, progress)
    before = drawn_sides(store, stored.extra["split_rule"], step="curate") if stored.extra.get("drawn") else {}
    decided = verdicts_on(config, songs_judged, by_hand, {**stored.extra, "curated_sides": before}, forgotten)
    verdicts = sorted([*decided.verdicts, *ingested.rejected], key=lambda verdict: verdict.track_id)
    settings = {**settings_of(stored), "curate": asdict(config)}
    table = write_table(store, "verdicts", table_of(verdicts, VERDICTS), key=key, settings=settings)
    page_input = CurationInput(
        key=key,
        rules=config,
        sources=sources,
        verdicts=verdicts,
        songs={song.track_id: song for song in stored.songs},
        evidence=decided.evidence,
        would_keep=relaxed_rules.in_words(decided.would_keep),
        matrices={item.song.track_id: item.shares_SS for item in songs_judged if item.shares_SS is not None},
        min_own=config.min_own,
        max_foreign=config.max_foreign,
        heard_db=config.heard_db,
        by_hand=tuple(by_hand.songs),
        model=config.model,
    )
    curation_page.run(page_input, store=home, progress=progress)
    signatures = {item.song.track_id: item.signature for item in songs_judged}
    summary = {"by_hand": len(by_hand.songs), "would_keep": dict(decided.would_keep)}
    return _select(verdicts, table, stored, summary, signatures, store=store, key=key, settings=settings)


def _select(
    verdicts: Sequence[Verdict],
    table: ShardSet,
    stored: Manifest,
    more: Mapping[str, Any],
    signatures: Mapping[str, Signature],
    *,
    store: str,
    key: str,
    settings: Mapping[str, Any],
) -> ShardSet:
    """The manifest of the kept songs; what they sound like goes with it, for models that will be compared with them."""
    kept = {verdict.track_id: verdict.split for verdict in verdicts if verdict.keep}
    summary = {
        "songs": len(verdicts),
        "readable": len(stored.songs),
        "kept": len(kept),
        "dropped": dict(Counter(verdict.reason for verdict in verdicts if not verdict.keep)),
        "splits": {split: list(kept.values()).count(split) for split in SPLITS},
        "hours": sum(verdict.duration_s for verdict in verdicts if verdict.keep) / 3600,
        **more,
    }
    songs = [replace(song, split=kept[song.track_id]) for song in stored.songs if song.track_id in kept]
    sounds = [
        Landmarks(track_id=song.track_id, audio=song.audio, signature=pack(signatures[song.track_id])) for song in songs
    ]
    landmarks = write_table(store, "landmarks", table_of(sounds, LANDMARKS), key=key)
    extra = {
        "verdicts": asdict(table),
        "landmarks": asdict(landmarks),
        "summary": summary,
        "made_from": f"{stored.step}-{stored.key}",
        "split_rule": stored.extra.get("split_rule"),
        **separated_stems.kept_extra(stored.extra),
    }
    return write_manifest(
        store,
        table="chunks",
        step="curate",
        key=key,
        shards=stored.shards,
        songs=songs,
        extra=extra,
        settings=settings,
    )


def _result(chunks: ShardSet, home: str) -> CurateResult:
    manifest = read_manifest(chunks)
    verdicts = named_table(manifest, "verdicts")
    assert verdicts is not None
    return CurateResult(
        verdicts=verdicts,
        chunks=chunks,
        kept=tuple(song.track_id for song in manifest.songs),
        summary=manifest.extra["summary"],
        page=storage.join(home, page_input.PAGE),
    )


def _nothing_left(split: str, config: CurateConfig, ingested: IngestResult, result: CurateResult) -> str:
    """Which rules left a split empty, how often, and what setting would let songs through."""
    verdicts = read_objects(result.verdicts, Verdict)
    sources = read_manifest(ingested.chunks).extra["sources"]
    summary = result.summary
    lines = [f"{result.funnel.words}, and none is left to {split} on."]
    lines += refusals_in_words(verdict for verdict in verdicts if not verdict.keep)
    silent = [silent_sources(v.measures, config, sources=sources) for v in verdicts if v.reason == "silent_source"]
    if silent:
        always = set.intersection(*map(set, silent)) or {
            Counter(s for group in silent for s in group).most_common(1)[0][0]
        }
        remaining = ",".join(f'"{source}"' for source in sources if source not in always)
        leave = f"corpus.sources=[{remaining}] leaves out {', '.join(sorted(always))}." if remaining else ""
        if leave:
            lines.append(leave)
    lines += [f"{line}." for line in relaxed_rules.in_words(summary.get("would_keep", {}))]
    if split == "train" and (why := splits.nothing_to_train_on([verdict.track_id for verdict in verdicts])):
        lines.append(f"{why}.")
    elif summary["kept"]:
        lines.append(f"Songs per split: {summary['splits']}; add songs, or set another corpus.split_seed.")
    return "\n".join(lines)
