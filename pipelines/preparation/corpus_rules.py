"""Verdicts on all songs: decisions by hand, forgotten songs, copies of one recording, and splits that lost theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datasets.corpus.removed_songs import NOTHING, SAME, RemovedSongs
from datasets.corpus.removed_songs import REASON as FORGOTTEN
from datasets.corpus.splits import assign_splits
from datasets.quality.fingerprint import Match, Signature, find_matches
from datasets.quality.verdict_overrides import Overrides
from datasets.schema import SPLITS, Verdict
from datasets.shards.dataset_versions import origin_of
from datasets.shards.manifests import SongOrigin
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.song_rules import JudgedSong
from pipelines.report.curation.curation_input import Evidence

_BAND_HZ = 500.0  # by less copies of one recording differ without one being better
_UNKNOWN = SongOrigin(lossless=True, bits=16, sample_rate=0)  # of a store of earlier versions


def verdicts_on(
    config: CurateConfig,
    songs_judged: Sequence[JudgedSong],
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
        for item in songs_judged
    ]
    verdicts = [_overruled(verdict, by_hand) for verdict in verdicts]
    signatures = {item.song.track_id: item.signature for item in songs_judged}
    to_go = forgotten.recognized({item.song.track_id: item.song.audio for item in songs_judged}, signatures)
    verdicts = [
        replace(verdict, keep=False, reason=FORGOTTEN, detail=to_go[verdict.track_id])
        if verdict.track_id in to_go
        else verdict
        for verdict in verdicts
    ]
    origins = {name: origin_of(fields) for name, fields in about.get("origins", {}).items()}
    ranks = {verdict.track_id: _rank(verdict, origins, by_hand, about["sources"]) for verdict in verdicts}
    verdicts, copies = _without_copies(verdicts, signatures, by_hand, ranks, min_similarity=config.min_similarity)
    with_evidence = [item for item in songs_judged if item.evidence and item.song.track_id not in to_go]
    evidence = {item.song.track_id: item.evidence for item in with_evidence}
    remarks = {
        item.song.track_id: [*origins.get(item.song.track_id, _UNKNOWN).remarks, item.remark] for item in songs_judged
    }
    explained = [
        replace(verdict, detail="; ".join(filter(None, (verdict.detail, *remarks[verdict.track_id]))))
        for verdict in verdicts
    ]
    return resplit(explained, about), {**evidence, **copies}


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


Rank = tuple[int, bool, bool, int, int, int, int, str]


def _rank(verdict: Verdict, origins: Mapping[str, SongOrigin], by_hand: Overrides, sources: Sequence[str]) -> Rank:
    """Of copies the one of the lowest rank is kept: stricter side, decision by hand, better copy, name."""
    origin = origins.get(verdict.track_id, _UNKNOWN)
    band_hz = sum(verdict.measures.get(f"{source}_cutoff_hz", 0.0) for source in sources) / max(1, len(sources))
    return (
        -SPLITS.index(verdict.split), verdict.track_id not in by_hand.songs, not origin.lossless, -origin.bits,
        -origin.sample_rate, -round(band_hz / _BAND_HZ), -round(verdict.duration_s), verdict.track_id,
    )  # fmt: skip


def _without_copies(
    verdicts: Sequence[Verdict],
    signatures: Mapping[str, Signature],
    by_hand: Overrides,
    ranks: Mapping[str, Rank],
    *,
    min_similarity: float,
) -> tuple[list[Verdict], dict[str, tuple[Evidence, ...]]]:
    """The verdicts with one song kept of each group of equals, and where to hear that they are."""
    verdicts = _without_dropped_by_hand(verdicts, signatures, by_hand, min_similarity=min_similarity)
    kept = {verdict.track_id: verdict for verdict in verdicts if verdict.keep}
    matches = find_matches({name: signatures[name] for name in kept}, min_similarity=min_similarity)
    changed: dict[str, Verdict] = {}
    evidence: dict[str, tuple[Evidence, ...]] = {}
    for names in _groups(matches):
        best, *copies = sorted(names, key=lambda name: ranks[name])
        for name in copies:
            # A copy of a copy may share nothing with the best itself.
            match = min(
                (pair for pair in matches if name in (pair.later, pair.first)),
                key=lambda pair: best not in (pair.later, pair.first),
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
    considered = {
        name: signatures[name] for name in dropped | {verdict.track_id for verdict in verdicts if verdict.keep}
    }
    # A corpus may keep copies (min_similarity above 1); what a person dropped is dropped all the same.
    matches = find_matches(considered, min_similarity=min_similarity if min_similarity <= 1 else SAME)
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
        Evidence(
            source="",
            start_s=at_s,
            stop_s=at_s,
            words="this song" if track_id == name else "the other",
            track_id=track_id,
        )
        for track_id, at_s in ((match.later, middle_s), (match.first, first_s))
    )
    return (later, first) if name == match.later else (first, later)


def resplit(verdicts: list[Verdict], about: Mapping[str, Any]) -> list[Verdict]:
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
