import pytest
import torch

from models.errors import ModelError
from models.inference import mixture_consistency
from models.inference.mixture_consistency import MixtureConsistency
from models.scores.metrics import ideal_ratio_mask, nsdr


def tones() -> torch.Tensor:
    """Two stereo stems of 2 s that share no frequency, one of them silent in its second half; shape (2, 2, T)."""
    seconds = torch.arange(88_200) / 44_100
    low_T, high_T = (torch.sin(2 * torch.pi * hertz * seconds) for hertz in (220.0, 3000.0))
    return torch.stack([torch.stack([low_T, 0.5 * low_T]), torch.stack([high_T, high_T]) * (seconds < 1)])


def run(estimates_SCT: torch.Tensor, mixture_CT: torch.Tensor, *, mode: str = "mask") -> torch.Tensor:
    consistency = MixtureConsistency(mode)
    pieces = [consistency.push(estimates_SCT, mixture_CT), consistency.close()]
    return torch.cat([piece for piece in pieces if piece is not None], dim=-1)


def test_masks_of_the_true_magnitudes_are_the_oracle_s() -> None:
    stems_SCT = torch.randn(3, 2, 30_000, generator=torch.Generator().manual_seed(1))
    expected = ideal_ratio_mask(stems_SCT, exponent=1.0, nfft=4096)
    inside = slice(4096, -4096)  # at the ends it has fewer frames
    made_SCT = run(stems_SCT, stems_SCT.sum(dim=0))
    torch.testing.assert_close(made_SCT[..., inside], expected[..., inside], atol=1e-5, rtol=0)


def test_a_mask_takes_levels_and_phases_from_the_mixture() -> None:
    stems_SCT = tones()
    wrong_SCT = -0.3 * stems_SCT  # half a period late, and too quiet
    assert nsdr(stems_SCT, run(wrong_SCT, stems_SCT.sum(dim=0))).min() > 25
    assert nsdr(stems_SCT, run(wrong_SCT, stems_SCT.sum(dim=0), mode="residual")).max() < 5


@pytest.mark.parametrize("mode", ["off", "residual", "mask"])
@pytest.mark.parametrize("num_frames", [3.0, 4.0, 5.1, 12.7])
def test_a_track_overwritten_block_by_block_is_the_same_to_the_last_bit(
    mode: str, num_frames: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture_consistency, "FRAMES_AT_ONCE", 4)
    estimates_SCT = torch.randn(3, 2, int(num_frames * 1024), generator=torch.Generator().manual_seed(3))
    mixture_CT = 1.1 * estimates_SCT.sum(dim=0)
    expected = run(estimates_SCT, mixture_CT, mode=mode).clone()
    MixtureConsistency(mode).overwrite(estimates_SCT, mixture_CT)
    assert torch.equal(estimates_SCT, expected)


@pytest.mark.parametrize("num_samples", [1, 1023, 1024, 4097])
def test_short_tracks_and_silent_estimates_keep_their_length_and_sum(num_samples: int) -> None:
    mixture_CT = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(2))
    estimates_SCT = run(torch.zeros(4, 2, num_samples), mixture_CT)
    assert estimates_SCT.shape == (4, 2, num_samples)
    torch.testing.assert_close(estimates_SCT, (mixture_CT / 4).expand(4, -1, -1), atol=1e-6, rtol=0)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="mixture_consistency must be one of off, residual, mask, got 'sum'"):
        MixtureConsistency("sum")
