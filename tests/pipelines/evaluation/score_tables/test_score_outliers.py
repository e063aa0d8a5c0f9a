"""Which songs a model separates far worse than they could be."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from datasets.errors import InputError
from datasets.schema import Score
from datasets.seeding import row_rng
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.score_tables import score_outliers
from pipelines.evaluation.score_tables.score_outliers import MIN_SONGS, quiet_stems, rank, rare_sources
from pipelines.evaluation.song_scoring import score_song

RATE, SOURCES = 8000, ("drums", "vocals")


def score(number: int, source: str, nsdr: float | None, oracle: float | None) -> Score:
    return Score(
        track_id=f"song {number:02d}", title=f"Song {number}", source=source, protocol="", nsdr=nsdr, sdr=None,
        mixture_nsdr=None, mixture_sdr=None, ceiling_nsdr=oracle,
    )  # fmt: skip


def scores(num_songs: int, *, seed: int = 0) -> list[Score]:
    """Songs of every difficulty: drums reach 0.8 of the oracle's less 2 dB, vocals half, within 0.3 dB or so."""
    rng = row_rng(seed, "scores")
    return [
        score(number, source, slope * oracle - 2 + rng.normal(0, 0.3), oracle)
        for number, oracle in enumerate(rng.uniform(4, 16, num_songs).tolist())
        for source, slope in zip(SOURCES, (0.8, 0.5), strict=True)
    ]


def planted(rows: Sequence[Score], number: int, source: str, below_db: float) -> list[Score]:
    at = next(row for row in rows if (row.track_id, row.source) == (f"song {number:02d}", source))
    assert at.nsdr is not None
    return [score(number, source, at.nsdr - below_db, at.ceiling_nsdr) if row is at else row for row in rows]


def test_a_stem_below_what_its_mixture_allows_ranks_before_songs_that_are_harder() -> None:
    rows = scores(40)
    easiest = max(range(40), key=lambda number: rows[2 * number].ceiling_nsdr or 0.0)
    bad = planted(rows, easiest, "vocals", 4.0)
    hardest = min(row.nsdr or 0.0 for row in bad)
    first, second, *_ = ranked = rank(bad)
    assert (first.track_id, first.source) == (f"song {easiest:02d}", "vocals")
    assert first.nsdr > hardest + 1  # by the score alone it would not have been
    assert first.expected_nsdr - first.nsdr == pytest.approx(4.0, abs=0.9)
    assert first.deviation < -8 < second.deviation
    assert sorted(outlier.track_id for outlier in ranked) == [f"song {number:02d}" for number in range(40)]
    assert [outlier.deviation for outlier in ranked] == sorted(outlier.deviation for outlier in ranked)


def test_a_quarter_of_bad_songs_moves_nothing_and_all_of_them_come_first() -> None:
    rows = scores(40)
    for number in range(10):
        rows = planted(rows, number, "drums", 5.0)
    ranked = rank(rows)
    assert {outlier.track_id for outlier in ranked[:10]} == {f"song {number:02d}" for number in range(10)}
    clean = {outlier.track_id: outlier for outlier in rank(scores(40)) if outlier.source == "drums"}
    for outlier in ranked:
        if outlier.source == "drums" and outlier.track_id in clean:
            assert outlier.expected_nsdr == pytest.approx(clean[outlier.track_id].expected_nsdr, abs=0.3)


def test_a_third_of_bad_songs_comes_first_as_well() -> None:
    rows = scores(42)
    for number in range(14):
        rows = planted(rows, number, "drums", 5.0)
    assert {outlier.track_id for outlier in rank(rows)[:14]} == {f"song {number:02d}" for number in range(14)}


def test_neither_the_order_of_rows_nor_a_source_that_is_silent_changes_a_rank() -> None:
    rows = planted(scores(30), 3, "drums", 4.0)
    assert rank(rows[::-1]) == rank(rows)
    silent = [*rows, score(30, "drums", None, None), score(30, "vocals", None, None), score(31, "drums", None, None)]
    assert rank(silent) == rank(rows)


def performed(number: int, *, bass_db: float = 0.0, swapped: bool = False) -> list[Score]:
    """A song of three noises through a model that lets a tenth of the others into each stem, as `evaluate` scores it.

    The bass is so much quieter than drums and other; where labels are swapped the model is right and they are wrong.
    """
    generator = torch.Generator().manual_seed(number)
    stems_SCT = 0.1 * torch.randn((3, 2, RATE), generator=generator)
    stems_SCT[1] *= 10 ** (bass_db / 20)
    estimates_SCT = 0.9 * stems_SCT + (0.1 + 0.005 * (number % 5)) * stems_SCT.sum(dim=0)
    result = score_song(
        EvaluateConfig().measures, stems_SCT[[1, 0, 2]] if swapped else stems_SCT, estimates_SCT,
        sources=("drums", "bass", "other"), sample_rate=RATE, track_id=f"song {number:02d}", title="", seconds=1.0,
    )  # fmt: skip
    return list(result.scores)


def test_stems_far_below_the_rest_of_their_song_are_named_and_not_ranked() -> None:
    songs = {number: performed(number) for number in range(MIN_SONGS + 4)}
    songs |= {3: performed(3, swapped=True), 5: performed(5, bass_db=-25), 6: performed(6, bass_db=-40)}
    rows = [row for song in songs.values() for row in song]
    quiet = quiet_stems(rows)
    assert [(stem.track_id, stem.source) for stem in quiet] == [("song 05", "bass"), ("song 06", "bass")]
    assert [stem.mixture_nsdr for stem in quiet] == pytest.approx([-28, -43], abs=0.3)  # two others are 3 dB louder
    bad = songs[3][1].nsdr
    assert all(stem.nsdr is not None and bad is not None and stem.nsdr < bad for stem in quiet)
    first, *others = rank(rows)
    assert first.track_id == "song 03"
    assert first.deviation < -20
    assert {outlier.track_id for outlier in others} == {f"song {number:02d}" for number in songs} - {"song 03"}
    assert min(outlier.deviation for outlier in others) > -4


def test_a_song_of_quiet_stems_alone_has_no_rank_and_counts_for_no_source() -> None:
    rows = scores(MIN_SONGS)
    far_below = [replace(row, track_id="quiet", mixture_nsdr=-30.0) for row in rows[:2]]
    assert rank([*rows, *far_below]) == rank(rows)
    assert rare_sources([*rows[2:], *far_below]) == dict.fromkeys(SOURCES, MIN_SONGS - 1)


def test_songs_that_are_all_alike_stand_out_by_a_decibel_scale() -> None:
    rows = [score(number, "drums", 5.0, 9.0) for number in range(MIN_SONGS)]
    assert {outlier.deviation for outlier in rank(rows)} == {0.0}
    assert rank(planted(rows, 2, "drums", 1.0))[0].deviation == pytest.approx(-10.0)


def test_a_source_that_sounds_in_too_few_songs_is_left_out_and_named() -> None:
    rows = [row for row in scores(MIN_SONGS) if (row.track_id, row.source) != ("song 00", "vocals")]
    assert rare_sources(rows) == {"vocals": MIN_SONGS - 1}
    assert {outlier.source for outlier in rank(rows)} == {"drums"}
    assert rare_sources(scores(MIN_SONGS)) == {}
    assert {outlier.source for outlier in rank(scores(MIN_SONGS))} == {*SOURCES}
    message = f"the most frequent source has 11 songs; to tell which of them stand out it needs at least {MIN_SONGS}"
    with pytest.raises(InputError, match=message):
        rank(scores(MIN_SONGS - 1))


def test_a_stem_that_is_the_whole_mixture_does_not_stand_out_where_a_model_is_good_at_it() -> None:
    rows = scores(40)
    alone = [score(40, "drums", 25.0, 110.0), score(40, "vocals", None, None)]
    assert rank([*rows, *alone])[-1].track_id == "song 40"
    assert rank([*rows, score(40, "drums", 2.0, 110.0)])[0].track_id == "song 40"


def test_a_line_through_many_songs_is_fitted_to_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import stats

    siegelslopes = stats.siegelslopes
    rows = [row for row in scores(60) if row.source == "drums"]
    whole = {outlier.track_id: outlier.expected_nsdr for outlier in rank(rows)}
    fitted: list[int] = []

    def slope(nsdr: Any, oracle: Any) -> Any:
        fitted.append(len(nsdr))
        return siegelslopes(nsdr, oracle)

    monkeypatch.setattr(stats, "siegelslopes", slope)
    monkeypatch.setattr(score_outliers, "_MAX_FITTED", 30)
    assert {outlier.track_id: outlier.expected_nsdr for outlier in rank(rows)} == pytest.approx(whole, abs=0.3)
    assert fitted == [30]
