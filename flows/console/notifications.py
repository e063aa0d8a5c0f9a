"""Tells people what a run decided and how it ended, by their own services, and other flows by Prefect's events.

A service that does not answer holds nothing up for longer than the setting says and fails nothing: what was not
delivered is said in one line. Addresses of services are secrets, so no message names more than their scheme.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from datasets.errors import InputError, without_passwords, without_user
from flows.config import RunConfig
from flows.config.notify_config import NotifyConfig
from flows.console.sanitized_console import plain
from models.plugins import Plugin, PluginKind, require
from pipelines.registry import ModelVersion

ADDRESSES = "STEMLINE_NOTIFY"  # addresses of Apprise, with spaces between
PREFECT = "PREFECT_API_URL"
NOTIFIER = PluginKind(noun="notifier", group="stemline.notifiers", setting="notify.plugins", error=InputError)
EVENT = "stemline."  # before the names of `EVENTS`: what Prefect's automations wait for
_SUBJECTS = {
    "promotion": "new champion", "refusal": "not promoted", "rollback": "rolled back", "failure": "failed",
    "missed": "schedule missed", "drift": "drift", "test": "test",
}  # fmt: skip
_MENTIONS = str.maketrans({"<": "‹", ">": "›", "@": "＠"})  # which call everybody in Slack and its like


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing that happened, in a sentence, with links and commands that say more."""

    event: str  # one of `EVENTS`, or "test"
    model: str  # name of the registered model
    sentence: str
    version: str = ""
    links: Sequence[str] = field(default=())

    @property
    def subject(self) -> str:
        return _safe(f"stemline {self.model}: {_SUBJECTS[self.event]}")

    @property
    def body(self) -> str:
        return _safe("\n".join([self.sentence, *self.links]))


def _safe(text: str) -> str:
    """Text of anyone's, such as a song's title, that calls nobody and steers no terminal, without passwords."""
    return plain(without_passwords(text)).translate(_MENTIONS)


def targets(config: NotifyConfig) -> list[str]:
    """What would be told, without secrets: schemes of services, the block, and Prefect's events."""
    check(config)
    named = [_scheme(address) for address in _addresses()]
    named += [config.block] if config.block else []
    named += config.plugins
    return named + (["Prefect events"] if os.environ.get(PREFECT) else [])


def check(config: NotifyConfig) -> None:
    """InputError for a service or a plug-in that is not there: found out before hours of work."""
    notifiers(config)
    for place, address in enumerate(_addresses(), 1):
        _service(place, address)


def _addresses() -> list[str]:
    return os.environ.get(ADDRESSES, "").split()


def _scheme(address: str) -> str:
    """All of an address that is no secret."""
    scheme, colon, _ = address.partition("://")
    return f"{scheme}://" if colon else "address"


def _apprise() -> Any:
    """The library, without its log, which repeats tokens that it takes for wrong ones."""
    import apprise

    logging.getLogger("apprise").propagate = False
    return apprise


def _service(place: int, address: str) -> Any:
    """A service of Apprise; InputError for an address that it does not know, which is a secret and not repeated."""
    apprise = _apprise()
    service = apprise.Apprise.instantiate(address, suppress_exceptions=True)
    if not isinstance(service, apprise.NotifyBase):
        raise InputError(
            f"{ADDRESSES}: address {place} is none that Apprise knows; write slack://..., mailto://..., json://... or "
            "another of its services, with spaces between"
        )
    return service


def send(config: NotifyConfig, notice: Notice) -> str:
    """Tell all services at once; what was not delivered in time, in words: empty where all was, or nobody is told."""
    if notice.event not in (*config.on, "test"):
        return ""
    try:
        jobs = _jobs(config, notice)
    except Exception as error:  # a promotion that is done does not fail by the telling
        return f"nobody was told: {_reason(error)}"
    outcomes: dict[str, str] = {}

    def run(name: str, job: Callable[[], None]) -> None:
        try:
            job()
            outcomes[name] = ""
        except Exception as error:  # services fail in ways of their own
            outcomes[name] = _reason(error)

    threads = [
        # With a copy of the context each, in which Prefect keeps what its server's address is
        threading.Thread(target=copy_context().run, args=(run, *item), name="notify", daemon=True)
        for item in jobs.items()
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + config.wait_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = f"no answer within {config.wait_s:g} s"
    problems = {name: outcomes.get(name, late) for name in jobs}
    failed = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    return f"not told: {'; '.join(failed)}" if failed else ""


def _jobs(config: NotifyConfig, notice: Notice) -> dict[str, Callable[[], None]]:
    jobs: dict[str, Callable[[], None]] = {}
    for place, address in enumerate(_addresses(), 1):
        jobs[f"{_scheme(address)} ({place})"] = partial(_by_apprise, place, address, notice)
    if config.block:
        jobs[config.block] = lambda: _by_block(config.block, notice)
    for notifier in notifiers(config):
        jobs[notifier.name] = partial(_by_plugin, notifier, notice)
    if os.environ.get(PREFECT):
        jobs["Prefect events"] = lambda: _as_event(notice, config.wait_s)
    return jobs


def notifiers(config: NotifyConfig) -> list[Plugin]:
    """The plug-ins that the settings name; InputError where one is not there, or nothing to call."""
    return [notifier for name in config.plugins if (notifier := require(NOTIFIER, name))]


def _by_plugin(notifier: Plugin, notice: Notice) -> None:
    """What it raises is named by its kind alone: its message may repeat a secret."""
    try:
        notifier.value(notice)
    except Exception as error:
        raise notifier.failure(f"raised {type(error).__name__}") from None


def _by_apprise(place: int, address: str, notice: Notice) -> None:
    apprise = _apprise()
    service = apprise.Apprise()
    service.add(_service(place, address))
    kind = apprise.NotifyType.FAILURE if notice.event in ("failure", "missed", "drift") else apprise.NotifyType.INFO
    if not service.notify(
        body=notice.body, title=notice.subject, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
    ):
        raise OSError("the service refused, or did not answer")


def _by_block(name: str, notice: Notice) -> None:
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    block = Block.load(name)
    if not isinstance(block, NotificationBlock):
        raise InputError(f"{name} is no notification block")
    block.notify(notice.body, notice.subject)  # type: ignore[unused-coroutine]  # its types are those of async callers


def _as_event(notice: Notice, wait_s: float) -> None:
    """One of `EVENTS` as an event of Prefect's server, for which automations may wait."""
    about = {"stemline.version": notice.version}
    texts = {"subject": notice.subject, "sentence": notice.body}
    _emit(notice.event, notice.model, about, payload=texts, event_id=str(uuid.uuid4()), wait_s=wait_s)


def emit_alias_event(model: str, alias: str, version: str, *, event_id: str, wait_s: float) -> None:
    """The event "alias" of Prefect's server: an alias names this version now, or none where that is empty."""
    about = {"stemline.version": version, "stemline.alias": alias}
    _emit("alias", model, about, payload={}, event_id=event_id, wait_s=wait_s)


def _emit(
    name: str, model: str, about: Mapping[str, str], *, payload: Mapping[str, str], event_id: str, wait_s: float
) -> None:
    """An event about a model; an error where the server does not take it."""
    from prefect.client.orchestration import get_client

    event = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": f"{EVENT}{name}",
        "resource": {"prefect.resource.id": f"stemline.model.{model}", "prefect.resource.name": model, **about},
        "payload": payload,
        "id": event_id,
    }
    with get_client(sync_client=True, httpx_settings={"timeout": wait_s}) as client:
        client._client.post("/events", json=[event]).raise_for_status()


def _reason(error: Exception) -> str:
    """Why, without anything that an error repeats of an address."""
    return str(error) if isinstance(error, InputError) else type(error).__name__


# --- what there is to tell ----------------------------------------------------------------------------------


def of_decision(config: RunConfig, version: ModelVersion, *, promoted: bool, reason: str) -> Notice:
    """A version became the champion, or was refused."""
    sentence = f"{version.uri} {'is the champion now' if promoted else 'was not promoted'}: {reason}"
    return Notice(
        event="promotion" if promoted else "refusal",
        model=version.name,
        version=version.version,
        sentence=sentence,
        links=_links(config, version.name, version.version),
    )


def of_rollback(config: RunConfig, name: str, version: str, reason: str) -> Notice:
    """An earlier version is the champion again."""
    sentence = f"models:/{name}/{version} is the champion again: {reason}"
    return Notice(event="rollback", model=name, version=version, sentence=sentence, links=_links(config, name, version))


def of_failure(config: RunConfig, what: str, message: str) -> Notice:
    """A command or a scheduled run ended with an error."""
    lines = message.strip().splitlines() or ["no message"]
    return Notice(
        event="failure", model=config.registry.name, sentence=f"{what} failed: {lines[0]}", links=_run_links()
    )


def of_missed(config: RunConfig, due: datetime) -> Notice:
    """Scheduled runs could not start in time."""
    sentence = (
        f"Scheduled runs could not start until now, the last due at {due:%Y-%m-%d %H:%M %Z}; one run stands for them."
    )
    return Notice(event="missed", model=config.registry.name, sentence=sentence, links=_run_links())


def of_drift(config: RunConfig, sentence: str) -> Notice:
    """The champion lost on the canary songs."""
    return Notice(event="drift", model=config.registry.name, sentence=sentence, links=_run_links())


def _links(config: RunConfig, name: str, version: str) -> list[str]:
    """The page of a version where MLflow is a server, and the command that says more."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    page = [f"{without_user(tracking)}/#/models/{name}/versions/{version}"] if tracking.startswith("http") else []
    return [*page, f"stemline card models:/{name}/{version} store.root={config.store.root}", *_run_links()]


def _run_links() -> list[str]:
    """Prefect's page of the run that this is part of, where there is one."""
    from prefect.runtime import flow_run

    server, run = os.environ.get("PREFECT_UI_URL") or os.environ.get(PREFECT, ""), flow_run.get_id()
    return [f"{without_user(server).removesuffix('/api')}/runs/flow-run/{run}"] if server and run else []
