"""Songs that hold the same recording: of copies one is kept, and songs that share a stem stay on one side.

Two songs are copies where their sums match and no stem that both have is known to differ; a mash-up shares stems with
the songs it samples, and is a copy of none. Every verdict is about a pair: a song goes only where a kept one holds its
audio itself, not by way of others.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

from datasets.quality.fingerprint import Match, Signature, find_matches
from datasets.quality.stem_landmarks import same_stems
from datasets.quality.verdict_overrides import Overrides
from datasets.schema import SPLITS, Verdict
from pipelines.report.curation.page_input import Evidence

_WHOLE = 0.8  # share of a song from which on it is all there: an excerpt, not a song of a medley

StemSignatures = Mapping[str, Mapping[str, Signature]]  # by song, then by source


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStem:
    """A stem of one recording in two songs that are not copies of each other."""

    source: str
    match: Match

    @property
    def songs(self) -> tuple[str, str]:
        return self.match.first, self.match.later

    def other(self, name: str) -> str:
        """The song of the two that is not called this."""
        return self.match.first if name == self.match.later else self.match.later

    def words(self, name: str, side: str) -> str:
        """For the verdict on one of the two songs, where `side` is what the other is of."""
        return f"shares its {self.source} with {side}{self.other(name)}: {self.match.words}"


def related(
    names: Collection[str], signatures: Mapping[str, Signature], stems: StemSignatures, *, min_similarity: float
) -> tuple[list[Match], list[SharedStem]]:
    """The matches of songs that are copies of each other, and the stems that other pairs share."""
    copies: list[Match] = []
    shared: dict[tuple[str, str, str], SharedStem] = {}
    for match in find_matches({name: signatures[name] for name in names}, min_similarity=min_similarity):
        same = same_stems(stems[match.first], stems[match.later], match)
        if not {True, False} <= set(same.values()):  # what no stem confirms was changed too much for their landmarks
            copies.append(match)
            continue
        for source in (source for source, is_same in same.items() if is_same):
            shared[match.first, match.later, source] = SharedStem(source=source, match=match)
    pairs = {(match.first, match.later) for match in copies}
    for source in sorted({source for name in names for source in stems[name]}):
        of_source = {name: stems[name][source] for name in names}
        for match in find_matches(of_source, min_similarity=min_similarity):
            if (match.first, match.later) not in pairs:
                shared.setdefault((match.first, match.later, source), SharedStem(source=source, match=match))
    return copies, [shared[key] for key in sorted(shared)]


def composites(matches: Sequence[Match], shared: Sequence[SharedStem]) -> set[str]:
    """Songs that hold parts of several songs which have nothing in common, such as medleys and mash-ups."""
    partners: dict[str, dict[str, float]] = {}  # of each song, with the share of them that it holds
    for stem in shared:
        for name, partner in permutations(stem.songs):
            partners.setdefault(name, {})[partner] = 0.0
    for match in matches:
        partners.setdefault(match.later, {})[match.first] = match.first_share
        partners.setdefault(match.first, {})[match.later] = match.later_share
    return {
        name
        for name, shares in partners.items()
        for first, second in combinations(shares, 2)
        if first not in partners[second] and min(shares[first], shares[second]) < _WHOLE
    }


def without_copies(
    verdicts: Sequence[Verdict],
    matches: Sequence[Match],
    shared: Sequence[SharedStem],
    by_hand: Overrides,
    ranks: Mapping[str, tuple[Any, ...]],
) -> tuple[list[Verdict], dict[str, tuple[Evidence, ...]]]:
    """The verdicts without the songs that a kept one of a lower rank holds, and where to hear that it does.

    Songs are kept in the order of their ranks, whose first two places are the stated side and a decision by hand;
    composites come after all others of the same.
    """
    of_song: dict[str, list[Match]] = {}
    for match in matches:
        for name in (match.first, match.later):
            of_song.setdefault(name, []).append(match)
    last = composites(matches, shared)
    by_name = {verdict.track_id: verdict for verdict in verdicts}
    kept: set[str] = set()
    changed: dict[str, Verdict] = {}
    evidence: dict[str, tuple[Evidence, ...]] = {}
    for name in sorted(of_song, key=lambda name: (*ranks[name][:2], name in last, *ranks[name][2:])):
        to_kept = [match for match in of_song[name] if _other(match, name) in kept]
        if not to_kept:
            kept.add(name)
            continue
        match = min(to_kept, key=lambda match: ranks[_other(match, name)])
        changed[name] = _copied(by_name[name], by_name[_other(match, name)], match, by_hand)
        evidence[name] = side_by_side(match, name)
        if changed[name].keep:
            kept.add(name)
    return [changed.get(verdict.track_id, verdict) for verdict in verdicts], evidence


def without_leaks(
    verdicts: Sequence[Verdict], shared: Sequence[SharedStem], by_hand: Overrides
) -> tuple[list[Verdict], dict[str, tuple[Evidence, ...]]]:
    """The verdicts with every shared stem named, and without songs that share one with a song of a stricter side."""
    by_name = {verdict.track_id: verdict for verdict in verdicts}
    stems_of: dict[str, list[SharedStem]] = {}
    for stem in shared:
        for name in stem.songs:
            stems_of.setdefault(name, []).append(stem)
    evidence: dict[str, tuple[Evidence, ...]] = {}
    for name in sorted(stems_of, key=lambda name: (-SPLITS.index(by_name[name].split), name)):
        strictness = SPLITS.index(by_name[name].split)
        partners = {stem.other(name): by_name[stem.other(name)] for stem in stems_of[name]}
        stricter = {partner for partner, it in partners.items() if it.keep and SPLITS.index(it.split) > strictness}
        leaks = [stem for stem in stems_of[name] if stem.other(name) in stricter]
        if leaks and by_name[name].keep and name not in by_hand.songs:
            detail = "; ".join(_shared_words(leaks, name, by_name))
            by_name[name] = replace(by_name[name], keep=False, reason="leak", detail=detail)
            evidence[name] = side_by_side(leaks[0].match, name, source=leaks[0].source)
    for name, stems in stems_of.items():
        if by_name[name].keep:
            detail = "; ".join(filter(None, (by_name[name].detail, *_shared_words(stems, name, by_name))))
            by_name[name] = replace(by_name[name], detail=detail)
    return [by_name[verdict.track_id] for verdict in verdicts], evidence


def _shared_words(stems: Sequence[SharedStem], name: str, by_name: Mapping[str, Verdict]) -> Iterator[str]:
    """One remark for each other song, with all stems that it shares."""
    others: dict[str, list[SharedStem]] = {}
    for stem in stems:
        if by_name[stem.other(name)].keep:
            others.setdefault(stem.other(name), []).append(stem)
    for partner, together in others.items():
        side = f"the {by_name[partner].split} song " if by_name[partner].split != by_name[name].split else ""
        first = replace(together[0], source=" and ".join(stem.source for stem in together))
        yield first.words(name, side)


def _other(match: Match, name: str) -> str:
    return match.first if name == match.later else match.later


def _copied(copy: Verdict, best: Verdict, match: Match, by_hand: Overrides) -> Verdict:
    """The verdict on a song whose audio another one has that is kept."""
    side = f"the {best.split} song " if copy.split != best.split else ""
    stricter = SPLITS.index(best.split) > SPLITS.index(copy.split)
    detail = f"the same audio as {side}{best.track_id}: {match.words}"
    if copy.track_id in by_hand.songs:
        return replace(copy, detail=f"{copy.detail} (the rules: {detail})")
    return replace(copy, keep=False, reason="leak" if stricter else "duplicate", detail=detail)


def side_by_side(match: Match, name: str, *, source: str = "") -> tuple[Evidence, ...]:
    """The middle of what two songs share, in each of them; of all stems, or of one."""
    middle_s = (match.start_s + match.stop_s) / 2
    first_s = match.first_start_s + (middle_s - match.start_s) * match.speed
    later, first = (
        Evidence(
            source=source,
            start_s=at_s,
            stop_s=at_s,
            words="this song" if track_id == name else "the other",
            track_id=track_id,
        )
        for track_id, at_s in ((match.later, middle_s), (match.first, first_s))
    )
    return (later, first) if name == match.later else (first, later)
