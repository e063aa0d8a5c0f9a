"""Scores of mel spectrograms against the package `msst`, and their parts against those it builds on."""

import librosa
import numpy as np
import pytest
import torch
from auraloss.freq import MultiResolutionSTFTLoss
from auraloss.perceptual import FIRFilter
from torch import Tensor

from models.errors import ModelError
from models.scores.mel_scores import (
    RESOLUTIONS,
    a_weighting,
    aura_mrstft,
    bleedless_fullness,
    mel_bank,
    multi_resolution_distance,
)
from models.scores.metrics import si_sdr
from tests.models.scores.test_log_wmse import RATE, toy


@pytest.mark.slow
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_mel_bands_and_a_weighting_are_librosas_and_auralosss(rate: int) -> None:
    for size, num_bands in [*((size, 128) for size in RESOLUTIONS), (4096, 512)]:
        expected = librosa.filters.mel(sr=rate, n_fft=size, n_mels=num_bands)
        assert np.array_equal(mel_bank(size, num_bands, rate), expected[expected.any(axis=1)])
    expected_L = FIRFilter("aw", fs=rate).fir.weight.numpy().ravel()
    assert a_weighting(rate) == pytest.approx(expected_L, abs=1e-8)


def by_auraloss(reference_CT: Tensor, estimate_CT: Tensor) -> float:
    """The distance that msst asks auraloss for, in double precision."""
    torch.set_default_dtype(torch.float64)  # of its windows
    try:
        distance = MultiResolutionSTFTLoss(
            list(RESOLUTIONS), [size // 4 for size in RESOLUTIONS], list(RESOLUTIONS),
            scale="mel", n_bins=128, sample_rate=RATE, perceptual_weighting=True,
        ).double()  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    return float(distance(reference_CT[None], estimate_CT[None]))


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "channels", "seed"), [(0.05, 2, 0), (2.1, 1, 1), (1.2, 2, 2)])
def test_all_are_msst_s(seconds: float, channels: int, seed: int) -> None:
    metrics = pytest.importorskip("msst.utils.metrics")  # which has a version for each Python below 3.14
    reference_SCT, estimate_SCT = toy(seconds, channels=channels, seed=seed)
    estimate_SCT[2] *= 0.1
    spectral_S = aura_mrstft(reference_SCT, estimate_SCT, RATE)
    bleedless_S, fullness_S = bleedless_fullness(reference_SCT, estimate_SCT, RATE)
    for place, (true_CT, made_CT) in enumerate(zip(reference_SCT, estimate_SCT, strict=True)):
        pair = true_CT.numpy(), made_CT.numpy()
        bleedless, fullness = metrics.bleed_full(*pair)
        assert bleedless_S[place].item() == pytest.approx(float(bleedless), rel=1e-6)
        assert fullness_S[place].item() == pytest.approx(float(fullness), rel=1e-6)
        assert multi_resolution_distance(true_CT, made_CT, RATE) == pytest.approx(
            by_auraloss(true_CT, made_CT), rel=5e-6
        )
        assert spectral_S[place].item() == pytest.approx(metrics.AuraMRSTFT_metric(*pair), rel=1e-6)
        # It adds 1e-8 to each sample's product.
        assert si_sdr(true_CT[None], made_CT[None]).item() == pytest.approx(metrics.si_sdr(*pair), abs=1e-4)


def with_tone(signal_SCT: Tensor, level: float) -> Tensor:
    time_T = torch.arange(signal_SCT.shape[-1], dtype=torch.float64) / RATE
    return signal_SCT + level * torch.sin(2 * torch.pi * 1000 * time_T)


def test_what_is_added_costs_bleedless_and_what_is_missing_fullness() -> None:
    clean_SCT, _ = toy(1.0, sources=1)
    more_SCT = with_tone(clean_SCT, 0.1)
    added, missing = (bleedless_fullness(*pair, RATE) for pair in ((clean_SCT, more_SCT), (more_SCT, clean_SCT)))
    assert added[0].item() == pytest.approx(missing[1].item())
    assert added[0].item() < 0.5 * added[1].item()
    assert [score.item() for score in bleedless_fullness(clean_SCT, clean_SCT, RATE)] == [100.0, 100.0]


def test_the_distance_is_none_for_equals_and_grows_with_noise() -> None:
    clean_SCT, noisy_SCT = toy(0.5, sources=1)
    assert multi_resolution_distance(clean_SCT[0], clean_SCT[0], RATE) == 0
    distances = [
        multi_resolution_distance(clean_SCT[0], torch.lerp(clean_SCT, noisy_SCT, share)[0], RATE)
        for share in (0.25, 0.5, 1.0)
    ]
    assert distances == sorted(distances)
    assert aura_mrstft(clean_SCT, clean_SCT, RATE).item() == 100.0


def test_silence_has_scores_and_an_excerpt_of_milliseconds_has_no_distance() -> None:
    reference_SCT, _ = toy(0.3, sources=2)
    silence_SCT = torch.zeros_like(reference_SCT)
    bleedless_S, fullness_S = bleedless_fullness(reference_SCT, silence_SCT, RATE)
    assert bleedless_S.tolist() == [100.0, 100.0]
    assert (fullness_S < 2).all()
    assert aura_mrstft(reference_SCT, silence_SCT, RATE).isfinite().all()
    short_SCT = reference_SCT[..., : RESOLUTIONS[-1] // 2]
    assert aura_mrstft(short_SCT, short_SCT, RATE).isnan().all()
    assert bleedless_fullness(short_SCT, short_SCT, RATE)[0].tolist() == [100.0, 100.0]
    with pytest.raises(ModelError, match="must have one shape"):
        aura_mrstft(reference_SCT, reference_SCT[:1], RATE)


def test_frames_in_groups_are_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_SCT, estimate_SCT = toy(0.5, sources=1)
    whole = bleedless_fullness(reference_SCT, estimate_SCT, RATE), aura_mrstft(reference_SCT, estimate_SCT, RATE)
    monkeypatch.setattr("models.scores.mel_scores._AT_ONCE", 7)
    parts = bleedless_fullness(reference_SCT, estimate_SCT, RATE), aura_mrstft(reference_SCT, estimate_SCT, RATE)
    assert torch.cat([*parts[0], parts[1]]).tolist() == pytest.approx(torch.cat([*whole[0], whole[1]]).tolist())
