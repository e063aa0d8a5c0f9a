"""The YAML file of a bag: which packages make up one model, what each counts for, and their segment.

It comes from users and strangers, so it is read with suspicion and nothing is loaded by it: every wrong value is a
`ModelError` with the file, the value and what is wanted.
"""

import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..networks.bag import check_weights, is_list, is_number
from .yaml_file import read_yaml

MAX_MEMBERS = 64  # each is a network in memory
MAX_SEGMENT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFile:
    """What a bag's YAML file says, checked as far as that goes without its packages."""

    path: Path
    members: tuple[Path, ...]  # the packages, in the order of the file; one may be named twice
    weights: tuple[tuple[float, ...], ...] | None  # [member][source]; None: all count alike
    segment_s: float | None


def read(path: str | Path) -> BagFile:
    """What the YAML file says; its packages lie beside it, and are looked for but not read."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no bag at {path}: give a .yaml file")
    content = read_yaml(path, wanted="bag: want YAML with `models`, a list of signatures")
    if not isinstance(content, dict) or "models" not in content:
        raise ModelError(
            f"{path} is no bag: want YAML with `models`, a list of signatures, got {reprlib.repr(content)}"
        )
    signatures = _signatures(content["models"], path)
    members = tuple(_find_package(path.parent, signature) for signature in signatures)
    weights = content.get("weights")
    try:
        rows = None if weights is None else check_weights(weights, num_models=len(members))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return BagFile(path=path, members=members, weights=rows, segment_s=_segment(content.get("segment"), path))


def _signatures(models: Any, path: Path) -> list[str]:
    if not is_list(models) or not models or len(models) > MAX_MEMBERS:
        raise ModelError(
            f"{path} is no bag: `models` must be a list of 1 to {MAX_MEMBERS} signatures, got {reprlib.repr(models)}"
        )
    for signature in models:
        if not isinstance(signature, str):  # 01234567 would be read as a number, and another one
            raise ModelError(
                f"{path} is no bag: a signature must be text, got {reprlib.repr(signature)}; "
                "put it in quotes if it is digits"
            )
    return list(models)


def _find_package(folder: Path, signature: str) -> Path:
    """The one file of a signature in a folder, safetensors first."""
    if not re.fullmatch(r"[\w.]{1,200}", signature):
        raise ModelError(f"signature {reprlib.repr(signature)}: want letters, digits, dots and underscores")
    for pattern in (f"{signature}.safetensors", f"{signature}-*.safetensors", f"{signature}.th", f"{signature}-*.th"):
        packages = sorted(folder.glob(pattern))
        if len(packages) > 1:
            names = ", ".join(package.name for package in packages)
            raise ModelError(f"several files in {folder} claim to be {signature}: {names}")
        if packages:
            return packages[0]
    raise ModelError(
        f"{folder} has neither {signature}.safetensors nor {signature}-CHECKSUM.th: put that package beside the bag; "
        "of a published bag, demucs/remote/files.txt of facebookresearch/demucs says where it is"
    )


def _segment(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if not is_number(value) or not 0 < value <= MAX_SEGMENT_S:
        raise ModelError(
            f"{path}: segment must be seconds above 0, at most {MAX_SEGMENT_S:g}, got {reprlib.repr(value)}"
        )
    return float(value)
