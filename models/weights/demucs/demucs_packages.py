"""Published Demucs packages in, and ours out for the stock `demucs` 4.1.0.

A package is a `.th` file (a pickled dict of class, arguments and weights) or a `.safetensors` file (the same in its
metadata); a bag is a YAML file that names packages beside it. Pickles are read by torch's weights-only unpickler,
which calls nothing: the known classes come out as names, and anything else is refused. `demucs_options.py` translates
the reference's options to our configurations.
"""

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ...errors import ModelError
from ...networks import catalog
from ...networks.bag import Bag
from ..bit_packing import Packing
from ..state_dict import build_for, load_state, plain_tensors, refuse_compressed
from ..weights_file import sha256_of, to_bytes
from . import diffq
from .demucs_options import OPTIONS_OF, ClassName, to_kwargs, to_our_config

CHECKSUM = re.compile(r"-([0-9a-f]{8,64})$")  # at the end of a file's stem; the SHA-256 starts with it
DATES = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%Y%m%d%H%M", "%Y%m%d%H%M%S")  # as people put them at the end of a name


def load_package(path: str | Path, *, preset: str | None = None) -> nn.Module:
    """The model of a published `.th` or `.safetensors` file, in evaluation mode, in float32 on the CPU.

    `preset` says what the model is when the file holds weights alone, as those of Demucs v2 do.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no package at {path}: give a .th or .safetensors file")
    verify_checksum(path, sha256_of(path))
    package = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if "klass" in package or preset is None:
        model, state = _build(_config_of(package, path), package.get("state"), path)
    else:
        model, state = catalog.build(preset), plain_tensors(package, path)
    load_state(model, state, origin=str(path))
    return model.eval()


def package_config(path: str | Path) -> dict[str, Any]:
    """The configuration of a package that says what it is, for `catalog.from_config`; no weights are loaded."""
    path = Path(path)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    return _config_of(read(path, weights=False), path)


def export_package(
    model: nn.Module,
    folder: str | Path,
    *,
    signature: str,
    form: Literal["th", "safetensors"] = "th",
    half: bool = False,
) -> Path:
    """Write a package that demucs 4.1.0 loads; `half` stores float16, as the published ones do.

    A `.th` file carries its checksum in its name, where `demucs --repo` looks for it.
    """
    if not re.fullmatch(r"\w+", signature):
        raise ModelError(f"signature {signature!r}: want letters, digits and underscores")
    klass, kwargs = to_kwargs(model)
    dtype = torch.float16 if half else torch.float32
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    if form == "safetensors":
        metadata = {"klass": klass.path, "args": "[]", "kwargs": json.dumps(_to_json(kwargs))}
        return _write(Path(folder), f"{signature}.safetensors", to_safetensors(state, metadata=metadata))
    buffer = io.BytesIO()
    package = {"klass": klass, "args": (), "kwargs": kwargs, "state": state, "training_args": {}}
    torch.save(package, buffer, pickle_module=_NAMING_PICKLE)
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
    return _write(Path(folder), f"{signature}-{checksum}.th", buffer.getvalue())


def export_bag(
    models: Sequence[nn.Module],
    folder: str | Path,
    *,
    name: str,
    weights: Sequence[Sequence[float]] | None = None,
    segment_s: float | None = None,
    form: Literal["th", "safetensors"] = "th",
    half: bool = False,
    packings: Sequence[Packing | None] = (),
) -> Path:
    """Write the models as packages and the YAML file that makes them one bag: `demucs --repo FOLDER -n NAME`.

    With `packings`, one for each, a member that is packed, or that demucs has no network like, is a file of weights of
    ours instead, which demucs does not read.
    """
    Bag(models, weights)  # refuses models or weights that do not go together
    signatures = [f"{name}_{index}" for index in range(len(models))]
    for index, (model, signature) in enumerate(zip(models, signatures, strict=True)):
        if packings and (packings[index] is not None or not _has_package(model)):
            _write(Path(folder), f"{signature}.safetensors", to_bytes(model, packing=packings[index]))
        else:
            export_package(model, folder, signature=signature, form=form, half=half)
    lines = [f"models: {json.dumps(signatures)}"]
    if weights is not None:
        lines.append(f"weights: {json.dumps([[float(weight) for weight in row] for row in weights])}")
    if segment_s is not None:
        lines.append(f"segment: {json.dumps(segment_s)}")
    return _write(Path(folder), f"{name}.yaml", ("\n".join(lines) + "\n").encode())


def _has_package(model: nn.Module) -> bool:
    try:
        to_kwargs(model)
    except ModelError:
        return False
    return True


def verify_checksum(path: Path, sha256: str) -> None:
    """ModelError where a package's name ends in a checksum, such as `955717e8-8726e21a.th`, that is not its own.

    Digits alone that read as a day are a date: one checksum in some 36 000 looks like that.
    """
    match = CHECKSUM.search(path.stem)
    if match and not sha256.startswith(match[1]) and not _is_date(match[1]):
        raise ModelError(
            f"{path} is truncated or was altered: its name says SHA-256 {match[1]}…, it is {sha256[: len(match[1])]}…; "
            "where the name means something else, give it another end"
        )


def _is_date(digits: str) -> bool:
    for form in DATES:
        try:
            seen = datetime.strptime(digits, form)
        except ValueError:
            continue
        if seen.strftime(form) == digits and 1990 <= seen.year < 2100:
            return True
    return False


def _build(config: Mapping[str, Any], state: Any, path: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network of a configuration, and the weights that are to fill it."""
    if not diffq.is_quantized(state):
        weights = plain_tensors(state, path)
        return build_for(config, weights, origin=str(path)), weights
    quantized = diffq.read_quantized(state, file_bytes=path.stat().st_size, origin=str(path))
    model = build_for(config, quantized.largest_state(), origin=str(path))
    return model, plain_tensors(quantized.unpack(diffq.reference_shapes(model)), path)


def _config_of(package: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if "klass" not in package:
        raise ModelError(
            f"{path} holds weights and does not say of what: name a preset, such as preset='demucs-v2', "
            "or give the folder it was saved in"
        )
    return to_our_config(package["klass"], package.get("args"), package.get("kwargs"), origin=str(path))


def _read_pickle(path: Path, *, weights: bool = True) -> dict[str, Any]:
    """The dict in a `.th` file. Nothing of the pickle is called: classes are names, fractions are parsed."""
    allowed: list[Callable[..., Any] | tuple[Any, str]] = [
        (ClassName(name), name) for name in (*OPTIONS_OF, *diffq.QUANTIZERS)
    ]
    allowed.append((_fraction, "fractions.Fraction"))
    refuse_compressed(path)
    try:
        with torch.serialization.safe_globals(allowed):
            # Mapped, weights are not read before they are used; older files are no archives, and cannot be mapped.
            mapped = not weights and zipfile.is_zipfile(path)
            package = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a broken or hostile pickle can make its reader fail in any way
        raise ModelError(f"{path} is refused: {_reason(error)}") from error
    if not isinstance(package, dict):
        raise ModelError(f"{path} holds a {type(package).__name__}: want the dict of a Demucs package")
    return package


def _reason(error: Exception) -> str:
    text = str(error)
    if match := re.search(r"GLOBAL (\S+)", text):
        return f"its pickle asks for {match[1]}, and only weights and the classes of Demucs are read"
    if isinstance(error, RuntimeError | EOFError):
        return f"it is truncated or no torch file ({text.splitlines()[0] if text else 'no content'})"
    return (
        f"its pickle does what no Demucs package does ({type(error).__name__}: {text.splitlines()[-1] if text else ''})"
    )


def _read_safetensors(path: Path, *, weights: bool = True) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in sorted(file.keys())} if weights else {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or no safetensors file: {error}") from error
    if "klass" not in metadata:
        return state
    try:
        args, kwargs = (_from_json(json.loads(metadata[name])) for name in ("args", "kwargs"))
    except (ValueError, KeyError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"{path} has arguments that cannot be read: {error!r}") from error
    if "structure" in metadata and weights:
        state = diffq.from_structure(metadata["structure"], state, origin=str(path))
    return {"klass": ClassName(metadata["klass"]), "args": args, "kwargs": kwargs, "state": state}


def _write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}"
    temporary.write_bytes(content)
    return temporary.replace(folder / name)


def _fraction(numerator: Any, denominator: Any = 1) -> Fraction:
    """A fraction of sane size; Python before 3.11 pickles it as text, later ones as two numbers."""
    text = numerator if isinstance(numerator, str) else f"{numerator!r}/{denominator!r}"
    if not re.fullmatch(r"\d{1,15}(/\d{1,15})?", text):
        raise ModelError(f"{text[:50]!r} is no fraction")
    return Fraction(text)


def _to_json(value: Any) -> Any:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    return {name: _to_json(item) for name, item in value.items()} if isinstance(value, dict) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("_type") == "fraction":
            return _fraction(value.get("numerator"), value.get("denominator"))
        return {name: _from_json(item) for name, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


class _NamingPickler(pickle._Pickler):
    """Writes a `ClassName` as a reference to that class, which need not be installed here."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, ClassName):
            module, _, name = obj.path.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())  # type: ignore[attr-defined]
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]


_NAMING_PICKLE = SimpleNamespace(Pickler=_NamingPickler, __name__="pickle")
