"""The whole road through a deployment, on every service that a cluster has: `make stack`.

PostgreSQL, S3, Prefect with a worker, MLflow and a Ray of two nodes are started on loopback, behind passwords and a
token; songs become a champion; then everything is taken down, and nothing is left.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench.table import Row, figure, show
from tests.e2e import drill_road
from tests.e2e.services_here import BIN, POOL, Cluster, cluster

SETTINGS = ("store.data=s3://songs/store", "train.num_workers=2", *drill_road.SETTINGS)
RUN_WITHIN_S = 1500.0
CONSOLE = Console(highlight=False)


def deploy(made: Cluster, *more: str) -> list[str]:
    """Sends the deployments; songs and store lie in the cluster's folder."""
    roots = (f"corpus.root={made.folder / 'music'}", f"store.root={made.folder / 'store'}")
    said = made.run(BIN / "stemline", "deploy", "--preset", "smoke", "--json", *roots, *SETTINGS, *more)
    return list(json.loads(said)["deployments"])


def start_worker(made: Cluster) -> None:
    """A worker of the pool, and a runner for each flow that it takes."""
    log = made.folder / "logs" / "Prefect-worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "-n", "here"]
    made.add("Prefect worker", command, lambda: log.exists() and "started!" in log.read_text(errors="replace"))


def start_run(made: Cluster, deployment: str) -> str:
    """The id of a new run of a deployment."""
    said = made.run(sys.executable, "-c", _START, deployment)
    return said.split()[-1]


def watch(made: Cluster, run: str) -> dict[str, Any]:
    """Name and type of a run's state, and the seconds of each of its tasks."""
    return dict(json.loads(made.run(sys.executable, "-c", _WATCH, run).splitlines()[-1]))


def finish(made: Cluster, run: str, *, within_s: float = RUN_WITHIN_S) -> dict[str, Any]:
    """The run once it is over; it has to be completed."""
    deadline_s = time.monotonic() + within_s
    while True:
        seen = watch(made, run)
        if seen["type"] in ("COMPLETED", "FAILED", "CANCELLED"):
            break
        assert time.monotonic() < deadline_s, f"the run takes too long: {seen}"
        time.sleep(3)
    assert seen["type"] == "COMPLETED", "\n".join([str(seen), *logs(made, run)[-30:]])
    return seen


def logs(made: Cluster, run: str) -> list[str]:
    """What a run has said."""
    return list(json.loads(made.run(sys.executable, "-c", _LOGS, run).splitlines()[-1]))


def jobs(made: Cluster) -> dict[str, str]:
    """Every job of the Ray cluster, and how it stands."""
    return dict(json.loads(made.run(sys.executable, "-c", _JOBS).splitlines()[-1]))


# Prefect reads its settings once, so whoever talks to this server is a process that was born with its address.
_START = """
import sys
from prefect.deployments import run_deployment
print(run_deployment(sys.argv[1], timeout=0).id)
"""
_WATCH = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
with get_client(sync_client=True) as client:
    run = client.read_flow_run(sys.argv[1])
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))
print(json.dumps({
    "type": run.state.type.value, "name": run.state.name, "message": run.state.message or "",
    "starts": run.run_count, "seconds": run.estimated_run_time.total_seconds(),
    "tasks": {task.name.rsplit("-", 1)[0]: task.estimated_run_time.total_seconds() for task in tasks},
}))
"""
_LOGS = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.sorting import LogSort
with get_client(sync_client=True) as client:
    found = client.read_logs(
        LogFilter(flow_run_id={"any_": [sys.argv[1]]}), limit=200, sort=LogSort.TIMESTAMP_DESC
    )
print(json.dumps([one.message for one in found[::-1]]))
"""
_JOBS = """
import json, pipelines
from ray.job_submission import JobSubmissionClient
import os
found = JobSubmissionClient(os.environ["RAY_ADDRESS"]).list_jobs()
print(json.dumps({job.submission_id: str(job.status.value) for job in found if job.submission_id}))
"""
_ARTIFACTS = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    found = client.request("POST", "/artifacts/filter", json={"limit": 200}).json()
print(json.dumps([[one["key"], str(one["data"])] for one in found]))
"""
_CHAMPION = """
import os, mlflow
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias("stemline", "champion")
print(version.version, version.source)
"""


def artifacts(made: Cluster) -> list[list[str]]:
    """Key and text of everything that steps have shown on Prefect's pages."""
    return list(json.loads(made.run(sys.executable, "-c", _ARTIFACTS).splitlines()[-1]))


def leaks(made: Cluster, run: str) -> list[str]:
    """Where a password, a key or the token can be read that should be nowhere: logs, configurations, artifacts."""
    hidden = [value for value in (made.password, made.token, made.environment["AWS_SECRET_ACCESS_KEY"]) if value]
    found = []
    for path in [*(made.folder / "logs").glob("*"), *(made.folder / "store").rglob("*"), *_ray_logs(made)]:
        if path.is_file() and any(word.encode() in path.read_bytes() for word in hidden):
            found.append(str(path.relative_to(made.folder)))
    told = {"Prefect's artifacts": json.dumps(artifacts(made)), "the run's log": "\n".join(logs(made, run))}
    told["Ray's jobs"] = made.run(sys.executable, "-c", _JOBS.replace("str(job.status.value)", "str(job)"))
    return found + [name for name, text in told.items() if any(word in text for word in hidden)]


def _ray_logs(made: Cluster) -> list[Path]:
    return [path for path in (made.folder / "ray").rglob("*") if path.suffix in (".log", ".out", ".err", ".txt")]


def walk(made: Cluster) -> list[Row]:
    """The whole road once, and what can be seen of it afterwards."""
    drill_road.make_songs(made.folder / "music")
    began_s = time.monotonic()
    deploy(made)
    rows = [figure("deploy", time.monotonic() - began_s, "s")]
    start_worker(made)
    run = start_run(made, "full-run/stemline")
    seen = finish(made, run)
    rows += [figure(f"step {name}", seconds, "s") for name, seconds in seen["tasks"].items()]
    rows.append(figure("the run", seen["seconds"], "s"))
    done = jobs(made)
    rows.append(figure("Ray jobs that succeeded", list(done.values()).count("SUCCEEDED"), "", target=6, more=True))
    rows.append(figure("Ray jobs that did not", sum(one != "SUCCEEDED" for one in done.values()), "", target=0))
    shown = {key for key, _ in artifacts(made) if key.startswith("step-")}
    rows.append(figure("steps shown on Prefect's page", len(shown), "", target=10, more=True))
    version, source = made.run(sys.executable, "-c", _CHAMPION).split()[-2:]
    CONSOLE.print(f"champion: version {version}, {source}")
    leaked = leaks(made, run)
    for where in leaked:
        CONSOLE.print(f"a secret can be read in {where}")
    rows.append(figure("places where a secret can be read", len(leaked), "", target=0))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--keep-logs", help="a folder for the services' logs, where something fails")
    options = parser.parse_args()
    with cluster(say=CONSOLE.print) as made:
        try:
            rows = walk(made)
        finally:
            if options.keep_logs:
                shutil.copytree(made.folder / "logs", options.keep_logs, dirs_exist_ok=True)
        rows = [*(figure(f"start {name}", seconds, "s") for name, seconds in made.seconds.items()), *rows]
        began_s = time.monotonic()
        killed = made.take_down()
    rows.append(figure("take down", time.monotonic() - began_s, "s"))
    rows.append(figure("processes that had to be killed", len(killed), ""))
    rows.append(figure("processes left", len(made.survivors()), "", target=0))
    rows.append(figure("folders left", float(made.folder.exists()), "", target=0))
    return show("The whole road on every service, through a deployment", rows, options.out, decimals=1)


if __name__ == "__main__":
    sys.exit(main())
