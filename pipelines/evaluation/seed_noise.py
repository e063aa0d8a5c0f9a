"""How far apart two trainings of one recipe lie by chance alone: what a gain must exceed before it says anything of a
recipe.

Two seeds of one recipe differ by about 0.1 dB in the mean over songs (Demucs' published scores; `make bench-gate
SCORES=FILE`), and no number of songs makes that smaller. Where the registry holds retrainings that differ in their
seed alone, they tell how it is with these recipes and songs; the setting is then the prior of that estimate.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Degrees of freedom that the setting weighs against those that were measured: two seeds alone, which may well lie
# close by chance, move the estimate little, and ten decide it.
PRIOR_FREEDOM = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """Standard deviation, in dB, of the mean gain between two trainings of one recipe with different seeds."""

    std_db: float
    num_trainings: int = 0  # that it was measured from; 0: it is the setting alone
    num_recipes: int = 0  # of these trainings

    @property
    def source(self) -> str:
        """Where it was taken from, for a sentence."""
        if not self.num_trainings:
            return "gate.seed_noise_db, as the registry has no two seeds of one recipe"
        recipes = f"{self.num_recipes} recipe{'s' if self.num_recipes != 1 else ''}"
        return f"measured from {self.num_trainings} retrainings of {recipes} in the registry, and gate.seed_noise_db"


def seed_noise(scores: Sequence[Sequence[float]], default_db: float) -> SeedNoise:
    """The noise that mean scores show, in dB: one sequence for each recipe, one number for each of its trainings.

    A recipe that was trained once tells nothing. The variances are pooled, with `default_db` as a prior; 0 asks for no
    allowance at all.
    """
    if not default_db:
        return SeedNoise(std_db=0.0)
    recipes = [own for own in scores if len(own) > 1]
    squares, freedom = pooled(recipes)
    variance = (squares + PRIOR_FREEDOM * default_db**2) / (freedom + PRIOR_FREEDOM)
    num_trainings = sum(len(own) for own in recipes)
    return SeedNoise(std_db=math.sqrt(variance), num_trainings=num_trainings, num_recipes=len(recipes))


def pooled(recipes: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Squares of the differences between two trainings of a recipe, summed over recipes, and their degrees of freedom.

    Each recipe has two trainings or more. Twice the variance of one training is that of the difference between two.
    """
    return (
        sum(2 * statistics.variance(own) * (len(own) - 1) for own in recipes),
        sum(len(own) - 1 for own in recipes),
    )
