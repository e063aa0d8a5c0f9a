"""Another seed of the same recipe is no better model: what the gate's bound allows for, and where it takes it from."""

import math
from dataclasses import replace

import numpy as np
import pytest

from datasets.seeding import row_rng
from pipelines.evaluation.gate import GateConfig, decide
from pipelines.evaluation.paired_bootstrap import difference
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from tests.pipelines.evaluation.test_gate import CHAMPION, CONFIG, around, summary, unmet

RULES = replace(CONFIG, confidence=0.975, margin=0.0, seed_noise_db=0.1)


def test_a_gain_that_another_seed_may_give_is_not_promoted_however_many_songs_show_it() -> None:
    seed, recipe = summary(around(1.15, 0.05), around(1.15, 0.05)), summary(around(1.3, 0.05), around(1.3, 0.05))
    assert decide(seed, CHAMPION, replace(RULES, seed_noise_db=0.0)).promote
    decision = decide(seed, CHAMPION, RULES)
    assert unmet(decision) == ["margin"]
    assert "two seeds of one recipe differ by 0.10 dB (standard deviation, gate.seed_noise_db" in decision.reason
    assert "no number of songs confirms the observed gain, which another seed may undo." in decision.reason
    assert decision.seed_noise == SeedNoise(std_db=0.1)
    assert decide(recipe, CHAMPION, RULES).promote


def test_what_retrainings_show_decides_over_the_setting() -> None:
    candidate = summary(around(1.5, 0.05), around(1.5, 0.05))
    assert decide(candidate, CHAMPION, RULES).promote
    wild = seed_noise([[5.0, 5.8, 4.1, 6.0], [3.0]], 0.1)
    assert (wild.num_trainings, wild.num_recipes) == (4, 1)
    decision = decide(candidate, CHAMPION, RULES, noise=wild)
    assert unmet(decision) == ["margin"]
    differ = f"two seeds of one recipe differ by {wild.std_db:.2f} dB"
    assert f"{differ} (standard deviation, measured from 4 retrainings of 1 recipe" in decision.reason
    calm = seed_noise([[5.0 + 1e-3 * place for place in range(10)]], 0.1)
    nearly = summary(around(1.15, 0.05), around(1.15, 0.05))
    assert not decide(nearly, CHAMPION, RULES).promote
    assert decide(nearly, CHAMPION, RULES, noise=calm).promote


def test_many_retrainings_give_their_own_deviation_and_few_stay_near_the_setting() -> None:
    rng = row_rng(0, "seeds")
    many = seed_noise([rng.normal(5.0, 0.3, 4).tolist() for _ in range(200)], 0.1)
    assert many.std_db == pytest.approx(0.3 * math.sqrt(2), rel=0.05)  # of the difference between two
    assert seed_noise([[5.0, 5.0]], 0.1).std_db == pytest.approx(0.1 * math.sqrt(4 / 5))
    assert seed_noise([[5.0], [6.0], []], 0.1) == SeedNoise(std_db=0.1)
    assert seed_noise([[5.0, 9.0]], 0.0) == SeedNoise(std_db=0.0)  # no allowance was asked for


@pytest.mark.parametrize("num_songs", [8, 14, 50])
def test_seeds_of_one_recipe_pass_as_seldom_as_the_bound_says(num_songs: int) -> None:
    """Each trial: two trainings whose means differ by their seeds, over songs of the usual spread."""
    rng = row_rng(0, "two seeds", num_songs)
    trials = [rng.normal(rng.normal(0, 0.1), 0.5, num_songs).tolist() for _ in range(600)]

    def passed(noise_db: float) -> float:
        bounds = [difference(one, confidence=0.975, seed_noise_db=noise_db, resamples=300).low for one in trials]
        return float(np.mean(np.array(bounds) > 0))

    assert passed(0.1) < 0.025 + 2 * math.sqrt(0.025 * 0.975 / 600)
    if num_songs == 50:
        assert passed(0.0) > 0.1  # songs alone let seeds through


def test_what_so_many_songs_are_said_to_show_with_seeds_they_show_in_four_of_five_trials() -> None:
    rng = row_rng(0, "a gain, two seeds")
    first = difference(rng.normal(0, 0.5, 30).tolist(), confidence=0.95, seed_noise_db=0.1, resamples=100)
    gain = replace(first, spread=0.5).min_detectable_gain(0.95)
    seen = [
        difference(
            rng.normal(gain + rng.normal(0, 0.1), 0.5, 30).tolist(), confidence=0.95, seed_noise_db=0.1, resamples=500
        ).low
        for _ in range(500)
    ]
    assert np.mean(np.array(seen) > 0) == pytest.approx(0.8, abs=0.05)
    needed = first.songs_needed(0.4, 0.95)
    assert needed is not None
    assert replace(first, num_songs=needed).min_detectable_gain(0.95) == pytest.approx(0.4, rel=0.02)
    assert first.songs_needed(0.2, 0.95) is None
    assert GateConfig().seed_noise_db == 0.1
