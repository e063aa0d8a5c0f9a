"""What a model is, whatever it is stored as and wherever it lies: the one answer to "are these two the same?".

Scores, stems, pages and registered versions are kept under the digest. It is the SHA-256 of the file of weights where
that says all (a checkpoint, a package); where more than one file decides it is one over all that does: the members of
a bag, what each counts for, their segment. Files are read at every call, so one that has changed is another model.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ModelError, check_audio
from ..networks import catalog
from ..networks.bag import check_weights
from ..networks.input_normalization import Normalization
from . import bag_file, state_dict
from .checkpoint import WEIGHTS, check_digest, read_config
from .demucs import demucs_packages
from .loading import ModelKind, kind_of
from .msst import msst_checkpoints
from .weights_file import sha256_of, stored_config

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Identity, size and interface of a model that need not be loaded."""

    digest: str  # 64 hex digits; equal for equal models
    size_bytes: int  # of the files of weights, every member of a bag counted
    sources: tuple[str, ...]  # in the order of the estimates
    sample_rate: int  # Hz
    audio_channels: int
    normalize: Normalization  # the level at which it hears, see `input_normalization.py`
    origins: tuple[str, ...]  # where it came from: a registered version's address, then files
    learned: tuple[str, ...] = ()  # digests of the weights that training made: of a bag's members, before rounding

    @property
    def interface_key(self) -> tuple[tuple[str, ...], int, int, Normalization]:
        """What models must have in common to answer the same mixture together."""
        return self.sources, self.sample_rate, self.audio_channels, self.normalize


def describe(path: str | Path) -> ModelRef:
    """What lies at `path`: a checkpoint folder, a .safetensors, .th or .ckpt file, or a bag's .yaml file.

    Weights are digested and not loaded, and nothing of a pickle is called. ModelError where there is no model, or one
    that its own checksums call altered.
    """
    path = Path(path).absolute()
    try:
        return _describe(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def loaded_bytes(path: str | Path) -> int:
    """Bytes of the weights at `path` once they are loaded, all members of a bag together; nothing is loaded for it.

    The configuration says how many weights there are: files hold them in half precision, or in a few bits each.
    ModelError for more of them than the file could hold.
    """
    path = Path(path).absolute()
    kind = kind_of(path)
    if kind is ModelKind.BAG:
        return sum(map(loaded_bytes, bag_file.read(path).members))
    file = path / WEIGHTS if kind is ModelKind.CHECKPOINT else path
    return state_dict.loaded_bytes(_config_of(path, kind), file_bytes=file.stat().st_size, origin=str(path))


def _config_of(path: Path, kind: ModelKind) -> Mapping[str, Any]:
    """The configuration of one network, from the headers of its files."""
    if kind is ModelKind.CHECKPOINT:
        described: dict[str, Any] = read_config(path)["model"]
        return described
    if kind is ModelKind.MSST:
        return msst_checkpoints.checkpoint_config(path)
    if kind is ModelKind.PACKAGE:
        return demucs_packages.package_config(path)
    config = stored_config(path)
    assert config is not None
    return config


def _describe(path: Path) -> ModelRef:
    kind = kind_of(path)
    if kind is ModelKind.CHECKPOINT:
        return _of_folder(path)
    if kind is ModelKind.BAG:
        return _of_bag(path)
    if kind is ModelKind.MSST:
        return _of_msst_checkpoint(path)
    return _of_weights(path) if kind is ModelKind.WEIGHTS else _of_package(path)


def _of_folder(folder: Path) -> ModelRef:
    described, weights = read_config(folder), folder / WEIGHTS
    digest = check_digest(weights, described["weights_sha256"])
    model = described["model"]
    if (
        stored_config(weights) != model
    ):  # `config.json` says what is built, and the weights' own digest knows nothing of it
        digest = _digest_over(weights=digest, model=model)
    described_ref = _ref(model, digest=digest, files=[weights], origins=[folder])
    rounded_from = str(described.get("extra", {}).get("rounded_from"))
    return replace(described_ref, learned=(rounded_from,)) if _DIGEST.fullmatch(rounded_from) else described_ref


def _of_weights(path: Path) -> ModelRef:
    return _ref(_config_of(path, ModelKind.WEIGHTS), digest=sha256_of(path), files=[path], origins=[path])


def _of_package(path: Path) -> ModelRef:
    config, digest = _config_of(path, ModelKind.PACKAGE), sha256_of(path)
    demucs_packages.verify_checksum(path, digest)
    return _ref(config, digest=digest, files=[path], origins=[path])


def _of_msst_checkpoint(path: Path) -> ModelRef:
    config = _config_of(path, ModelKind.MSST)
    # The weights' own digest knows nothing of the YAML, which says what is built.
    digest = _digest_over(weights=sha256_of(path), model=config)
    return _ref(config, digest=digest, files=[path], origins=[path, msst_checkpoints.yaml_beside(path)])


def _of_bag(path: Path) -> ModelRef:
    bag = bag_file.read(path)
    by_file = {file: _describe(file) for file in dict.fromkeys(bag.members)}
    members = [by_file[file] for file in bag.members]
    interfaces = {member.interface_key for member in members}
    if len(interfaces) > 1:
        shared = "sources, sample rate, channels and normalization"
        raise ModelError(f"{path}: the models of a bag must share {shared}, got {sorted(interfaces)}")
    sources, sample_rate, audio_channels, normalize = members[0].interface_key
    weights = bag.weights or ((1.0,) * len(sources),) * len(members)
    try:
        weights = check_weights(weights, num_models=len(members), num_sources=len(sources))
        if bag.segment_s is not None:
            check_audio(sources, sample_rate, bag.segment_s)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    digest = _digest_over(
        members=[member.digest for member in members], weights=weights, segment_s=bag.segment_s,
        sources=sources, sample_rate=sample_rate, audio_channels=audio_channels, normalize=normalize,
    )  # fmt: skip
    return ModelRef(
        digest=digest,
        size_bytes=sum(member.size_bytes for member in members),
        sources=sources,
        sample_rate=sample_rate,
        audio_channels=audio_channels,
        normalize=normalize,
        origins=(str(path), *map(str, by_file)),
        learned=tuple(dict.fromkeys(digest for member in members for digest in member.learned)),
    )


def _ref(model: Mapping[str, Any], *, digest: str, files: list[Path], origins: list[Path]) -> ModelRef:
    try:
        config = catalog.read_config(model)
    except ModelError as error:
        raise ModelError(f"{origins[0]}: {error}") from None
    plugin = catalog.plugin_of(config)
    if plugin is not None:  # the same weights are another model where the code of their network has changed
        digest = _digest_over(weights=digest, source=plugin.source)
    return ModelRef(
        digest=digest,
        size_bytes=sum(file.stat().st_size for file in files),
        sources=tuple(config.sources),
        sample_rate=config.sample_rate,
        audio_channels=config.audio_channels,
        normalize=config.normalize,
        origins=tuple(map(str, origins)),
        learned=(digest,),
    )


def _digest_over(**facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
