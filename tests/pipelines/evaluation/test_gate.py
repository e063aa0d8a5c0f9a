"""The gate's rules, one by one: a decision and a sentence, no cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.seeding import row_rng
from pipelines.evaluation.gate import GateConfig, GateDecision, after_approval, decide, with_tags
from pipelines.evaluation.summary import ScoreSummary, SongScore, SourceScore
from pipelines.lineage.contamination import Contamination
from pipelines.lineage.song_licenses import LicensedSongs, SongLicenses

# Of each rule on its own: seeds are in test_seed_noise.py
CONFIG = GateConfig(min_improvement=3.0, confidence=0.95, margin=0.1, source_tolerance=0.5, seed_noise_db=0.0)
NUM_SONGS = 20


def summary(
    drums: float | Sequence[float],
    bass: float | Sequence[float],
    *,
    model: str = "m",
    num_songs: int = NUM_SONGS,
    leakage_db: Mapping[str, float] | None = None,
) -> ScoreSummary:
    """Scores of songs named 00, 01 and so on, each louder and longer than the one before."""

    def score(nsdr: float) -> SourceScore:
        return SourceScore(nsdr=nsdr, mixture_nsdr=-5.0, sdr=None, mixture_sdr=None)

    rows = {
        source: [value] * num_songs if isinstance(value, float) else list(value)
        for source, value in (("drums", drums), ("bass", bass))
    }
    songs = {
        f"{place:02d}": SongScore(
            nsdr={source: values[place] for source, values in rows.items()},
            leakage_db=leakage_db or {},
            duration_s=100.0 + place,
            level_db=-30.0 + place,
            mixture_nsdr=dict.fromkeys(rows, -5.0),
        )
        for place in range(num_songs)
    }
    means = {source: sum(values) / num_songs for source, values in rows.items()}
    return ScoreSummary(
        model_digest=model,
        dataset_digest="d",
        protocol="p",
        songs=songs,
        sources={source: score(mean) for source, mean in means.items()},
        overall=score(sum(means.values()) / 2),
    )


CHAMPION = summary(1.0, 1.0, model="champion")


def around(mean: float, spread: float, *, num_songs: int = NUM_SONGS) -> list[float]:
    """Values of exactly this mean and this deviation."""
    values = row_rng(0, "songs").normal(size=num_songs)
    values = (values - values.mean()) / values.std(ddof=1)
    return (mean + spread * values).tolist()  # type: ignore[no-any-return]


def unmet(decision: GateDecision) -> list[str]:
    return [check.rule for check in decision.checks if not check.met]


def test_the_first_candidate_is_held_against_the_mixture() -> None:
    decision = decide(summary(0.0, 2.0), None, CONFIG)
    assert decision.promote
    assert decision.improvement == 6.0
    assert decision.gain is None
    assert decision.reason == "The first champion: +6.00 dB nSDR over the unprocessed mixture, over 20 songs."


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_too_little_over_the_mixture_is_never_promoted(champion: ScoreSummary | None) -> None:
    decision = decide(summary(2.5, 2.5), champion, replace(CONFIG, min_improvement=8.0))
    assert unmet(decision) == ["min_improvement"]
    assert "+7.50 dB nSDR over 20 songs; the minimum is +8.00 dB" in decision.reason


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_turning_everything_down_is_no_separation(champion: ScoreSummary | None) -> None:
    decision = decide(summary(-0.1, -0.1), champion, CONFIG)
    assert decision.improvement > CONFIG.min_improvement
    assert not decision.promote
    assert decision.reason.startswith("No better than silence, which scores 0 dB: its mean is -0.10 dB nSDR")


@pytest.mark.parametrize("champion", [None, summary(-20.0, -20.0, model="champion")])
@pytest.mark.parametrize("nsdr", [0.0, -0.01, -10.7])
def test_no_setting_makes_a_champion_that_silence_or_the_mixture_beats(
    nsdr: float, champion: ScoreSummary | None
) -> None:
    lenient = GateConfig(min_improvement=-99.0, min_nsdr=-99.0, min_songs=1, source_tolerance=99.0)
    silent = decide(summary(nsdr, nsdr), champion, lenient)
    assert unmet(silent) == (["silence"] if nsdr > -5 else ["silence", "mixture"])
    assert silent.reason.startswith("No better than silence")
    candidate = summary(3.0, 3.0)
    loud = replace(candidate, overall=replace(candidate.overall, mixture_nsdr=3.0))
    assert unmet(decide(loud, champion, lenient)) == ["mixture"]
    assert decide(summary(0.01, 0.01), champion, lenient).promote


def test_a_better_candidate_replaces_the_champion() -> None:
    decision = decide(summary(around(1.5, 0.3), around(1.3, 0.3)), CHAMPION, CONFIG)
    assert decision.promote
    assert unmet(decision) == []
    assert decision.gain is not None
    assert decision.gain.mean == pytest.approx(0.4)
    assert 0.2 < decision.gain.low < 0.4 < decision.gain.high < 0.6
    assert {source: gain.mean for source, gain in decision.source_gains.items()} == pytest.approx(
        {"drums": 0.5, "bass": 0.3}
    )
    assert decision.champion_digest == "champion"
    assert "+0.40 dB nSDR against the champion over 20 songs (lower 95 % bound +0.28 dB)" in decision.reason


def test_a_gain_that_is_not_sure_is_not_enough_and_the_sentence_says_how_many_songs_are() -> None:
    decision = decide(summary(around(1.3, 1.0), around(1.3, 1.0)), CHAMPION, CONFIG)
    assert not decision.promote
    assert "the bound must exceed +0.10 dB" in decision.reason
    assert "the detectable gain at 80 % power is 0.57 dB; the observed gain needs 156 songs." in decision.reason
    assert decide(summary(around(1.3, 0.3), around(1.3, 0.3)), CHAMPION, CONFIG).promote
    assert decide(summary(around(1.3, 1.0), around(1.3, 1.0)), CHAMPION, replace(CONFIG, confidence=0.5)).promote


def test_a_gain_within_the_margin_is_not_enough() -> None:
    decision = decide(summary(around(1.15, 0.01), around(1.15, 0.01)), CHAMPION, replace(CONFIG, margin=0.2))
    assert unmet(decision) == ["margin"]


def test_a_source_that_loses_too_much_forbids_it() -> None:
    decision = decide(summary(around(3.0, 0.1), around(0.4, 0.1)), CHAMPION, CONFIG)
    assert unmet(decision) == ["source_tolerance, bass"]
    assert decision.reason == (
        "bass scores -0.60 dB nSDR against the champion and may be worse by up to 0.64 dB (95 % bound); "
        "the limit is a loss of 0.50 dB."
    )


def test_a_source_that_may_have_lost_too_much_forbids_it_as_well() -> None:
    assert unmet(decide(summary(around(3.0, 0.1), around(0.6, 1.0)), CHAMPION, CONFIG)) == ["source_tolerance, bass"]


@pytest.mark.parametrize(
    ("drums", "bass", "rules"),
    [
        (around(1.5, 0.1), around(1.5, 0.1), []),  # 0.5 dB better than the champion, for sure
        (around(1.1, 0.5), around(1.1, 0.5), ["margin"]),  # better on average, but not for sure
        (around(3.0, 0.01), around(0.55, 0.01), []),
        (around(3.0, 0.01), around(0.45, 0.01), ["source_tolerance, bass"]),
        ([0.3] * 5 + [2.0] * 15, 1.0, []),  # quiet and short songs lose 0.35 dB
        ([-0.9] * 5 + [6.0] * 15, around(1.1, 0.001), []),  # 0.9 dB
        ([-1.5] * 5 + [6.0] * 15, around(1.1, 0.001), ["slice_tolerance, quiet", "slice_tolerance, short"]),  # 1.2 dB
        ([6.0] * 15 + [-1.5] * 5, around(1.1, 0.001), ["slice_tolerance, long"]),
    ],
)
def test_what_the_rules_let_through_where_none_is_set(drums: list[float], bass: list[float], rules: list[str]) -> None:
    assert unmet(decide(summary(drums, bass), CHAMPION, GateConfig())) == rules


@pytest.mark.parametrize(
    ("nsdr", "rules"),
    [
        (0.01, []),
        (0.0, ["silence"]),
        (-0.01, ["silence", "min_nsdr"]),
        (-1.9, ["silence", "min_nsdr"]),
        (-2.1, ["silence", "min_improvement", "min_nsdr"]),
    ],
)
def test_what_a_first_champion_must_reach_where_no_rule_is_set(nsdr: float, rules: list[str]) -> None:
    assert unmet(decide(summary(nsdr, nsdr), None, GateConfig())) == rules


def test_a_person_is_asked_only_on_wish_and_has_a_day_to_answer() -> None:
    assert (GateConfig().approval, GateConfig().approval_s) == (False, 24 * 60 * 60)


@pytest.mark.parametrize(("num_songs", "sliced"), [(7, 0), (8, 2), (11, 2), (12, 3)])
def test_quarters_of_the_songs_are_looked_at_from_eight_songs_on(num_songs: int, sliced: int) -> None:
    values = [float(place) for place in range(num_songs)]
    champion = summary(0.0, 0.0, model="champion", num_songs=num_songs)
    gains = decide(summary(values, values, num_songs=num_songs), champion, GateConfig()).slice_gains
    assert {name: gain.num_songs for name, gain in gains.items()} == dict.fromkeys(
        ("quiet", "short", "long") if sliced else (), sliced
    )
    if sliced:  # each song is louder and longer than the one before, and one dB better
        quarter = (sliced - 1) / 2
        assert [gains[name].mean for name in ("quiet", "short", "long")] == [quarter, quarter, num_songs - 1 - quarter]


def test_a_slice_of_one_song_is_none_and_songs_of_a_second_model_need_not_stand_alone() -> None:
    rules = replace(CONFIG, slices={"one": ("03",), "two": ("0[34]",)})
    assert {name for name in decide(summary(2.0, 2.0), CHAMPION, rules).slice_gains} == {
        "quiet",
        "short",
        "long",
        "two",
    }


@pytest.mark.parametrize(("num_songs", "told"), [(1, False), (2, True)])
def test_what_two_songs_could_show_is_told_and_one_shows_nothing(num_songs: int, told: bool) -> None:
    champion = summary(1.0, 1.0, model="champion", num_songs=num_songs)
    values = [2.0, 4.0][:num_songs]
    decision = decide(summary(values, values, num_songs=num_songs), champion, GateConfig(min_songs=1, margin=99.0))
    assert (decision.min_detectable_gain is not None) == told
    assert ("detectable" in decision.reason) == told


def test_limits_themselves_are_allowed() -> None:
    config = GateConfig(max_size_mb=10.0, max_real_time=0.5, min_songs=8, leakage_tolerance_db=3.0)
    champion = summary(1.0, 1.0, model="champion", num_songs=8, leakage_db={"drums": -60.0})
    candidate = summary(
        around(3.0, 0.1, num_songs=8), around(3.0, 0.1, num_songs=8), num_songs=8, leakage_db={"drums": -57.0}
    )
    assert unmet(decide(replace(candidate, size_bytes=10_000_000, real_time_factor=0.5), champion, config)) == []


def test_a_slice_that_loses_forbids_it() -> None:
    values = [1.0 - 3.0] * 5 + [4.0] * 15  # the quiet songs are the first and the short ones
    decision = decide(summary(values, values), CHAMPION, CONFIG)
    assert unmet(decision) == ["slice_tolerance, quiet", "slice_tolerance, short"]
    assert "On 5 quiet songs it scores -3.00 dB" in decision.reason
    named = decide(
        summary([4.0] * 18 + [-3.0] * 2, 2.0), CHAMPION, replace(CONFIG, slices={"jazz": ("18", "1[9]", "99")})
    )
    assert "slice_tolerance, jazz" in unmet(named)
    assert named.slice_gains["jazz"].num_songs == 2


def test_more_sound_where_a_stem_is_silent_forbids_it() -> None:
    champion = summary(1.0, 1.0, model="champion", leakage_db={"drums": -60.0})
    for leaked_db, rules in ((-58.0, []), (-50.0, ["leakage_tolerance_db"])):
        candidate = summary(around(3.0, 0.1), around(3.0, 0.1), leakage_db={"drums": leaked_db, "bass": -10.0})
        assert unmet(decide(candidate, champion, CONFIG)) == rules


def test_leakage_that_nobody_hears_forbids_nothing_whoever_leaks_less() -> None:
    champion = summary(1.0, 1.0, model="champion", leakage_db={"drums": -120.0})
    for leaked_db, rules in ((-61.0, []), (-58.0, []), (-56.0, ["leakage_tolerance_db"])):
        candidate = summary(around(3.0, 0.1), around(3.0, 0.1), leakage_db={"drums": leaked_db})
        decision = decide(candidate, champion, CONFIG)
        assert unmet(decision) == rules
    assert "it leaks up to -56.0 dB relative to the mixture (in 19), +4.0 dB against" in decision.reason
    quiet = decide(summary(around(3.0, 0.1), around(3.0, 0.1), leakage_db={"drums": -90.0}), champion, CONFIG)
    (check,) = (check for check in quiet.checks if check.rule == "leakage_tolerance_db")
    assert "leaks up to -90.0 dB" in check.message
    assert "+0.0 dB against the champion's worst; the limit is +3.0 dB; what is below -60 dB counts" in check.message


def test_budgets_of_size_and_speed_hold_without_a_champion() -> None:
    config = replace(CONFIG, max_size_mb=10.0, max_real_time=0.5)
    candidate = replace(summary(3.0, 3.0), size_bytes=11_000_000, real_time_factor=0.4)
    assert unmet(decide(candidate, None, config)) == ["max_size_mb"]
    assert unmet(decide(replace(candidate, size_bytes=9, real_time_factor=0.6), None, config)) == ["max_real_time"]
    assert unmet(decide(replace(candidate, size_bytes=9, real_time_factor=None), None, config)) == ["max_real_time"]
    assert unmet(decide(replace(candidate, size_bytes=9), None, config)) == []


def test_a_rule_that_passed_says_so_and_contradicts_itself_in_no_word() -> None:
    decision = decide(summary(around(1.5, 0.3), around(1.3, 0.3)), CHAMPION, CONFIG)
    assert decision.promote
    messages = {check.rule: check.message for check in decision.checks if check.rule != "contamination"}
    assert all(message.startswith("Passed: ") for message in messages.values())
    assert messages["min_songs"] == "Passed: 20 songs can confirm +0.40 dB nSDR against the champion; the minimum is 8."
    assert messages["silence"].startswith("Passed: Better than silence")
    few = decide(summary(9.0, 9.0, num_songs=7), summary(1.0, 1.0, model="c", num_songs=7), CONFIG)
    assert [check.rule for check in few.checks if not check.met] == ["min_songs"]
    assert not any(check.message.startswith("Passed") for check in few.checks if not check.met)


def test_the_champion_does_not_replace_itself() -> None:
    decision = decide(CHAMPION, CHAMPION, replace(CONFIG, margin=-1.0))
    assert not decision.promote
    assert "champion already" in decision.reason


def test_few_songs_replace_nobody() -> None:
    champion, candidate = summary(1.0, 1.0, model="champion", num_songs=7), summary(9.0, 9.0, num_songs=7)
    decision = decide(candidate, champion, CONFIG)
    assert unmet(decision) == ["min_songs"]
    assert decision.reason.startswith("7 songs cannot confirm +8.00 dB nSDR against the champion; the minimum is 8")


def test_a_song_that_one_of_them_was_trained_with_is_left_out() -> None:
    drums = [99.0, *([1.0] * 19)]
    decision = decide(
        summary(drums, drums),
        CHAMPION,
        CONFIG,
        contamination=Contamination(songs={"00": "the same audio", "none of these": ""}),
    )
    assert decision.left_out == ("00",)
    assert decision.num_songs == 19
    assert decision.gain is not None
    assert decision.gain.mean == 0
    assert "1 song that one of the two was trained with is left out: 00 (the same audio)." in [
        check.message for check in decision.checks
    ]
    unknown = decide(
        summary(drums, drums), CHAMPION, CONFIG, contamination=Contamination(known=False, by_fingerprint=False)
    )
    assert any("is incomplete" in check.message for check in unknown.checks)
    with pytest.raises(InputError, match="each of the 20 songs was trained with"):
        decide(
            summary(2.0, 2.0), CHAMPION, CONFIG, contamination=Contamination(songs=dict.fromkeys(CHAMPION.songs, ""))
        )


def test_songs_of_the_training_count_in_no_rule_and_in_no_number() -> None:
    values = [25.0] * 10 + [-4.0] * 10  # by far better where it was trained, and below silence where it was not
    contamination = Contamination(songs={f"{place:02d}": "the same audio" for place in range(10)})
    candidate = summary(values, values)
    assert decide(candidate, None, CONFIG).promote
    champion = summary([-9.0] * NUM_SONGS, [-9.0] * NUM_SONGS, model="champion")
    for rival in (None, champion):
        decision = decide(candidate, rival, CONFIG, contamination=contamination)
        assert not decision.promote
        assert {"min_improvement", "min_nsdr"} <= set(unmet(decision))
        assert (decision.improvement, decision.num_songs) == (1.0, 10)
        assert len(decision.left_out) == 10
        assert "its mean is -4.00 dB nSDR over 10 songs" in decision.reason
    with pytest.raises(InputError, match="each of the 20 songs was trained with"):
        decide(candidate, None, CONFIG, contamination=Contamination(songs=dict.fromkeys(candidate.songs, "")))


def test_the_improvement_is_over_the_mixtures_of_the_songs_that_are_left() -> None:
    candidate = summary(2.0, 2.0)
    songs = {
        name: replace(song, mixture_nsdr=dict.fromkeys(song.nsdr, -20.0 if name < "05" else 0.0))
        for name, song in candidate.songs.items()
    }
    contamination = Contamination(songs={f"{place:02d}": "" for place in range(5)})
    decision = decide(replace(candidate, songs=songs), None, CONFIG, contamination=contamination)
    assert decision.improvement == 2.0
    assert unmet(decision) == ["min_improvement"]


def test_a_first_champion_is_said_to_know_no_song_only_where_that_is_known() -> None:
    def message(contamination: Contamination) -> str:
        return next(
            check.message for check in decide(summary(2.0, 2.0), None, CONFIG, contamination=contamination).checks
            if check.rule == "contamination"
        )  # fmt: skip

    assert message(Contamination()) == "It was not trained with any of these songs."
    assert message(Contamination(songs={"03": "the same audio"})).startswith("1 song that it was trained with")
    unknown = message(Contamination(known=False, gaps=("it began from the file x.th",)))
    assert "was not trained" not in unknown
    assert "is incomplete: it began from the file x.th." in unknown


def test_one_song_that_leaks_is_not_made_up_for_by_all_others() -> None:
    champion = summary(1.0, 1.0, model="champion", leakage_db={"bass": -60.0, "drums": -30.0})
    candidate = summary(around(3.0, 0.1), around(3.0, 0.1), leakage_db={"bass": -80.0, "drums": -50.0})
    assert decide(candidate, champion, CONFIG).promote
    songs = {**candidate.songs, "07": replace(candidate.songs["07"], leakage_db={"bass": -56.5, "drums": -50.0})}
    decision = decide(replace(candidate, songs=songs), champion, CONFIG)
    assert unmet(decision) == ["leakage_tolerance_db"]
    assert "Where bass is silent it leaks up to -56.5 dB relative to the mixture (in 07), +3.5 dB" in decision.reason
    contamination = Contamination(songs={"07": "the same audio"})
    assert decide(replace(candidate, songs=songs), champion, CONFIG, contamination=contamination).promote


def test_leakage_is_compared_song_by_song_not_only_in_the_worst_song_of_each() -> None:
    """The champion leaks badly in one song; a candidate that leaks as much in every song is worse than that."""
    quiet = summary(1.0, 1.0, model="champion", leakage_db={"drums": -70.0})
    champion = replace(quiet, songs={**quiet.songs, "03": replace(quiet.songs["03"], leakage_db={"drums": -20.0})})
    everywhere = summary(around(3.0, 0.1), around(3.0, 0.1), leakage_db={"drums": -20.0})
    decision = decide(everywhere, champion, CONFIG)
    assert unmet(decision) == ["leakage_tolerance_db"]
    assert "it leaks +38.0 dB relative to the champion in the same song, the mean over 20 songs" in decision.reason
    quiet_songs = {name: replace(song, leakage_db={"drums": -70.0}) for name, song in everywhere.songs.items()}
    in_that_song = {**quiet_songs, "03": everywhere.songs["03"]}
    assert decide(replace(everywhere, songs=in_that_song), champion, CONFIG).promote
    # Songs in which neither is heard do not thin it out.
    in_four = {**quiet_songs, **{name: everywhere.songs[name] for name in ("00", "01", "02", "03")}}
    assert "+30.0 dB relative" in (reason := decide(replace(everywhere, songs=in_four), champion, CONFIG).reason)
    assert "over 4 songs" in reason


def test_equal_scores_are_no_gain() -> None:
    equal = decide(replace(CHAMPION, model_digest="other"), CHAMPION, replace(CONFIG, margin=0.0))
    assert unmet(equal) == ["margin"]


def test_a_person_may_turn_a_yes_into_a_no_and_never_the_other_way_round() -> None:
    passed = decide(summary(around(1.5, 0.3), around(1.3, 0.3)), CHAMPION, CONFIG)
    yes = after_approval(passed, name="Ada", promote=True, why="the choir is better")
    assert (yes.promote, yes.approver) == (True, "Ada")
    assert yes.reason == f"{passed.reason} Ada says yes: the choir is better."
    no = after_approval(passed, name="Ada", promote=False, why="")
    assert (no.promote, no.reason, unmet(no)) == (False, "Ada says no.", ["approval"])
    assert not after_approval(decide(CHAMPION, CHAMPION, CONFIG), name="Ada", promote=True, why="").promote


def test_each_tag_is_a_slice(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    file.write_text("track_id,tag\n18,jazz\n19,jazz\n[x],jazz\n18,loud\n")
    rules = with_tags(replace(CONFIG, tags=str(file), slices={"loud": ("1?",)}))
    assert rules.slices == {"jazz": ("18", "19", "[[]x]"), "loud": ("1?",)}
    decision = decide(summary([4.0] * 18 + [-3.0] * 2, 2.0), CHAMPION, rules)
    assert "slice_tolerance, jazz" in unmet(decision)
    assert {name: gain.num_songs for name, gain in decision.slice_gains.items()} == {
        "quiet": 5, "short": 5, "long": 5, "jazz": 2, "loud": 10,
    }  # fmt: skip
    file.write_text("song,genre\n18,jazz\n")
    with pytest.raises(
        InputError, match=r"gate\.tags must have the columns track_id,tag in each line, got \['song', 'genre'\]"
    ):
        with_tags(rules)
    with pytest.raises(InputError, match="cannot be read"):
        with_tags(replace(CONFIG, tags=str(tmp_path / "none.csv")))


def test_a_score_that_is_no_number_passes_no_rule() -> None:
    nan = float("nan")
    assert not decide(summary(nan, nan), None, CONFIG).promote
    assert not decide(summary(nan, 9.0), CHAMPION, CONFIG).promote


def test_one_song_is_enough_for_a_first_champion_and_is_named_as_one() -> None:
    assert decide(summary(1.0, 1.0, num_songs=1), None, CONFIG).reason.endswith("over 1 song.")
    alone = decide(summary(9.0, 9.0, num_songs=1), summary(1.0, 1.0, model="c", num_songs=1), GateConfig(min_songs=1))
    assert unmet(alone)[0] == "margin"


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"confidence": 1.0}, {"confidence": 0.4}, {"min_songs": 0}, {"approval_s": 0.0}):
        with pytest.raises(InputError, match=rf"gate\.{next(iter(wrong))} must be"):
            GateConfig(**wrong)  # type: ignore[arg-type]


def test_scores_of_other_songs_or_protocols_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"different songs .*such as '19'"):
        decide(summary(2.0, 2.0, num_songs=19), CHAMPION, CONFIG)
    with pytest.raises(InputError, match="the audio differs"):
        decide(replace(summary(2.0, 2.0), dataset_digest="other"), CHAMPION, CONFIG)
    with pytest.raises(InputError, match="under 'q'"):
        decide(replace(summary(2.0, 2.0), protocol="q"), CHAMPION, CONFIG)
    with pytest.raises(InputError, match="their sources differ; they cannot be compared"):
        decide(replace(summary(2.0, 2.0), sources={"drums": CHAMPION.overall}), CHAMPION, CONFIG)


def test_songs_that_forbid_commercial_use_or_say_nothing_are_refused_where_that_is_asked_for() -> None:
    def of(*names: str, gaps: tuple[str, ...] = ()) -> SongLicenses:
        return SongLicenses(songs=dict.fromkeys(names, LicensedSongs(num_songs=2, hours=0.1)), gaps=gaps)

    strict = replace(CONFIG, refuse_non_commercial=True)
    good = summary(2.0, 2.0)
    assert decide(good, CHAMPION, CONFIG, licenses=of("CC-BY-NC-4.0")).promote
    assert decide(good, CHAMPION, strict, licenses=of("CC0-1.0", "own recordings")).promote
    for licenses, why in (
        (of("CC0-1.0", "CC-BY-NC-4.0"), "CC0-1.0 (2), CC-BY-NC-4.0 (2); 2 of 4 songs forbid commercial use."),
        (of("unknown"), "of 2 songs the licence is not known"),
        (of("CC0-1.0", gaps=("it began from x.th",)), "it began from x.th"),
        (None, "the songs that it learned from are not known"),
    ):
        decision = decide(good, CHAMPION, strict, licenses=licenses)
        assert unmet(decision) == ["refuse_non_commercial"]
        assert why in decision.reason
    assert unmet(decide(good, None, strict, licenses=of("CC-BY-NC-4.0"))) == ["refuse_non_commercial"]
