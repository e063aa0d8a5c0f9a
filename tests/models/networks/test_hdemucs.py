from typing import Any

import pytest
import torch
import torchaudio
from demucs.demucs import LocalState
from demucs.hdemucs import HDemucs as Reference

from models.errors import ModelError
from models.networks.blocks.recurrent import LocalAttention
from models.networks.catalog import PRESETS, build
from models.networks.hdemucs import HDemucs, HDemucsConfig
from tests.models.parity import forward_gap, gradient_gap, noise, twin


def reference_of(config: HDemucsConfig) -> Reference:
    """The model of demucs 4.1.0 with the same options; its two innermost layers have norms, LSTMs and attention."""
    return Reference(
        list(config.sources),
        audio_channels=config.audio_channels,
        channels=config.channels,
        growth=config.growth,
        nfft=config.nfft,
        depth=config.depth,
        norm_starts=config.depth - 2,
        dconv_attn=config.depth - 2,
        dconv_lstm=config.depth - 2,
        dconv_comp=config.dconv_compress,
        dconv_depth=config.dconv_depth,
        dconv_init=1e-3,
        samplerate=config.sample_rate,
        segment=config.segment_s,
    )


def tiny(**changes: Any) -> HDemucsConfig:
    return HDemucsConfig(**({"sample_rate": 8000, "segment_s": 1.0, "channels": 8, "nfft": 1024} | changes))


VARIANTS = {
    "four layers and a shared one": tiny(),
    "three layers, mono, two sources": tiny(nfft=256, audio_channels=1, sources=("voice", "rest"), dconv_compress=2),
    "one branch, other growth": tiny(nfft=256, growth=3, dconv_depth=1, channels=16),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request: pytest.FixtureRequest) -> tuple[HDemucs, Reference]:
    torch.manual_seed(0)
    ours, reference = HDemucs(request.param), reference_of(request.param)
    twin(ours, reference)
    return ours, reference


# The longest has more than 200 frames in the shared layer, where the LSTM reads in windows.
@pytest.mark.parametrize("num_samples", [1, 2, 8001, 56_000])
def test_estimates_are_the_references(pair: tuple[HDemucs, Reference], num_samples: int) -> None:
    ours, reference = pair[0].eval(), pair[1].eval()
    if num_samples * ours.config.audio_channels == 1:
        # The reference divides by the deviation of one number, which is no number.
        assert torch.isfinite(ours(noise(2, 1, 1))).all()
        return
    assert forward_gap(ours, reference, noise(2, ours.config.audio_channels, num_samples)) < 1e-4


def test_gradients_are_the_references(pair: tuple[HDemucs, Reference]) -> None:
    ours, reference = pair[0].train(), pair[1].train()
    assert gradient_gap(ours, reference, noise(2, ours.config.audio_channels, 9001)) < 1e-3


def torchaudio_twin(ours: HDemucs) -> torchaudio.models.HDemucs:
    """torchaudio's model with our weights; it names the frequency-side layers as `freq_`, the others as `time_`."""
    config = ours.config
    theirs = torchaudio.models.HDemucs(
        list(config.sources),
        audio_channels=config.audio_channels,
        channels=config.channels,
        growth=config.growth,
        nfft=config.nfft,
        depth=config.depth,
        norm_starts=config.depth - 2,
    )
    renamed = {}
    for name, value in ours.state_dict().items():
        branch, _, rest = name.partition(".")
        branch = {"encoder": "freq_encoder", "decoder": "freq_decoder"}.get(branch, branch)
        branch = {"tencoder": "time_encoder", "tdecoder": "time_decoder"}.get(branch, branch)
        renamed[f"{branch}.{rest}"] = value
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    unused = f"time_encoder.{config.depth - 2}.norm1."  # torchaudio makes this norm and never calls it
    assert not unexpected
    assert all(name.startswith(unused) for name in missing)
    return theirs


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_estimates_are_torchaudios() -> None:
    torch.manual_seed(0)
    ours = HDemucs(HDemucsConfig(channels=8)).eval()
    twin(ours, reference_of(ours.config))
    assert forward_gap(ours, torchaudio_twin(ours).eval(), noise(1, 2, 66150)) < 1e-4


@pytest.mark.slow
def test_both_published_presets_are_the_references() -> None:
    assert PRESETS["hdemucs-repro"] == PRESETS["hdemucs-mmi"]
    torch.manual_seed(0)
    ours = build("hdemucs-mmi")
    reference = reference_of(ours.config)
    twin(ours, reference)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 83_637_832
    assert len(ours.state_dict()) == 395
    assert forward_gap(ours.eval(), reference.eval(), noise(1, 2, 88200)) < 1e-4
    assert gradient_gap(ours.train(), reference.train(), noise(1, 2, 33075)) < 1e-3


def test_first_weights_are_spread_like_the_references() -> None:
    torch.manual_seed(0)
    ours, expected = HDemucs(tiny(channels=32)).state_dict(), reference_of(tiny(channels=32)).state_dict()
    for name, value in ours.items():
        if value.numel() > 5000:
            assert value.std() / expected[name].std() == pytest.approx(1, abs=0.05), name
        elif expected[name].std() == 0:
            assert value.mean() == pytest.approx(expected[name].mean().item(), rel=0.05), name


@pytest.mark.parametrize("fill", [0.0, 1.0, 1e-20, 1e4])
def test_silence_and_constants_stay_finite(fill: float) -> None:
    assert torch.isfinite(HDemucs(tiny())(torch.full((1, 2, 8000), fill))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nfft": 2048}, "take a power of 4"),
        ({"nfft": 16}, "take a power of 4"),
        ({"channels": 3}, "multiple of 16"),
        ({"sources": ()}, "at least one"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**changes)


def test_a_mixture_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="0 samples"):
        HDemucs(tiny())(torch.zeros(1, 2, 0))
    with pytest.raises(ModelError, match="want"):
        HDemucs(tiny())(torch.zeros(1, 1, 100))


@pytest.mark.parametrize("scale", [1.0, 20.0, 300.0])
def test_local_attention_never_looks_at_itself_however_large_the_logits(scale: float) -> None:
    torch.manual_seed(0)
    ours, reference = LocalAttention(16), LocalState(16, heads=4, ndecay=4)
    reference.load_state_dict(ours.state_dict())
    x = scale * noise(1, 16, 60)
    with torch.no_grad():
        found, expected = ours(x), reference(x)
    assert (found - expected).abs().max() < 1e-4 * (expected - x).abs().max()
