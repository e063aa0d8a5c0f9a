"""ISR, SIR and SAR against museval, and what museval cannot do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.errors import ModelError
from models.scores import toeplitz
from models.scores.bsseval import ILL_CONDITIONED, bss_eval
from models.scores.metrics import ideal_ratio_mask

RATE = 8000


def toy(seconds: float, *, seed: int = 0, sources: int = 2, channels: int = 2) -> tuple[Tensor, Tensor]:
    """References with colour and pauses, and estimates with leakage, a filter and noise; 16-bit values."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sources, channels, round(seconds * RATE))
    noise_SCT = torch.randn(shape, generator=generator, dtype=torch.float64)
    reference_SCT = noise_SCT + 0.8 * noise_SCT.roll(1, dims=-1)
    reference_SCT *= torch.linspace(0.5, 1.5, sources, dtype=torch.float64)[:, None, None] * 0.05
    mixture_CT = reference_SCT.sum(dim=0)
    estimate_SCT = 0.8 * reference_SCT + 0.15 * mixture_CT.roll(3, dims=-1)
    estimate_SCT += 0.005 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return (reference_SCT * 32768).round() / 32768, (estimate_SCT * 32768).round() / 32768


def museval_scores(reference_SCT: Tensor, estimate_SCT: Tensor, window: int) -> list[np.ndarray]:
    from museval.metrics import bss_eval as oracle

    signals = (signal_SCT.numpy().transpose(0, 2, 1) for signal_SCT in (reference_SCT, estimate_SCT))
    return list(oracle(*signals, window=window, hop=window)[:4])


def assert_same_as_museval(reference_SCT: Tensor, estimate_SCT: Tensor, *, window: int = RATE) -> None:
    scores = bss_eval(reference_SCT, estimate_SCT, window)
    ours = (scores.sdr_SW, scores.isr_SW, scores.sir_SW, scores.sar_SW)
    for mine, theirs, tolerance in zip(
        ours, museval_scores(reference_SCT, estimate_SCT, window), (1e-6, 1e-3, 1e-3, 1e-3), strict=True
    ):
        np.testing.assert_allclose(mine.numpy(), theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("seconds", [0.4, 2.7])
def test_all_four_scores_are_musevals(seconds: float) -> None:
    assert_same_as_museval(*toy(seconds))


def test_mono_songs_score_as_in_museval() -> None:
    assert_same_as_museval(*toy(2.0, channels=1))


def test_a_silent_window_has_no_scores_and_the_others_are_musevals() -> None:
    reference_SCT, estimate_SCT = toy(3.0)
    reference_SCT[1, :, RATE : 2 * RATE] = 0
    scores = bss_eval(reference_SCT, estimate_SCT, RATE)
    assert scores.sir_SW.isnan().all(dim=0).tolist() == [False, True, False]
    assert_same_as_museval(reference_SCT, estimate_SCT)


def test_a_source_silent_throughout_gives_no_scores_and_no_error() -> None:
    reference_SCT, estimate_SCT = toy(2.0)
    reference_SCT[0] = 0
    scores = bss_eval(reference_SCT, estimate_SCT, RATE)
    assert scores.solver == "none"
    assert scores.isr_SW.isnan().all()


def projected(reference_KT: Tensor, estimate_T: Tensor, taps: int) -> Tensor:
    """The estimate's projection on delayed references, by plain least squares of least norm."""
    num_samples = reference_KT.shape[1]
    delayed = torch.zeros(num_samples + taps - 1, len(reference_KT) * taps, dtype=torch.float64)
    for channel, x_T in enumerate(reference_KT):
        for delay in range(taps):
            delayed[delay : delay + num_samples, channel * taps + delay] = x_T
    padded_T = torch.nn.functional.pad(estimate_T, (0, taps - 1))
    filters: Tensor = torch.linalg.lstsq(delayed, padded_T[:, None], driver="gelsd").solution
    return delayed @ filters[:, 0]


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_a_stem_whose_channels_are_copies_scores_as_plain_least_squares_says(gain: float) -> None:
    """museval's matrix is singular there; what filters can make of the channels is well defined all the same."""
    taps, num_samples = 8, 400
    reference_SCT, estimate_SCT = (signal_SCT[..., :num_samples] for signal_SCT in toy(0.1, sources=2))
    reference_SCT[0, 1] = gain * reference_SCT[0, 0]
    scores = bss_eval(reference_SCT, estimate_SCT, num_samples, taps=taps)
    for source in range(2):
        padded_CT = torch.nn.functional.pad(estimate_SCT[source], (0, taps - 1))
        own_CT = torch.stack([projected(reference_SCT[source], e_T, taps) for e_T in estimate_SCT[source]])
        all_CT = torch.stack([projected(reference_SCT.flatten(0, 1), e_T, taps) for e_T in estimate_SCT[source]])
        sir = 10 * torch.log10(own_CT.square().sum() / (all_CT - own_CT).square().sum())
        sar = 10 * torch.log10(all_CT.square().sum() / (padded_CT - all_CT).square().sum())
        assert scores.sir_SW[source, 0] == pytest.approx(float(sir), abs=1e-6)
        assert scores.sar_SW[source, 0] == pytest.approx(float(sar), abs=1e-6)


def band_limited(seconds: float) -> tuple[Tensor, Tensor]:
    """References without treble, in floats: what filters do up there is decided by rounding errors."""
    reference_SCT, estimate_SCT = toy(seconds)
    hann_T = torch.hann_window(65, dtype=torch.float64)[None, None]
    smooth_SCT = torch.nn.functional.conv1d(reference_SCT.flatten(0, 1)[:, None], hann_T, padding=32)
    return smooth_SCT.view_as(reference_SCT), estimate_SCT


def test_where_rounding_errors_decide_museval_s_own_are_made_and_it_is_said() -> None:
    reference_SCT, estimate_SCT = band_limited(2.5)
    scores = bss_eval(reference_SCT, estimate_SCT, RATE)
    assert scores.solver == ILL_CONDITIONED
    assert scores.residual > 1e-13
    assert_same_as_museval(reference_SCT, estimate_SCT)


def test_equations_that_need_a_second_pass_get_it_and_score_as_in_museval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toeplitz, "RESIDUAL", 1e-13)  # one pass leaves 3e-13 here, up to 8e-11 in real songs
    reference_SCT, estimate_SCT = band_limited(2.0)
    # Quantizing fills the treble with noise: ill-conditioned, and not hopelessly so.
    reference_SCT = (reference_SCT * 100).round() / 32768
    scores = bss_eval(reference_SCT, estimate_SCT, RATE)
    assert scores.solver == "refined"
    assert 0 < scores.conditioning < 1e-3
    assert_same_as_museval(reference_SCT, estimate_SCT)


def test_filters_that_amplify_what_is_hardly_there_are_doubted_though_they_solve_the_equations() -> None:
    reference_SCT, estimate_SCT = band_limited(2.0)
    scores = bss_eval((reference_SCT * 3000).round() / 32768, estimate_SCT, RATE)  # 700 times as loud in the treble
    assert scores.residual < toeplitz.RESIDUAL
    assert scores.solver == ILL_CONDITIONED


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_stems_whose_channels_are_copies_score_as_in_museval(gain: float) -> None:
    reference_SCT, estimate_SCT = toy(1.5)
    reference_SCT[1, 1] = gain * reference_SCT[1, 0]
    assert_same_as_museval(reference_SCT, estimate_SCT)


@pytest.mark.parametrize("bits", [16, None])
def test_aac_as_decoded_scores_as_in_museval(shared_data: Path, bits: int | None) -> None:
    from datasets.audio.decoding import decode

    path = next(path for path in sorted(shared_data.glob("musdb_stem_mp4/**/*.mp4")) if "Falcon" in path.name)
    stems = [decode(str(path), stream=stream)[0] for stream in (1, 4)]
    reference_SCT = torch.from_numpy(np.stack(stems)).double()[..., 44100:132300]
    if bits:
        reference_SCT = (reference_SCT * 32768).round() / 32768
    assert_same_as_museval(reference_SCT, ideal_ratio_mask(reference_SCT), window=44100)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_estimate_that_is_not_finite_is_refused(value: float) -> None:
    reference_SCT, estimate_SCT = toy(1.0)
    estimate_SCT[0, 0, 100] = value
    with pytest.raises(ModelError, match="NaN or infinite"):
        bss_eval(reference_SCT, estimate_SCT, RATE)


def test_a_perfect_estimate_has_an_infinite_sdr_and_no_interference_to_speak_of() -> None:
    reference_SCT, _ = toy(2.0)
    scores = bss_eval(reference_SCT, reference_SCT.clone(), RATE)
    assert scores.sdr_SW.isposinf().all()
    assert (scores.sir_SW > 80).all()


@pytest.mark.parametrize("copied", [False, True])
def test_estimates_that_the_references_make_up_entirely_have_musevals_sar_not_infinity(copied: bool) -> None:
    """The energies' difference leaves nothing or 150 dB; the samples' leaves 300 dB and more, as in museval."""
    reference_SCT, _ = toy(1.5)
    if copied:  # such a channel takes no part in our equations; museval's are singular, and it loses 20 dB
        reference_SCT[1, 1] = 0.5 * reference_SCT[1, 0]
    mixture_SCT = reference_SCT.sum(dim=0).expand_as(reference_SCT)
    for estimate_SCT in (mixture_SCT, 0.8 * reference_SCT, 0.3 * reference_SCT + 0.2 * mixture_SCT):
        scores = bss_eval(reference_SCT, estimate_SCT, RATE)
        assert scores.solver == "levinson"
        museval_sar_SW = museval_scores(reference_SCT, estimate_SCT, RATE)[3]
        np.testing.assert_allclose(scores.sar_SW.numpy(), museval_sar_SW, atol=30 if copied else 10)


@pytest.mark.parametrize("error_db", [-100.0, -130.0, -160.0, -200.0])
def test_artifacts_next_to_none_are_measured_as_museval_does(error_db: float) -> None:
    reference_SCT, _ = toy(1.5)
    generator = torch.Generator().manual_seed(7)
    noise_SCT = torch.randn(reference_SCT.shape, generator=generator, dtype=torch.float64)
    made_SCT = 0.8 * reference_SCT + 0.05 * 10 ** (error_db / 20) * noise_SCT
    sar_SW = bss_eval(reference_SCT, made_SCT, RATE).sar_SW
    np.testing.assert_allclose(sar_SW.numpy(), museval_scores(reference_SCT, made_SCT, RATE)[3], atol=1e-3)
