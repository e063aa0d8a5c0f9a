"""The whole road through a deployment, on every service that a cluster has: `make stack`.

PostgreSQL, S3, Prefect with a worker, MLflow and a Ray of two nodes are started on loopback, behind passwords and a
token; songs become a champion; then everything is taken down, and nothing is left. With `APART=1` songs and store are
in S3, and Ray's nodes are machines that share nothing but the code (`isolated_machines.py`).
"""

import argparse
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from datasets.store import storage
from tests.benchmarks.table import Row, figure, show
from tests.drills import drill_road, pictures
from tests.drills.isolated_machines import Machines, machines, shared_paths
from tests.drills.service_processes import BIN, Cluster, memory_mib
from tests.drills.services_here import POOL, cluster
from tests.drills.termination import clean_up_when_terminated

SETTINGS = ("store.data=s3://songs/store", "train.num_workers=2", *drill_road.SETTINGS)
RUN_WITHIN_S = 1500.0
BUCKET = "s3://songs"
CONSOLE = Console(highlight=False)


def in_folder(made: Cluster) -> tuple[str, ...]:
    """Songs and store lie in the cluster's folder, which all nodes see, and the datasets in S3."""
    return (f"corpus.root={made.folder / 'music'}", f"store.root={made.folder / 'store'}", *SETTINGS)


def deploy(made: Cluster, *more: str, settings: Sequence[str] | None = None) -> list[str]:
    """Sends the deployments, by default with songs and store `in_folder`."""
    settings = in_folder(made) if settings is None else settings
    said = made.run(BIN / "stemline", "deploy", "--preset", "smoke", "--json", *settings, *more)
    return list(json.loads(said)["deployments"])


@contextmanager
def apart(made: Cluster) -> Iterator[Machines]:
    """A Ray of machines that share nothing but the code, and songs in S3; this process finds its way to both."""
    folder = made.folder / "machines"
    folder.mkdir()
    os.environ.update({name: value for name, value in made.environment.items() if name.startswith("AWS_")})
    with machines(folder, dict(made.environment), count=2, takes_jobs=True) as here:
        made.environment |= {"RAY_ADDRESS": here.page, "_RAY_GCS": here.ray}
        yield here


def start_worker(made: Cluster) -> None:
    """A worker of the pool, and a runner for each flow that it takes."""
    log = made.folder / "logs" / "Prefect-worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "-n", "here"]
    made.add("Prefect worker", command, lambda: log.exists() and "started!" in log.read_text(errors="replace"))


def start_run(made: Cluster, deployment: str, **parameters: Any) -> str:
    """The id of a new run of a deployment."""
    found = made.ask("Prefect", "GET", f"/deployments/name/{deployment}")
    body = {"state": {"type": "SCHEDULED"}, "parameters": {**found["parameters"], **parameters}}
    return str(made.ask("Prefect", "POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])


def watch(made: Cluster, run: str) -> dict[str, Any]:
    """How a run stands, how often it was started, and the seconds of each of its tasks."""
    seen = made.ask("Prefect", "GET", f"/flow_runs/{run}")
    tasks = made.ask("Prefect", "POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
    return {
        "type": seen["state"]["type"],
        "name": seen["state"]["name"],
        "message": seen["state"].get("message") or "",
        "starts": seen["run_count"],
        "seconds": seen["estimated_run_time"],
        "tasks": {one["name"].rsplit("-", 1)[0]: one["estimated_run_time"] for one in tasks},
    }


def finish(made: Cluster, run: str, *, within_s: float = RUN_WITHIN_S) -> dict[str, Any]:
    """The run once it is over; it has to be completed."""
    deadline_s = time.monotonic() + within_s
    while (seen := watch(made, run))["type"] not in ("COMPLETED", "FAILED", "CANCELLED"):
        assert time.monotonic() < deadline_s, f"the run takes too long: {seen}"
        time.sleep(2)
    assert seen["type"] == "COMPLETED", "\n".join([str(seen), *logs(made, run)[-40:]])
    return seen


def logs(made: Cluster, run: str) -> list[str]:
    """What a run has said, at most its last 200 lines."""
    body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_DESC"}
    return [one["message"] for one in made.ask("Prefect", "POST", "/logs/filter", body)[::-1]]


def jobs(made: Cluster) -> dict[str, str]:
    """Every job of the Ray cluster that was submitted, and how it stands."""
    return {one["submission_id"]: one["status"] for one in made.ask("Ray", "GET", "/api/jobs/") if one["submission_id"]}


def artifacts(made: Cluster, run: str) -> list[dict[str, Any]]:
    """Everything that the steps of a run have shown on Prefect's pages."""
    body = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
    return list(made.ask("Prefect", "POST", "/artifacts/filter", body))


def champion(made: Cluster) -> dict[str, Any]:
    """MLflow's word on the version behind the alias."""
    path = "/api/2.0/mlflow/registered-models/alias?name=stemline&alias=champion"
    return dict(made.ask("MLflow", "GET", path)["model_version"])


def versions(made: Cluster) -> int:
    """How many versions of the model are registered."""
    found = made.ask("MLflow", "GET", "/api/2.0/mlflow/model-versions/search?filter=name%3D'stemline'&max_results=1000")
    return len(found["model_versions"])


def leaks(made: Cluster, run: str, here: Machines | None = None) -> list[str]:
    """Where a password, a key or the token can be read that should be nowhere: logs, configurations, artifacts."""
    hidden = [value for value in (made.password, made.token, made.environment["AWS_SECRET_ACCESS_KEY"]) if value]
    found = []
    for path in [*(made.folder / "logs").glob("*"), *(made.folder / "store").rglob("*"), *_ray_logs(made, here)]:
        if path.is_file() and any(word.encode() in path.read_bytes() for word in hidden):
            found.append(str(path))
    for name in storage.files_below(BUCKET) if here else ():
        if any(word.encode() in storage.read(storage.join(BUCKET, name)) for word in hidden):
            found.append(f"{BUCKET}/{name}")
    told = {**answers(made, run), "arguments of processes": _arguments(made)}
    return found + [name for name, said in told.items() if any(word in json.dumps(said) for word in hidden)]


def answers(made: Cluster, run: str) -> dict[str, Any]:
    """What the services show to whoever may look at a run: by the name of the page."""
    return {
        "Prefect's artifacts": artifacts(made, run),
        "the run's log": logs(made, run),
        "Ray's jobs": made.ask("Ray", "GET", "/api/jobs/"),
        "Ray's nodes": made.ask("Ray", "GET", "/nodes?view=summary"),
        "Ray's runtime environments": made.ask("Ray", "GET", "/api/v0/runtime_envs?detail=true&limit=1000"),
        "Ray's tasks": made.ask("Ray", "GET", "/api/v0/tasks?detail=true&limit=1000"),
        "MLflow's version": champion(made),
    }


def _arguments(made: Cluster) -> list[list[str]]:
    """As `ps` shows them to every user of the machine."""
    arguments = []
    for process in made.family():
        with suppress(psutil.Error):
            arguments.append(process.cmdline())
    assert any("mlflow" in words for words in arguments)
    return arguments


def join(made: Cluster, here: Machines | None) -> None:
    """One step by a driver that joins the cluster, instead of sending jobs: Ray shows what it gives to workers."""
    words = [str(BIN / "stemline"), "ingest", "--preset", "smoke", *drill_road.SETTINGS]
    if here:
        done = here.others[0].ask(*words, f"corpus.root={BUCKET}/music", f"store.root={BUCKET}/joined")
        assert done.returncode == 0, done.stderr[-3000:]
        return
    jobs = made.environment["RAY_ADDRESS"]
    made.environment["RAY_ADDRESS"] = made.environment["_RAY_GCS"]
    try:
        made.run(*words, f"corpus.root={made.folder / 'music'}", f"store.root={made.folder / 'joined'}")
    finally:
        made.environment["RAY_ADDRESS"] = jobs


def _ray_logs(made: Cluster, here: Machines | None) -> list[Path]:
    roots = [one.root / "tmp" / "ray" for one in (here.head, *here.others) if one] if here else [made.folder / "ray"]
    found = [path for root in roots for path in root.rglob("*") if path.suffix in (".log", ".out", ".err", ".txt")]
    assert found, "Ray has written no logs"
    return found


def open_to_strangers(made: Cluster) -> list[str]:
    """The services that answer whoever asks without password or token."""
    pages = {
        "Prefect": f"{made.environment['PREFECT_API_URL']}/admin/version",
        "MLflow": f"{made.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/get?name=stemline",
        "Ray": f"{made.environment['RAY_ADDRESS']}/api/jobs/",
    }
    found = []
    for name, page in pages.items():
        try:
            with urllib.request.urlopen(page, timeout=30):
                found.append(name)
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403):
                found.append(f"{name}: {error.code}")
    return found


def _settings(made: Cluster, here: Machines | None) -> Sequence[str]:
    """Where songs and store are."""
    if here is None:
        return in_folder(made)
    others = [setting for setting in SETTINGS if not setting.startswith("store.data=")]
    return [f"corpus.root={BUCKET}/music", f"store.root={BUCKET}/store", *others]


def walk(made: Cluster, here: Machines | None, shown_in: Path | None) -> list[Row]:
    """The whole road once, and what can be seen of it afterwards."""
    songs, settings, rows = made.folder / "music", _settings(made, here), list[Row]()
    drill_road.make_songs(songs)
    if here:
        for path in songs.rglob("*.*"):
            storage.write(f"{BUCKET}/music/{path.relative_to(songs).as_posix()}", path.read_bytes())
        shared = shared_paths([one for one in (here.head, *here.others) if one])
        rows.append(figure("paths that two nodes share, and can write", len(shared), "", target=0))
    began_s = time.monotonic()
    deploy(made, settings=settings)
    rows.append(figure("deploy", time.monotonic() - began_s, "s"))
    start_worker(made)
    run = start_run(made, "full-run/stemline")
    seen = finish(made, run)
    rows += [figure(f"step {name}", seconds, "s") for name, seconds in seen["tasks"].items()]
    rows.append(figure("the run", seen["seconds"], "s"))
    done = jobs(made)
    rows.append(figure("Ray jobs that succeeded", list(done.values()).count("SUCCEEDED"), "", target=6, more=True))
    rows.append(figure("Ray jobs that did not", sum(one != "SUCCEEDED" for one in done.values()), "", target=0))
    shown = {one["key"] for one in artifacts(made, run) if (one["key"] or "").startswith("step-")}
    rows.append(figure("steps shown on Prefect's page", len(shown), "", target=10, more=True))
    rows += [figure(f"memory of {name}", memory_mib(one.family()), "MiB") for name, one in made.services.items()]
    best = champion(made)
    CONSOLE.print(f"champion: version {best['version']}, {best['source']}")
    rows.append(figure("services open to strangers", len(open_to_strangers(made)), "", target=0))
    made.run(BIN / "stemline", "doctor", "--preset", "smoke", *settings)
    join(made, here)
    leaked = leaks(made, run, here)
    for where in leaked:
        CONSOLE.print(f"a secret can be read in {where}")
    rows.append(figure("places where a secret can be read", len(leaked), "", target=0))
    if shown_in:
        pages = pictures.pages(made, run, next(name for name in done if name.startswith("train-")), best["run_id"])
        rows.append(figure("pictures", sum(pictures.take(made, shown_in, pages)) / 1000, "kB", target=600))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the services' pages")
    parser.add_argument("--keep-logs", help="a folder for the services' logs, where something fails")
    parser.add_argument("--apart", action="store_true", help="Ray's nodes share no disk; songs and store are in S3")
    options = parser.parse_args()
    clean_up_when_terminated()
    with cluster(say=CONSOLE.print, ray_nodes=0 if options.apart else 2) as made:
        try:
            with apart(made) if options.apart else nullcontext() as here:
                rows = walk(made, here, options.pictures)
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
