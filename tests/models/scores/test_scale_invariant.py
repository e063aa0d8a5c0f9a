"""SI-SIR and SI-SAR against least squares by NumPy, and against what SI-SDR says of the same."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.scores.metrics import si_sdr
from models.scores.scale_invariant import scale_invariant
from tests.models.scores.test_bsseval import toy


def by_least_squares(reference_SCT: Tensor, estimate_SCT: Tensor) -> tuple[list[float], list[float]]:
    """The paper's definition, word by word: projections on one reference, and on all."""
    references_NS = reference_SCT.flatten(1).numpy().T
    sir, sar = [], []
    for source, estimate_N in enumerate(estimate_SCT.flatten(1).numpy()):
        own_N1 = references_NS[:, [source]]
        target_N = own_N1 @ np.linalg.lstsq(own_N1, estimate_N, rcond=None)[0]
        projection_N = references_NS @ np.linalg.lstsq(references_NS, estimate_N, rcond=None)[0]
        power = np.sum(target_N**2)
        sir.append(10 * np.log10(power / np.sum((projection_N - target_N) ** 2)))
        sar.append(10 * np.log10(power / np.sum((estimate_N - projection_N) ** 2)))
    return sir, sar


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("sources", "channels"), [(2, 1), (4, 2)])
def test_both_are_the_papers_definition(seed: int, sources: int, channels: int) -> None:
    reference_SCT, estimate_SCT = toy(0.5, seed=seed, sources=sources, channels=channels)
    reference_SCT[1] += 0.3 * reference_SCT[0]  # references that are not orthogonal
    scores = scale_invariant(reference_SCT, estimate_SCT)
    sir, sar = by_least_squares(reference_SCT, estimate_SCT)
    assert scores.sir_S.tolist() == pytest.approx(sir, abs=1e-9)
    assert scores.sar_S.tolist() == pytest.approx(sar, abs=1e-9)


def test_as_energies_their_inverses_add_up_to_that_of_si_sdr_whatever_the_gain() -> None:
    reference_SCT, estimate_SCT = toy(0.5, sources=3)
    scores = scale_invariant(reference_SCT, -0.01 * estimate_SCT)
    added_S = 10 ** (-scores.sir_S / 10) + 10 ** (-scores.sar_S / 10)
    assert torch.allclose(-10 * torch.log10(added_S), si_sdr(reference_SCT, estimate_SCT), atol=1e-9)


def test_an_estimate_in_the_span_of_the_references_has_a_sar_as_high_as_museval_s_and_no_higher() -> None:
    reference_SCT, _ = toy(0.5, sources=3)
    for estimate_SCT in (reference_SCT.sum(dim=0).expand_as(reference_SCT), reference_SCT, reference_SCT.flip(0) / 3):
        sar_S = scale_invariant(reference_SCT, estimate_SCT).sar_S
        assert sar_S.isfinite().all() or torch.isneginf(sar_S).any()
        assert (sar_S < 314).all()
    assert (scale_invariant(reference_SCT, 0.7 * reference_SCT).sar_S > 290).all()
    assert (scale_invariant(reference_SCT, 0.7 * reference_SCT).sir_S > 290).all()


def test_silent_and_doubled_references_take_no_part() -> None:
    reference_SCT, estimate_SCT = toy(0.5, sources=4)
    reference_SCT[2], reference_SCT[3] = 0, 0.5 * reference_SCT[0]
    scores = scale_invariant(reference_SCT, estimate_SCT)
    expected = scale_invariant(reference_SCT[:2], estimate_SCT[:2])
    assert torch.allclose(scores.sir_S[:2], expected.sir_S, atol=1e-9)
    assert torch.allclose(scores.sar_S[:2], expected.sar_S, atol=1e-9)
    assert scores.sir_S.isnan().tolist() == scores.sar_S.isnan().tolist() == [False, False, True, False]
    estimate_SCT[1] = 0
    assert scale_invariant(reference_SCT, estimate_SCT).sar_S.isnan().tolist() == [False, True, True, False]


def test_where_nothing_else_sounds_nothing_can_interfere() -> None:
    reference_SCT, estimate_SCT = toy(0.5, sources=3)
    reference_SCT[1:] *= 1e-6  # below -60 dBFS
    scores = scale_invariant(reference_SCT, estimate_SCT)
    assert scores.sir_S.isnan().tolist() == [True, False, False]
    assert scores.sar_S.isfinite().all()
    assert scale_invariant(reference_SCT[:1], estimate_SCT[:1]).sir_S.isnan().all()
