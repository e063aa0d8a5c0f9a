"""What training does when it goes wrong, decided from numbers alone."""

import math

import pytest

from datasets.errors import InputError
from pipelines.training.divergence_recovery import (
    RecoveryConfig,
    after_point,
    after_score,
    after_steps,
    num_plateaus,
    rate_factor,
)

CONFIG = RecoveryConfig(diverge_points=3, max_skipped=2)


def test_a_few_skipped_steps_are_nothing_and_one_more_is_too_many() -> None:
    assert [after_steps(CONFIG, skipped_in_a_row=count).do for count in (0, 2, 3)] == ["go", "go", "rollback"]


@pytest.mark.parametrize(
    ("losses", "do"),
    [
        ([1.0, 1.1, 0.9, 2.9], "go"),
        ([1.0, 1.1, 0.9, 3.1], "rollback"),
        ([1.0, 1.1, 3.1], "go"),  # too early to know what is usual
        ([9.0, 9.0, 9.0, 1.0, 1.1, 0.9, 3.1], "rollback"),  # what was usual long ago does not count
        ([1.0, 1.1, math.nan, 0.9, 3.1], "rollback"),
        ([1.0, 1.1, 0.9, math.nan], "go"),  # skipped steps are counted elsewhere
    ],
)
def test_a_loss_far_above_its_recent_median_has_run_away(losses: list[float], do: str) -> None:
    assert after_point(CONFIG, losses).do == do
    assert after_point(RecoveryConfig(diverge_factor=0.0, diverge_points=3), losses).do == "go"


def test_a_score_that_is_no_number_takes_the_training_back() -> None:
    assert after_score(CONFIG, [1.0, math.nan]).do == "rollback"


def test_a_plateau_is_as_many_scores_without_a_better_one_and_then_counts_anew() -> None:
    config = RecoveryConfig(plateau_checkpoints=2, plateau_rate=0.5)
    counts = [num_plateaus(config, [3, 4, 4, 3, 2, 4, 5, 1, 1][:length]) for length in range(10)]
    assert counts == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    assert num_plateaus(RecoveryConfig(), [1, 1, 1, 1]) == 0


def test_a_plateau_lowers_the_rate_or_ends_the_training() -> None:
    scores = [3.0, 2.0, 2.5]
    lower = RecoveryConfig(plateau_checkpoints=2, plateau_rate=0.5)
    assert after_score(lower, scores).do == "go"
    assert rate_factor(lower, rollbacks=0, scores=scores) == 0.5
    assert rate_factor(lower, rollbacks=2, scores=scores[:2]) == 0.25
    stop = after_score(RecoveryConfig(plateau_checkpoints=2), scores)
    assert stop.do == "stop"
    assert "3.00 dB is the best" in stop.why


@pytest.mark.parametrize(
    "changes",
    [
        {"max_skipped": -1},
        {"diverge_factor": 0.5},
        {"diverge_points": 0},
        {"rollback_rate": 1.0},
        {"plateau_rate": 1.0},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        RecoveryConfig(**changes)  # type: ignore[arg-type]
