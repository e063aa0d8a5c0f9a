"""With a real server and worker: of runs that could not start in time one is run, and a cancelled one is soon gone."""

import json
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datasets.corpus.synthetic import write_corpus
from flows.retraining.late_runs import SKIPPED
from tests.drills import drill_road, stack
from tests.drills.service_processes import BIN, Cluster
from tests.drills.services_here import prefect_alone

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
# 20 from the signal on, 10 in which the worker asks whether something was cancelled; twice that on a busy machine.
GONE_WITHIN_S = 60.0
DEAD_FOR_S = 75.0  # after a minute, the automation of `deploy` starts what crashed again
WITHIN_S = 900.0  # a busy machine
RETRAIN = "retrain/stemline"


@pytest.fixture
def made() -> Iterator[Cluster]:
    """A server without a worker."""
    with prefect_alone(say=lambda line: None) as cluster:
        yield cluster


def deploy(made: Cluster, name: str, splits: dict[str, int], *more: str) -> str:
    """The id of `retrain`, deployed with songs and a store of that name."""
    write_corpus(
        made.folder / name, num_songs=sum(splits.values()), seed=1, duration_s=4.0, defects=False, splits=splits
    )
    roots = (f"corpus.root={made.folder / name}", f"store.root={made.folder / f'{name}-store'}")
    made.run(BIN / "stemline", "deploy", "--preset", "smoke", *roots, *drill_road.SETTINGS, *more)
    return str(made.ask("Prefect", "GET", f"/deployments/name/{RETRAIN}")["id"])


def miss(made: Cluster, deployment: str, days: int) -> None:
    """The server schedules as if it were so many days ago, as it did while no worker was there."""
    now = datetime.now(UTC)
    window = {"start_time": (now - timedelta(days=days)).isoformat(), "end_time": now.isoformat(), "min_runs": 100}
    for _ in range(20):
        with suppress(urllib.error.HTTPError):  # its database was locked by the server's own scheduler
            made.ask("Prefect", "POST", f"/deployments/{deployment}/schedule", window)
            return
        time.sleep(1)
    raise AssertionError("the server does not schedule")


def wait_for(made: Cluster, condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, tail_of_the_worker(made)
        time.sleep(1.0)  # each look costs the server, or a walk over all processes


def tail_of_the_worker(made: Cluster) -> str:
    return made.services["Prefect worker"].log.read_text(errors="replace")[-4000:]


def book(made: Cluster) -> list[str]:
    """How the retrainings of the long one's store stand."""
    notes = sorted((made.folder / "store" / "retrainings").glob("*.json"))
    return [json.loads(note.read_text())["status"] for note in notes]


def processes(made: Cluster) -> set[tuple[int, str]]:
    """Whatever runs besides the server and the worker: what the worker has started."""
    worker = made.services["Prefect worker"].process
    servers = {process.pid for process in made.services["Prefect server"].family()} | (
        {worker.pid} if worker else set()
    )
    return {(process.pid, process.name()) for process in made.survivors() if process.pid not in servers}


def cancel(made: Cluster, run: str) -> float:
    """Seconds until nothing of a run is left that is cancelled as the button of Prefect's page asks for it."""
    began_s, at_work = time.monotonic(), processes(made)  # whose next run may begin as soon as this one has ended
    assert len(at_work) > 3
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    assert made.ask("Prefect", "POST", f"/flow_runs/{run}/set_state", body)["status"] == "ACCEPT"
    while left := processes(made) & at_work:
        assert time.monotonic() < began_s + WITHIN_S, left
        time.sleep(0.5)
    gone_s = time.monotonic() - began_s
    wait_for(made, lambda: stack.watch(made, run)["type"] == "CANCELLED")
    wait_for(made, lambda: not processes(made) & at_work)
    return gone_s


def test_late_runs_are_one_and_a_cancelled_one_is_soon_gone(made: Cluster) -> None:
    """A worker was away for days; then a run that somebody asked for takes long, and is cancelled."""
    deployment = deploy(made, "held-out", {"test": 1}, "--cron", "30 2 * * *", "--timezone", "Europe/Berlin")
    (schedule,) = made.ask("Prefect", "GET", f"/deployments/name/{RETRAIN}")["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("30 2 * * *", "Europe/Berlin")
    miss(made, deployment, days=3)
    asked_for = ask_for_a_long_one(made)
    assert len(late(made, deployment)) == 3
    stack.start_worker(made)
    wait_for(made, lambda: one_was_run(late(made, deployment)))
    wait_for(made, lambda: made.survivors("RayTrainWorker"))
    assert book(made) == ["running"]
    before = {run["id"] for run in late(made, deployment)}
    miss(made, deployment, days=5)  # two more, while it runs
    assert cancel(made, asked_for) < GONE_WITHIN_S
    assert book(made) == ["cancelled"]
    cancelled_s = time.monotonic()
    wait_for(made, lambda: one_was_run([run for run in late(made, deployment) if run["id"] not in before]))
    time.sleep(max(0.0, cancelled_s + DEAD_FOR_S - time.monotonic()))
    assert stack.watch(made, asked_for)["type"] == "CANCELLED", "what was cancelled was taken for crashed, and goes on"


def ask_for_a_long_one(made: Cluster) -> str:
    write_corpus(
        made.folder / "songs", num_songs=5, seed=2, duration_s=4.0, defects=False,
        splits={"train": 3, "valid": 1, "test": 1},
    )  # fmt: skip
    overrides = [*drill_road.SETTINGS, "train.steps=100000"]
    return stack.start_run(
        made, RETRAIN, songs=str(made.folder / "songs"), store=str(made.folder / "store"), overrides=overrides
    )


def late(made: Cluster, deployment: str) -> list[dict[str, Any]]:
    """The runs of the schedule that were due before now, the earliest first."""
    body = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    return [run for run in made.ask("Prefect", "POST", "/flow_runs/filter", body) if run["auto_scheduled"]]


def one_was_run(runs: list[dict[str, Any]]) -> bool:
    """Whether one of several was run, which had nothing to train on, the others skipped."""
    states = [(run["state"]["type"], run["state"]["message"]) for run in runs]
    begun = [state for state in states if state[0] in ("RUNNING", "FAILED", "COMPLETED", "CRASHED")]
    assert len(begun) <= 1, states
    return [kind for kind, _ in begun] == ["FAILED"] and states.count(("CANCELLED", SKIPPED)) == len(runs) - 1 > 0
