"""The end of a run that was cancelled while nobody tells its process.

Prefect's runner, which ends the processes of cancelled runs, hears of no cancellation any more once its server was away
for longer than it tries again (FlowRunCancellingObserver): the run's jobs would go on, on GPUs, for ever.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

ASKED_EVERY_S = 10.0
PATIENCE = 3  # as often as a run is seen as cancelled before the runner is taken for deaf; it needs 10 to 20 s itself
_LOG = logging.getLogger(__name__)


@contextmanager
def ended_when_cancelled(run: UUID, end: Callable[[], None]) -> Iterator[None]:
    """Inside, `end` is called in a thread of its own when the run was cancelled, and yet goes on for half a minute.

    It is called again where it raises.
    """
    over = threading.Event()

    def watch() -> None:
        seen = 0
        while not over.wait(ASKED_EVERY_S):
            try:
                seen = seen + 1 if _is_cancelled(run) else 0
                if seen > PATIENCE:
                    end()
                    return
            except Exception as error:  # whatever the server, or Ray's, says while it is down
                _LOG.warning("whether the run was cancelled is asked again: %s: %s", type(error).__name__, error)

    threading.Thread(target=watch, name="lost-cancellations", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def note_cancelled(run: UUID) -> None:
    """Tell the server that the run has ended as it was asked to."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelled(message="Ended by its own process."), force=True)


def _is_cancelled(run: UUID) -> bool:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)
