"""Verdicts on all songs: decisions by hand, forgotten songs, copies of one recording, and splits that lost theirs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from datasets.corpus import splits
from datasets.corpus.removed_songs import NOTHING, SAME, RemovedSongs
from datasets.corpus.removed_songs import REASON as FORGOTTEN
from datasets.quality.fingerprint import Match, Signature
from datasets.quality.verdict_overrides import Overrides
from datasets.schema import SPLITS, Verdict
from datasets.shards.manifests import SongOrigin
from datasets.shards.shard_planning import origin_of
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.relaxed_rules import KEEPS_COPIES, let_in
from pipelines.preparation.shared_recordings import (
    SharedStem,
    StemSignatures,
    related,
    without_copies,
    without_leaks,
)
from pipelines.preparation.song_rules import JudgedSong
from pipelines.report.curation.page_input import Evidence

_BAND_HZ = 500.0  # by less copies of one recording differ without one being better
_UNKNOWN = SongOrigin(lossless=True, bits=16, sample_rate=0)  # of a store of earlier versions


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationVerdicts:
    """What came of all songs."""

    verdicts: list[Verdict]
    evidence: Mapping[str, tuple[Evidence, ...]]
    would_keep: Mapping[str, int]  # how many more songs, by the setting that switches one rule off


def verdicts_on(
    config: CurateConfig,
    songs_judged: Sequence[JudgedSong],
    by_hand: Overrides,
    about: Mapping[str, Any],
    forgotten: RemovedSongs = NOTHING,
) -> CurationVerdicts:
    """Verdicts on all stored songs, the moments that show why, and what other settings would keep."""
    verdicts = [_overruled(_verdict_of(item, about["sources"]), by_hand) for item in songs_judged]
    signatures = {item.song.track_id: item.signature for item in songs_judged}
    to_go = forgotten.recognized({item.song.track_id: item.song.audio for item in songs_judged}, signatures)
    verdicts = [
        replace(verdict, keep=False, reason=FORGOTTEN, detail=to_go[verdict.track_id])
        if verdict.track_id in to_go
        else verdict
        for verdict in verdicts
    ]
    origins = {name: origin_of(fields) for name, fields in about.get("origins", {}).items()}
    free = _free(about)
    ranks = {verdict.track_id: _rank(verdict, origins, by_hand, about["sources"], free) for verdict in verdicts}
    stems = {item.song.track_id: item.stem_signatures for item in songs_judged}
    similar = config.min_similarity
    verdicts = _without_dropped_by_hand(verdicts, signatures, stems, by_hand, min_similarity=similar)
    names = {verdict.track_id for verdict in verdicts if verdict.keep}
    before_copies = verdicts
    opened = let_in(config, songs_judged, before_copies, about["sources"])
    every = names.union(*opened.values())
    all_matches, all_shared = related(every, signatures, stems, min_similarity=similar)
    matches, shared = _among(names, all_matches, all_shared)
    verdicts, copies = without_copies(verdicts, matches, shared, by_hand, ranks)
    with_evidence = [item for item in songs_judged if item.evidence and item.song.track_id not in to_go]
    evidence = {item.song.track_id: item.evidence for item in with_evidence}
    remarks = {
        item.song.track_id: [*origins.get(item.song.track_id, _UNKNOWN).remarks, item.remark] for item in songs_judged
    }
    explained = [
        replace(verdict, detail="; ".join(filter(None, (verdict.detail, *remarks[verdict.track_id]))))
        for verdict in verdicts
    ]
    on_sides = resplit(explained, about, [stem.songs for stem in shared])
    on_sides, leaks = without_leaks(on_sides, shared, by_hand)

    def kept_of(let: set[str]) -> int:
        """How many of the songs that a setting lets in are kept, which copies are not."""
        more = [replace(verdict, keep=True) if verdict.track_id in let else verdict for verdict in before_copies]
        after, _ = without_copies(more, *_among(names | let, all_matches, all_shared), by_hand, ranks)
        return sum(verdict.keep and verdict.track_id in let for verdict in after)

    counts = {settings: kept_of(let) for settings, let in opened.items()}
    counts[KEEPS_COPIES] = sum(verdict.reason in ("duplicate", "leak") for verdict in on_sides)
    would_keep = {settings: count for settings, count in counts.items() if count}
    return CurationVerdicts(verdicts=on_sides, evidence={**evidence, **copies, **leaks}, would_keep=would_keep)


def _among(
    names: Collection[str], matches: Sequence[Match], shared: Sequence[SharedStem]
) -> tuple[list[Match], list[SharedStem]]:
    """What these songs have to do with each other."""
    return [match for match in matches if {match.first, match.later} <= {*names}], [
        stem for stem in shared if {*stem.songs} <= {*names}
    ]


def _verdict_of(item: JudgedSong, sources: Sequence[str]) -> Verdict:
    """What the rules say of one song by itself."""
    return Verdict(
        track_id=item.song.track_id,
        title=item.song.title,
        split=item.song.split,
        keep=not item.reason,
        reason=item.reason,
        detail=item.detail,
        duration_s=item.measures["duration_s"],
        measures={**item.measures, **_shares(item, sources)},
    )


def _shares(item: JudgedSong, sources: Sequence[str]) -> dict[str, float]:
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
    detail = f"overridden by hand: {decided.why}"
    if verdict.reason:
        detail += f" (the rules: {verdict.reason}, {verdict.detail})"
    return replace(verdict, keep=decided.keep, reason="" if decided.keep else "overridden", detail=detail)


Rank = tuple[int, bool, int, int, bool, int, int, int, int, str]


def _rank(
    verdict: Verdict, origins: Mapping[str, SongOrigin], by_hand: Overrides, sources: Sequence[str], free: set[str]
) -> Rank:
    """Of copies the one of the lowest rank is kept: stricter stated side, decision by hand, all stems, stricter drawn
    side, better copy, name.
    """
    origin = origins.get(verdict.track_id, _UNKNOWN)
    band_hz = sum(verdict.measures.get(f"{source}_cutoff_hz", 0.0) for source in sources) / max(1, len(sources))
    silent = sum(verdict.measures.get(f"{source}_presence", 1.0) == 0 for source in sources)
    strictness = SPLITS.index(verdict.split)
    return (
        0 if verdict.split in free else -strictness, verdict.track_id not in by_hand.songs, silent, -strictness,
        not origin.lossless, -origin.bits, -origin.sample_rate, -round(band_hz / _BAND_HZ), -round(verdict.duration_s),
        verdict.track_id,
    )  # fmt: skip


def _without_dropped_by_hand(
    verdicts: Sequence[Verdict],
    signatures: Mapping[str, Signature],
    stems: StemSignatures,
    by_hand: Overrides,
    *,
    min_similarity: float,
) -> list[Verdict]:
    """The verdicts, where a drop by hand is about the recording: its copies go as well, but for those kept by hand."""
    dropped = {name for name, decided in by_hand.songs.items() if not decided.keep and name in signatures}
    if not dropped:
        return list(verdicts)
    considered = dropped | {verdict.track_id for verdict in verdicts if verdict.keep}
    # A corpus may keep copies (min_similarity above 1); what a person dropped is dropped all the same.
    matches, _ = related(considered, signatures, stems, min_similarity=min_similarity if min_similarity <= 1 else SAME)
    pairs = sorted({pair for match in matches for pair in permutations((match.first, match.later))})
    first = {copy: name for name, copy in reversed(pairs) if name in dropped and copy not in by_hand.songs}
    return [
        replace(verdict, keep=False, reason="overridden", detail=_with(first[verdict.track_id], by_hand))
        if verdict.keep and verdict.track_id in first
        else verdict
        for verdict in verdicts
    ]


def _with(dropped: str, by_hand: Overrides) -> str:
    return f"overridden by hand: the same recording as {dropped}, {by_hand.songs[dropped].why}"


def _free(about: Mapping[str, Any]) -> set[str]:
    """The sides that songs may change: those that were drawn, and train, which they were drawn from."""
    drawn = {split for split in about["drawn"] if about["split_rule"][f"{split}_fraction"] > 0}
    return {"train", *drawn} if drawn else set()


def resplit(
    verdicts: list[Verdict], about: Mapping[str, Any], shared: Collection[tuple[str, str]] = ()
) -> list[Verdict]:
    """The same verdicts; where a split that was drawn has no kept song left, it takes one group of them.

    Kept songs that share a stem stand on one side, as far as their sides were drawn. All others keep theirs: a dropped
    song moves nobody else. Whoever was taken by an earlier version stays there.
    """
    if not (free := _free(about)):
        return verdicts
    taken = {name: side for name, side in about.get("curated_sides", {}).items() if side in free}
    kept = {v.track_id: taken.get(v.track_id, v.split) if v.split in free else v.split for v in verdicts if v.keep}
    titles = {v.track_id: v.title for v in verdicts if v.keep}  # MoisesDB's folders do not name the artist
    pairs = [pair for pair in shared if all(kept.get(name) in free for name in pair)]
    kept = splits.on_one_side(kept, titles=titles, pairs=pairs, free=free)
    if not set(kept.values()) >= free:
        dealt = splits.assign_splits(kept, titles=titles, known=kept, pairs=pairs, **about["split_rule"])
        kept = {name: dealt[name][0] if {side, dealt[name][0]} <= free else side for name, side in kept.items()}
    return [replace(verdict, split=kept.get(verdict.track_id, verdict.split)) for verdict in verdicts]
