"""Against Prefect's real API: a run that was cancelled and goes on ends; any other is left alone."""

import threading
import time
from typing import Any
from uuid import UUID

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

EVERY_S = 0.05


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.tasks import lost_cancellations

    monkeypatch.setattr(lost_cancellations, "ASKED_EVERY_S", EVERY_S)


@pytest.fixture
def run() -> UUID:
    """A run that is under way."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    @flow(name="road")
    def road() -> None:
        pass

    with get_client(sync_client=True) as client:
        return client.create_flow_run(road, state=Running()).id


def set_state(run: UUID, state: Any) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


def test_a_run_that_was_cancelled_and_goes_on_is_ended_even_where_that_fails_at_first(run: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    from flows.tasks.lost_cancellations import ended_when_cancelled, note_cancelled

    calls, ended = [], threading.Event()

    def end() -> None:
        calls.append(run)
        if len(calls) == 1:
            raise ConnectionError("the cluster does not answer")
        note_cancelled(run)
        ended.set()

    with ended_when_cancelled(run, end):
        set_state(run, Cancelling())
        assert ended.wait(60)
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    assert state is not None
    assert state.type.value == "CANCELLED"
    assert len(calls) == 2


def test_a_run_that_goes_on_or_ends_by_itself_in_time_is_left_alone(run: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.states import Cancelling

    from flows.tasks import lost_cancellations

    asked, calls, real = list[bool](), list[UUID](), lost_cancellations._is_cancelled

    def counted(run: UUID) -> bool:
        asked.append(real(run))
        return asked[-1]

    monkeypatch.setattr(lost_cancellations, "_is_cancelled", counted)
    with lost_cancellations.ended_when_cancelled(run, lambda: calls.append(run)):
        while len(asked) < 3 * lost_cancellations.PATIENCE:
            time.sleep(EVERY_S)
        set_state(run, Cancelling())
        while not any(asked):
            time.sleep(EVERY_S / 10)
    time.sleep(10 * EVERY_S)
    assert calls == []
