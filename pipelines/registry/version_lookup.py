"""Registered versions: what an address means, and the checkpoint behind it, checked against what was registered."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import disk_errors
from datasets.store.ownership import claim_store
from datasets.store.scratch import hold, scratch
from pipelines.registry.bundle import checkpoint_digest
from pipelines.registry.connection import address, connected, is_new, own_database
from pipelines.registry.database.moved_artifacts import local_folder
from pipelines.registry.find_or_create import (
    CHAMPION,
    aliases,
    model_names,
    model_versions,
    registered,
    version_or_none,
)
from pipelines.runs.stored_model import on_this_machine

if TYPE_CHECKING:
    from mlflow import MlflowClient
# Bags that Demucs' authors published, by the names that their command line takes
PUBLISHED = (
    "htdemucs", "htdemucs_ft", "htdemucs_6s", "hdemucs_mmi", "mdx", "mdx_extra", "mdx_q", "mdx_extra_q", "repro_mdx_a",
)  # fmt: skip
PUBLISHED_HINT = (
    ". This is the name of a published model; nothing is downloaded here: docs/how-to/use-published-weights.md says "
    "where its files come from, then give the path of NAME.yaml"
)
MAX_NAMED = 20  # models or versions in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """The address of a registered version; `alias` is empty unless it is the champion."""

    name: str
    version: str
    run_id: str
    run_key: str
    digest: str  # of the checkpoint's files
    alias: str = ""
    dataset_uri: str = ""  # the manifest of the songs that it learned from; empty where that was not told

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def version_of(raw_version: Any, present: Mapping[str, str]) -> ModelVersion:
    """A version as MLflow gave it, with the model's aliases."""
    version = str(raw_version.version)  # an int from SQLite, a string from a server
    return ModelVersion(
        name=raw_version.name,
        version=version,
        run_id=str(raw_version.run_id),
        run_key=raw_version.tags.get("run_key", ""),
        digest=raw_version.tags.get("checkpoint_digest", ""),
        alias=CHAMPION if present.get(CHAMPION) == version else "",
        dataset_uri=raw_version.tags.get("dataset_uri", ""),
    )


def look_up(client: "MlflowClient", ref: str) -> tuple[ModelVersion, Any]:
    """The version of an address, and the same as MLflow gives it; InputError that says what there is."""
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))", ref)
    if match is None:
        raise InputError(f"{ref!r} is no model reference: write models:/NAME@alias or models:/NAME/VERSION")
    name = match["name"]
    if registered(client, name) is None:
        have = _some(model_names(client)) or "none yet: `stemline demo` or `stemline run` makes the first"
        raise InputError(f"{ref}: no registered model {name!r}; there are: {have}")
    present = aliases(client, name)
    wanted = present.get(match["alias"]) if match["alias"] else match["version"]
    raw_version = version_or_none(client, name, wanted) if wanted else None
    if raw_version is None:
        named = ", ".join(f"@{alias} (version {version})" for alias, version in sorted(present.items()))
        numbers = _some([str(version.version) for version in model_versions(client, name)])
        raise InputError(f"{ref} does not exist; {name} has {named or 'no alias'} and versions {numbers or 'none'}")
    model_version = version_of(raw_version, present)
    if not model_version.digest:
        raise InputError(f"{ref} was not registered by stemline: it has no tag checkpoint_digest")
    return model_version, raw_version


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[-MAX_NAMED:]) + more


def resolve(ref: str, *, store: str) -> Path:
    """The checkpoint folder or file behind `models:/NAME@alias`, `models:/NAME/3`, a path, or an address in S3."""
    if ref.startswith("models:"):
        return fetch(ref, store=store)
    if storage.is_remote(ref):
        return on_this_machine(ref)
    path = Path(ref)
    if path.is_dir():
        checkpoint_digest(path)  # says what is missing if this is no checkpoint
    elif not path.is_file():
        hint = PUBLISHED_HINT if path.stem in PUBLISHED else ""
        raise InputError(
            f"model {ref!r} not found: give models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a file"
            + hint
        )
    return path


def require_books(what: str, store: str) -> None:
    """InputError where nothing was ever registered in a store."""
    if is_new(store):
        raise InputError(f"{what}: no model is registered in {store} yet; `stemline demo` or `stemline run` makes one")


def fetch(ref: str, *, store: str) -> Path:
    """The checkpoint folder of a registered version, on this machine, its files checked against the registry."""
    require_books(ref, store)
    with connected(store) as client:
        version, _ = look_up(client, ref)
        home = client.get_model_version_download_uri(version.name, version.version).rstrip("/")
        inside = f"{home}/artifacts/checkpoint"
        if urlsplit(home).scheme in ("", "file"):
            folder = local_folder(inside, store)
            if not folder.is_dir():
                raise InputError(f"the files of {ref} are gone from {folder}: register the checkpoint again")
            return _intact(folder, version)
        cached = hold(scratch(store).resolve() / "cache" / "models" / version.digest[:16])
        if not _is_whole(cached, version):
            if not storage.is_remote(store) and not own_database(store).exists():
                claim_store(scratch(store), setting="store.root")  # it may be a new folder: the books are elsewhere
            shutil.rmtree(cached, ignore_errors=True)
            _download(inside, cached, version, uri=address(store))
        return cached


def _is_whole(copy: Path, version: ModelVersion) -> bool:
    """Whether a copy on this machine is what was registered; one that is not can be fetched again."""
    try:
        return checkpoint_digest(copy) == version.digest
    except InputError:
        return False


def _intact(folder: Path, version: ModelVersion) -> Path:
    seen = checkpoint_digest(folder)
    if seen != version.digest:
        raise InputError(
            f"{version.uri} was changed after it was registered: the files in {folder} have digest {seen[:16]}, the "
            f"registry says {version.digest[:16]}; register the checkpoint again"
        )
    return folder


def _download(inside: str, target: Path, version: ModelVersion, *, uri: str) -> None:
    """Copy the version's checkpoint from the artifact store to `target`, whole and checked, or not at all."""
    import mlflow

    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        disk_errors(target.parent),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder,
    ):
        try:
            copied = mlflow.artifacts.download_artifacts(artifact_uri=inside, dst_path=folder, tracking_uri=uri)
        except Exception as error:  # MLflow tells of a full disk in the text alone
            if os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        _intact(Path(copied), version).replace(target)


def digest_of(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
