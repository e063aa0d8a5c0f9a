"""Scores against museval, and at the edges."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from models.errors import ModelError
from models.scores.metrics import ideal_ratio_mask, leakage, nsdr, sdr_median, sdr_windows, si_sdr, silent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from museval.metrics import bss_eval

WINDOW = 400


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def museval_sdr(reference_SCT: Tensor, estimate_SCT: Tensor) -> np.ndarray:
    """Reference scores; 8 taps instead of 512, which change no SDR and save a minute."""
    with np.errstate(all="ignore"):
        sdr, *_ = bss_eval(
            reference_SCT.transpose(1, 2).numpy(), estimate_SCT.transpose(1, 2).numpy(), window=WINDOW, hop=WINDOW,
            compute_permutation=False, filters_len=8, framewise_filters=False, bsseval_sources_version=False,
        )  # fmt: skip
    return np.asarray(sdr)


@pytest.mark.parametrize("num_samples", [WINDOW - 100, WINDOW, WINDOW + 1, 3 * WINDOW, 4 * WINDOW - 1])
def test_windows_equal_museval(num_samples: int) -> None:
    reference_SCT = noise(3, 2, num_samples, seed=1)
    estimate_SCT = reference_SCT + 0.3 * noise(3, 2, num_samples, seed=2)
    given = sdr_windows(reference_SCT, estimate_SCT, WINDOW).numpy()
    expected = museval_sdr(reference_SCT, estimate_SCT)
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["reference", "estimate"])
@pytest.mark.parametrize("how", ["zeros", "opposite channels"])
def test_a_silent_stem_drops_its_window_for_every_source_as_in_museval(side: str, how: str) -> None:
    reference_SCT = noise(2, 2, 4 * WINDOW, seed=1)
    estimate_SCT = reference_SCT + 0.5 * noise(2, 2, 4 * WINDOW, seed=2)
    stem_CT = (reference_SCT if side == "reference" else estimate_SCT)[1, :, WINDOW : 2 * WINDOW]
    stem_CT[:] = 0 if how == "zeros" else torch.stack([stem_CT[0], -stem_CT[0]])
    given = sdr_windows(reference_SCT, estimate_SCT, WINDOW)
    assert given.isnan().any(dim=0).tolist() == [False, True, False, False]
    np.testing.assert_allclose(given.numpy(), museval_sdr(reference_SCT, estimate_SCT), atol=1e-6, rtol=0)


@pytest.mark.parametrize("quiet", [64, 65, WINDOW - 1])
def test_a_window_that_begins_with_silence_is_scored_as_in_museval(quiet: int) -> None:
    reference_SCT = noise(2, 2, 2 * WINDOW, seed=1)
    estimate_SCT = reference_SCT + 0.5 * noise(2, 2, 2 * WINDOW, seed=2)
    for signal_SCT in (reference_SCT, estimate_SCT):
        signal_SCT[1, :, WINDOW : WINDOW + quiet] = 0
    given = sdr_windows(reference_SCT, estimate_SCT, WINDOW)
    assert given.isfinite().all()
    np.testing.assert_allclose(given.numpy(), museval_sdr(reference_SCT, estimate_SCT), atol=1e-6, rtol=0)


def test_windows_have_one_sample_at_least_and_samples_are_numbers() -> None:
    signal_SCT = noise(1, 2, 3, seed=1)
    assert sdr_windows(signal_SCT, 2 * signal_SCT, 1).tolist() == [[0.0] * 3]
    with pytest.raises(ModelError, match="window_samples"):
        sdr_windows(signal_SCT, signal_SCT, 0)
    for wrong in (math.nan, math.inf):
        broken_SCT = signal_SCT.clone()
        broken_SCT[0, 1, 2] = wrong
        for pair in ((broken_SCT, signal_SCT), (signal_SCT, broken_SCT)):
            with pytest.raises(ModelError, match=r"NaN|infinite"):
                sdr_windows(*pair, 3)


def test_a_perfect_estimate_scores_infinity() -> None:
    reference_SCT = noise(2, 2, 2 * WINDOW, seed=1)
    assert sdr_windows(reference_SCT, reference_SCT, WINDOW).tolist() == [[np.inf] * 2] * 2


def test_nsdr_knows_its_answer() -> None:
    reference_SCT = noise(2, 2, 5000, seed=3)
    estimate_SCT = reference_SCT * torch.tensor([0.9, 0.0], dtype=torch.float64)[:, None, None]
    assert nsdr(reference_SCT, estimate_SCT).tolist() == pytest.approx([20.0, 0.0], abs=1e-6)


def test_nsdr_of_silence_is_finite_and_of_silence_by_silence_zero() -> None:
    silence, sound = torch.zeros(1, 2, 100), torch.ones(1, 2, 100)
    assert nsdr(silence, silence).tolist() == [0.0]
    assert -120 < nsdr(silence, sound).item() < -80
    assert nsdr(sound, sound).item() == pytest.approx(10 * np.log10(200 / 1e-7), abs=0.01)


def test_the_median_skips_dropped_windows_and_averages_the_middle_two() -> None:
    nan = np.nan
    sdr_SW = torch.tensor([[1.0, nan, 3.0, 10.0], [nan] * 4, [2.0, nan, 4.0, nan]], dtype=torch.float64)
    assert sdr_median(sdr_SW).tolist() == pytest.approx([3.0, nan, 3.0], nan_ok=True)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\(1, 2, 10\).*\(1, 2, 11\)"):
        nsdr(torch.zeros(1, 2, 10), torch.zeros(1, 2, 11))
    for shape in ((1, 2, 0), (2, 10), (1, 1, 2, 10)):
        with pytest.raises(ModelError, match="at least one sample"):
            nsdr(torch.zeros(shape), torch.zeros(shape))


def test_si_sdr_knows_its_answer_whatever_the_gain() -> None:
    reference_SCT, error_SCT = noise(1, 2, 5000, seed=3), noise(1, 2, 5000, seed=4)
    error_SCT -= (error_SCT * reference_SCT).sum() / reference_SCT.square().sum() * reference_SCT
    error_SCT *= 0.1 * reference_SCT.norm() / error_SCT.norm()
    for gain in (1.0, -3.0, 1e-4):
        assert si_sdr(reference_SCT, gain * (reference_SCT + error_SCT)).item() == pytest.approx(20.0)


def test_si_sdr_of_silence_is_no_number() -> None:
    assert si_sdr(torch.zeros(1, 2, 10), torch.ones(1, 2, 10)).isnan().all()
    assert si_sdr(torch.ones(1, 2, 10), torch.zeros(1, 2, 10)).isnan().all()


def test_the_ideal_mask_adds_up_to_the_mixture_and_separates_what_does_not_overlap() -> None:
    time_T = torch.arange(20000, dtype=torch.float64) / 8000
    tones_SCT = torch.stack([torch.sin(2 * torch.pi * hertz * time_T) for hertz in (200.0, 2000.0)])[:, None]
    estimates_SCT = ideal_ratio_mask(tones_SCT)
    torch.testing.assert_close(estimates_SCT.sum(dim=0), tones_SCT.sum(dim=0))
    assert nsdr(tones_SCT, estimates_SCT).min() > 40


@pytest.mark.parametrize("exponent", [None, 1.0])
def test_the_ideal_mask_is_each_sources_share_of_the_powers_and_silence_is_no_trouble(exponent: float | None) -> None:
    """By default IRM2 of SiSEC 2018: powers of 2, 2048 samples a frame, 512 between."""
    stems_SCT = noise(3, 2, 6000, seed=5) * torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)[:, None, None]
    window = torch.hann_window(2048, dtype=torch.float64)
    spectra = torch.stack(
        [torch.stft(one, 2048, 512, window=window, pad_mode="constant", return_complex=True) for one in stems_SCT]
    )
    powers = spectra.abs() ** (exponent or 2.0)
    expected = torch.stack(
        [torch.istft(mask * spectra.sum(0), 2048, 512, window=window, length=6000) for mask in powers / powers.sum(0)]
    )
    options = {"exponent": exponent} if exponent else {}
    torch.testing.assert_close(ideal_ratio_mask(stems_SCT, **options), expected)
    assert not ideal_ratio_mask(torch.zeros(2, 1, 5000)).any()


def test_leakage_of_nothing_is_120_db_under_the_mixture_and_a_short_excerpt_is_one_window() -> None:
    silence, mixture = torch.zeros(1, 2, 50), torch.ones(2, 50)
    assert leakage(silence, silence, mixture, 50).tolist() == [-120.0]
    assert leakage(silence, torch.full((1, 2, 50), 0.1), mixture, 1000).tolist() == pytest.approx([-20.0])
    assert leakage(silence, torch.full((1, 2, 50), 0.1), 0.1 * mixture, 1000).tolist() == pytest.approx([0.0], abs=1e-5)
    assert leakage(torch.ones(1, 2, 50), silence, mixture, 1000).isnan().all()
    assert leakage(silence, torch.ones(1, 2, 50), silence[0], 1000).isnan().all()  # nothing sounds that could leak


@pytest.mark.parametrize(("level_db", "is_silent"), [(-61.0, True), (-60.0, False), (-59.0, False), (-45.0, False)])
def test_a_window_counts_for_leakage_below_60_db_under_full_scale(level_db: float, is_silent: bool) -> None:
    reference = torch.full((1, 1, 400), 10 ** (level_db / 20), dtype=torch.float64)
    assert silent(reference).tolist() == [is_silent]
    reference[..., 200:] = 0.5  # of two windows this one sounds
    assert silent(reference).tolist() == [False]
    estimate, mixture = torch.full_like(reference, 0.01), torch.full_like(reference, 0.1)[0]
    estimate[..., 200:] = 0.9  # what is in it there is no leakage
    found = leakage(reference, estimate, mixture, 200)
    assert bool(found.isnan()) is not is_silent
    if is_silent:
        assert found.item() == pytest.approx(-20.0)
        both = [
            torch.cat(pair, dim=-1) for pair in ((reference, reference), (estimate, 10 * estimate), (mixture, mixture))
        ]
        assert leakage(*both, 200).item() == pytest.approx(10 * math.log10((1e-4 + 1e-2) / 2 / 1e-2))
        pause = torch.cat([mixture, 1e-4 * mixture], dim=-1)  # where the mixture pauses, nothing leaks
        assert leakage(both[0], both[1], pause, 200).item() == pytest.approx(-20.0)


def test_each_source_is_silent_or_leaks_by_itself_over_all_its_channels() -> None:
    reference = torch.zeros(3, 2, 400)
    reference[1, 1] = 0.5  # in one channel
    assert silent(reference).tolist() == [True, False, True]
    estimate = torch.zeros(3, 2, 400)
    estimate[0, 0, :200], estimate[2] = 0.1, 0.2
    mixture = torch.full((2, 400), 0.5)
    found = leakage(reference, estimate, mixture, 100).tolist()
    expected = [10 * math.log10(0.1**2 / 4 / 0.5**2), math.nan, 20 * math.log10(0.2 / 0.5)]
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_ideal_ratio_mask_is_an_oracle_and_no_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    stems_SCT = torch.randn(2, 1, 16000, generator=generator).cumsum(dim=-1) * 0.01
    window = torch.hann_window(2048)
    spectra = torch.stft(stems_SCT.flatten(0, 1), 2048, 512, window=window, pad_mode="constant", return_complex=True)
    mixture = spectra.sum(dim=0)
    share = ((spectra * mixture.conj()).real / mixture.abs().square()).clamp(0, 1)  # heeds phases; still a mask
    heeding = torch.istft(share * mixture, 2048, 512, window=window, length=16000)[:, None]
    assert (nsdr(stems_SCT, heeding) > nsdr(stems_SCT, ideal_ratio_mask(stems_SCT)) + 0.5).all()
