"""Log a run, register a version, promote it, fetch it back: the only MLflow code.

Without MLFLOW_TRACKING_URI everything lies in the store: `mlflow.db` (SQLite) and `mlartifacts/`. One MLflow run
and one version exist per run key and checkpoint, however often a job is run again. Read `register` first, then
`bundle.py` for what a version is made of.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from datasets.errors import InputError
from datasets.schema import ShardSet
from pipelines.registry import record
from pipelines.registry.bundle import checkpoint_digest
from pipelines.registry.ledger import (
    CANDIDATE,
    CHAMPION,
    Promotion,
    entries,
    line_of_champions,
    move,
    require_untouched,
)
from pipelines.registry.reach import check_address, without_password
from pipelines.registry.record import flatten, requirements

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "CHAMPION",
    "Candidate",
    "Lineage",
    "ModelVersion",
    "Promotion",
    "RegistryConfig",
    "address",
    "attach",
    "champion",
    "decision_of",
    "digest_of",
    "fetch",
    "flatten",
    "history",
    "lineage",
    "promote",
    "register",
    "requirements",
    "resolve",
    "rollback",
    "versions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Names under which versions are kept."""

    name: str = "stemline"  # of the registered model: consumers load models:/NAME@champion
    experiment: str = "stemline"  # where MLflow shows the runs
    artifacts: str = (
        ""  # where a new experiment keeps files: s3://BUCKET/FOLDER; empty: the server's choice, or the store
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(f"registry.name={self.name!r}: use letters, digits, dot, dash and underscore only")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trained and scored checkpoint, with everything that should be told about it."""

    run_key: str
    checkpoint: str  # folder
    dataset: ShardSet  # the chunks that it learned from
    config: Mapping[str, Any]  # resolved; nested tables become dotted parameters
    history: Sequence[Mapping[str, Any]] = ()  # points with a "step"; numbers nest as in {"valid_nsdr": {"raw": 5.1}}
    scores: Mapping[str, float] = field(default_factory=dict)  # such as {"test/nsdr/drums": 5.1}, in dB
    lineage: Mapping[str, str] = field(default_factory=dict)  # digests, commit, counts: tags of run and version
    documents: Mapping[str, str] = field(default_factory=dict)  # file name -> text, kept with the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a version was made from, and what was decided about it."""

    version: ModelVersion
    settings: Mapping[str, str]  # by dotted name
    tags: Mapping[str, str]  # digests, commit, protocol
    decision: Mapping[str, Any] | None
    promotions: tuple[Promotion, ...]  # of this version, the oldest first


def address(store: str) -> str:
    """Where MLflow keeps its books: MLFLOW_TRACKING_URI, or a SQLite file in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(store).resolve() / 'mlflow.db'}"


def register(config: RegistryConfig, candidate: Candidate, *, store: str) -> ModelVersion:
    """Log the run and register the checkpoint; found again by run key and digest, so a rerun adds nothing."""
    from pipelines.registry import known as registries

    digest = checkpoint_digest(Path(candidate.checkpoint))
    registries.note(store)
    with _books(store) as client:
        known = _find(client, config, run_key=candidate.run_key, digest=digest)
        if known is not None:
            return known
        run_id = open_run(client, config, candidate.run_key, store=store)
        record.log_run(client, run_id, candidate)
        model_id = record.log_model(client, run_id, candidate)
        record.log_scores(client, run_id, candidate, model_id=model_id)
        _ensure_registered(client, config.name)
        tags = {"run_key": candidate.run_key, "checkpoint_digest": digest, **candidate.lineage}
        # The tags arrive together with the version: a version without its digest never exists.
        made = client.create_model_version(
            config.name, f"models:/{model_id}", run_id=run_id, tags=tags, model_id=model_id
        )
        client.set_terminated(run_id)
        client.set_registered_model_alias(config.name, CANDIDATE, made.version)
        return _version(client, made)


def promote(version: ModelVersion, decision: Mapping[str, Any], *, store: str) -> ModelVersion:
    """Keep the gate's decision with the version, and make it the champion only if it says "promote".

    The decision document must hold "promote" (bool) and "reason" (str), and "champion_digest", the weights that it
    was compared with, where there were some: InputError if the champion is another by now. The first decision of the
    present champion stays: comparing it with itself says nothing new.
    """
    with _books(store) as client:
        made, aliases = client.get_model_version(version.name, version.version), _aliases(client, version.name)
        done = entries(client, version.name, aliases)
        if version.alias == CHAMPION and "decision" in made.tags:
            return version
        promoted = bool(decision["promote"])
        text = json.dumps(_plain(decision), indent=2, sort_keys=True)
        client.log_text(version.run_id, text, f"decisions/version-{version.version}.json")
        client.set_model_version_tag(version.name, version.version, "decision", text)
        if promoted:
            require_untouched(done, aliases, version.name)
            _require_compared(client, version.name, aliases, decision)
            why, before = str(decision["reason"]), aliases.get(CHAMPION, "")
            move(client, version.name, made, kind="promotion", reason=why, aliases=aliases, previous=before)
        client.set_model_version_tag(version.name, version.version, "promoted", "yes" if promoted else "no")
        return replace(version, alias=CHAMPION) if promoted else version


def _require_compared(
    client: "MlflowClient", name: str, aliases: Mapping[str, str], decision: Mapping[str, Any]
) -> None:
    """InputError when the champion is not the one that the decision is about."""
    present = aliases.get(CHAMPION)
    weights = client.get_model_version(name, present).tags.get("weights_digest", "") if present else ""
    if weights and weights != decision.get("champion_digest", weights):
        raise InputError(
            f"version {present} became the champion of {name} after the gate had compared: run the same command again, "
            "and the candidate is compared with it"
        )


def _plain(value: Any) -> Any:
    """The same for JSON, which has no infinity."""
    if isinstance(value, Mapping):
        return {name: _plain(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def history(config: RegistryConfig, *, store: str) -> list[Promotion]:
    """Every promotion and rollback, the oldest first."""
    if _is_new(store):
        return []
    with _books(store) as client:
        return entries(client, config.name, _aliases(client, config.name))


def versions(config: RegistryConfig, *, store: str) -> list[ModelVersion]:
    """Every registered version, the oldest first."""
    if _is_new(store):
        return []
    with _books(store) as client:
        found = client.search_model_versions(f"name = '{config.name}'", max_results=10_000)
        return [_version(client, made) for made in sorted(found, key=lambda made: int(made.version))]


def lineage(ref: str, *, store: str) -> Lineage:
    """Everything that the registry knows about where a version comes from."""
    if _is_new(store):
        raise InputError(f"{ref}: no model is registered in {store} yet; `stemline demo` or `stemline run` makes one")
    with _books(store) as client:
        version = _look_up(client, ref)
        tags = dict(client.get_model_version(version.name, version.version).tags)
        decision = tags.pop("decision", None)
        done = entries(client, version.name, _aliases(client, version.name))
        return Lineage(
            version=version,
            settings=dict(client.get_run(version.run_id).data.params),
            tags=tags,
            decision=json.loads(decision) if decision else None,
            promotions=tuple(entry for entry in done if entry.version == version.version),
        )


def attach(ref: str, file: Path, *, store: str) -> str:
    """The address of a file that is now kept with a version, such as its graph; a tag names it and its digest."""
    with _books(store) as client:
        version = _look_up(client, ref)
        folder = f"exports/version-{version.version}"
        client.log_artifact(version.run_id, str(file), folder)
        kept = f"{client.get_run(version.run_id).info.artifact_uri}/{folder}/{file.name}"
        told = f"{kept} sha256:{digest_of(file)}"
        client.set_model_version_tag(version.name, version.version, f"export.{file.name}", told)
    return kept


def digest_of(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def rollback(config: RegistryConfig, *, store: str, to: str | None = None) -> Promotion:
    """Make an earlier version the champion again, by default the one before the present; its files are checked first.

    Repeated, it goes back further. InputError where there is nothing to go back to.
    """
    if _is_new(store):
        raise InputError(f"no model is registered in {store} yet: there is nothing to roll back")
    with _books(store) as client:
        aliases = _aliases(client, config.name)
        done, present = entries(client, config.name, aliases), aliases.get(CHAMPION, "")
        line = line_of_champions(done)
        if to is None:
            require_untouched(done, aliases, config.name)
            if len(line) < 2:
                raise InputError(f"{config.name} had no champion before the present one; rollback --to N takes any")
        target = to or line[-2]
        if target == present and line[-1:] == [target]:
            raise InputError(f"version {target} of {config.name} is the champion already")
        version = _look_up(client, f"models:/{config.name}/{target}")
    fetch(version.uri, store=store)
    with _books(store) as client:
        made = client.get_model_version(config.name, target)
        before = line[: line.index(target)] if target in line else [item for item in line if item != target]
        why, previous = f"rolled back from version {present or 'none'}", before[-1] if before else ""
        return move(client, config.name, made, kind="rollback", reason=why, aliases=aliases, previous=previous)


def decision_of(version: ModelVersion, *, store: str) -> dict[str, Any] | None:
    """The decision kept with a version, or None if the gate has not seen it yet."""
    with _books(store) as client:
        text = client.get_model_version(version.name, version.version).tags.get("decision")
    return json.loads(text) if text else None


def champion(config: RegistryConfig, *, store: str) -> ModelVersion | None:
    """The version behind the alias that consumers load, or None before the first promotion."""
    if _is_new(store):
        return None
    with _books(store) as client:
        aliases = _aliases(client, config.name)
        if CHAMPION not in aliases:
            require_untouched(entries(client, config.name, aliases), aliases, config.name)
            return None
        return _version(client, client.get_model_version(config.name, aliases[CHAMPION]))


def resolve(ref: str, *, store: str) -> Path:
    """The checkpoint folder or file behind `models:/NAME@alias`, `models:/NAME/3`, or a local path."""
    if ref.startswith("models:"):
        return fetch(ref, store=store)
    path = Path(ref)
    if path.is_dir():
        checkpoint_digest(path)  # says what is missing if this is no checkpoint
    elif not path.is_file():
        raise InputError(
            f"model {ref!r} not found: give models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a file"
        )
    return path


def fetch(ref: str, *, store: str) -> Path:
    """The checkpoint folder of a registered version, on this machine, its files checked against the registry."""
    if _is_new(store):
        raise InputError(f"{ref}: no model is registered in {store} yet; `stemline demo` or `stemline run` makes one")
    with _books(store) as client:
        version = _look_up(client, ref)
        home = client.get_model_version_download_uri(version.name, version.version).rstrip("/")
        inside = f"{home}/artifacts/checkpoint"
        if urlsplit(home).scheme in ("", "file"):
            folder = Path(url2pathname(urlsplit(inside).path))
            if not folder.is_dir():
                raise InputError(f"the files of {ref} are gone from {folder}: register the checkpoint again")
            return _intact(folder, version)
        cached = Path(store).resolve() / "cache" / "models" / version.digest[:16]
        if not _is_whole(cached, version):
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


def _is_new(store: str) -> bool:
    """Whether the store keeps its own books and has none yet; reading should not start them."""
    return not os.environ.get("MLFLOW_TRACKING_URI") and not (Path(store) / "mlflow.db").exists()


@contextmanager
def _books(store: str) -> Iterator["MlflowClient"]:
    """A client of the registry, with MLflow's global address set meanwhile and put back afterwards."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is first imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # our own bars are drawn elsewhere
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = address(store)
    check_address(uri)

    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it tells of every table, and of errors that it raises too
    try:
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        if not _is_of_servers(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"MLflow at {without_password(uri)} refused, or went away: {said}; when it answers, the same command "
            "goes on"
        ) from error
    finally:
        # MLflow writes its address into the environment, where every later job would take it for the user's.
        if given is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        else:
            os.environ["MLFLOW_TRACKING_URI"] = given


def _is_of_servers(error: Exception) -> bool:
    """Whether MLflow, its database or its object store raised it; the last two are known by their packages alone."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(packages & {"mlflow", "sqlalchemy", "boto3", "botocore"})


def open_run(client: "MlflowClient", config: RegistryConfig, run_key: str, *, store: str) -> str:
    """The run tagged with this key, made if there is none; it is RUNNING until `register` has finished."""
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        experiment_id = client.create_experiment(config.experiment, artifact_location=_artifacts(config, store))
    else:
        experiment_id = experiment.experiment_id
    found = client.search_runs([experiment_id], filter_string=f"tags.run_key = '{run_key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, run_name=run_key, tags={"run_key": run_key})
    return str(run.info.run_id)


def _artifacts(config: RegistryConfig, store: str) -> str | None:
    """Where the files of a new experiment go; None leaves it to the server."""
    if config.artifacts or address(store).startswith("http"):
        return config.artifacts or None
    folder = Path(store).resolve() / "mlartifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.as_uri()


def _ensure_registered(client: "MlflowClient", name: str) -> None:
    if name not in _names(client):
        client.create_registered_model(name, description="Whole songs in, their stems out.")


def _names(client: "MlflowClient") -> list[str]:
    return sorted(model.name for model in client.search_registered_models(max_results=1000))


def _aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """Alias -> version of a registered model; empty if there is no such model."""
    if name not in _names(client):
        return {}
    # Searching versions leaves their aliases empty; the registered model knows them.
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _find(client: "MlflowClient", config: RegistryConfig, *, run_key: str, digest: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{config.name}' and tags.run_key = '{run_key}'")
    same = [made for made in found if made.tags.get("checkpoint_digest") == digest]
    return _version(client, min(same, key=lambda made: int(made.version))) if same else None


def _version(client: "MlflowClient", made: Any) -> ModelVersion:
    version = str(made.version)  # an int from SQLite, a string from a server
    is_champion = _aliases(client, made.name).get(CHAMPION) == version
    return ModelVersion(
        name=made.name,
        version=version,
        run_id=str(made.run_id),
        run_key=made.tags.get("run_key", ""),
        digest=made.tags.get("checkpoint_digest", ""),
        alias=CHAMPION if is_champion else "",
        dataset_uri=made.tags.get("dataset_uri", ""),
    )


def _look_up(client: "MlflowClient", ref: str) -> ModelVersion:
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))", ref)
    if match is None:
        raise InputError(f"{ref!r} is no model reference: write models:/NAME@alias or models:/NAME/VERSION")
    name, names = match["name"], _names(client)
    if name not in names:
        have = ", ".join(names) or "none yet: `stemline demo` or `stemline run` makes the first"
        raise InputError(f"{ref}: no registered model {name!r}; there are: {have}")
    aliases = _aliases(client, name)
    versions = {str(made.version): made for made in client.search_model_versions(f"name = '{name}'")}
    wanted = aliases.get(match["alias"]) if match["alias"] else match["version"]
    if wanted not in versions:
        named = ", ".join(f"@{alias} (version {version})" for alias, version in sorted(aliases.items()))
        numbers = ", ".join(sorted(versions, key=int))
        raise InputError(f"{ref} does not exist; {name} has {named or 'no alias'} and versions {numbers or 'none'}")
    found = _version(client, versions[wanted])
    if not found.digest:
        raise InputError(f"{ref} was not registered by stemline: it has no tag checkpoint_digest")
    return found


def _download(inside: str, target: Path, version: ModelVersion, *, uri: str) -> None:
    """Copy the version's checkpoint from the artifact store to `target`, whole and checked, or not at all."""
    import mlflow

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
        copied = mlflow.artifacts.download_artifacts(artifact_uri=inside, dst_path=scratch, tracking_uri=uri)
        _intact(Path(copied), version).replace(target)
