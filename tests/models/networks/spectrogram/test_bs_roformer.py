"""Both RoFormers are the public implementations' twins, and refuse what they could not run on."""

from typing import Any

import librosa
import numpy as np
import pytest
import torch
from bs_roformer import BSRoformer, MelBandRoformer
from pymss_core.modules.bs_roformer import BSRoformer as OtherBSRoformer
from pymss_core.modules.bs_roformer import MelBandRoformer as OtherMelBandRoformer
from torch import nn

from models.errors import ModelError
from models.networks.catalog import PRESETS, build
from models.networks.spectrogram.bs_roformer import BSRoFormer, BSRoFormerConfig
from models.networks.spectrogram.mel_band_roformer import MelBandRoFormer, MelBandRoFormerConfig, mel_bands
from models.weights.msst.msst_names import ROFORMER
from tests.models.parity import noise, renamed_twin_gaps

TINY: dict[str, Any] = {
    "sources": ("voice", "rest"),
    "sample_rate": 8000,
    "segment_s": 0.25,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "head_width": 6,
    "nfft": 256,
    "hop_length": 60,
    "mask_expansion": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
BANDS = (4,) * 8 + (16,) * 4 + (33,)


def options_of(config: Any) -> dict[str, Any]:
    """What all references call the options that both networks have; 0.3.10 of the first knows a few of them less."""
    return {
        "dim": config.width,
        "depth": config.depth,
        "stereo": config.audio_channels == 2,
        "num_stems": len(config.sources),
        "time_transformer_depth": 1,
        "freq_transformer_depth": 1,
        "heads": config.heads,
        "dim_head": config.head_width,
        "attn_dropout": 0.0,
        "ff_dropout": 0.0,
        "flash_attn": False,
        "stft_n_fft": config.nfft,
        "stft_hop_length": config.hop_length,
        "stft_win_length": config.nfft,
    }


def bs(**changes: Any) -> BSRoFormer:
    torch.manual_seed(0)
    return BSRoFormer(BSRoFormerConfig(**(TINY | {"band_rows": BANDS} | changes)))


def mel(**changes: Any) -> MelBandRoFormer:
    torch.manual_seed(0)
    return MelBandRoFormer(MelBandRoFormerConfig(**(TINY | {"num_bands": 8} | changes)))


def assert_twins(ours: nn.Module, reference: nn.Module, num_samples: int) -> None:
    config: Any = ours.config
    gaps = renamed_twin_gaps(ours, reference, ROFORMER, noise(2, config.audio_channels, num_samples))
    assert gaps[0] < 1e-4
    assert gaps[1] < 1e-3


@pytest.mark.parametrize("channels", [1, 2])
def test_bs_roformer_is_the_first_implementations_twin(channels: int) -> None:
    """Whose mask networks are four times as wide, keep row 0, and lose what follows the last whole hop."""
    ours = bs(mask_expansion=4, zero_dc=False, audio_channels=channels)
    reference = BSRoformer(freqs_per_bands=BANDS, mask_estimator_depth=2, **options_of(ours.config))
    assert_twins(ours, reference, 1980)


@pytest.mark.parametrize("sum_layers", [False, True])
def test_bs_roformer_is_the_second_implementations_twin(sum_layers: bool) -> None:
    ours = bs(mask_hidden_layers=2, sum_layers=sum_layers)
    reference = OtherBSRoformer(
        freqs_per_bands=BANDS, mask_estimator_depth=3, mlp_expansion_factor=2, zero_dc=True, skip_connection=sum_layers,
        **options_of(ours.config),
    )  # fmt: skip
    assert_twins(ours, reference, 2017)


def test_mel_band_roformer_is_the_first_implementations_twin() -> None:
    ours = mel(mask_expansion=4, zero_dc=False, mask_hidden_layers=2)
    reference = MelBandRoformer(num_bands=8, sample_rate=8000, mask_estimator_depth=2, **options_of(ours.config))
    assert_twins(ours, reference, 1980)


def test_mel_band_roformer_is_the_second_implementations_twin() -> None:
    """Which by default has a hidden layer less than weights of that depth have."""
    ours = mel(audio_channels=1)
    reference = OtherMelBandRoformer(
        num_bands=8, sample_rate=8000, mask_estimator_depth=1, mlp_hidden_layers=1, mlp_expansion_factor=2,
        match_input_audio_length=True, **options_of(ours.config),
    )  # fmt: skip
    assert_twins(ours, reference, 2017)


@pytest.mark.parametrize(
    ("sample_rate", "nfft", "num_bands"), [(44100, 2048, 60), (48000, 4096, 128), (8000, 256, 8), (1600, 512, 10)]
)
def test_mel_bands_are_where_librosas_triangles_are_above_0(sample_rate: int, nfft: int, num_bands: int) -> None:
    expected = librosa.filters.mel(sr=sample_rate, n_fft=nfft, n_mels=num_bands) > 0
    expected[0, 0] = expected[-1, -1] = True
    assert np.array_equal(mel_bands(sample_rate, nfft, num_bands), expected)
    assert expected.any(axis=0).all(), "every row is in a band"


@pytest.mark.parametrize(
    ("preset", "sources", "num_parameters"),
    [
        ("bs-roformer", ["vocals"], 93_476_172),  # the papers: 93.4 M, 72.2 M, 105 M, 84.2 M
        ("bs-roformer-6layer", ["vocals"], 72_173_292),
        ("mel-band-roformer", ["vocals"], 105_501_060),
        ("mel-band-roformer-6layer", ["vocals"], 84_193_572),
        ("mel-band-roformer-vocals", None, 228_202_788),
        ("bs-roformer-8layer", None, 131_704_100),
    ],
)
def test_published_preset_has_its_number_of_parameters(
    preset: str, sources: list[str] | None, num_parameters: int
) -> None:
    with torch.device("meta"):
        model = build(preset, sources=sources or PRESETS[preset].sources)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_dropout_acts_in_training_alone() -> None:
    model, mixture = bs(dropout=0.5, attention_dropout=0.5), noise(1, 2, 2000)
    assert not torch.equal(model.train()(mixture), model(mixture))
    assert torch.equal(model.eval()(mixture), model(mixture))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (bs, {"segment_s": 0.01}, "80 samples are too short for an STFT of 256: .* give 129 or more"),
        (mel, {"segment_s": 0.01}, "80 samples are too short"),
        (bs, {"band_rows": (64, 64)}, "band_rows are 128 rows in sum; an nfft of 256 has 129"),
        (bs, {"head_width": 5}, "head_width must be even"),
        (mel, {"head_width": 5}, "head_width must be even"),
        (mel, {"hop_length": 129}, "hop_length 129 at most half of it"),
        (mel, {"num_bands": 300}, "num_bands 300 are so many that one has no row"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(make: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(**changes)


@pytest.mark.parametrize("make", [bs, mel])
def test_the_end_is_no_louder_where_one_window_alone_reaches_it(make: Any) -> None:
    """The last sample stands a sample before the end of a window, and nothing else covers it."""
    with torch.no_grad():
        estimates = make(hop_length=128).eval()(noise(1, 2, 128 * 16 - 1))
    assert estimates[..., -128:].abs().max() < 10 * estimates[..., :-128].abs().max()


@pytest.mark.parametrize("make", [bs, mel])
@pytest.mark.parametrize(
    ("shape", "message"), [((1, 2, 128), "128 samples are too short"), ((1, 1, 2000), r"want \(batch, 2, samples\)")]
)
def test_a_mixture_that_does_not_fit_is_refused(make: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()(torch.zeros(shape))


@pytest.mark.parametrize("make", [bs, mel])
def test_silence_stays_silence_and_finite(make: Any) -> None:
    model = make()
    assert not model(torch.zeros(1, 2, 2000)).any()
    model(torch.full((1, 2, 2000), 1e-20)).abs().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
