from typing import Any

import pytest
import torch
from demucs.htdemucs import HTDemucs as Reference

from models.errors import ModelError
from models.networks.catalog import PRESETS, build
from models.networks.htdemucs import HTDemucs, HTDemucsConfig
from tests.models.parity import forward_gap, gradient_gap, noise, twin

TINY = HTDemucsConfig(
    sample_rate=8000,
    segment_s=1.0,
    channels=8,
    nfft=2048,
    dconv_compress=4,
    transformer_width=16,
    transformer_layers=3,
    transformer_heads=2,
    dropout=0.0,
    attention_dropout=0.0,
)


def reference_of(config: HTDemucsConfig) -> Reference:
    """The model of demucs 4.1.0 with the same options, dropout aside: its random numbers are its own."""
    inner = config.layer_channels[-1]
    return Reference(
        list(config.sources),
        audio_channels=config.audio_channels,
        channels=config.channels,
        growth=config.growth,
        depth=config.depth,
        nfft=config.nfft,
        dconv_mode=3 if config.dconv_in_decoder else 1,
        dconv_depth=config.dconv_depth,
        dconv_comp=config.dconv_compress,
        bottom_channels=0 if config.transformer_width == inner else config.transformer_width,
        t_layers=config.transformer_layers,
        t_heads=config.transformer_heads,
        t_hidden_scale=config.transformer_hidden_scale,
        samplerate=config.sample_rate,
        segment=config.segment_s,
    )


def tiny(**changes: Any) -> HTDemucsConfig:
    fields = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    return HTDemucsConfig(**(fields | changes))


VARIANTS = {
    "with width maps": TINY,
    "without width maps": tiny(transformer_width=64),
    "encoder branches only": tiny(dconv_in_decoder=False, dconv_depth=1),
    "mono, two sources": tiny(audio_channels=1, sources=("voice", "rest")),
    "three layers deep, other growth": tiny(depth=3, nfft=1024, growth=3, transformer_hidden_scale=2.0),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request: pytest.FixtureRequest) -> tuple[HTDemucs, Reference]:
    torch.manual_seed(0)
    ours, reference = HTDemucs(request.param), reference_of(request.param)
    twin(ours, reference)
    return ours, reference


@pytest.mark.parametrize("num_samples", [8000, 7999, 1])
def test_estimates_are_the_references(pair: tuple[HTDemucs, Reference], num_samples: int) -> None:
    ours, reference = pair[0].eval(), pair[1].eval()
    mixture = noise(2, ours.config.audio_channels, num_samples)
    assert forward_gap(ours, reference, mixture) < 1e-4


def test_gradients_are_the_references_at_a_length_of_their_own(pair: tuple[HTDemucs, Reference]) -> None:
    ours, reference = pair[0].train(), pair[1].train()
    assert gradient_gap(ours, reference, noise(2, ours.config.audio_channels, 9001)) < 1e-3


def test_first_weights_are_spread_like_the_references() -> None:
    torch.manual_seed(0)
    ours, reference = HTDemucs(tiny(channels=32)), reference_of(tiny(channels=32))
    expected = reference.state_dict()
    for name, value in ours.state_dict().items():
        if value.numel() > 5000:
            assert value.std() / expected[name].std() == pytest.approx(1, abs=0.05), name
        elif expected[name].std() == 0:
            assert torch.equal(value, expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["htdemucs", "htdemucs-6s", "htdemucs-384", "htdemucs-7layer"])
def test_published_preset_is_the_references(preset: str) -> None:
    torch.manual_seed(0)
    config = PRESETS[preset]
    # No part of it is another one on a short segment, and the arithmetic is most of the test's time.
    ours = build(preset, dropout=0.0, attention_dropout=0.0, segment_s=0.75).eval()
    reference = reference_of(config).eval()
    reference.segment = 0.75
    twin(ours, reference)
    assert forward_gap(ours, reference, noise(1, 2, 33075)) < 1e-4
    assert gradient_gap(ours.train(), reference.train(), noise(1, 2, 22050)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "num_parameters", "num_tensors"),
    [
        ("htdemucs", 41_984_456, 533),
        ("htdemucs-6s", 27_414_996, 525),
        ("htdemucs-384", 26_899_536, 381),
        ("htdemucs-7layer", 34_005_072, 449),
    ],
)
def test_published_preset_has_its_number_of_parameters(preset: str, num_parameters: int, num_tensors: int) -> None:
    with torch.device("meta"):
        model = build(preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert len(model.state_dict()) == num_tensors


@pytest.mark.parametrize("fill", [0.0, 1.0, 1e-20, 1e4])
def test_silence_and_constants_stay_finite(fill: float) -> None:
    for training in (False, True):
        estimates = HTDemucs(TINY).train(training)(torch.full((1, 2, 8000), fill))
        assert torch.isfinite(estimates).all()


def test_a_sample_is_enough_to_train_on_even_in_mono() -> None:
    assert torch.isfinite(HTDemucs(tiny(audio_channels=1))(noise(1, 1, 1))).all()


def test_autocast_keeps_the_estimates_in_float32_and_near() -> None:
    torch.manual_seed(0)
    model, mixture = HTDemucs(TINY).eval(), noise(1, 2, 8000)
    with torch.no_grad():
        exact = model(mixture)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(mixture)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.slow
def test_compiles_in_one_graph() -> None:
    model = HTDemucs(tiny(depth=2, nfft=256, transformer_layers=2)).eval()
    explanation = torch._dynamo.explain(model)(noise(1, 2, 8000))
    assert explanation.graph_break_count == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 8001), "8001 samples are more than this model's segment of 8000"),
        ((1, 2, 0), "0 samples"),
        ((1, 1, 8000), r"\(batch, 2, samples\)"),
        ((2, 8000), r"\(batch, 2, samples\)"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        HTDemucs(TINY).eval()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "name at least one"),
        ({"sources": ("drums", "drums")}, "none twice"),
        ({"nfft": 1000}, "take a multiple of 512, 2048 or more"),
        ({"nfft": 512}, "take a multiple of 512, 2048 or more"),
        ({"transformer_width": 18}, "transformer_width 18 must be a multiple"),
        ({"channels": 2}, "squeezes 2 channels to nothing"),
        ({"segment_s": 1e-9}, "less than a sample"),
        ({"transformer_hidden_scale": 0.01}, "leaves no feature"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**changes)
