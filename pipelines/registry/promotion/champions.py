"""Which version is the champion: promoted by the gate, by name, or by a rollback; each is an entry of the log."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from pipelines.registry.connection import RegistryConfig, connected, is_new
from pipelines.registry.entities import CHAMPION, aliases
from pipelines.registry.promotion import decisions, promotion_log
from pipelines.registry.promotion.promotion_log import Promotion, Snapshot
from pipelines.registry.version_lookup import ModelVersion, fetch, look_up, version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def promote(
    version: ModelVersion, decision: Mapping[str, Any], *, store: str, rules: Mapping[str, Any] | None = None
) -> ModelVersion:
    """Keep the gate's decision with the version, and make it the champion only if it says "promote".

    The decision document must hold "promote" (bool) and "reason" (str), and "champion_digest", the weights that it
    was compared with, where there were some: InputError if the champion is another by now. What was rolled back from
    is not promoted, whatever the decision says: it is kept as a no. What is the champion already stays so, and a
    decision about it is not kept: comparing it with itself says nothing new. `rules` are kept beside the decision.
    """
    with connected(store) as client:
        seen = promotion_log.snapshot(client, version.name)
        made = client.get_model_version(version.name, version.version)
        if seen.champion == version.version and _is_settled(seen, made):
            promotion_log.finish(client, seen, None, version.version)
            return replace(version, alias=CHAMPION)
        why = _why_not(client, seen, version.version, made.tags) if decision["promote"] else ""
        told = {**decision, "promote": False, "reason": why} if why else decision
        key = decisions.keep(client, made, told, rules)
        if not told["promote"]:
            decisions.tell(client, made, promoted=False)
            return replace(version, alias="") if seen.champion != version.version else version
        promotion_log.require_untouched(seen)
        _require_compared(client, seen, told)
        promotion_log.move(client, seen, made, kind="promotion", reason=str(told["reason"]), decision=key)
        return replace(version, alias=CHAMPION)


def _is_settled(seen: Snapshot, made: Any) -> bool:
    """Whether the champion became that by an act of ours, or was decided on before there was a log."""
    done = seen.done
    return done[-1].version == seen.champion if done else bool(decisions.notes(made))


def _require_compared(client: "MlflowClient", seen: Snapshot, decision: Mapping[str, Any]) -> None:
    """InputError when the champion is not the one that the decision is about."""
    present = seen.champion
    weights = client.get_model_version(seen.name, present).tags.get("weights_digest", "") if present else ""
    if weights and weights != decision.get("champion_digest", weights):
        raise InputError(
            f"version {present} became the champion of {seen.name} after the gate had compared: run the same command "
            "again, and the candidate is compared with it"
        )


def rolled_back(config: RegistryConfig, tags: Mapping[str, str], *, store: str) -> str:
    """Why a model with such digests ("checkpoint_digest", "weights_digest") is not promoted by a gate: it was rolled
    back from. Empty where it was not.
    """
    if is_new(store):
        return ""
    with connected(store) as client:
        seen = promotion_log.snapshot(client, config.name)
        return _why_not(client, seen, "", tags)


def _why_not(client: "MlflowClient", seen: Snapshot, version: str, tags: Mapping[str, str]) -> str:
    found = promotion_log.rolled_back_as(client, seen, version, tags)
    if found is None:
        return ""
    number, entry = found
    return (
        f"Version {number} was rolled back from on {entry.at[:16].replace('T', ' ')} UTC, to version {entry.version}, "
        f"and is not promoted again by itself; `stemline promote --version {version or number} --force --reason TEXT` "
        "does it by name."
    )


def promote_by_name(
    config: RegistryConfig, version: str, decision: Mapping[str, Any], *, store: str
) -> tuple[ModelVersion, Promotion]:
    """Make a version the champion past the gate, since a person says so; its files are checked first.

    The decision document holds "promote" and "reason" as for `promote`. InputError where there is no such version, or
    where it is the champion already.
    """
    if is_new(store):
        raise InputError(f"no model is registered in {store} yet: there is nothing to promote")
    ref = f"models:/{config.name}/{version}"
    fetch(ref, store=store)
    with connected(store) as client:
        found, made = look_up(client, ref)
        seen = promotion_log.snapshot(client, config.name)
        if seen.champion:  # where there is none any more, this says which it is
            promotion_log.require_untouched(seen)
        entry = promotion_log.finish(client, seen, "forced", version)
        if entry is None:
            if seen.champion == version:
                raise InputError(f"version {version} of {config.name} is the champion already")
            key = decisions.keep(client, made, decision)
            entry = promotion_log.move(client, seen, made, kind="forced", reason=str(decision["reason"]), decision=key)
        return replace(found, alias=CHAMPION), entry


def rollback(config: RegistryConfig, *, store: str, to: str | None = None) -> Promotion:
    """Make an earlier version the champion again, by default the one before the present; its files are checked first.

    Repeated, it goes back further. InputError where there is nothing to go back to, or where `to` was never champion.
    """
    if is_new(store):
        raise InputError(f"no model is registered in {store} yet: there is nothing to roll back")
    with connected(store) as client:
        seen = promotion_log.snapshot(client, config.name)
        if begun := promotion_log.finish(client, seen, "rollback", to or ""):
            return begun
        line = promotion_log.line_of_champions(seen.done)
        if to is None:
            promotion_log.require_untouched(seen)
            if len(line) < 2:
                raise InputError(f"{config.name} had no champion before the present one; rollback --to N takes any")
        target = to or line[-2]
        if target == seen.champion and line[-1:] == [target]:
            raise InputError(f"version {target} of {config.name} is the champion already")
        version, made = look_up(client, f"models:/{config.name}/{target}")
        _require_champion_once(client, seen, made)
    fetch(version.uri, store=store)
    with connected(store) as client:
        made = client.get_model_version(config.name, target)
        why = f"rolled back from version {seen.champion or 'none'}"
        return promotion_log.move(client, seen, made, kind="rollback", reason=why)


def _require_champion_once(client: "MlflowClient", seen: Snapshot, made: Any) -> None:
    """InputError where a version was never champion, with what the gate had said."""
    version, done = str(made.version), seen.done
    once = {seen.champion, *(entry.version for entry in done), *(entry.before for entry in done)}
    if version in once or made.tags.get(decisions.PROMOTED) == "yes":
        return
    known = decisions.notes(made)
    said = "no decision about it was ever made"
    if known:
        said = f"the gate {'let it pass' if known[-1].promote else 'refused it'}: {known[-1].reason}"
    raise InputError(
        f"version {version} of {seen.name} was never the champion, and {said.rstrip('.')}. "
        f"`stemline promote --version {version} --force --reason TEXT` makes it the champion all the same"
    )


def champion(config: RegistryConfig, *, store: str) -> ModelVersion | None:
    """The version behind the alias that consumers load, or None before the first promotion."""
    if is_new(store):
        return None
    with connected(store) as client:
        present = aliases(client, config.name)
        if CHAMPION not in present:
            promotion_log.require_untouched(promotion_log.snapshot(client, config.name))
            return None
        return version_of(client.get_model_version(config.name, present[CHAMPION]), present)


def history(config: RegistryConfig, *, store: str) -> list[Promotion]:
    """Every promotion and rollback, the oldest first."""
    if is_new(store):
        return []
    with connected(store) as client:
        return promotion_log.snapshot(client, config.name).done
