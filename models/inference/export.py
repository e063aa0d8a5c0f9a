"""A model as a graph without its source: torch.export and ONNX.

The graph takes one segment, (B, C, `segment_samples`), for any batch, the STFT inside; overlap-add stays outside.
It is the second-best artifact: a checkpoint folder (`checkpoint.py`) also trains on and takes shorter input.
"""

import copy
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..networks import catalog
from ..networks.bag import Bag

DESCRIPTION = "model.json"  # the name under which a file holds the config of its model
MOST_BATCH = 256  # a bound that torch.export wants to know


def to_program(model: nn.Module) -> torch.export.ExportedProgram:
    """The model in evaluation mode as a traced program, weights inside; a bag is several, and refused."""
    if isinstance(model, Bag):
        raise ModelError(
            f"a bag of {len(model.models)} models is no single graph: export the members one by one, and average"
        )
    model = copy.deepcopy(model).cpu().eval()
    batch = torch.export.Dim("batch", min=1, max=MOST_BATCH)
    with torch.no_grad(), _lstm_in_one_step(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own LSTM, which files its weights anew while it is traced
        return torch.export.export(model, (_example(model),), dynamic_shapes=({0: batch},), strict=False)


def export_program(model: nn.Module, path: str | Path) -> Path:
    """Write a `.pt2` file that `torch.export.load` reads without this package.

    Its extra file `model.json` is the config: with `normalize` "track" the graph wants the level that
    `input_normalization.py` gives.
    """
    path = Path(path)
    temporary = _temporary(path, ".pt2")
    torch.export.save(to_program(model), temporary, extra_files={DESCRIPTION: _described(model)})
    return temporary.replace(path)


def export_onnx(model: nn.Module, path: str | Path) -> Path:
    """Write an ONNX file of one input, `mixture`, and one output, `estimates`; its metadata hold the model's config."""
    for needed in ("onnx", "onnxscript"):
        if importlib.util.find_spec(needed) is None:
            raise ModelError(f"an ONNX file needs the package {needed}, which stemline's extra `onnx` brings")
    path = Path(path)
    temporary = _temporary(path, ".onnx")
    with _lstm_in_one_step(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about operators of packages that are not here, and the exporter's own
        onnx_program = torch.onnx.export(
            to_program(model), dynamo=True, input_names=["mixture"], output_names=["estimates"], verbose=False
        )
    assert onnx_program is not None
    onnx_program.model.metadata_props[DESCRIPTION] = _described(model)
    onnx_program.save(temporary, external_data=False)
    return temporary.replace(path)


def onnx_gap(model: nn.Module, path: str | Path, *, seed: int = 0) -> float:
    """Largest difference between the model's estimates of noise and those of an ONNX file, as a share of the peak."""
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    mixture = _example(model, seed=seed)
    output: Any = session.run(["estimates"], {"mixture": mixture.numpy()})[0]
    with torch.no_grad():
        expected = copy.deepcopy(model).cpu().eval()(mixture)
    return float((torch.from_numpy(output) - expected).abs().max() / expected.abs().max())


@contextmanager
def _lstm_in_one_step() -> Iterator[None]:
    """Shapes of an LSTM's output from one operator, as in eager inference, instead of one per time step.

    While it traces, torch forgets that it has this operator, and a Hybrid Demucs takes minutes. The graph is the
    same: it holds the LSTM as a whole either way.
    """
    from torch._decomp import decompositions

    chosen = decompositions.select_one_layer_lstm_function
    decompositions.select_one_layer_lstm_function = lambda *_: decompositions.mkldnn_one_layer_lstm
    try:
        yield
    finally:
        decompositions.select_one_layer_lstm_function = chosen


def _described(model: nn.Module) -> str:
    return json.dumps(catalog.to_config(model), sort_keys=True)


def _example(model: Any, *, seed: int = 0) -> Tensor:
    """Two segments of noise; a batch of one would be frozen into the graph."""
    shape = 2, model.config.audio_channels, model.config.segment_samples
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _temporary(path: Path, suffix: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{os.getpid()}{suffix}"
