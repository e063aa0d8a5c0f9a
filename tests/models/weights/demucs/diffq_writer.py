"""A writer of states that DiffQ quantised, after the description of their format; the reader has no part in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from models.weights.demucs.demucs_options import ClassName
from models.weights.demucs.demucs_packages import _NAMING_PICKLE, _to_json

UNIFORM, DIFFQ = ClassName("diffq.uniform.UniformQuantizer"), ClassName("diffq.diffq.DiffQuantizer")


def planes(numbers: NDArray[Any], num_planes: int) -> Tensor:
    """Bit b of number 2048 l + 32 s + w as bit s of word [l, b, w]."""
    num_blocks = -(-len(numbers) // 2048)
    padded = np.zeros((num_blocks, 64, 1, 32), np.uint64)
    padded.reshape(-1)[: len(numbers)] = numbers
    words = np.zeros((num_blocks, num_planes, 32), np.uint64)
    for plane in range(num_planes):
        for place in range(64):
            words[:, plane] |= (padded[:, place, 0] >> np.uint64(plane) & np.uint64(1)) << np.uint64(place)
    return torch.from_numpy(words.view(np.int64))


def quantized_state(
    parameters: Mapping[str, Tensor], *, min_size: float, group_size: int = 8, bits: int = 0, widths: Any = (2, 3, 5)
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What demucs stores of these parameters, and the weights that a reader must get from it.

    Each group of weights has one of `widths` at random; with `bits` all weights have that width.
    """
    rng = np.random.default_rng(0)
    quantized: list[Any] = []
    others: list[Tensor] = []
    expected = {}
    for name, parameter in parameters.items():
        if parameter.numel() <= min_size * 2**20 // 4:
            others.append(parameter.detach().clone())
            expected[name] = others[-1]
            continue
        values = parameter.detach().numpy().reshape(-1, parameter.numel() if bits else group_size)
        low, high = float(values.min()), float(values.max())
        chosen = np.full(len(values), bits) if bits else rng.choice(widths, len(values))
        units = (np.float32(1) / (2.0**chosen - 1).astype(np.float32))[:, None]
        levels = np.round((values - np.float32(low)) / np.float32(high - low) / units).astype(np.int64)
        restored = levels.astype(np.float32) * units * np.float32(high - low) + np.float32(low)
        expected[name] = torch.from_numpy(restored.reshape(parameter.shape))
        if bits:
            quantized.append((planes(levels.ravel(), bits), (low, high)))
            continue
        by_width = [
            planes(levels[chosen == width].ravel(), width) if (chosen == width).any() else None
            for width in range(1, 15)
        ]
        quantized.append((by_width, (low, high), planes(chosen - 2, int(chosen.max() - 2).bit_length())))
    options = {"bits": bits, "min_size": min_size} if bits else {"min_size": min_size, "group_size": group_size}
    meta = {"init_kwargs": options, "klass": UNIFORM if bits else DIFFQ, "packed": True, "torch_pack": False}
    return {"quantized": quantized, "float16": [], "others": others, "meta": meta, "__quantized": True}, expected


def to_structure(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The state as demucs 4.1.0 describes it in a safetensors file; its tensors are added to `tensors`."""
    if isinstance(value, dict):
        return {"_dict": [[key, to_structure(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "_list" if isinstance(value, list) else "_tuple"
        return {kind: [to_structure(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]}
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"_tensor": name}
    return {"_class": value.path} if isinstance(value, ClassName) else value


def write_package(model: Any, state: dict[str, Any], path: Path) -> Path:
    """A package of one of the reference's networks with this state, in the form that the path's suffix says."""
    args, kwargs = model._init_args_kwargs
    klass = f"{type(model).__module__}.{type(model).__name__}"
    if path.suffix == ".th":
        package = {"klass": ClassName(klass), "args": args, "kwargs": kwargs, "state": state, "training_args": {}}
        torch.save(package, path, pickle_module=_NAMING_PICKLE)
        return path
    tensors: dict[str, Tensor] = {}
    structure = to_structure(state, "state", tensors)
    texts = {"args": list(args), "kwargs": _to_json(kwargs), "structure": structure}
    save_file(tensors, path, metadata={"klass": klass} | {name: json.dumps(text) for name, text in texts.items()})
    return path
