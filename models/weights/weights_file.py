"""A `.safetensors` file of ours: weights, packed or not, with the configuration of their network in its header.

With its configuration inside, the file of weights can travel alone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import ModelError
from ..networks import catalog
from .bit_packing import Packing, pack, unpack
from .state_dict import build_for, load_state

PACKED = "packed"  # the entry of the file's header that says what is bit-packed and how


class StoredWeights(NamedTuple):
    """What a file of weights holds."""

    model: dict[str, Any] | None  # the configuration
    state: dict[str, Tensor]
    packing: Packing | None


def to_bytes(model: nn.Module, *, packing: Packing | None = None) -> bytes:
    """The content of a file of the model's weights; with a packing they are rounded and bit-packed."""
    model_config = catalog.to_config(model)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # One entry only: safetensors writes several in random order, and equal models should be equal files.
    metadata = {"model": json.dumps(model_config, sort_keys=True)}
    if packing is not None:
        state, described = pack(state, packing)
        metadata = {PACKED: json.dumps({"model": model_config, "tensors": described}, sort_keys=True)}
    content: bytes = to_safetensors(state, metadata=metadata)
    return content


def stored_config(path: str | Path) -> dict[str, Any] | None:
    """The configuration that a file of weights holds, from its header alone; None where it holds none."""
    try:
        with safe_open(Path(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or no safetensors file: {error}") from error
    return _described(metadata, Path(path))[0]


def read_weights(path: Path) -> StoredWeights:
    """Everything that a file of weights holds; ModelError where it is truncated or was altered."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or no safetensors file: {error}") from error
    model, packed = _described(metadata, path)
    if PACKED in metadata:
        return StoredWeights(model, *unpack(tensors, packed, origin=str(path)))
    return StoredWeights(model, tensors, None)


def build_network(config: Mapping[str, Any], stored: StoredWeights, *, origin: Path) -> nn.Module:
    """The network of a configuration with these weights, in evaluation mode."""
    model = build_for(config, stored.state, origin=str(origin))
    load_state(model, stored.state, origin=str(origin))
    return model.eval()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any] | None, Any]:
    """The configuration in a file's header, and its entry on packed tensors."""
    if PACKED in metadata:
        described = _parse(metadata[PACKED], path)
        if not isinstance(described.get("model"), dict):
            raise ModelError(f"{path} was altered: its description holds no configuration")
        return described["model"], described.get("tensors")
    return (_parse(metadata["model"], path) if "model" in metadata else None), None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} was altered: its description is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} was altered: its description is no object of JSON")
    return content
