"""The gate's rules, one by one: a decision and a sentence, no cluster."""

from dataclasses import replace

import pytest

from datasets.errors import InputError
from pipelines.evaluate import ScoreSummary, SourceScore
from pipelines.gate import GateConfig, decide

CONFIG = GateConfig(min_improvement=3.0, margin=0.1, source_tolerance=0.5)


def summary(drums: float, bass: float, *, model: str = "m", songs: tuple[str, ...] = ("x", "y")) -> ScoreSummary:
    def score(nsdr: float) -> SourceScore:
        return SourceScore(nsdr=nsdr, mixture_nsdr=-5.0, sdr=None, mixture_sdr=None)

    return ScoreSummary(
        model_digest=model,
        dataset_digest="d",
        protocol="p",
        track_ids=songs,
        sources={"drums": score(drums), "bass": score(bass)},
        overall=score((drums + bass) / 2),
    )


CHAMPION = summary(1.0, 1.0, model="champion")


def test_the_first_candidate_is_held_against_the_mixture() -> None:
    decision = decide(summary(0.0, 2.0), None, CONFIG)
    assert decision.promote
    assert decision.improvement == 6.0
    assert decision.gain is None
    assert decision.reason == "The first champion: +6.00 dB nSDR over the unprocessed mixture, over 2 songs."


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_too_little_over_the_mixture_is_never_promoted(champion: ScoreSummary | None) -> None:
    decision = decide(summary(-2.5, -2.5), champion, CONFIG)
    assert not decision.promote
    assert "+2.50 dB nSDR over 2 songs; +3.00 dB are asked for" in decision.reason


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_turning_everything_down_is_no_separation(champion: ScoreSummary | None) -> None:
    decision = decide(summary(-0.1, -0.1), champion, CONFIG)
    assert decision.improvement > CONFIG.min_improvement
    assert not decision.promote
    assert "silence scores 0 dB" in decision.reason


def test_a_better_candidate_replaces_the_champion() -> None:
    decision = decide(summary(1.5, 1.3), CHAMPION, CONFIG)
    assert decision.promote
    assert decision.gain == pytest.approx(0.4)
    assert decision.source_gains == pytest.approx({"drums": 0.5, "bass": 0.3})
    assert "+0.40 dB nSDR against the champion" in decision.reason


def test_a_gain_within_the_margin_is_not_enough() -> None:
    decision = decide(summary(1.1, 1.1), CHAMPION, GateConfig(margin=0.2))
    assert not decision.promote
    assert "more than +0.20 dB are asked for" in decision.reason


def test_a_source_that_loses_too_much_forbids_it() -> None:
    decision = decide(summary(3.0, 0.4), CHAMPION, CONFIG)
    assert not decision.promote
    assert "-0.60 dB on bass" in decision.reason


def test_the_champion_does_not_replace_itself() -> None:
    decision = decide(CHAMPION, CHAMPION, GateConfig(margin=-1.0))
    assert not decision.promote
    assert "champion already" in decision.reason


def test_a_score_that_is_no_number_passes_no_rule() -> None:
    nan = float("nan")
    assert not decide(summary(nan, nan), None, CONFIG).promote
    assert not decide(summary(nan, 9.0), CHAMPION, CONFIG).promote


def test_one_song_is_enough_to_decide_and_is_named_as_one() -> None:
    assert decide(summary(1.0, 1.0, songs=("x",)), None, CONFIG).reason.endswith("over 1 song.")


def test_scores_of_other_songs_or_protocols_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"different songs .*such as 'y'"):
        decide(summary(2.0, 2.0, songs=("x",)), CHAMPION, CONFIG)
    with pytest.raises(InputError, match="the audio differs"):
        decide(replace(summary(2.0, 2.0), dataset_digest="other"), CHAMPION, CONFIG)
    with pytest.raises(InputError, match="under 'q'"):
        decide(replace(summary(2.0, 2.0), protocol="q"), CHAMPION, CONFIG)
    with pytest.raises(InputError, match="no rivals"):
        decide(replace(summary(2.0, 2.0), sources={"drums": CHAMPION.overall}), CHAMPION, CONFIG)
