"""What training does when it goes wrong: decided here from numbers alone, carried out by the loop.

A step without a finite gradient is skipped: weights, optimizer and averages stay as they were. Too many of them in a
row, a loss that runs away, or a score that is no number take the training back to its last checkpoint, where it goes
on with a lower learning rate, since with the same one the same would happen again. A score that no longer gets
better lowers the rate or ends the training. Every decision is a function of numbers that all workers share and a
checkpoint holds.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from datasets.errors import InputError
from datasets.field_constraints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ProperFraction,
    Range,
    check_ranges,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """When a training is in trouble, and what then."""

    # Steps in a row that may lack a finite gradient; one more goes back to a checkpoint
    max_skipped: NonNegativeInt = 3
    # A loss of this many times the recent median goes back to a checkpoint too; 0: never
    diverge_factor: NonNegativeFloat = 3.0
    diverge_points: PositiveInt = 20  # points of the loss curve that the median is taken over
    max_rollbacks: NonNegativeInt = 3  # how often a training may go back; once more stops it
    # Factor of the learning rate each time a training goes back
    rollback_rate: Annotated[float, Range(gt=0, lt=1)] = 0.5
    plateau_checkpoints: NonNegativeInt = 0  # checkpoints without a better score that make a plateau; 0: never
    plateau_rate: ProperFraction = 0.0  # factor of the learning rate on a plateau; 0 ends the training

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="train.recovery.")
        if 0 < self.diverge_factor <= 1:
            raise InputError(f"train.recovery.diverge_factor must be 0 (never) or > 1, got {self.diverge_factor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryDecision:
    """What to do, and why in a few words."""

    do: Literal["go", "rollback", "stop"]
    why: str = ""


GO = RecoveryDecision(do="go")


def after_steps(config: RecoveryConfig, *, skipped_in_a_row: int) -> RecoveryDecision:
    if skipped_in_a_row > config.max_skipped:
        return RecoveryDecision(do="rollback", why=f"{skipped_in_a_row} steps in a row had no finite gradient")
    return GO


def after_point(config: RecoveryConfig, losses: Sequence[float]) -> RecoveryDecision:
    """On the losses of the curve so far, the newest last; those of skipped steps alone are not finite."""
    finite = [loss for loss in losses[:-1] if math.isfinite(loss)][-config.diverge_points :]
    if not config.diverge_factor or len(finite) < config.diverge_points or not math.isfinite(losses[-1]):
        return GO
    usual = statistics.median(finite)
    if losses[-1] <= config.diverge_factor * usual:
        return GO
    return RecoveryDecision(do="rollback", why=f"the loss rose from {usual:.4g} to {losses[-1]:.4g}")


def after_score(config: RecoveryConfig, scores: Sequence[float]) -> RecoveryDecision:
    """On the scores of all checkpoints so far, the newest last."""
    if not math.isfinite(scores[-1]):
        return RecoveryDecision(do="rollback", why="the score of the validation is not finite")
    if config.plateau_rate or not config.plateau_checkpoints or num_plateaus(config, scores) < 1:
        return GO
    return RecoveryDecision(
        do="stop", why=f"no better score in {config.plateau_checkpoints} checkpoints, {max(scores):.2f} dB is the best"
    )


def rate_factor(config: RecoveryConfig, *, rollbacks: int, scores: Sequence[float]) -> float:
    """What the learning rate of the recipe is multiplied by."""
    lowered: float = config.rollback_rate**rollbacks
    return lowered * (config.plateau_rate ** num_plateaus(config, scores) if config.plateau_rate else 1.0)


def num_plateaus(config: RecoveryConfig, scores: Sequence[float]) -> int:
    """How often the scores stood still for `plateau_checkpoints`; counting starts anew after each."""
    best, waited, plateaus = -math.inf, 0, 0
    for score in scores if config.plateau_checkpoints else ():
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited == config.plateau_checkpoints:
            waited, plateaus = 0, plateaus + 1
    return plateaus
