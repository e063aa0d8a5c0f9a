"""`stemline deploy` tells a Prefect server what `infra/prefect.yaml` says; `stemline why` explains the retraining."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich.text import Text

from datasets.errors import InputError
from flows import config as door
from flows import triggers
from flows.conductor import must_answer
from flows.config import RunConfig
from flows.screen import Screen, table

ROOT = Path(__file__).resolve().parent.parent
AUTOMATION = "stemline: crashed runs go on"


def run(
    preset: str, overrides: Sequence[str], *, cron: str, pool: str, directory: str, screen: Screen
) -> dict[str, Any]:
    """Makes the work pool where it is missing, every deployment, and the automation that restarts crashed runs."""
    config = door.load(preset, overrides)
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise InputError(
            "PREFECT_API_URL names no server to deploy to. `prefect server start` starts one on this machine; then "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    must_answer(f"{url.rstrip('/')}/health", variable="PREFECT_API_URL")
    screen.start("deploy", 0, "")
    _make_pool(pool)
    told = filled(read(), config, preset, overrides, cron=cron, pool=pool, directory=directory or str(ROOT))
    _send(told)
    _make_automation()
    names = [f"{one['entrypoint'].rpartition('.')[2].replace('_', '-')}/{one['name']}" for one in told["deployments"]]
    screen.finish(f"{len(names)} deployments on {url}, work pool {pool}")
    return {
        "deployments": names,
        "pool": pool,
        "shown": [Text(f"A worker runs them: prefect worker start --pool {pool}"), *map(Text, names)],
    }


def why(config: RunConfig) -> dict[str, Any]:
    """Whether the model would be trained again now, in one sentence, and what was done so far."""
    facts = triggers.look(config)
    judged = triggers.judge(facts, config.retrain)
    shown: list[Any] = [Text(judged.sentence, overflow="fold")]
    if facts.done:
        rows = [[one.began_at[:16], one.ended_at[:16] or "–", one.champion or "–", one.reason] for one in facts.done]
        shown.append(table("Retrainings", ["began, UTC", "ended", "champion", "why"], rows[::-1]))
    return {"retrain": judged.retrain, "why": judged.sentence, "facts": asdict(facts), "shown": shown}


def read() -> dict[str, Any]:
    """infra/prefect.yaml as it is."""
    told: dict[str, Any] = yaml.safe_load(resources.files("infra").joinpath("prefect.yaml").read_text(encoding="utf-8"))
    return told


def filled(
    told: Mapping[str, Any],
    config: RunConfig,
    preset: str,
    overrides: Sequence[str],
    *,
    cron: str,
    pool: str,
    directory: str,
) -> dict[str, Any]:
    """The same with songs, store and settings as default parameters, another pool, and another schedule.

    `cron` is of the retraining; "" leaves it as it is, "off" takes it away.
    """
    kept = [text for text in overrides if text.partition("=")[0].strip() not in ("corpus.root", "store.root")]
    parameters = {"preset": preset, "songs": config.corpus.root, "store": config.store.root, "overrides": kept}
    made = json.loads(json.dumps(told))
    made.pop("definitions", None)
    made["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": directory}}]
    for one in made["deployments"]:
        one["parameters"] = parameters
        one["work_pool"]["name"] = pool
        if "schedules" in one and cron:
            one["schedules"] = [] if cron == "off" else [{"cron": cron, "timezone": "UTC"}]
    return dict(made)


def _send(told: Mapping[str, Any]) -> None:
    """Makes each deployment, or brings it up to date.

    `prefect deploy --all` would do it too, but 3.8.8 ends after the first: it asks for a pool's workers with a limit
    of null, which its own server refuses. May go with the next Prefect.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    with get_client(sync_client=True) as client:
        for one in told["deployments"]:
            flow: Any = load_flow_from_entrypoint(one["entrypoint"], use_placeholder_flow=False)
            limit = one["concurrency_limit"]
            client.create_deployment(
                flow_id=client.create_flow(flow),
                name=one["name"],
                schedules=[
                    DeploymentScheduleCreate(schedule=CronSchedule(**given), active=True)
                    for given in one.get("schedules", [])
                ],
                concurrency_limit=limit["limit"],
                concurrency_options=ConcurrencyOptions(
                    collision_strategy=ConcurrencyLimitStrategy(limit["collision_strategy"])
                ),
                parameters=one["parameters"],
                description=one["description"],
                tags=one["tags"],
                work_pool_name=one["work_pool"]["name"],
                job_variables=one["work_pool"]["job_variables"],
                pull_steps=told["pull"],
                entrypoint=one["entrypoint"],
                parameter_openapi_schema=parameter_schema(flow).model_dump(),
                enforce_parameter_schema=one["enforce_parameter_schema"],
            )


def _make_pool(name: str) -> None:
    """A process pool that runs one flow at a time; one that exists stays as it is, whatever its kind."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=1))
        except ObjectAlreadyExists:
            return


def _make_automation() -> None:
    """A run whose process died is scheduled again: it finds what is finished, and listens to the job that still runs.

    `deployed.MAX_STARTS` ends that for a run that dies each time.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    automation = AutomationCore(
        name=AUTOMATION,
        trigger=EventTrigger(
            # A worker reports a death twice, half a minute apart: so it has to stay dead for a minute.
            posture=Posture.Proactive,
            after={"prefect.flow-run.Crashed"},
            expect={"prefect.flow-run.Scheduled", "prefect.flow-run.Pending", "prefect.flow-run.Running"},
            within=timedelta(minutes=1),
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.stemline"}
            ),
            for_each={"prefect.resource.id"},
            threshold=1,
        ),
        actions=[
            ChangeFlowRunState(
                name="Scheduled", state=StateType.SCHEDULED, message="Its process died; going on.", force=True
            )
        ],
    )
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(AUTOMATION):
            client.create_automation(automation)
