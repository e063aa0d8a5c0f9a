"""One run of a schedule stands for all that could not start in time: after days without a worker there is no pile."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

_LOG = logging.getLogger(__name__)
SKIPPED = "Skipped: one run stands for all of the schedule that could not start in time."
_PAGE = 100  # runs; servers list 200 at once, or what they are set to


def skip_late_runs(run: "FlowRun | None") -> datetime | None:
    """Cancels what a scheduled run stands for: the others of its schedule that are due and have not begun.

    Prefect keeps every run whose time passed while no worker was there or another run was under way, and would start
    them one after the other. Runs that somebody asked for, that a crash interrupted, or with other parameters stay.

    Returns when the latest of them, this run included, was due; None for a run without a schedule. Where the server
    cannot be asked, the log says so and the others stay.
    """
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.states import Cancelled

    if run is None or run.deployment_id is None or not run.auto_scheduled or run.expected_start_time is None:
        return None
    due = run.expected_start_time
    try:
        with get_client(sync_client=True) as client:
            for late in list(_late_runs(client, run)):
                client.set_flow_run_state(late.id, Cancelled(message=SKIPPED))
                due = max(due, late.expected_start_time or due)
                _LOG.info("skipped %s, which was due at %s", late.name, late.expected_start_time)
    except (HTTPError, PrefectException) as error:
        _LOG.warning("late runs could not be skipped: %s", error)
    return due


def _late_runs(client: Any, run: "FlowRun") -> Iterator["FlowRun"]:
    """Those of the same schedule that were due before now and have not begun."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    waiting = FlowRunFilter.model_validate(
        {
            "deployment_id": {"any_": [run.deployment_id]},
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"before_": datetime.now(UTC)},
        }
    )
    offset = 0
    while page := client.read_flow_runs(
        flow_run_filter=waiting, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=_PAGE, offset=offset
    ):
        yield from (late for late in page if _is_replaced(late, run))
        offset += len(page)


def _is_replaced(late: "FlowRun", run: "FlowRun") -> bool:
    return bool(late.id != run.id and late.auto_scheduled and not late.run_count and late.parameters == run.parameters)
