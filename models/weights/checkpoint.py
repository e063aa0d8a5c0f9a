"""The folder a model is saved as: `weights.safetensors`, `config.json`, and `learner.pt` where training goes on.

`config.json` is the mark of a whole checkpoint and holds digests of the other files, so a truncated or altered one
is refused by name. Nothing is unpickled: weights are safetensors, and `learner.pt` is read as tensors and numbers only.
It also says whose folder it is: one with a `config.json` of this format and no file of another name may be replaced by
a newer checkpoint, any other is somebody's (`require_replaceable`).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..networks import catalog
from .bit_packing import Packing
from .weights_file import build_network, read_weights, sha256_of, to_bytes

FORMAT_VERSION = 1
WEIGHTS, CONFIG, LEARNER = "weights.safetensors", "config.json", "learner.pt"
MAX_CONFIG_BYTES = 4 * 2**20  # of `config.json`, which has some thousand
NEEDED = ("model", "weights_sha256")  # in `config.json`
FILES = (WEIGHTS, CONFIG, LEARNER)  # all that a checkpoint folder holds
LISTED = 8  # foreign files named in a message


def save(
    folder: str | Path,
    model: nn.Module,
    *,
    learner: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    packing: Packing | None = None,
) -> Path:
    """Write a checkpoint; it appears under its name whole, or not at all. `extra` is any JSON to keep with it.

    A checkpoint of that name is replaced; ModelError, and nothing is touched, where anything else has that name.
    `learner` is `Learner.state()`. With a packing (`bit_packing.py`) weights are
    rounded and bit-packed, and whoever reads the checkpoint need not know.
    """
    folder = Path(folder)
    require_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(temporary, model, learner=learner, extra=extra, packing=packing)
        temporary.chmod(0o755)  # mkdtemp keeps others out; a checkpoint is for everyone who may read its parent
        _replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def require_replaceable(folder: str | Path) -> None:
    """ModelError unless nothing is lost when `folder` becomes a checkpoint: it is missing, empty, or one already.

    A checkpoint is one by its `config.json`; other files of it may be missing, but not be other than it says.
    """
    folder = Path(folder)
    require_outside(folder)
    remedy = "give the name of a new folder, or move that away"
    if folder.is_symlink():
        raise ModelError(f"{folder} is a link to {folder.readlink()}, which a checkpoint would replace; {remedy}")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file, no checkpoint folder, and stays as it is; {remedy}")
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if foreign := [name for name in names if name not in FILES]:
        listed = ", ".join(foreign[:LISTED]) + (f" and {len(foreign) - LISTED} more" if len(foreign) > LISTED else "")
        raise ModelError(f"{folder} holds something that is no part of a checkpoint ({listed}); {remedy}")
    if names:
        try:
            config = read_config(folder)
            for name, digest in ((WEIGHTS, config["weights_sha256"]), (LEARNER, config.get("learner_sha256"))):
                if name in names:
                    check_digest(folder / name, str(digest))
        except ModelError as error:
            raise ModelError(f"{folder} holds something that is no checkpoint of ours ({error}); {remedy}") from error


def require_outside(path: str | Path) -> None:
    """ModelError where a file or a folder would lie in a checkpoint, which holds nothing but its own files."""
    for above in Path(os.path.abspath(path)).parents:
        if (above / CONFIG).is_file() and (above / WEIGHTS).is_file():
            raise ModelError(f"{path} would lie in {above}, which holds a model and nothing else; give another place")


def load(folder: str | Path) -> nn.Module:
    """The model of a checkpoint folder, in evaluation mode, on the CPU."""
    folder = Path(folder)
    config = read_config(folder)
    check_digest(folder / WEIGHTS, config["weights_sha256"])
    return build_network(config["model"], read_weights(folder / WEIGHTS), origin=folder / WEIGHTS)


def check(folder: str | Path) -> None:
    """ModelError unless every file of a checkpoint folder is as it was written; reads all bytes, builds nothing."""
    folder = Path(folder)
    config = read_config(folder)
    for name, digest in ((WEIGHTS, config["weights_sha256"]), (LEARNER, config.get("learner_sha256"))):
        if digest is not None:
            check_digest(folder / name, digest)


def load_packing(folder: str | Path) -> Packing | None:
    """How the weights of a checkpoint folder were packed, for `save`; None if they were not."""
    return read_weights(Path(folder) / WEIGHTS).packing


def load_learner(folder: str | Path) -> dict[str, Any]:
    """The learner's state of a checkpoint folder, for `Learner.load_state`."""
    folder = Path(folder)
    digest = read_config(folder).get("learner_sha256")
    if digest is None:
        raise ModelError(f"{folder} holds a finished model, not a training to go on with: it has no {LEARNER}")
    check_digest(folder / LEARNER, digest)
    state: dict[str, Any] = torch.load(folder / LEARNER, map_location="cpu", weights_only=True)
    return state


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `config.json` says: `model`, `extra`, digests."""
    path = Path(folder) / CONFIG
    try:
        if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
            raise ModelError(f"{path} has {size} bytes, and {MAX_CONFIG_BYTES} are the most that is read")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no checkpoint at {folder}: it has no {CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:  # an integer of 5000 digits is a ValueError, too
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format_version") != FORMAT_VERSION:
        seen = config.get("format_version") if isinstance(config, dict) else None
        raise ModelError(f"{path} has format version {seen}, this code reads {FORMAT_VERSION}")
    for name, kind in (("model", dict), ("weights_sha256", str), ("learner_sha256", str), ("extra", dict)):
        if not isinstance(config.get(name, None if name in NEEDED else kind()), kind):
            raise ModelError(f"{path} lacks {name}, or it is not what it should be: {config.get(name)!r:.60}")
    return config


def _write(
    folder: Path,
    model: nn.Module,
    *,
    learner: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
    packing: Packing | None,
) -> None:
    weights = to_bytes(model, packing=packing)
    (folder / WEIGHTS).write_bytes(weights)
    config = {
        "format_version": FORMAT_VERSION,
        "model": catalog.to_config(model),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "extra": dict(extra or {}),
    }
    if learner is not None:
        torch.save(dict(learner), folder / LEARNER)
        config["learner_sha256"] = sha256_of(folder / LEARNER)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _replace_folder(temporary: Path, folder: Path) -> None:
    """A folder cannot be renamed over another, so the old one steps aside first, and back if that fails."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        os.replace(folder, aside / "old")
        try:
            os.replace(temporary, folder)
        except BaseException:
            os.replace(aside / "old", folder)
            raise
    except BaseException:
        aside.rmdir()  # empty; were it not, what it holds is the only copy
        raise
    shutil.rmtree(aside, ignore_errors=True)


def check_digest(path: Path, expected: str) -> str:
    """The file's SHA-256; ModelError where it is another than `config.json` says."""
    if not path.is_file():
        raise ModelError(f"the checkpoint at {path.parent} is incomplete: it has no {path.name}")
    if (seen := sha256_of(path)) != expected:
        raise ModelError(
            f"{path} is truncated or was altered: its SHA-256 is {seen[:12]}…, {CONFIG} says {expected[:12]}…"
        )
    return seen
