"""Checkpoints of Music-Source-Separation-Training: a `.ckpt` file, and the YAML of its training beside it.

The YAML has the checkpoint's name, or is the only one in its folder. The pickle is read by torch's weights-only
unpickler, which calls nothing; names of weights and options are translated by `msst_names.py` and `msst_options.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..state_dict import build_for, load_state, plain_tensors, refuse_compressed
from ..yaml_file import read_yaml
from .msst_names import to_our_names
from .msst_options import to_our_config

SUFFIXES = (".ckpt", ".chpt")
YAML_SUFFIXES = (".yaml", ".yml")
# Under which a trainer may have put the weights, beside an optimizer's state and more.
WRAPPERS = ("state", "state_dict", "model_state_dict")


def load_checkpoint(path: str | Path) -> nn.Module:
    """The network of a checkpoint, in evaluation mode, in float32 on the CPU."""
    path = Path(path)
    config, architecture = to_our_config(_read(yaml := yaml_beside(path)), origin=str(yaml))
    state = to_our_names(plain_tensors(_read_state(path), path), architecture.patterns)
    model = build_for(config, state, origin=str(path))
    load_state(model, state, origin=str(path))
    return model.eval()


def checkpoint_config(path: str | Path) -> dict[str, Any]:
    """The configuration of a checkpoint, for `catalog.from_config`; no weights are loaded."""
    yaml = yaml_beside(Path(path))
    return to_our_config(_read(yaml), origin=str(yaml))[0]


def yaml_beside(path: Path) -> Path:
    """The YAML of the training that made a checkpoint; ModelError where none lies there, or several do."""
    for suffix in YAML_SUFFIXES:
        if (named := path.with_suffix(suffix)).is_file():
            return named
    others = sorted(file for file in path.parent.iterdir() if file.suffix in YAML_SUFFIXES)
    if len(others) != 1:
        state = f"{len(others)} YAML files lie" if others else "no YAML file lies"
        raise ModelError(
            f"{state} beside {path}: put the YAML of its training there, as {path.with_suffix('.yaml').name}"
        )
    return others[0]


def _read(yaml: Path) -> Any:
    return read_yaml(yaml, wanted="YAML of a training")


def _read_state(path: Path) -> Mapping[str, Tensor]:
    refuse_compressed(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile pickle can make its reader fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} is refused: it is truncated, no torch file, or holds more than weights ({reason[:200]})"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    return content  # type: ignore[no-any-return]
