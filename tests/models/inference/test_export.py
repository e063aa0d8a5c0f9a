import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.inference import export
from models.inference.export import export_onnx, export_program, onnx_gap
from models.networks.bag import Bag
from models.networks.catalog import build, from_config
from tests.models.parity import noise

# One preset per architecture with little more than what it alone has, since tracing takes its time per operation:
# residual branches and exact attention are in the first, and both RoFormers have the same parts.
PRESETS: dict[str, dict[str, Any]] = {
    "htdemucs-tiny": {"depth": 1, "nfft": 64, "dconv_depth": 1, "transformer_layers": 2},
    "sparse-htdemucs-tiny": {"depth": 1, "nfft": 64, "dconv_depth": 0, "transformer_layers": 2, "hash_rounds": 4},
    # Complex numbers are in the first.
    "hdemucs-tiny": {"nfft": 64, "dconv_depth": 1, "spectrum": "magnitude"},
    "demucs-v2-tiny": {"depth": 2},
    "demucs-v3-tiny": {"depth": 2, "normalize": "none"},
    "scnet-tiny": {"nfft": 64, "hop_length": 16, "block_channels": (8,)},
    "mel-band-roformer-tiny": {"nfft": 32, "hop_length": 15, "num_bands": 2, "depth": 1},
}


def shallow(preset: str) -> nn.Module:
    torch.manual_seed(0)
    return build(preset, sample_rate=8000, segment_s=0.125, **PRESETS[preset]).eval()


@pytest.mark.parametrize("write", [export_program, export_onnx])
def test_a_bag_is_no_single_graph(write: Any, tmp_path: Path) -> None:
    bag = Bag([shallow("demucs-v3-tiny"), shallow("demucs-v3-tiny")])
    with pytest.raises(ModelError, match="a bag of 2 models is no single graph"):
        write(bag, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_either_file_gives_the_models_estimates_for_any_batch_and_says_at_which_level_it_hears(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    model = shallow(preset)
    traced = export.to_program(model)  # once for both, since it takes most of the time
    monkeypatch.setattr(export, "to_program", lambda model: traced)
    extra = {"model.json": ""}
    loaded = torch.export.load(export_program(model, tmp_path / "model.pt2"), extra_files=extra)
    program = loaded.module()
    for batch in (1, 3):
        mixture = noise(batch, 2, model.config.segment_samples)
        torch.testing.assert_close(program(mixture), model(mixture), rtol=0, atol=1e-5)
    path = export_onnx(model, tmp_path / "model.onnx")
    assert onnx_gap(model, path) < 1e-4
    session = onnxruntime.InferenceSession(str(path))
    for text in (extra["model.json"], session.get_modelmeta().custom_metadata_map["model.json"]):
        assert from_config(json.loads(text)).config == model.config
        assert json.loads(text)["normalize"] == model.config.normalize
