"""Any model by its path: the one place that tells what lies there, and loads it.

A model is a checkpoint folder, a `.safetensors` file of ours, a package of Demucs (`.th` or `.safetensors`), a bag
(`.yaml`) that names files beside it, or a checkpoint of Music-Source-Separation-Training (`.ckpt`) with its YAML.
"""

import enum
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError
from ..networks import catalog
from ..networks.bag import Bag
from . import bag_file, checkpoint
from .bit_packing import Packing
from .demucs import demucs_packages
from .msst import msst_checkpoints
from .weights_file import build_network, read_weights, stored_config

BAG_SUFFIXES = (".yaml", ".yml")


class ModelKind(enum.Enum):
    """How a model is stored."""

    CHECKPOINT = "a folder with config.json"
    WEIGHTS = "a .safetensors file with its configuration inside"
    PACKAGE = "a package of Demucs"
    BAG = "a bag's YAML file"
    MSST = "a checkpoint of Music-Source-Separation-Training with its YAML beside it"


def kind_of(path: str | Path) -> ModelKind:
    """How the model at `path` is stored; ModelError where nothing lies there, or a broken file of weights."""
    path = Path(path)
    if path.is_dir():
        return ModelKind.CHECKPOINT
    if not path.is_file():
        raise ModelError(
            f"no model at {path}: give a checkpoint folder, a .safetensors, .th or .ckpt file, or a bag's .yaml file"
        )
    if path.suffix in BAG_SUFFIXES:
        return ModelKind.BAG
    if path.suffix in msst_checkpoints.SUFFIXES:
        return ModelKind.MSST
    return ModelKind.PACKAGE if path.suffix == ".th" or stored_config(path) is None else ModelKind.WEIGHTS


def load_model(path: str | Path) -> nn.Module:
    """The model at `path`, whatever it is stored as, in evaluation mode, in float32 on the CPU."""
    path, kind = Path(path), kind_of(path)
    if kind is ModelKind.CHECKPOINT:
        return checkpoint.load(path)
    if kind is ModelKind.BAG:
        return _load_bag(path)
    if kind is ModelKind.MSST:
        return msst_checkpoints.load_checkpoint(path)
    if kind is ModelKind.PACKAGE:
        return demucs_packages.load_package(path)
    stored = read_weights(path)
    assert stored.model is not None
    return build_network(stored.model, stored, origin=path)


def load_packing(path: str | Path) -> Packing | None:
    """How the weights at `path` are packed; None where they are stored as they are."""
    path, kind = Path(path), kind_of(path)
    if kind is ModelKind.CHECKPOINT:
        return checkpoint.load_packing(path)
    return read_weights(path).packing if kind is ModelKind.WEIGHTS else None


def _load_bag(path: Path) -> Bag:
    """The models that a bag's YAML file names, from the files beside it, with its weights and segment."""
    bag = bag_file.read(path)
    members = [load_model(file) for file in bag.members]
    try:
        if bag.segment_s is not None:
            for member in members:
                _set_segment(member, bag.segment_s)
        return Bag(members, bag.weights)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _set_segment(model: Any, segment_s: float) -> None:
    """A bag sets its members' segment; HT Demucs allows only less than what it was trained on."""
    if catalog.to_config(model)["family"] != "htdemucs" or segment_s <= model.config.segment_s:
        model.config = replace(model.config, segment_s=segment_s)
