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
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import ModelError
from ..learning.bit_widths import Packing, pack, unpack
from ..networks import catalog

FORMAT_VERSION = 1
WEIGHTS, CONFIG, LEARNER = "weights.safetensors", "config.json", "learner.pt"
NEEDED = ("model", "weights_sha256")  # in `config.json`
FILES = (WEIGHTS, CONFIG, LEARNER)  # all that a checkpoint folder holds
BAGS = (".yaml", ".yml")
PUBLISHED = (".th", *BAGS)
PACKED = "packed"  # the entry of the file's header that says what is bit-packed and how
LISTED = 8  # differing tensors named in a message


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
    `learner` is `Learner.state()`. With a packing (`quantize.py`) weights are
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
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if foreign := [name for name in found if name not in FILES]:
        listed = ", ".join(foreign[:LISTED]) + (f" and {len(foreign) - LISTED} more" if len(foreign) > LISTED else "")
        raise ModelError(f"{folder} holds something that is no part of a checkpoint ({listed}); {remedy}")
    if found:
        try:
            config = read_config(folder)
            for name, digest in ((WEIGHTS, config["weights_sha256"]), (LEARNER, config.get("learner_sha256"))):
                if name in found:
                    check_digest(folder / name, str(digest))
        except ModelError as error:
            raise ModelError(f"{folder} holds something that is no checkpoint of ours ({error}); {remedy}") from error


def require_outside(path: str | Path) -> None:
    """ModelError where a file or a folder would lie in a checkpoint, which holds nothing but its own files."""
    for above in Path(os.path.abspath(path)).parents:
        if (above / CONFIG).is_file() and (above / WEIGHTS).is_file():
            raise ModelError(f"{path} would lie in {above}, which holds a model and nothing else; give another place")


def load_model(path: str | Path) -> nn.Module:
    """The model of a checkpoint folder or of its `weights.safetensors` alone, in evaluation mode, on the CPU.

    Also of a published package, `.th` or `.safetensors`, and of a bag, `.yaml` with its packages beside it.
    """
    path = Path(path)
    if path.is_dir():
        config = read_config(path)
        check_digest(path / WEIGHTS, config["weights_sha256"])
        return _build(config["model"], _read_weights(path / WEIGHTS), origin=path / WEIGHTS)
    if not path.is_file():
        raise ModelError(f"no checkpoint at {path}: give a folder with {CONFIG}, or a .safetensors file")
    stored = None if path.suffix in PUBLISHED else _read_weights(path)
    if stored is None or stored.model is None:
        from . import demucs_packages  # which itself reads weights with `load_state`

        return demucs_packages.load_bag(path) if path.suffix in BAGS else demucs_packages.load_package(path)
    return _build(stored.model, stored, origin=path)


def check(folder: str | Path) -> None:
    """ModelError unless every file of a checkpoint folder is as it was written; reads all bytes, builds nothing."""
    folder = Path(folder)
    config = read_config(folder)
    for name, digest in ((WEIGHTS, config["weights_sha256"]), (LEARNER, config.get("learner_sha256"))):
        if digest is not None:
            check_digest(folder / name, digest)


def load_packing(folder: str | Path) -> Packing | None:
    """How the weights of a checkpoint folder were packed, for `save`; None if they were not."""
    return _read_weights(Path(folder) / WEIGHTS).packing


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
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no checkpoint at {folder}: it has no {CONFIG}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format_version") != FORMAT_VERSION:
        seen = config.get("format_version") if isinstance(config, dict) else None
        raise ModelError(f"{path} has format version {seen}, this code reads {FORMAT_VERSION}")
    for name, kind in (("model", dict), ("weights_sha256", str), ("learner_sha256", str), ("extra", dict)):
        if not isinstance(config.get(name, None if name in NEEDED else kind()), kind):
            raise ModelError(f"{path} lacks {name}, or it is not what it should be: {config.get(name)!r:.60}")
    return config


def stored_config(path: str | Path) -> dict[str, Any] | None:
    """The configuration that a file of weights holds, from its header alone; None where it holds none."""
    try:
        with safe_open(Path(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or no safetensors file: {error}") from error
    return _described(metadata, Path(path))[0]


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Fill a model strictly; a state of another configuration is refused with the names and shapes that differ."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    differences = [f"{name}: the model wants {own[name]}, the file lacks it" for name in own.keys() - given.keys()]
    differences += [f"{name}: the file has {given[name]}, the model lacks it" for name in given.keys() - own.keys()]
    differences += [
        f"{name}: the model wants {own[name]}, the file has {given[name]}"
        for name in own.keys() & given.keys()
        if own[name] != given[name]
    ]
    if differences:
        listed = "\n  ".join(sorted(differences)[:LISTED])
        rest = f"\n  and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
        raise ModelError(
            f"{origin} belongs to another configuration; {len(differences)} tensors differ:\n  {listed}{rest}"
        )
    model.load_state_dict(dict(state))


def _write(
    folder: Path,
    model: nn.Module,
    *,
    learner: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
    packing: Packing | None,
) -> None:
    model_config = catalog.to_config(model)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # With its configuration inside, the file of weights can travel alone. One entry only: safetensors writes several
    # in random order, and equal models should be equal files.
    metadata = {"model": json.dumps(model_config, sort_keys=True)}
    if packing is not None:
        state, described = pack(state, packing)
        metadata = {PACKED: json.dumps({"model": model_config, "tensors": described}, sort_keys=True)}
    weights = to_safetensors(state, metadata=metadata)
    (folder / WEIGHTS).write_bytes(weights)
    config = {
        "format_version": FORMAT_VERSION,
        "model": model_config,
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


def _build(model_config: Mapping[str, Any], stored: "_Stored", *, origin: Path) -> nn.Module:
    model = build_for(model_config, stored.state, origin=str(origin))
    load_state(model, stored.state, origin=str(origin))
    return model.eval()


def build_for(config: Mapping[str, Any], state: Mapping[str, Tensor], *, origin: str) -> nn.Module:
    """A network of the configuration that is to have this state; one far larger is not built, whoever asks for it."""
    try:
        described = catalog.read_config(config)
        layers = [described.depth, *(getattr(described, name, 0) for name in ("dconv_depth", "transformer_layers"))]
        if max(layers) > len(state) or _least_size(described) > sum(value.numel() for value in state.values()):
            raise ModelError("it belongs to another configuration: to a larger network than its weights can fill")
        return catalog.from_config(config)
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from None
    except (RuntimeError, ArithmeticError, ValueError, TypeError, MemoryError) as error:
        raise ModelError(f"{origin} describes a network that cannot be built: {str(error)[:200]}") from error


def _least_size(config: Any) -> float:
    """Elements of the largest of some tensors that a network of this configuration has."""
    inner, audio = config.layer_channels[-1], config.audio_channels * len(config.sources)
    sizes: list[float] = [config.channels * max(audio, getattr(config, "nfft", 0) // 8), inner * inner]
    if getattr(config, "transformer_layers", 0):
        width: int = config.transformer_width
        sizes += [width * inner, width * width * max(1.0, config.transformer_hidden_scale)]
    return max(sizes)


class _Stored(NamedTuple):
    """What a file of weights holds."""

    model: dict[str, Any] | None  # the configuration
    state: dict[str, Tensor]
    packing: Packing | None


def _read_weights(path: Path) -> _Stored:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or no safetensors file: {error}") from error
    model, packed = _described(metadata, path)
    if PACKED in metadata:
        return _Stored(model, *unpack(tensors, packed, origin=str(path)))
    return _Stored(model, tensors, None)


def _described(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any] | None, Any]:
    """The configuration in a file's header, and what is said there of packed tensors."""
    if PACKED in metadata:
        described = _parse(metadata[PACKED], path)
        if not isinstance(described.get("model"), dict):
            raise ModelError(f"{path} was altered: its description holds no configuration")
        return described["model"], described.get("tensors")
    return (_parse(metadata["model"], path) if "model" in metadata else None), None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path} was altered: its description is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} was altered: its description is no object of JSON")
    return content


def check_digest(path: Path, expected: str) -> str:
    """The file's SHA-256; ModelError where it is another than `config.json` says."""
    if not path.is_file():
        raise ModelError(f"the checkpoint at {path.parent} is incomplete: it has no {path.name}")
    if (seen := sha256_of(path)) != expected:
        raise ModelError(
            f"{path} is truncated or was altered: its SHA-256 is {seen[:12]}…, {CONFIG} says {expected[:12]}…"
        )
    return seen


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
