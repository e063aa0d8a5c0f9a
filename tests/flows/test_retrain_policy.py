"""Whether to train again: each trigger alone fires and says so, and what stands against it is said too."""

import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from datasets.errors import InputError
from datasets.schema import ShardSet
from flows import config as door
from flows.retrain_policy import Facts, RetrainConfig, Retraining, judge, over_budget, remarks, seed_of
from flows.retraining.facts import gather_facts
from flows.retraining.retrain_log import write
from pipelines.registry import ModelVersion, RegistryConfig, address, champion, promote, register, rollback
from tests.pipelines.lineage.test_contamination import dataset, sounds, tune
from tests.pipelines.registry.test_registration import make_candidate

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
    status = "done" if ended else "running"
    return Retraining(began_at=began, ended_at=ended, status=status, devices=devices, champion="4")


def failed(began: str, ended: str = "", *, error: str = "the disk is full.", status: str = "failed") -> Retraining:
    return Retraining(began_at=began, ended_at=ended or began, status=status, error=error, gpu_hours=0.25)


def test_where_nothing_calls_for_it_every_trigger_is_named_with_its_figures() -> None:
    judged = judge(QUIET, CONFIG)
    assert not judged.retrain
    assert judged.sentence == (
        "No: 5.0 new clean hours of 10; version 4 is 3.0 of 60 days old; "
        "the canary songs lost 0.10 dB of 0.3; the champion is still version 4."
    )


@pytest.mark.parametrize(
    ("scores", "retrain"), [((6.0, math.nan), False), ((6.0, -math.inf), True), ((math.nan, 6.0), False)]
)
def test_a_champion_whose_scores_are_no_numbers_is_judged_all_the_same(
    scores: tuple[float, ...], retrain: bool
) -> None:
    assert judge(replace(QUIET, canary=scores), CONFIG).retrain is retrain


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


@pytest.mark.parametrize(
    ("changed", "retrain"),
    [
        ({"hours": 110.0}, True),
        ({"hours": 109.75}, False),
        ({"champion_at": "2026-09-24T12:00:00+00:00"}, True),  # 60 days before
        ({"champion_at": "2026-09-24T13:00:00+00:00"}, False),
        ({"canary": (6.0, 5.6875)}, True),
        ({"canary": (6.0, 5.75)}, False),
        ({"canary": (6.0,)}, False),
        ({"canary": ()}, False),
        ({"expected_alias": ""}, False),
        ({"champion_at": ""}, False),
    ],
)
def test_what_calls_for_it_where_no_limit_is_set(changed: dict[str, object], retrain: bool) -> None:
    judged = judge(replace(QUIET, **changed), CONFIG)  # type: ignore[arg-type]
    assert judged.retrain is retrain
    assert ("canary" in judged.sentence) == (len(changed.get("canary", (1, 2))) > 1) or retrain  # type: ignore[arg-type]


MORE = replace(QUIET, hours=120.0)
ANY_TIME = replace(CONFIG, min_interval_h=0.0)


def ago(hours: float) -> str:
    return (datetime.fromisoformat(QUIET.now) - timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize("ago_h", [0.0, 26.0, 300.0])
def test_one_that_runs_is_not_joined_by_another_however_long_it_takes(ago_h: float) -> None:
    judged = judge(replace(MORE, done=(done(ago(ago_h)),)), ANY_TIME)
    assert not judged.retrain
    assert f"one that began {ago_h:.1f} h ago is still running" in judged.sentence


@pytest.mark.parametrize("status", ["failed", "crashed"])
@pytest.mark.parametrize(
    ("failures_h", "retrain", "wait"),
    [
        ((0.1,), True, ""),  # a first failure is tried again at once
        ((5.0, 0.5), False, "1 h"),
        ((5.0, 1.0), True, ""),
        ((9.0, 5.0, 1.5), False, "2 h"),
        ((30.0, 20.0, 10.0, 3.0), False, "4 h"),
        ((30.0, 20.0, 10.0, 5.0), True, ""),
        ((200.0, 180.0, 160.0, 140.0, 120.0, 100.0, 80.0, 22.0), False, "24 h"),
        # A nightly schedule is not put off by the minutes that the failure of the night before took.
        ((200.0, 180.0, 160.0, 140.0, 120.0, 100.0, 80.0, 23.5), True, ""),
    ],
)
def test_what_failed_is_tried_again_at_once_and_then_after_longer_and_longer_waits(
    status: str, failures_h: tuple[float, ...], retrain: bool, wait: str
) -> None:
    facts = replace(MORE, done=tuple(failed(ago(hours), status=status) for hours in failures_h))
    judged = judge(facts, CONFIG)
    assert judged.retrain is retrain
    assert f"{status}: the disk is full" in judged.sentence
    if wait:
        assert f"the last {len(failures_h)} retrainings with these settings came to nothing" in judged.sentence
        assert f"{failures_h[-1]:.1f} h ago; the next begins {wait} after it" in judged.sentence
    assert judge(replace(facts, recipe="mended"), CONFIG).retrain, "other settings are tried at once"


def test_a_success_ends_a_row_of_failures_and_its_pause_counts() -> None:
    row = (failed(ago(6.0)), failed(ago(5.0)))
    assert judge(replace(MORE, done=(*row, done(ago(0.5), ago(0.4)))), ANY_TIME).retrain
    assert judge(replace(MORE, done=(done(ago(30.0), ago(29.0)), failed(ago(4.0)))), CONFIG).retrain
    judged = judge(replace(MORE, done=(done(ago(3.0), ago(2.0)),)), CONFIG)
    assert "the last one began 3.0 h ago; the minimum interval is 24 h" in judged.sentence


def test_a_cancelled_one_may_begin_again_at_once_and_is_no_failure() -> None:
    cancelled = failed(ago(0.1), error="", status="cancelled")
    judged = judge(replace(MORE, done=(done(ago(30.0), ago(29.0)), cancelled, cancelled, cancelled)), CONFIG)
    assert judged.retrain
    assert judged.sentence.endswith(f" (the retraining of {cancelled.began_at[:16]} was cancelled).")
    after_success = judge(replace(MORE, done=(done(ago(3.0), ago(2.0)), cancelled)), CONFIG)
    assert "the last one began 3.0 h ago; the minimum interval is 24 h" in after_success.sentence
    one_failure = judge(replace(MORE, done=(failed(ago(0.5)), cancelled)), CONFIG)
    assert one_failure.retrain
    assert (
        "the next begins 2 h after it"
        in judge(replace(MORE, done=(failed(ago(9.0)), failed(ago(5.0)), failed(ago(1.5)), cancelled)), CONFIG).sentence
    ), "who cancels between two failures does not shorten the wait"


@pytest.mark.parametrize("status", ["done", "failed", "crashed", "cancelled"])
def test_a_note_from_the_future_is_told_and_keeps_nobody_waiting(status: str) -> None:
    """The clock stood at 2031 for a day; a few minutes ahead is another machine's clock."""
    future = [failed(f"2031-03-0{day}T00:00:00+00:00", status=status) for day in (1, 2, 3)]
    facts = replace(MORE, done=(done(ago(30.0), ago(29.0)), *future))
    assert judge(facts, CONFIG).retrain
    assert [remark[:34] for remark in remarks(facts)] == [
        f"The retraining of 2031-03-0{day}T00:00" for day in (1, 2, 3)
    ]
    a_little = replace(MORE, done=(failed(ago(-0.1), status="done"),))
    assert "the last one began 0.0 h ago" in judge(a_little, CONFIG).sentence
    assert not remarks(a_little)
    late = failed(ago(1.0), "2031-03-01T00:00:00+00:00")  # the clock was set back while they ran
    assert judge(replace(MORE, done=(late, late)), CONFIG).retrain


@pytest.mark.parametrize(
    ("budget", "retrain"), [(22.0, True), (21.0, False)]
)  # of this month 1.5 measured hours and 2 GPUs for 5 h; of three that ended, one takes 10 GPU hours
def test_a_budget_counts_what_was_measured_and_of_older_notes_what_ended(budget: float, retrain: bool) -> None:
    ended = [
        done("2026-09-01T00:00:00+00:00", "2026-09-02T06:00:00+00:00"),
        replace(done("2026-10-01T00:00:00+00:00", "2026-10-02T00:00:00+00:00", devices=4), gpu_hours=0.5),
        done("2026-11-01T00:00:00+00:00", "2026-11-01T05:00:00+00:00"),
    ]
    killed = replace(failed("2026-11-05T00:00:00+00:00", status="crashed"), devices=4, gpu_hours=None)
    five_minutes = replace(failed("2026-11-06T00:00:00+00:00", "2026-11-06T23:05:00+00:00"), devices=4, gpu_hours=1.5)
    facts = replace(MORE, recipe="another", done=(*ended, killed, five_minutes))
    judged = judge(facts, replace(CONFIG, gpu_hours_per_month=budget))
    assert judged.retrain is retrain
    assert retrain or "11.5 GPU hours of 21 are spent this month, and one takes about 10.0" in judged.sentence


def test_a_note_that_tells_of_no_gpus_costs_none() -> None:
    on_cpus = Retraining(began_at="2026-11-01T00:00:00+00:00", ended_at="2026-11-02T00:00:00+00:00", status="done")
    assert not over_budget([on_cpus], replace(CONFIG, gpu_hours_per_month=1.0), QUIET.now)
    with_two = replace(on_cpus, devices=2)
    assert over_budget([with_two], replace(CONFIG, gpu_hours_per_month=1.0), QUIET.now).startswith(
        "48.0 GPU hours of 1"
    )


def test_drift_is_told_from_other_triggers() -> None:
    assert judge(replace(QUIET, canary=(6.0, 5.6)), CONFIG).drift
    assert judge(replace(QUIET, hours=200.0, canary=(6.0, 5.6)), CONFIG).drift
    assert not judge(replace(QUIET, hours=200.0), CONFIG).drift


def test_a_trigger_at_zero_never_fires() -> None:
    off = RetrainConfig(new_hours=0, max_age_days=0, canary_drop_db=0, on_manual_promotion=False)
    facts = replace(QUIET, hours=900.0, canary=(9.0, 1.0), expected_alias="1", champion_at="2020-01-01T00:00:00+00:00")
    assert judge(facts, off).sentence == "No: every trigger is off."


def test_two_within_a_day_are_held_apart() -> None:
    facts = replace(QUIET, hours=120.0, done=(done("2026-11-23T09:00:00+00:00", "2026-11-23T11:00:00+00:00"),))
    judged = judge(facts, CONFIG)
    assert not judged.retrain
    assert judged.sentence.startswith("Not now: the last one began 3.0 h ago; the minimum interval is 24 h, though 20")
    assert judge(facts, replace(CONFIG, min_interval_h=2.0)).retrain


def test_the_month_has_a_budget_of_gpu_hours() -> None:
    config = replace(CONFIG, gpu_hours_per_month=100.0)
    first = done("2026-11-02T00:00:00+00:00", "2026-11-03T06:00:00+00:00")  # 2 GPUs for 30 h
    judged = judge(replace(QUIET, hours=120.0, done=(first,)), config)
    assert not judged.retrain
    assert "60.0 GPU hours of 100 are spent this month, and one takes about 60.0" in judged.sentence
    october = done("2026-10-02T00:00:00+00:00", "2026-10-03T06:00:00+00:00")
    assert judge(replace(QUIET, hours=120.0, done=(october,)), config).retrain


def test_a_month_bears_the_hours_that_were_used_in_it() -> None:
    """A training that began in October and ended in November; half of one that is unfinished."""
    config = replace(CONFIG, gpu_hours_per_month=20.0)
    over_the_turn = replace(
        done("2026-10-31T12:00:00+00:00", "2026-11-01T12:00:00+00:00"),
        gpu_hours=24.0, gpu_hours_by_month={"2026-10": 20.0, "2026-11": 4.0},
    )  # fmt: skip
    killed = replace(failed(ago(2.0), status="crashed"), gpu_hours=9.0, gpu_hours_by_month={"2026-11": 9.0})
    log = [over_the_turn, killed]
    assert over_budget(log, config, QUIET.now) == (
        "13.0 GPU hours of 20 are spent this month, and one takes about 24.0"
    )
    assert over_budget(log, config, QUIET.now, unfinished=killed) == (
        "13.0 GPU hours of 20 are spent this month, "
        "and the rest of the one that began 2026-11-23T10:00 takes about 15.0"
    )
    assert over_budget(log, replace(config, gpu_hours_per_month=28.0), QUIET.now, unfinished=killed) == ""
    assert over_budget(log, config, "2026-12-01T00:00:00+00:00", unfinished=killed) == "", "its rest, in a new month"
    assert over_budget(log, replace(config, gpu_hours_per_month=0.0), QUIET.now, unfinished=killed) == ""


def test_without_clean_songs_there_is_nothing_to_learn_from() -> None:
    judged = judge(Facts(now=QUIET.now), CONFIG)
    assert not judged.retrain
    assert "no clean songs" in judged.sentence


def test_a_champion_whose_dataset_is_gone_is_said() -> None:
    assert "the dataset of version 4 is gone" in judge(replace(QUIET, champion_hours=None), CONFIG).sentence


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(InputError, match=r"retrain\.min_interval_h must be >= 0, got -1"):
        RetrainConfig(min_interval_h=-1)


@pytest.mark.parametrize(
    ("min_interval_h", "ago_h", "waits"),
    [
        (24.0, 23.99, False),
        (24.0, 23.1, False),
        (24.0, 22.9, True),
        (168.0, 167.2, False),
        (168.0, 166.9, True),
        (1.0, 0.97, False),
        (1.0, 0.9, True),
        (0.0, 0.0, False),
    ],
)
def test_a_schedule_of_the_same_length_as_the_pause_is_not_put_off_by_seconds(
    min_interval_h: float, ago_h: float, waits: bool
) -> None:
    began = datetime.fromisoformat(QUIET.now) - timedelta(hours=ago_h)
    facts = replace(QUIET, hours=120.0, done=(done(began.isoformat(), QUIET.now),))
    assert judge(facts, replace(CONFIG, min_interval_h=min_interval_h)).retrain is not waits


def test_a_night_that_began_late_does_not_put_off_the_next(tmp_path: Path) -> None:
    late = replace(done("2026-11-23T08:30:00+00:00", "2026-11-23T11:00:00+00:00"), due_at="2026-11-23T03:00:00+00:00")
    facts = replace(QUIET, hours=120.0, now="2026-11-24T03:40:00+00:00", due="2026-11-24T03:00:02+00:00", done=(late,))
    assert judge(facts, CONFIG).retrain
    assert not judge(replace(facts, due="2026-11-23T20:00:00+00:00"), CONFIG).retrain


CALLS: list[dict[str, object]] = [
    {"hours": 112.5},
    {"champion_at": "2026-09-01T12:00:00+00:00"},
    {"canary": (6.0, 5.6)},
    {"expected_alias": "5"},
    {"champion": ""},
]


@pytest.mark.parametrize("changed", CALLS)
def test_what_was_trained_on_the_same_occasion_is_not_trained_again(changed: dict[str, object]) -> None:
    facts = replace(QUIET, dataset="songs", recipe="code", **changed)  # type: ignore[arg-type]
    first = judge(facts, CONFIG)
    before = replace(
        done("2026-11-20T03:00:00+00:00", "2026-11-20T09:00:00+00:00"),
        occasion=first.occasion, dataset="songs", recipe="code",
    )  # fmt: skip
    again = judge(replace(facts, done=(before,)), CONFIG)
    assert not again.retrain
    assert again.sentence == (
        "Not now: there is nothing to train: the retraining of 2026-11-20T03:00 had the same songs, settings and code, "
        f"though {first.sentence.removeprefix('Yes: ')}"
    )
    for other in ({"dataset": "others"}, {"recipe": "newer"}):
        assert judge(replace(facts, done=(before,), **other), CONFIG).retrain  # type: ignore[arg-type]
    assert judge(replace(facts, done=(replace(before, status="crashed"),)), CONFIG).retrain, "it was killed: go on"


def test_each_occasion_has_a_seed_of_its_own_and_keeps_it() -> None:
    later: list[dict[str, object]] = [
        *CALLS,
        {"champion_at": "2026-07-01T12:00:00+00:00"},  # twice as old as it may be
        {"canary": (6.0, 5.3)},  # it drifts on
        {"expected_alias": "7"},
        {"champion": "6", "champion_at": "2026-09-01T12:00:00+00:00", "expected_alias": ""},
    ]
    occasions = [judge(replace(QUIET, **changed), CONFIG).occasion for changed in later]  # type: ignore[arg-type]
    seeds = {seed_of(0, occasion) for occasion in occasions}
    assert len(seeds) == len(later)
    assert not seeds & {seed_of(1, occasion) for occasion in occasions}
    assert all(0 < seed < 2**28 for seed in seeds)
    tomorrow = replace(QUIET, champion_at="2026-09-01T12:00:00+00:00", now="2026-11-24T12:00:00+00:00")
    assert judge(tomorrow, CONFIG).occasion == occasions[1]


def test_a_rollback_of_ours_calls_for_nothing() -> None:
    facts = replace(QUIET, expected_alias="5", rolled_back=True)
    judged = judge(facts, CONFIG)
    assert not judged.retrain
    assert "the champion was rolled back to version 4" in judged.sentence


# --- what is known of a store and its registry --------------------------------------------------------------


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    return {**{str(seed): sounds(tune(seed)) for seed in range(4)}, "0 louder": sounds(0.4 * tune(0))}


@pytest.fixture(scope="module")
def empty_books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database takes seconds to make."""
    folder = tmp_path_factory.mktemp("books")
    books = address(str(folder))
    mlflow.MlflowClient(tracking_uri=books, registry_uri=books).search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, heard: dict[str, str], empty_books: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A champion that learned from songs 0 and 1; song 3 was held out."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_books, tmp_path / "mlflow.db")
    members = [("a", "train", "0"), ("b", "train", "1"), ("c", "test", "3")]
    promoted(tmp_path, 1, dataset(tmp_path, "first", members, heard))
    return tmp_path


def promoted(store: Path, seed: int, songs: ShardSet) -> ModelVersion:
    made = make_candidate(store / f"{seed}", seed=seed)
    candidate = replace(made, dataset=songs, lineage={**made.lineage, "dataset_uri": songs.uri})
    version = register(RegistryConfig(), candidate, store=str(store))
    decision = {"promote": True, "reason": "better"}
    return promote(version, {**decision, **_against(store)}, store=str(store))


def _against(store: Path) -> dict[str, str]:
    present = champion(RegistryConfig(), store=str(store))
    return {"champion_digest": _weights(present, store)} if present else {}


def _weights(present: ModelVersion, store: Path) -> str:
    from pipelines.registry import lineage

    return str(lineage(present.uri, store=str(store)).tags.get("weights_digest", ""))


def facts_of(store: Path, songs: ShardSet | None = None) -> Facts:
    return gather_facts(door.load("smoke", [f"store.root={store}"]), songs)


def seconds(hours: float | None) -> float:
    assert hours is not None
    return round(3600 * hours, 6)


@pytest.mark.slow
def test_new_hours_are_those_that_can_be_learned_from_and_were_not(store: Path, heard: dict[str, str]) -> None:
    length = seconds(facts_of(store).hours) / 2
    assert seconds(facts_of(store).champion_hours) == 2 * length
    # One song came, one went, another is heard in a second master, and what was held out stays so.
    members = [("a louder", "train", "0 louder"), ("d", "train", "2"), ("c", "test", "3")]
    second = dataset(store, "second", members, heard)
    found = facts_of(store)
    assert (seconds(found.hours), seconds(found.champion_hours)) == (2 * length, length)
    assert "new clean hours" in judge(found, RetrainConfig(new_hours=length / 3600)).sentence
    assert judge(found, RetrainConfig(new_hours=length / 3600)).retrain
    # As many hours as before, and all of them new to it: a difference of sums would be 0.
    third = dataset(store, "third", [("c", "train", "3"), ("d", "train", "2")], heard)
    assert seconds(facts_of(store, third).champion_hours) == 0
    assert seconds(facts_of(store, second).champion_hours) == length
    assert facts_of(store, second).dataset == second.digest
    only_tests = dataset(store, "fourth", [("d", "test", "2"), ("c", "valid", "3")], heard)
    assert facts_of(store, only_tests).hours == 0


@pytest.mark.slow
def test_a_rollback_is_known_as_ours_and_what_it_took_back_is_no_news(store: Path, heard: dict[str, str]) -> None:
    config = door.load("smoke", [f"store.root={store}"])
    more = dataset(store, "more", [("a", "train", "0"), ("d", "train", "2")], heard)
    promoted(store, 2, more)
    write(str(store), replace(done("2026-11-20T03:00:00+00:00", "2026-11-20T09:00:00+00:00"), champion="2"))
    rollback(config.registry, store=str(store))
    found = gather_facts(config, more)
    assert (found.champion, found.expected_alias, found.rolled_back) == ("1", "2", True)
    assert seconds(found.champion_hours) == seconds(found.hours), "version 2 has learned from d"
    assert not judge(found, RetrainConfig(new_hours=1e-9)).retrain
    # Age is counted from the rollback: the old model is not old news by its date.
    assert datetime.fromisoformat(found.champion_at) > datetime.now(UTC) - timedelta(minutes=10)


@pytest.mark.slow
def test_a_champion_without_its_dataset_is_told_as_such(store: Path, heard: dict[str, str]) -> None:
    dataset(store, "second", [("d", "train", "2")], heard)
    (store / "manifests" / "curate-first.json").unlink()
    assert facts_of(store).champion_hours is None


def test_a_run_that_begins_long_after_it_was_due_waits_as_any() -> None:
    """It was late, or waited for the store: what others did since is no future."""
    failures = tuple(failed(ago(hours), ago(hours - 0.1)) for hours in (5.0, 3.0, 0.2))
    late = replace(QUIET, hours=120.0, due=ago(7.0))
    assert "came to nothing" in judge(replace(late, done=failures), CONFIG).sentence
    assert "minimum interval" in judge(replace(late, done=(done(ago(2.0), ago(1.0)),)), CONFIG).sentence
