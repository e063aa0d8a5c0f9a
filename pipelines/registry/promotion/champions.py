"""Which version is the champion: promoted by the gate, by name, or by a rollback; each is an entry of the log."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from pipelines.registry.connection import RegistryConfig, connected, is_new
from pipelines.registry.find_or_create import CHAMPION, aliases, require_run
from pipelines.registry.promotion import decision_records, promotion_log
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
        snapshot = promotion_log.take_snapshot(client, version.name)
        raw_version = client.get_model_version(version.name, version.version)
        if snapshot.champion == version.version and _is_settled(snapshot, raw_version):
            promotion_log.finish(client, snapshot, None, version.version)
            return replace(version, alias=CHAMPION)
        if decision["promote"]:
            require_run(client, raw_version)
        why = _why_not(client, snapshot, version.version, raw_version.tags) if decision["promote"] else ""
        outcome = {**decision, "promote": False, "reason": why} if why else decision
        key = decision_records.keep(client, raw_version, outcome, rules)
        if not outcome["promote"]:
            decision_records.tell(client, raw_version, promoted=False)
            return replace(version, alias="") if snapshot.champion != version.version else version
        promotion_log.require_untouched(snapshot)
        _require_compared(client, snapshot, outcome)
        promotion_log.move(client, snapshot, raw_version, kind="promotion", reason=str(outcome["reason"]), decision=key)
        return replace(version, alias=CHAMPION)


def _is_settled(snapshot: Snapshot, raw_version: Any) -> bool:
    """Whether the champion was promoted by stemline, or decided on before there was a log."""
    promotions = snapshot.done
    return promotions[-1].version == snapshot.champion if promotions else bool(decision_records.notes(raw_version))


def _require_compared(client: "MlflowClient", snapshot: Snapshot, decision: Mapping[str, Any]) -> None:
    """InputError when the champion is not the one that the decision is about."""
    present = snapshot.champion
    weights = client.get_model_version(snapshot.name, present).tags.get("weights_digest", "") if present else ""
    if weights and weights != decision.get("champion_digest", weights):
        raise InputError(
            f"version {present} became the champion of {snapshot.name} after the gate had compared: run the same "
            "command again to compare the candidate with it"
        )


def rolled_back(config: RegistryConfig, tags: Mapping[str, str], *, store: str) -> str:
    """Why a model with such digests ("checkpoint_digest", "weights_digest") is not promoted by a gate: it was rolled
    back from. Empty where it was not.
    """
    if is_new(store):
        return ""
    with connected(store) as client:
        snapshot = promotion_log.take_snapshot(client, config.name)
        return _why_not(client, snapshot, "", tags)


def _why_not(client: "MlflowClient", snapshot: Snapshot, version: str, tags: Mapping[str, str]) -> str:
    match = promotion_log.rolled_back_as(client, snapshot, version, tags)
    if match is None:
        return ""
    number, entry = match
    return (
        f"Version {number} was rolled back from on {entry.at[:16].replace('T', ' ')} UTC, to version {entry.version}, "
        f"and is not promoted again automatically; `stemline promote --version {version or number} --force --reason "
        "TEXT` promotes it by name."
    )


def promote_by_name(
    config: RegistryConfig, version: str, decision: Mapping[str, Any], *, store: str
) -> tuple[ModelVersion, Promotion]:
    """Make a version the champion manually, past the gate; its files are checked first.

    The decision document holds "promote" and "reason" as for `promote`. InputError where there is no such version, or
    where it is the champion already.
    """
    if is_new(store):
        raise InputError(f"no model is registered in {store} yet: there is nothing to promote")
    ref = f"models:/{config.name}/{version}"
    fetch(ref, store=store)
    with connected(store) as client:
        model_version, raw_version = look_up(client, ref)
        require_run(client, raw_version)
        snapshot = promotion_log.take_snapshot(client, config.name)
        if snapshot.champion:  # where there is none any more, this says which it is
            promotion_log.require_untouched(snapshot)
        entry = promotion_log.finish(client, snapshot, "forced", version)
        if entry is None:
            if snapshot.champion == version:
                raise InputError(f"version {version} of {config.name} is the champion already")
            key = decision_records.keep(client, raw_version, decision)
            entry = promotion_log.move(
                client, snapshot, raw_version, kind="forced", reason=str(decision["reason"]), decision=key
            )
        return replace(model_version, alias=CHAMPION), entry


def rollback(config: RegistryConfig, *, store: str, to: str | None = None, reason: str = "") -> Promotion:
    """Make an earlier version the champion again, by default the one before the present; its files are checked first.

    Repeated, it goes back further. InputError where there is nothing to go back to, or where `to` was never champion
    and no `reason` is given for it all the same; a reason is kept in the log.
    """
    if is_new(store):
        raise InputError(f"no model is registered in {store} yet: there is nothing to roll back")
    with connected(store) as client:
        snapshot = promotion_log.take_snapshot(client, config.name)
        if begun := promotion_log.finish(client, snapshot, "rollback", to or ""):
            return begun
        line = promotion_log.line_of_champions(snapshot.done)
        if to is None:
            promotion_log.require_untouched(snapshot)
            if len(line) < 2:
                raise InputError(
                    f"{config.name} had no champion before the present one; `stemline rollback --to N --force --reason "
                    "TEXT` takes any version"
                )
        target = to or line[-2]
        if target == snapshot.champion and line[-1:] == [target]:
            raise InputError(f"version {target} of {config.name} is the champion already")
        version, raw_version = look_up(client, f"models:/{config.name}/{target}")
        require_run(client, raw_version)
        if not reason:
            _require_champion_once(client, snapshot, raw_version)
    fetch(version.uri, store=store)
    with connected(store) as client:
        raw_version = client.get_model_version(config.name, target)
        why = f"rolled back from version {snapshot.champion or 'none'}{f': {reason}' if reason else ''}"
        return promotion_log.move(client, snapshot, raw_version, kind="rollback", reason=why)


def _require_champion_once(client: "MlflowClient", snapshot: Snapshot, raw_version: Any) -> None:
    """InputError where a version was never champion, with the gate's decision."""
    version, promotions = str(raw_version.version), snapshot.done
    once = {snapshot.champion, *(entry.version for entry in promotions), *(entry.before for entry in promotions)}
    if version in once or raw_version.tags.get(decision_records.PROMOTED) == "yes":
        return
    notes = decision_records.notes(raw_version)
    earlier = "the gate has not decided on it"
    if notes:
        earlier = f"the gate {'let it pass' if notes[-1].promote else 'refused it'}: {notes[-1].reason}"
    raise InputError(
        f"version {version} of {snapshot.name} was never the champion, and {earlier.rstrip('.')}. "
        f"`stemline rollback --to {version} --force --reason TEXT` makes it the champion nevertheless"
    )


def champion(config: RegistryConfig, *, store: str) -> ModelVersion | None:
    """The version behind the alias that consumers load, or None before the first promotion."""
    if is_new(store):
        return None
    with connected(store) as client:
        present = aliases(client, config.name)
        if CHAMPION not in present:
            promotion_log.require_untouched(promotion_log.take_snapshot(client, config.name))
            return None
        return version_of(client.get_model_version(config.name, present[CHAMPION]), present)


def history(config: RegistryConfig, *, store: str) -> list[Promotion]:
    """Every promotion and rollback, the oldest first."""
    if is_new(store):
        return []
    with connected(store) as client:
        return promotion_log.take_snapshot(client, config.name).done
