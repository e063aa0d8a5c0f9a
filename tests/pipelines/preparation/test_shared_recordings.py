"""Copies and shared stems are matters of pairs: a mash-up erases none of the songs it samples, and no split leaks."""

from collections.abc import Mapping

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality.fingerprint import Signature
from datasets.quality.measures import StemStatistics
from datasets.quality.verdict_overrides import Override, Overrides
from datasets.schema import SOURCES, Verdict
from datasets.seeding import row_rng
from datasets.shards.manifests import Song
from pipelines.preparation import corpus_rules
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.shared_recordings import SharedStem, StemSignatures, related
from pipelines.preparation.song_rules import JudgedSong
from tests.datasets import corruptions

RATE = 22050
NOBODY = Overrides(songs={}, digest="")
Heard = tuple[dict[str, float], Signature, Mapping[str, Signature]]


@pytest.fixture(scope="module")
def songs() -> dict[str, Samples]:
    """Four unrelated toy songs of 7 s."""
    return {name: perform(compose(71, name, 7.0), RATE) for name in ("amber", "brass", "cobalt", "dusk")}


def _hear(stems_SCT: Samples) -> Heard:
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT)
    return meter.measures(), meter.signature(), meter.stem_signatures()


@pytest.fixture(scope="module")
def heard(songs: dict[str, Samples]) -> dict[str, Heard]:
    return {name: _hear(stems_SCT) for name, stems_SCT in songs.items()}


def _song(name: str, split: str) -> Song:
    return Song(
        track_id=name, title=name, split=split, audio=name, sample_rate=RATE, channels=2, num_samples=7 * RATE,
        chunk_samples=RATE, first_row=0, num_chunks=7, path="",
    )  # fmt: skip


def _mash_up(drums_and_bass: Samples, the_rest: Samples) -> Samples:
    return np.concatenate([drums_and_bass[:2], the_rest[2:]])


def _verdicts(
    heard: Mapping[str, Heard], sides: Mapping[str, str], *, drawn: bool = True, by_hand: Overrides = NOBODY
) -> dict[str, Verdict]:
    judged = [
        JudgedSong(
            song=_song(name, sides.get(name, "train")),
            measures=measures,
            signature=signature,
            stem_signatures=stems,
        )
        for name, (measures, signature, stems) in heard.items()
    ]
    about = {
        "sources": SOURCES,
        "drawn": ["test", "valid"] if drawn else [],
        "split_rule": {"seed": 0, "valid_fraction": 0.0, "test_fraction": 0.2 if drawn else 0.0},
    }
    verdicts = corpus_rules.verdicts_on(CurateConfig(), judged, by_hand, about).verdicts
    return {verdict.track_id: verdict for verdict in verdicts}


@pytest.mark.parametrize("test_song", ["amber", "brass", "cobalt", "a mash-up", "z mash-up", "amber copy"])
def test_mash_ups_and_a_copy_leave_the_originals_whatever_was_drawn(
    songs: dict[str, Samples], heard: dict[str, Heard], test_song: str
) -> None:
    some = {name: heard[name] for name in ("amber", "brass", "cobalt")}
    some["a mash-up"] = _hear(_mash_up(songs["amber"], songs["brass"]))
    some["z mash-up"] = _hear(_mash_up(songs["brass"], songs["cobalt"]) * np.float32(0.5))
    some["amber copy"] = _hear(songs["amber"] * np.float32(0.3))
    verdicts = _verdicts(some, {test_song: "test"})
    kept = {name for name, verdict in verdicts.items() if verdict.keep}
    assert kept >= {"brass", "cobalt", "a mash-up", "z mash-up"}
    assert len(kept & {"amber", "amber copy"}) == 1
    assert len({verdicts[name].split for name in kept}) == 1  # each shares a stem with the next
    assert "shares its drums with" in verdicts["a mash-up"].detail or "bass and drums" in verdicts["a mash-up"].detail
    assert "other and vocals with brass" in verdicts["a mash-up"].detail


def test_every_dropped_song_has_a_direct_match_with_a_kept_one(songs: dict[str, Samples]) -> None:
    # Windows of one recording: the next overlaps by three quarters, the one after the next by less than the limit.
    long_SCT = np.concatenate([songs["amber"], songs["brass"], songs["cobalt"]], axis=2)
    starts = np.arange(5) * 3 * RATE
    windows = {f"window {place}": _hear(long_SCT[:, :, start : start + 8 * RATE]) for place, start in enumerate(starts)}
    signatures = {name: signature for name, (_, signature, _) in windows.items()}
    stems: StemSignatures = {name: marks for name, (_, _, marks) in windows.items()}
    matches, _ = related(windows, signatures, stems, min_similarity=0.5)
    pairs = {frozenset((match.first, match.later)) for match in matches}
    assert frozenset(("window 0", "window 1")) in pairs
    assert frozenset(("window 0", "window 4")) not in pairs
    verdicts = _verdicts(windows, {}, drawn=False)
    kept = {name for name, verdict in verdicts.items() if verdict.keep}
    dropped = verdicts.keys() - kept
    assert len(kept) > 1
    assert dropped
    for name in dropped:
        (best,) = [other for other in kept if f"the same audio as {other}:" in verdicts[name].detail]
        assert frozenset((name, best)) in pairs


def test_a_medley_is_dropped_and_not_the_songs_it_is_made_of() -> None:
    songs = {name: perform(compose(72, name, 18.0), RATE) for name in ("one", "two", "three")}
    heard = {name: _hear(stems_SCT) for name, stems_SCT in songs.items()}
    length = round(0.55 * songs["one"].shape[2])
    medley_SCT = np.concatenate([stems_SCT[:, :, :length] for stems_SCT in songs.values()], axis=2)
    verdicts = _verdicts({**heard, "a medley": _hear(medley_SCT)}, {}, drawn=False)
    assert {name for name, verdict in verdicts.items() if not verdict.keep} == {"a medley"}
    # Excerpts that lie apart are no such thing: the song that has them whole stays.
    cuts = {"a cut": songs["one"][:, :, : 8 * RATE], "a later cut": songs["one"][:, :, 10 * RATE :]}
    verdicts = _verdicts({**heard, **{name: _hear(cut_SCT) for name, cut_SCT in cuts.items()}}, {}, drawn=False)
    assert {name for name, verdict in verdicts.items() if not verdict.keep} == {"a cut", "a later cut"}


def test_a_karaoke_version_goes_and_not_the_song(songs: dict[str, Samples], heard: dict[str, Heard]) -> None:
    without_SCT = songs["brass"].copy()
    without_SCT[SOURCES.index("vocals")] = 0
    for side in ("train", "test"):
        verdicts = _verdicts({**heard, "a karaoke": _hear(without_SCT)}, {"a karaoke": side})
        assert {name for name, verdict in verdicts.items() if not verdict.keep} == {"a karaoke"}


@pytest.mark.parametrize("source", ["drums", "other", "vocals"])
def test_a_shared_stem_leaks_across_stated_sides_and_only_there(
    songs: dict[str, Samples], heard: dict[str, Heard], source: str
) -> None:
    sharing_SCT = songs["dusk"].copy()
    place = SOURCES.index(source)
    sharing_SCT[place] = 0.4 * np.roll(songs["amber"][place], 1000, axis=-1)
    some = {"amber": heard["amber"], "brass": heard["brass"], "dusk": _hear(sharing_SCT)}
    apart = _verdicts(some, {"amber": "test"}, drawn=False)
    assert (apart["dusk"].keep, apart["dusk"].reason) == (False, "leak")
    assert apart["dusk"].detail.startswith(f"shares its {source} with the test song amber: ")
    assert apart["amber"].keep
    assert apart["amber"].detail == ""
    together = _verdicts(some, {}, drawn=False)
    assert all(verdict.keep for verdict in together.values())
    assert together["amber"].detail.startswith(f"shares its {source} with dusk: ")
    assert together["brass"].detail == ""
    # Where the sides were drawn the two are put on one.
    drawn = _verdicts(some, {"amber": "test"})
    assert all(verdict.keep for verdict in drawn.values())
    assert drawn["amber"].split == drawn["dusk"].split != drawn["brass"].split
    by_hand = Overrides(songs={"dusk": Override(keep=True, why="it is a remix")}, digest="x")
    assert _verdicts(some, {"amber": "test"}, drawn=False, by_hand=by_hand)["dusk"].keep


def test_equal_silence_is_no_shared_stem(songs: dict[str, Samples], heard: dict[str, Heard]) -> None:
    some = {}
    for name in ("amber", "dusk"):
        silent_SCT = songs[name].copy()
        silent_SCT[SOURCES.index("vocals")] = 0
        some[name] = _hear(silent_SCT)
    assert {verdict.detail for verdict in _verdicts(some, {}, drawn=False).values()} == {""}


@pytest.mark.parametrize("kind", ["master", "mp3", "faster"])
def test_a_copy_that_was_changed_is_still_a_copy(songs: dict[str, Samples], heard: dict[str, Heard], kind: str) -> None:
    change = {
        "master": lambda x, rng: corruptions.remaster(x, rng, sample_rate=RATE),
        "mp3": lambda x, _: corruptions.transcode(x, codec="mp3", kbps=64, sample_rate=RATE),
        "faster": lambda x, _: corruptions.change_speed(x, 1.03, sample_rate=RATE),
    }[kind]
    copy_SCT = np.stack([change(stem_CT, row_rng(5, kind, n)) for n, stem_CT in enumerate(songs["cobalt"])])
    verdicts = _verdicts({**heard, "the copy": _hear(copy_SCT)}, {}, drawn=False)
    (dropped,) = [verdict for verdict in verdicts.values() if not verdict.keep]  # the one of the narrower band
    assert dropped.reason == "duplicate"
    assert dropped.track_id in ("the copy", "cobalt")


def test_a_drop_by_hand_takes_copies_along_and_no_mash_up(songs: dict[str, Samples], heard: dict[str, Heard]) -> None:
    some = {**heard, "mash-up": _hear(_mash_up(songs["amber"], songs["brass"])), "copy": _hear(songs["brass"] * 0.5)}
    by_hand = Overrides(songs={"brass": Override(keep=False, why="out of tune")}, digest="x")
    verdicts = _verdicts(some, {}, drawn=False, by_hand=by_hand)
    assert {name for name, verdict in verdicts.items() if not verdict.keep} == {"brass", "copy"}


def test_a_shared_stem_says_where_it_is(heard: dict[str, Heard], songs: dict[str, Samples]) -> None:
    late_SCT = np.concatenate([songs["brass"][:, :, : 2 * RATE], songs["dusk"]], axis=2)
    late_SCT[[0, 1, 3]] = np.concatenate([songs["brass"], songs["brass"][:, :, : 2 * RATE]], axis=2)[[0, 1, 3]]
    some = {"dusk": heard["dusk"], "later": _hear(late_SCT)}
    signatures = {name: signature for name, (_, signature, _) in some.items()}
    _, shared = related(some, signatures, {name: marks for name, (_, _, marks) in some.items()}, min_similarity=0.5)
    (stem,) = shared
    assert isinstance(stem, SharedStem)
    assert (stem.source, stem.songs) == ("other", ("dusk", "later"))
    assert stem.match.start_s - stem.match.first_start_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("names", [("15", "18"), ("03", "11")], ids=["a moment", "a pattern"])
def test_stems_that_share_a_moment_or_a_pattern_are_not_the_same(names: tuple[str, str]) -> None:
    """Two arpeggios share 18 landmarks within 1.6 s of 12, two drum patterns 10 of 5 kinds within 3 s."""
    rate, signatures, stems = 44100, {}, {}
    for name in names:
        meter = StemStatistics(sources=SOURCES, sample_rate=rate)
        meter.add(perform(compose(0, name, 12.0), rate))
        signatures[name], stems[name] = meter.signature(), meter.stem_signatures()
    assert related(names, signatures, stems, min_similarity=0.5) == ([], [])
