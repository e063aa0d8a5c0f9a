"""A network's first weights are drawn as demucs draws them: same spread for every tensor, same constants."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.networks.catalog import build
from models.weights.demucs.demucs_options import to_kwargs

NUM_DRAWS = 8
LARGE = 256  # elements; the spread of fewer differs from draw to draw


def ours(preset: str) -> nn.Module:
    return build(preset)


def reference(preset: str) -> nn.Module:
    klass, kwargs = to_kwargs(build(preset))
    module, _, name = klass.path.rpartition(".")
    if name == "HDemucs":
        kwargs["dconv_init"] = 1e-3  # as its published recipes have it; 1e-4 is the class' own
    return getattr(importlib.import_module(module), name)(**kwargs)  # type: ignore[no-any-return]


def draws(make: Callable[[str], nn.Module], preset: str) -> dict[str, Tensor]:
    """All tensors of several networks, (draw, element) by name."""
    states = []
    for seed in range(NUM_DRAWS):
        torch.manual_seed(seed)
        state = make(preset).state_dict()
        if "freq_emb.embedding.weight" in state:  # a random walk over frequencies: its steps are what is drawn
            state["freq_emb.embedding.weight"] = state["freq_emb.embedding.weight"].diff(dim=0)
        states.append(state)
    return {name: torch.stack([state[name].float().flatten() for state in states]) for name in states[0]}


@pytest.mark.parametrize("preset", ["htdemucs-tiny", "hdemucs-tiny", "demucs-v3-tiny"])
def test_first_weights_are_spread_as_the_references(preset: str) -> None:
    found, expected = draws(ours, preset), draws(reference, preset)
    assert found.keys() == expected.keys()
    for name, there in expected.items():
        here = found[name]
        if float(there.std()) < 1e-7:  # a constant
            torch.testing.assert_close(here, there)
        elif there.shape[1] >= LARGE:
            assert float(here.square().mean() / there.square().mean()) == pytest.approx(1, abs=0.12), name
            # Normal where they should be uniform would be more than twice as far out.
            assert float(here.abs().max() / there.abs().max()) == pytest.approx(1, abs=0.4), name
