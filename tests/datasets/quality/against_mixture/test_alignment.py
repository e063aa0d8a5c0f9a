import numpy as np
import pytest

from datasets.quality.against_mixture.alignment import MixtureAlignment
from datasets.seeding import row_rng

RATE = 11025


def shifts_of(late_s: float) -> list[float | None]:
    """Of three stems of noise and their mixture, the last of which is so much later than in the mixture."""
    rng = row_rng(4, "alignment", late_s)
    stems_SCT = rng.standard_normal((3, 1, 8 * RATE)).astype(np.float32)
    mixture_CT = np.pad(stems_SCT.sum(axis=0), ((0, 0), (RATE, RATE)))
    stems_SCT[2] = np.roll(stems_SCT[2], round(late_s * RATE), axis=1)
    alignment = MixtureAlignment(3, RATE)
    seconds = [alignment.middle_and_side(second_CT) for second_CT in np.split(mixture_CT, 10, axis=1)]
    for number in range(8):
        second = slice(number * RATE, (number + 1) * RATE)
        alignment.add(stems_SCT[:, :, second], seconds[number : number + 3])
    return alignment.shifts_s()


@pytest.mark.parametrize("late_s", [-0.99, -0.25, 0.4, 0.99])
def test_a_shift_within_the_range_is_found(late_s: float) -> None:
    assert shifts_of(late_s) == [0.0, 0.0, pytest.approx(late_s, abs=2e-4)]


@pytest.mark.parametrize("late_s", [-1.0002, -1.0, 1.0, 1.0002, 1.7])
def test_a_peak_at_the_edge_of_the_range_is_not_found(late_s: float) -> None:
    assert shifts_of(late_s) == [0.0, 0.0, None]
