"""A network built for a table of weights by name, and filled with it; what does not fit is refused and named."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..networks import catalog

LISTED = 8  # differing tensors named in a message
MAX_WEIGHTS_PER_BYTE = 8  # of a file: DiffQ stores weights of one bit
MIN_LAYER_BYTES = 64  # of a file, which names a layer's tensors, or says where they are
ARCHIVE = b"PK\x03\x04"  # by which torch knows one


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


def build_for(config: Mapping[str, Any], state: Mapping[str, Tensor], *, origin: str) -> nn.Module:
    """A network of the configuration that is to have this state; one far larger is not built, whoever asks for it."""
    with _refusing(origin):
        _require_room(config, num_layers=len(state), num_weights=sum(value.numel() for value in state.values()))
        return catalog.from_config(config)


def loaded_bytes(config: Mapping[str, Any], *, file_bytes: int, origin: str) -> int:
    """Bytes of the network of a configuration, built without memory; ModelError for more than such a file holds."""
    with _refusing(origin):
        num_weights = MAX_WEIGHTS_PER_BYTE * file_bytes
        _require_room(config, num_layers=file_bytes // MIN_LAYER_BYTES, num_weights=num_weights)
        network = _without_memory(config)
        _require(_count(network) <= num_weights)
        return num_bytes(network)


def num_bytes(model: nn.Module) -> int:
    """Bytes of a network in memory."""
    return sum(value.nbytes for value in model.state_dict().values())


def _require_room(config: Mapping[str, Any], *, num_layers: int, num_weights: int) -> None:
    """ModelError for a network with more layers or weights than these, as far as its configuration says.

    A plug-in's says nothing: its weights are counted without memory.
    """
    described = catalog.read_config(config)
    if catalog.plugin_of(described) is not None:
        _require(_count(_without_memory(config)) <= num_weights)
        return
    least_layers, least_weights = described.least_size
    _require(least_layers <= num_layers and least_weights <= num_weights)


def _require(has_room: bool) -> None:
    if not has_room:
        raise ModelError("it belongs to another configuration: to a larger network than its weights can fill")


def _without_memory(config: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return catalog.from_config(config)


def _count(network: nn.Module) -> int:
    return sum(value.numel() for value in network.state_dict().values())


@contextmanager
def _refusing(origin: str) -> Iterator[None]:
    """Errors of a configuration and of building by it, as ModelErrors with the name of the file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from None
    except (RuntimeError, ArithmeticError, ValueError, TypeError, MemoryError) as error:
        raise ModelError(f"{origin} describes a network that cannot be built: {str(error)[:200]}") from error


def plain_tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """The weights of a stranger's file in float32, sure to be finite tensors by name."""
    table = isinstance(state, Mapping)
    if not table or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise ModelError(f"{path} has no table of weights by name")
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
            raise ModelError(f"{path} has weights that are no plain numbers, in {name}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # a small file would ask for much
            raise ModelError(f"{path} has weights that are fewer numbers than their shape says, in {name}")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    sizes = {(storage := value.untyped_storage()).data_ptr(): storage.nbytes() for value in state.values()}
    distinct = sum(sizes.values())
    if claimed > 2 * distinct:  # a few layers may share weights; where many do, a small file would ask for much
        raise ModelError(f"{path} was altered: of {claimed} bytes of weights only {distinct} differ from each other")
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{path} has weights that are not finite, in {name}")
    return {name: value.float() for name, value in state.items()}


def refuse_compressed(path: Path) -> None:
    """ModelError for a torch archive with more in its entries than in the file: it could fill the memory when read.

    torch stores tensors as they are; entries that are compressed, or lie on each other, are somebody else's. What
    torch takes for an archive and Python cannot list is refused too, since nobody knows what it unpacks to.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(len(ARCHIVE))
    except OSError:
        return  # its reader says so
    if begin != ARCHIVE:
        return  # an older file, or none of torch's
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a hostile archive can make its reader fail in any way
        raise ModelError(f"{path} is refused: it is truncated or no torch file ({error})") from error
    unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > packed or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelError(
            f"{path} is refused: its archive of {packed} bytes unpacks to {unpacked}, and torch compresses nothing; "
            "save the weights anew with torch.save"
        )
