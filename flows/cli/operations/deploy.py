"""`stemline deploy`: registers the flows of `infra/prefect.yaml` with a Prefect server."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml  # type: ignore[import-untyped]
from cyclopts import Parameter
from rich.text import Text

from datasets.errors import InputError
from flows import config as settings
from flows.cli.options import NO_OPTIONS, PRESET, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen
from flows.retraining import schedule
from flows.tasks import prefect_files
from flows.tasks.prefect_env import require_answer

ROOT = Path(__file__).resolve().parents[3]
AUTOMATION = "stemline: crashed runs go on"


def deploy(
    *overrides: Overrides,
    cron: Annotated[str, Parameter(help='When `retrain` checks whether to train, such as "0 3 * * *"; or off.')] = "",
    timezone: Annotated[
        str, Parameter(help='Time zone of --cron, such as "Europe/Berlin"; "UTC" if not given.', show_default=False)
    ] = "",
    pool: Annotated[str, Parameter(help="Work pool; created with the process type if it does not exist.")] = "stemline",
    directory: Annotated[str, Parameter(help="Where workers find this project; by default where it is here.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Register the flows with the Prefect server at PREFECT_API_URL, so that its workers run them with these settings.

    Example: `stemline deploy --preset smoke corpus.root=SONGS store.root=STORE --cron "0 3 * * *"`
    """

    def job(config: RunConfig, screen: Screen) -> dict[str, Any]:
        preset = options.preset or PRESET
        return run(config, preset=preset, cron=cron, timezone=timezone, pool=pool, directory=directory, screen=screen)

    return run_verb(overrides, options, job)


def run(
    config: RunConfig, *, preset: str, cron: str, timezone: str, pool: str, directory: str, screen: Screen
) -> dict[str, Any]:
    """Makes the work pool where it is missing, every deployment, and the automation that restarts crashed runs."""
    prefect_files.require_none()
    schedule.check_cron(cron)
    schedule.check_timezone(timezone, cron=cron)
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise InputError(
            "PREFECT_API_URL names no server to deploy to. `prefect server start` starts one on this machine; then "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    require_answer(f"{url.rstrip('/')}/health", variable="PREFECT_API_URL")
    screen.start("deploy", 0, "")
    _make_pool(pool)
    folder = settings.absolute(directory) or str(ROOT)
    manifest = filled(read(), config, preset, cron=cron, timezone=timezone, pool=pool, directory=folder)
    _send(manifest, reschedule=bool(cron))
    _make_automation()
    names = [
        f"{deployment['entrypoint'].rpartition('.')[2].replace('_', '-')}/{deployment['name']}"
        for deployment in manifest["deployments"]
    ]
    screen.finish(f"{len(names)} deployments on {url}, work pool {pool}")
    return {
        "deployments": names,
        "pool": pool,
        "console_output": [Text(f"A worker runs them: prefect worker start --pool {pool}"), *map(Text, names)],
    }


def read() -> dict[str, Any]:
    """The content of infra/prefect.yaml."""
    text = resources.files("infra").joinpath("prefect.yaml").read_text(encoding="utf-8")
    manifest: dict[str, Any] = yaml.safe_load(text)
    return manifest


def filled(
    manifest: Mapping[str, Any],
    config: RunConfig,
    preset: str,
    *,
    cron: str,
    timezone: str = "",
    pool: str,
    directory: str,
) -> dict[str, Any]:
    """The same with the configuration as default parameters, another pool, and another schedule.

    A worker has neither this folder nor your own preset files: so it gets a preset that ships, and overrides for what
    differs from it. `cron` is of the retraining; "" leaves it as it is, "off" removes it. It is in UTC or `timezone`.
    """
    name = preset if preset in settings.presets() else settings.nearest_preset(config)
    fields = {"corpus.root": "songs", "store.root": "store"}
    parameters = {
        "preset": name,
        "songs": config.corpus.root,
        "store": config.store.root,
        "overrides": [text for text in settings.differences(config, name) if text.partition("=")[0] not in fields],
    }
    filled_in: dict[str, Any] = json.loads(json.dumps(manifest))
    filled_in.pop("definitions", None)
    filled_in["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": directory}}]
    for deployment in filled_in["deployments"]:
        deployment["parameters"] = parameters
        deployment["work_pool"]["name"] = pool
        if "schedules" in deployment and cron:
            zone = timezone or schedule.DEFAULT_ZONE
            deployment["schedules"] = [] if cron == schedule.OFF else [{"cron": cron, "timezone": zone}]
    return filled_in


def _send(manifest: Mapping[str, Any], *, reschedule: bool) -> None:
    """Creates or updates each deployment; schedules on the server stay unless `reschedule`, pauses always.

    We do not call `prefect deploy --all`, as 3.8.8 stops after the first: it asks for a pool's workers with a limit of
    null, which its own server refuses. May go with the next Prefect.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.exceptions import ObjectNotFound
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    with get_client(sync_client=True) as client:
        for deployment in manifest["deployments"]:
            flow: Any = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
            limit, pool = deployment["concurrency_limit"], deployment["work_pool"]
            content: dict[str, Any] = {
                "concurrency_limit": limit["limit"],
                "concurrency_options": ConcurrencyOptions(
                    collision_strategy=ConcurrencyLimitStrategy(limit["collision_strategy"])
                ),
                "parameters": deployment["parameters"],
                "description": deployment["description"],
                "tags": deployment["tags"],
                "work_pool_name": pool["name"],
                "job_variables": pool["job_variables"],
                "pull_steps": manifest["pull"],
                "entrypoint": deployment["entrypoint"],
                "parameter_openapi_schema": parameter_schema(flow).model_dump(),
                "enforce_parameter_schema": deployment["enforce_parameter_schema"],
            }
            try:
                existing = client.read_deployment_by_name(f"{flow.name}/{deployment['name']}")
            except ObjectNotFound:
                existing = None
            if existing and not (reschedule and "schedules" in deployment):
                client.update_deployment(existing.id, DeploymentUpdate(**content))
                continue
            schedules = [
                DeploymentScheduleCreate(schedule=CronSchedule(**schedule), active=True)
                for schedule in deployment.get("schedules", [])
            ]
            client.create_deployment(client.create_flow(flow), deployment["name"], schedules=schedules, **content)


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
    """Schedules a run whose process died again: it reuses finished steps and attaches to the job that still runs.

    A run that dies each time is given up after `retrain_policy.MAX_STARTS` starts.
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
            # Nor does one go on that died because it was cancelled.
            expect={
                f"prefect.flow-run.{state}" for state in ("Scheduled", "Pending", "Running", "Cancelling", "Cancelled")
            },
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
        existing = client.read_automations_by_name(AUTOMATION)
        for made_before in existing:
            kept = automation.model_copy(update={"enabled": made_before.enabled})
            client.update_automation(made_before.id, kept)
        if not existing:
            client.create_automation(automation)
