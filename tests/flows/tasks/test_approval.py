"""A person's word on a promotion, through Prefect's real API: yes, no, and nobody."""

import contextvars
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from flows.config import RunConfig
from pipelines.evaluation.gate import GateConfig, GateDecision

pytestmark = pytest.mark.slow

PASSED = GateDecision(promote=True, reason="It scores more.", improvement=5.0, checks=(), num_songs=20)
ASKS = RunConfig(gate=GateConfig(approval=True, approval_s=60.0))


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.tasks import approval

    monkeypatch.setattr(approval, "POLL_EVERY_S", 0.2)


def decide(config: RunConfig, decision: GateDecision = PASSED) -> GateDecision:
    """The decision as the road makes it, inside another flow that goes on afterwards."""
    from prefect import flow

    from flows.tasks.approval import with_approval

    @flow(name="road", validate_parameters=False)
    def road(config: RunConfig, decision: GateDecision) -> GateDecision:
        return with_approval(config, decision)

    return road(config, decision)


def answer(form: dict[str, Any]) -> threading.Thread:
    """Fills in the form of the run that waits, as Prefect's page does, from another thread."""

    def wait_and_answer() -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter
        from prefect.client.schemas.sorting import FlowRunSort
        from prefect.exceptions import PrefectHTTPStatusError
        from prefect.flow_runs import resume_flow_run

        waiting = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
        with get_client(sync_client=True) as client:
            # Prefect's own server refuses what its client sends where these two are not named.
            named: Any = {"sort": FlowRunSort.START_TIME_DESC, "limit": 1}
            while not (found := client.read_flow_runs(flow_run_filter=waiting, **named)):
                time.sleep(0.1)
            assert found[0].parameters["reason"] == PASSED.reason
            while True:  # the form is sent just after the run has paused
                try:
                    return resume_flow_run(found[0].id, run_input=form)
                except PrefectHTTPStatusError:
                    time.sleep(0.1)

    # Which server is meant is told by a context variable.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(wait_and_answer,), daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("prefect_server")
def test_who_said_yes_and_why_stands_in_the_decision() -> None:
    thread = answer({"promote": True, "name": " Ada ", "why": "The choir is better."})
    decision = decide(ASKS)
    thread.join(30)
    assert (decision.promote, decision.approver) == (True, "Ada")
    assert decision.reason == "It scores more. Ada says yes: The choir is better."
    assert decision.checks[-1].rule == "approval"


@pytest.mark.usefixtures("prefect_server")
def test_a_no_and_a_yes_without_a_name_promote_nothing() -> None:
    thread = answer({"promote": False, "name": "Ada"})
    decision = decide(ASKS)
    thread.join(30)
    assert (decision.promote, decision.reason) == (False, "Ada says no.")
    thread = answer({"promote": True, "name": " "})
    decision = decide(ASKS)
    thread.join(30)
    assert (decision.promote, decision.approver) == (False, "")
    assert decision.reason == "The form was sent without a name, so it does not count."


@pytest.mark.usefixtures("prefect_server")
def test_nobody_is_a_no_and_the_road_goes_on() -> None:
    decision = decide(replace(ASKS, gate=GateConfig(approval=True, approval_s=1.0)))
    assert (decision.promote, decision.approver) == (False, "")
    assert decision.reason == "Nobody approved it within 1.0 s."


def test_nobody_is_asked_where_that_is_off_or_the_gate_says_no() -> None:
    from flows.tasks.approval import with_approval

    assert with_approval(RunConfig(), PASSED) is PASSED
    refused = replace(PASSED, promote=False)
    assert with_approval(ASKS, refused) is refused
