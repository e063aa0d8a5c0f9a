"""A training begins with weights that mean the same in its network, or not at all."""

from typing import Any

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.learning.warm_start import begin
from models.networks.bag import Bag
from models.networks.catalog import build, to_config
from tests.models.parity import noise

GIVEN = ("vocals", "bass", "drums", "other")
WANTED = ("drums", "bass", "other", "vocals")
FAMILIES = {
    "htdemucs": ("htdemucs-tiny", {"nfft": 512, "depth": 2, "segment_s": 0.5}),
    "sparse-htdemucs": ("sparse-htdemucs-tiny", {"nfft": 512, "depth": 2, "segment_s": 0.5}),
    "hdemucs": ("hdemucs-tiny", {"nfft": 256}),
    "demucs v2": ("demucs-v2-tiny", {}),
    "demucs v3": ("demucs-v3-tiny", {}),
}


def network(seed: int, name: str = "demucs v3", **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    preset, own = FAMILIES[name]
    asked: dict[str, Any] = {"sources": WANTED, "sample_rate": 8000, "segment_s": 0.5, **own, **options}
    return build(preset, **asked).eval()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("order", [GIVEN, WANTED, ("bass", "drums", "vocals", "other")])
def test_estimates_follow_the_names_of_the_sources(name: str, order: tuple[str, ...]) -> None:
    given, ours = network(1, name, sources=order), network(2, name)
    with torch.no_grad():  # biases of first weights are too much alike to tell sources apart
        for parameter in given.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    before = {key: value.clone() for key, value in given.state_dict().items()}
    begin(ours, given, origin="a start")
    mixture = noise(1, 2, 4000)
    with torch.no_grad():
        expected_BSCT, found_BSCT = given(mixture), ours(mixture)
    for place, source in enumerate(WANTED):
        torch.testing.assert_close(found_BSCT[:, place], expected_BSCT[:, order.index(source)], rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())
    assert (expected_BSCT[:, 0] - expected_BSCT[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"sources": ("drums", "bass")},
            "separates drums, bass, the training's sources are drums, bass, other, vocals",
        ),
        ({"sources": ("a", "b", "c", "d")}, "separates a, b, c, d"),
        ({"sample_rate": 44100}, "sample_rate 44100 where the training has 8000; set ingest.sample_rate=44100"),
        ({"audio_channels": 1}, "audio_channels 1 where the training has 2; set ingest.channels=1"),
        ({"oversample": True}, "oversample True where the training has False; set model.options.oversample=True"),
        ({"channels": 16}, "channels 16 where the training has 8; set model.options.channels=16"),
        ({"name": "htdemucs"}, "family 'htdemucs' where the training has 'demucs'"),
    ],
)
def test_weights_that_mean_something_else_are_refused_with_both_values(options: dict[str, Any], words: str) -> None:
    ours = network(2)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ModelError, match=f"model.init_from=x .*{words}"):
        begin(ours, network(1, **options), origin="model.init_from=x")
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_heads_change_what_equal_shapes_compute() -> None:
    with pytest.raises(ModelError, match="transformer_heads 4 where the training has 2"):
        begin(network(1, "htdemucs"), network(2, "htdemucs", transformer_heads=4), origin="x")


def test_what_fine_tuning_may_change_is_no_obstacle() -> None:
    ours = network(1, "sparse-htdemucs", segment_s=1.0, dropout=0.1, sparsity=0.5)
    begin(ours, network(2, "sparse-htdemucs"), origin="x")
    assert to_config(ours)["dropout"] == 0.1


def test_a_bag_is_no_start() -> None:
    with pytest.raises(ModelError, match="is a bag of 2 models"):
        begin(network(1), Bag([network(2), network(3)]), origin="x")
