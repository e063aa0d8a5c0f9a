"""Stored songs to verdicts: measures every song, keeps or drops it with a reason, and selects what is kept.

What is measured and what a model hears is remembered by the song's audio, so that another threshold or one more
song costs next to nothing. A person may overrule any verdict (`datasets/quality/overrides.py`). What follows curation
reads its `chunks`, a selection of the same shards: the songs that were kept, each on its final side of the split.
`report/curation/curation_page.py` shows why.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.corpus import splits
from datasets.corpus.removed_songs import NOTHING, SAME, RemovedSongs, read_removed_songs
from datasets.corpus.removed_songs import REASON as FORGOTTEN
from datasets.corpus.splits import assign_splits
from datasets.errors import InputError
from datasets.quality.fingerprint import Match, Signature, find_matches, pack
from datasets.quality.measures import QualityRules, RuleViolation, faults, silent_sources
from datasets.quality.overrides import Overrides, read_overrides
from datasets.ranges import AnyNumber, PositiveInt, Probability
from datasets.schema import LANDMARKS, REASONS, SPLITS, VERDICTS, Landmarks, ShardSet, Verdict
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.manifests import Manifest, Song, find_manifest, read_manifest, write_manifest
from datasets.shards.versions import drawn_sides
from datasets.store import storage
from pipelines.preparation import label_check, label_rule, signal_stats
from pipelines.preparation.ingest import IngestResult
from pipelines.preparation.label_check import LabelModel
from pipelines.preparation.label_rule import Confusion, Levels, Shares
from pipelines.preparation.signal_stats import SongStats
from pipelines.report.curation import curation_input, curation_page
from pipelines.report.curation.curation_input import CurationInput, Evidence
from pipelines.runtime.progress import Progress
from pipelines.runtime.step_keys import Step, incomplete_key

# Raise it when the same measures and levels give other verdicts (CONTRIBUTING.md)
VERSION = 1
STEP = Step(name="curate", version=VERSION, uses={"splits": splits.VERSION, **signal_stats.STEP.versions})
_FOR_THE_MODEL = ("", "swapped")  # signal alone is no proof of a wrong name
_INAUDIBLE = 1e-4  # of full scale; a player turns quiet stems up by 24 dB, which leaves this at -56
# How the model is run, and where to find what else decides: the key holds the content instead.
_NOT_DECISIVE = ("model", "overrides", "num_workers", "use_gpu", "batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig(QualityRules):
    """The rules on the signal, those on what a model hears, and what a person decided."""

    # A model to check the labels with: models:/NAME@champion, a checkpoint or a bag; empty: none is asked
    model: str = ""
    min_own: Probability = 0.7  # share of a stem's sounding seconds in which the model must hear it as its own source
    # Share of a stem's sounding seconds in which the model may hear it as another source
    max_foreign: Probability = 0.3
    # Level of an output against the stem above which the model counts as hearing that source
    heard_db: AnyNumber = -10.0
    overrides: str = ""  # a CSV or TOML file of decisions by hand: track_id, verdict (keep or drop), why
    num_workers: PositiveInt = 2  # copies of the model in memory, each with a CPU
    use_gpu: bool = False  # one GPU for each copy of the model
    batch_size: PositiveInt = 1  # segments that a model computes at once; more is faster on a GPU


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
    summary: Mapping[str, Any]  # songs, kept, dropped by reason, songs per split, hours
    page: str  # the path of curation_page.html


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

    `home` is the folder of this machine for the page and the registry: the store, unless that is in S3.

    Of several songs with the same audio the one on the stricter side of the split is kept (test before valid before
    train), then the first in the order of ids. Where the corpus' folders state no splits and dropping songs leaves
    a drawn one empty, that split takes a group of the kept songs.
    """
    folder, here = storage.absolute(store), Path(home or store).expanduser().absolute()
    stored = read_manifest(ingested.chunks)
    by_hand = _by_hand(config, stored.songs, ingested.rejected)
    model = _listener(config, stored.extra["sources"], str(here))
    decisive = {name: value for name, value in asdict(config).items() if name not in _NOT_DECISIVE}
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
    home: Path,
    key: str,
    progress: Progress | None,
) -> ShardSet:
    """Measure, judge, write the verdicts, the page and, last, the selection."""
    sources = tuple(stored.extra["sources"])
    measured = signal_stats.run(
        config, stored.songs, sources=sources, mixtures=ingested.mixtures, store=store, progress=progress
    )
    if unread := sorted((track_id, known.unread) for track_id, known in measured.items() if known.unread):
        key = incomplete_key(
            key, unread
        )  # not the verdicts that were asked for: the next run measures these songs again
    heard = [_judged(song, measured[song.track_id], config, sources) for song in stored.songs]
    if model is not None:
        heard = _cross_checked(heard, config, model, sources, store, progress)
    before = drawn_sides(store, stored.extra["split_rule"], step="curate") if stored.extra.get("drawn") else {}
    verdicts, evidence = _verdicts(config, heard, by_hand, {**stored.extra, "curated_sides": before}, forgotten)
    verdicts = sorted([*verdicts, *ingested.rejected], key=lambda verdict: verdict.track_id)
    table = write_table(store, "verdicts", table_of(verdicts, VERDICTS), key=key)
    told = CurationInput(
        key=key,
        rules=config,
        sources=sources,
        verdicts=verdicts,
        songs={song.track_id: song for song in stored.songs},
        evidence=evidence,
        matrices={item.song.track_id: item.shares_SS for item in heard if item.shares_SS is not None},
        min_own=config.min_own,
        max_foreign=config.max_foreign,
        heard_db=config.heard_db,
        by_hand=tuple(by_hand.songs),
        model=config.model,
    )
    curation_page.run(told, store=home, progress=progress)
    signatures = {item.song.track_id: item.signature for item in heard}
    return _select(verdicts, table, stored, by_hand, signatures, store=store, key=key)


# --- judging ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What was measured of one song, and what the rules make of it."""

    song: Song
    measures: Mapping[str, float]
    signature: Signature
    shares_SS: Shares | None = None  # what a model hears in its stems
    reason: str = ""
    detail: str = ""
    remark: str = ""  # why the mixture that came with the song was not compared with its stems
    evidence: tuple[Evidence, ...] = ()


def _judged(song: Song, known: SongStats, config: CurateConfig, sources: Sequence[str]) -> _Heard:
    """The song with the first rule on its signal that it breaks, and the worst second of every such stem."""
    broken = faults(known.measures, config, sources=sources, moments=known.moments)
    first = [fault for fault in broken if fault.reason == broken[0].reason]
    return _Heard(
        song=song,
        measures=known.measures,
        signature=known.signature,
        reason=broken[0].reason if broken else "",
        detail="; ".join(fault.detail for fault in first),
        remark=_remark(known),
        evidence=tuple(_moments(first, known)),
    )


def _remark(known: SongStats) -> str:
    if not known.broken and not known.unread:
        return ""
    next_time = "; the next run tries again" if known.unread else ""
    return f"not compared with the mixture that came with it: {known.broken or known.unread}{next_time}"


def _moments(broken: Sequence[RuleViolation], known: SongStats) -> Iterator[Evidence]:
    """The worst seconds of each fault, the middle of the song for one that is everywhere; none of pure silence."""
    for fault in broken:
        if fault.source and known.measures[f"{fault.source}_peak"] < _INAUDIBLE:
            continue
        middle_s = known.measures["duration_s"] / 2
        worst = fault.worst(known.moments)
        start_s, stop_s = (worst[0].start_s, worst[0].stop_s) if worst else (middle_s, middle_s)
        words = f"with {fault.other} in it" if fault.other else ""
        yield Evidence(source=fault.source, start_s=start_s, stop_s=stop_s, words=words)


def _cross_checked(
    heard: Sequence[_Heard],
    config: CurateConfig,
    model: LabelModel,
    sources: Sequence[str],
    store: str,
    progress: Progress | None,
) -> list[_Heard]:
    """The same; songs that break no rule so far, or that of likely names alone, are played to the model."""
    asked = {item.song.audio: item.song for item in heard if item.reason in _FOR_THE_MODEL}
    levels = label_check.run(
        asked,
        model,
        sources=sources,
        store=store,
        num_workers=config.num_workers,
        use_gpu=config.use_gpu,
        batch_size=config.batch_size,
        progress=progress,
    )
    return [
        _labelled(item, levels[item.song.audio], config, sources) if item.reason in _FOR_THE_MODEL else item
        for item in heard
    ]


def _labelled(item: _Heard, levels: Levels, config: CurateConfig, sources: Sequence[str]) -> _Heard:
    """The song with the label rule applied to what the model heard."""
    shares_SS = label_rule.matrix(levels, silence_db=config.silence_db, heard_db=config.heard_db)
    item = replace(item, shares_SS=shares_SS)
    found = label_rule.confusions(shares_SS, sources=sources, min_own=config.min_own, max_foreign=config.max_foreign)
    if not found:
        words = f"{item.detail}; the model hears every stem as what it is called" if item.reason else ""
        return replace(item, detail=words)
    words = label_rule.in_words(found, max_foreign=config.max_foreign)
    evidence = tuple(_worst(levels, one, config, sources) for one in found)
    return replace(item, reason="mislabelled", detail=words, evidence=evidence)


def _worst(levels: Levels, found: Confusion, config: CurateConfig, sources: Sequence[str]) -> Evidence:
    index, predicted_as = sources.index(found.source), sources.index(found.predicted_as or found.source)
    second = label_rule.worst_second(levels, index=index, predicted_as=predicted_as, silence_db=config.silence_db)
    return Evidence(source=found.source, start_s=second, stop_s=second + 1.0, words=f"called {found.source}")


def _verdicts(
    config: CurateConfig,
    heard: Sequence[_Heard],
    by_hand: Overrides,
    about: Mapping[str, Any],
    forgotten: RemovedSongs = NOTHING,
) -> tuple[list[Verdict], dict[str, tuple[Evidence, ...]]]:
    """Verdicts on all stored songs, and the moments that show why."""
    verdicts = [
        Verdict(
            track_id=item.song.track_id,
            title=item.song.title,
            split=item.song.split,
            keep=not item.reason,
            reason=item.reason,
            detail=item.detail,
            duration_s=item.measures["duration_s"],
            measures={**item.measures, **_shares(item, about["sources"])},
        )
        for item in heard
    ]
    verdicts = [_overruled(verdict, by_hand) for verdict in verdicts]
    signatures = {item.song.track_id: item.signature for item in heard}
    to_go = forgotten.recognized({item.song.track_id: item.song.audio for item in heard}, signatures)
    verdicts = [
        replace(verdict, keep=False, reason=FORGOTTEN, detail=to_go[verdict.track_id])
        if verdict.track_id in to_go
        else verdict
        for verdict in verdicts
    ]
    verdicts, copies = _without_copies(verdicts, signatures, by_hand, min_similarity=config.min_similarity)
    shown = [item for item in heard if item.evidence and item.song.track_id not in to_go]
    evidence = {item.song.track_id: item.evidence for item in shown}
    remarks = {item.song.track_id: item.remark for item in heard}
    told = [
        replace(verdict, detail="; ".join(filter(None, (verdict.detail, remarks[verdict.track_id]))))
        for verdict in verdicts
    ]
    return _resplit(told, about), {**evidence, **copies}


def _shares(item: _Heard, sources: Sequence[str]) -> dict[str, float]:
    """The matrix as measures: `bass_heard_as_vocals` is the share of the bass' seconds heard as vocals."""
    if item.shares_SS is None:
        return {}
    named = {
        f"{called}_heard_as_{predicted_as}": float(item.shares_SS[i, j])
        for i, called in enumerate(sources)
        for j, predicted_as in enumerate(sources)
    }
    return {name: share for name, share in named.items() if not np.isnan(share)}


def _overruled(verdict: Verdict, by_hand: Overrides) -> Verdict:
    decided = by_hand.songs.get(verdict.track_id)
    if decided is None:
        return verdict
    said = f"overridden by hand: {decided.why}"
    if verdict.reason:
        said += f" (the rules: {verdict.reason}, {verdict.detail})"
    return replace(verdict, keep=decided.keep, reason="" if decided.keep else "overridden", detail=said)


def _without_copies(
    verdicts: Sequence[Verdict], signatures: Mapping[str, Signature], by_hand: Overrides, *, min_similarity: float
) -> tuple[list[Verdict], dict[str, tuple[Evidence, ...]]]:
    """The verdicts with one song kept of each group of equals, and where to hear that they are."""
    verdicts = _without_dropped_by_hand(verdicts, signatures, by_hand, min_similarity=min_similarity)
    kept = {verdict.track_id: verdict for verdict in verdicts if verdict.keep}
    matches = find_matches({name: signatures[name] for name in kept}, min_similarity=min_similarity)
    changed: dict[str, Verdict] = {}
    evidence: dict[str, tuple[Evidence, ...]] = {}
    for names in _groups(matches):
        best, *copies = sorted(
            names, key=lambda name: (-SPLITS.index(kept[name].split), name not in by_hand.songs, name)
        )
        for name in copies:
            # A copy of a copy may share nothing with the best itself.
            match = min(
                (one for one in matches if name in (one.later, one.first)),
                key=lambda one: best not in (one.later, one.first),
            )
            changed[name] = _copied(kept[name], kept[best], match, by_hand)
            evidence[name] = _side_by_side(match, name)
    return [changed.get(verdict.track_id, verdict) for verdict in verdicts], evidence


def _without_dropped_by_hand(
    verdicts: Sequence[Verdict], signatures: Mapping[str, Signature], by_hand: Overrides, *, min_similarity: float
) -> list[Verdict]:
    """The verdicts, where a drop by hand is about the recording: its copies go as well, but for those kept by hand."""
    dropped = {name for name, decided in by_hand.songs.items() if not decided.keep and name in signatures}
    if not dropped:
        return list(verdicts)
    asked = {name: signatures[name] for name in dropped | {verdict.track_id for verdict in verdicts if verdict.keep}}
    # A corpus may keep copies (min_similarity above 1); what a person dropped is dropped all the same.
    matches = find_matches(asked, min_similarity=min_similarity if min_similarity <= 1 else SAME)
    first: dict[str, str] = {}
    for names in _groups(matches):
        if together := sorted(names & dropped):
            first |= dict.fromkeys(names - by_hand.songs.keys(), together[0])
    return [
        replace(verdict, keep=False, reason="overridden", detail=_with(first[verdict.track_id], by_hand))
        if verdict.keep and verdict.track_id in first
        else verdict
        for verdict in verdicts
    ]


def _with(dropped: str, by_hand: Overrides) -> str:
    return f"overridden by hand: the same recording as {dropped}, {by_hand.songs[dropped].why}"


def _groups(matches: Sequence[Match]) -> list[set[str]]:
    """The songs that matches join, directly or over others."""
    groups: list[set[str]] = []
    for match in matches:
        joined = {match.later, match.first}
        apart = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


def _copied(copy: Verdict, best: Verdict, match: Match, by_hand: Overrides) -> Verdict:
    """The verdict on a song whose audio another one has that is kept."""
    side = f"the {best.split} song " if copy.split != best.split else ""
    detail = f"the same audio as {side}{best.track_id}: {match.words}"
    if copy.track_id in by_hand.songs:
        return replace(copy, detail=f"{copy.detail} (the rules: {detail})")
    return replace(copy, keep=False, reason="leak" if side else "duplicate", detail=detail)


def _side_by_side(match: Match, name: str) -> tuple[Evidence, ...]:
    """The middle of what two songs share, in each of them."""
    middle_s = (match.start_s + match.stop_s) / 2
    first_s = match.first_start_s + (middle_s - match.start_s) * match.speed
    later, first = (
        Evidence(source="", start_s=at_s, stop_s=at_s, words="this song" if one == name else "the other", track_id=one)
        for one, at_s in ((match.later, middle_s), (match.first, first_s))
    )
    return (later, first) if name == match.later else (first, later)


def _resplit(verdicts: list[Verdict], about: Mapping[str, Any]) -> list[Verdict]:
    """The same verdicts; where a split that was drawn has no kept song left, it takes one group of them.

    All others keep their sides: a dropped song moves nobody else. Whoever was taken by an earlier version stays there.
    """
    rule = about["split_rule"]
    drawn = {split for split in about["drawn"] if rule[f"{split}_fraction"] > 0}
    if not drawn:
        return verdicts
    free = {"train", *drawn}
    taken = {name: side for name, side in about.get("curated_sides", {}).items() if side in free}
    kept = {v.track_id: taken.get(v.track_id, v.split) if v.split in free else v.split for v in verdicts if v.keep}
    if not set(kept.values()) >= free:
        titles = {v.track_id: v.title for v in verdicts if v.keep}  # MoisesDB's folders do not name the artist
        dealt = assign_splits(kept, titles=titles, known=kept, **rule)
        kept = {name: dealt[name][0] if {side, dealt[name][0]} <= free else side for name, side in kept.items()}
    return [replace(verdict, split=kept.get(verdict.track_id, verdict.split)) for verdict in verdicts]


def _select(
    verdicts: Sequence[Verdict],
    table: ShardSet,
    stored: Manifest,
    by_hand: Overrides,
    signatures: Mapping[str, Signature],
    *,
    store: str,
    key: str,
) -> ShardSet:
    """The manifest of the kept songs; what they sound like goes with it, for models that will be compared with them."""
    kept = {verdict.track_id: verdict.split for verdict in verdicts if verdict.keep}
    summary = {
        "songs": len(verdicts),
        "kept": len(kept),
        "dropped": dict(Counter(verdict.reason for verdict in verdicts if not verdict.keep)),
        "splits": {split: list(kept.values()).count(split) for split in SPLITS},
        "hours": sum(verdict.duration_s for verdict in verdicts if verdict.keep) / 3600,
        "by_hand": len(by_hand.songs),
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
    }
    return write_manifest(store, table="chunks", step="curate", key=key, shards=stored.shards, songs=songs, extra=extra)


def _result(chunks: ShardSet, home: Path) -> CurateResult:
    manifest = read_manifest(chunks)
    return CurateResult(
        verdicts=ShardSet(**manifest.extra["verdicts"]),
        chunks=chunks,
        kept=tuple(song.track_id for song in manifest.songs),
        summary=manifest.extra["summary"],
        page=str(home / curation_input.PAGE),
    )


def _nothing_left(split: str, config: CurateConfig, ingested: IngestResult, result: CurateResult) -> str:
    """Which rules left a split empty, how often, and what setting would let songs through."""
    verdicts = read_objects(result.verdicts, Verdict)
    sources = read_manifest(ingested.chunks).extra["sources"]
    summary = result.summary
    lines = [f"{summary['kept']} of {summary['songs']} songs passed curation and none is left to {split} on."]
    for reason, count in Counter(v.reason for v in verdicts if not v.keep).most_common():
        example = next(v for v in verdicts if v.reason == reason)
        lines.append(f"  - {reason} ({REASONS[reason]}): {count} songs, such as {example.title!r}: {example.detail}")
    silent = [silent_sources(v.measures, config, sources=sources) for v in verdicts if v.reason == "silent_source"]
    if silent:
        always = set.intersection(*map(set, silent)) or {
            Counter(s for group in silent for s in group).most_common(1)[0][0]
        }
        heard = ",".join(f'"{source}"' for source in sources if source not in always)
        leave = f"corpus.sources=[{heard}] leaves out {', '.join(sorted(always))}; " if heard else ""
        lines.append(f"{leave}curate.min_presence=0 keeps silent stems.")
    if summary["dropped"].get("clipped"):
        lines.append("curate.max_clipped=1 keeps clipped stems.")
    if summary["dropped"].get("duplicate"):
        lines.append("curate.min_similarity=2 keeps duplicates.")
    if summary["kept"]:
        lines.append(f"Songs per split: {summary['splits']}; more songs, or another corpus.split_seed, would do.")
    return "\n".join(lines)
