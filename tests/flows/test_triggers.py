"""Whether to train again: each trigger alone fires and says so, and what stands against it is said too."""

from dataclasses import replace
from pathlib import Path

import pytest

from datasets import versions
from datasets.errors import InputError
from flows.triggers import (
    Facts,
    RetrainConfig,
    Retraining,
    canary_scores,
    judge,
    note,
    note_canary,
    retrainings,
    unfinished,
)
from tests.datasets import toy_store

QUIET = Facts(
    now="2026-11-23T12:00:00+00:00",
    hours=105.0,
    champion="4",
    champion_hours=100.0,
    champion_at="2026-11-20T12:00:00+00:00",
    canary=(6.0, 5.9),
    expected_alias="4",
)
CONFIG = RetrainConfig()


def done(began: str, ended: str = "", devices: int = 2) -> Retraining:
    return Retraining(began_at=began, ended_at=ended, devices=devices, champion="4")


def test_where_nothing_calls_for_it_every_trigger_is_named_with_its_figures() -> None:
    judged = judge(QUIET, CONFIG)
    assert not judged.retrain
    assert judged.sentence == (
        "No: 5.0 new clean hours of 10; version 4 is 3.0 of 60 days old; "
        "the canary songs lost 0.10 dB of 0.3; the champion is still version 4."
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"hours": 112.5}, "Yes: 12.5 new clean hours of 10."),
        ({"champion_at": "2026-09-01T12:00:00+00:00"}, "Yes: version 4 is 83.0 of 60 days old."),
        ({"canary": (6.0, 5.8, 5.6)}, "Yes: the canary songs lost 0.40 dB of 0.3."),
        ({"expected_alias": "5"}, "Yes: the champion was moved from version 5 to 4."),
        ({"champion": ""}, "Yes: there is no champion yet."),
        (
            {"hours": 112.5, "expected_alias": "5"},
            "Yes: 12.5 new clean hours of 10 and the champion was moved from version 5 to 4.",
        ),
    ],
)
def test_each_trigger_fires_alone_and_says_why(changed: dict[str, object], words: str) -> None:
    judged = judge(replace(QUIET, **changed), CONFIG)  # type: ignore[arg-type]
    assert judged.retrain
    assert judged.sentence == words


def test_a_trigger_at_zero_never_fires() -> None:
    off = RetrainConfig(new_hours=0, max_age_days=0, canary_drop_db=0, moved_alias=False)
    facts = replace(QUIET, hours=900.0, canary=(9.0, 1.0), expected_alias="1", champion_at="2020-01-01T00:00:00+00:00")
    assert judge(facts, off).sentence == "No: every trigger is off."


def test_two_within_a_day_are_held_apart() -> None:
    facts = replace(QUIET, hours=120.0, done=(done("2026-11-23T09:00:00+00:00", "2026-11-23T11:00:00+00:00"),))
    judged = judge(facts, CONFIG)
    assert not judged.retrain
    assert judged.sentence.startswith("Not now: the last one began 3.0 h ago, and 24 h shall lie between, though 20.0")
    assert judge(facts, replace(CONFIG, pause_h=2.0)).retrain


def test_one_that_runs_is_not_joined_by_another_but_one_that_was_killed_is_forgotten() -> None:
    running = replace(QUIET, hours=120.0, done=(done("2026-11-22T10:00:00+00:00"),))
    assert "one that began 26.0 h ago is still at work" in judge(running, CONFIG).sentence
    killed = replace(QUIET, hours=120.0, done=(done("2026-11-20T10:00:00+00:00"),))
    assert judge(killed, CONFIG).retrain


def test_the_month_has_a_budget_of_gpu_hours() -> None:
    config = replace(CONFIG, gpu_hours_per_month=100.0)
    first = done("2026-11-02T00:00:00+00:00", "2026-11-03T06:00:00+00:00")  # 2 GPUs for 30 h
    judged = judge(replace(QUIET, hours=120.0, done=(first,)), config)
    assert not judged.retrain
    assert "60.0 GPU hours of 100 are spent this month, and one takes about 60.0" in judged.sentence
    october = done("2026-10-02T00:00:00+00:00", "2026-10-03T06:00:00+00:00")
    assert judge(replace(QUIET, hours=120.0, done=(october,)), config).retrain


def test_without_clean_songs_there_is_nothing_to_learn_from() -> None:
    judged = judge(Facts(now=QUIET.now), CONFIG)
    assert not judged.retrain
    assert "no clean songs" in judged.sentence


def test_a_champion_whose_dataset_is_gone_is_said() -> None:
    assert "the dataset of version 4 is gone" in judge(replace(QUIET, champion_hours=None), CONFIG).sentence


def test_what_was_noted_is_read_again_and_an_end_replaces_its_beginning(tmp_path: Path) -> None:
    begun = done("2026-11-23T09:00:00+00:00")
    note(str(tmp_path), done("2026-11-23T10:00:00+00:00"))
    note(str(tmp_path), begun)
    ended = replace(begun, ended_at="2026-11-23T09:30:00+00:00")
    note(str(tmp_path), ended)
    assert retrainings(str(tmp_path)) == [ended, done("2026-11-23T10:00:00+00:00")]
    for score in (6.0, 5.5):
        note_canary(str(tmp_path), "abc", score)
    assert canary_scores(str(tmp_path), "abc") == [6.0, 5.5]
    assert canary_scores(str(tmp_path), "another champion") == []
    assert len(retrainings(str(tmp_path))) == 2


def test_a_run_that_is_started_again_finds_what_it_began_and_no_other_run_does(tmp_path: Path) -> None:
    begun = replace(done("2026-11-23T09:00:00+00:00"), run="killed")
    note(str(tmp_path), begun)
    assert unfinished(str(tmp_path), "killed") == begun
    assert unfinished(str(tmp_path), "another") is None
    note(str(tmp_path), replace(begun, ended_at="2026-11-23T09:30:00+00:00"))
    assert unfinished(str(tmp_path), "killed") is None


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(InputError, match=r"retrain\.pause_h must be >= 0, got -1"):
        RetrainConfig(pause_h=-1)


def test_hours_are_counted_from_the_dataset_that_the_champion_names(tmp_path: Path) -> None:
    """A champion remembers the address that writing its dataset gave; versions have to be listed under the same."""
    written = toy_store.store(tmp_path, {"a": ("train", 8000), "b": ("train", 8000)})
    assert [one.manifest for one in versions.list_versions(str(tmp_path))] == [written.uri]


def test_a_killed_retraining_is_spent_but_says_nothing_of_what_one_takes() -> None:
    """Two of 4 GPU hours, and two that were killed on another machine long ago and count as 48 each."""
    months = [done(f"2026-0{month}-01T00:00:00+00:00", f"2026-0{month}-01T02:00:00+00:00") for month in (5, 6)]
    killed = [done(f"2026-0{month}-01T00:00:00+00:00") for month in (7, 8, 9)]
    facts = replace(QUIET, hours=200.0, done=(*months, *killed))
    assert judge(facts, replace(CONFIG, gpu_hours_per_month=5.0)).retrain
    judged = judge(facts, replace(CONFIG, gpu_hours_per_month=3.5))
    assert not judged.retrain
    assert "one takes about 4.0" in judged.sentence
