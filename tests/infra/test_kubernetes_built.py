"""What `kubectl kustomize` makes of each overlay: what a cluster is given, not what stands in the files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.test_infra_files import check_resource, documents, pod_templates, pool
from tests.postgres import database

OVERLAYS = ("base", "gpu", "pool")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the overlays")


def built(repository: Path, overlay: str) -> list[Any]:
    folder = repository / "infra" / "kubernetes" / overlay
    said = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return [one for one in yaml.safe_load_all(said.stdout) if one]


def pods(told: list[Any]) -> Iterator[tuple[str, Any]]:
    for one in told:
        if one["apiVersion"].startswith("ray.io"):
            yield from ((f"ray {place}", template["spec"]) for place, template in enumerate(pod_templates(one)))
        elif one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def every_pod(repository: Path) -> list[tuple[str, Any]]:
    """Those of each overlay, of the job of one run, and of the pool's jobs."""
    found = [(f"{overlay}: {name}", pod) for overlay in OVERLAYS for name, pod in pods(built(repository, overlay))]
    infra = repository / "infra"
    found += [(f"rayjob: {name}", pod) for name, pod in pods(documents(infra / "kubernetes" / "rayjob.yaml"))]
    return [*found, ("run", pool(infra)["job_configuration"]["job_manifest"]["spec"]["template"]["spec"])]


def secrets(pod: Any) -> set[str]:
    named = [
        one["valueFrom"]["secretKeyRef"] for each in pod["containers"] for one in each["env"] if "valueFrom" in one
    ]
    return {one["name"] for one in named}


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_what_is_built_all_of_it_in_its_namespace(repository: Path, overlay: str) -> None:
    told = built(repository, overlay)
    for one in told:
        check_resource(repository, one)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "stemline", one["metadata"]


@needs_kubectl
def test_every_container_has_our_image_with_its_tag(repository: Path) -> None:
    tagged = f"stemline:{version('stemline')}"
    images = {(name, each["image"]) for name, pod in every_pod(repository) for each in pod["containers"]}
    images.remove(("pool: prefect-worker", f"prefecthq/prefect:{version('prefect')}-python3.11-kubernetes"))
    images.remove(("run", "{{ image }}"))
    assert {image for _, image in images} == {tagged}
    assert pool(repository / "infra")["variables"]["properties"]["image"]["default"] == tagged


@needs_kubectl
def test_pods_are_of_a_user_without_privileges_who_may_write_and_have_bounds(repository: Path) -> None:
    for name, pod in every_pod(repository):
        safe = pod["securityContext"]
        assert (safe["runAsNonRoot"], safe["runAsUser"], safe["fsGroup"]) == (True, 1000, 1000), name
        assert safe["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for each in pod["containers"]:
            assert each["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, (
                name
            )
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(each["resources"][bound]), name


@needs_kubectl
def test_only_those_who_ask_kubernetes_have_a_token(repository: Path) -> None:
    holders = {name for name, pod in every_pod(repository) if pod.get("automountServiceAccountToken", True)}
    heads = {f"{overlay}: ray 0" for overlay in OVERLAYS}  # whose autoscaler asks for pods
    assert holders == {*heads, "pool: prefect-worker"}


@needs_kubectl
def test_who_reads_songs_or_logs_runs_has_the_bucket_and_mlflow(repository: Path) -> None:
    for name, pod in every_pod(repository):
        if name.endswith(("migration", "prefect-server")):
            continue
        for each in pod["containers"]:
            known = {one["name"] for one in each["env"]}
            assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= known, name
            assert each["envFrom"] == [{"configMapRef": {"name": "stemline"}}], name
            assert {"MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"} & known, name


@needs_kubectl
def test_a_service_has_its_own_secrets_only(repository: Path) -> None:
    held = {name: secrets(pod) for name, pod in pods(built(repository, "gpu"))}
    clients = {"stemline-mlflow", "stemline-s3"}
    rays = {name for name in held if name.startswith("ray")}
    assert len(rays) == 3
    assert {name: held[name] for name in rays} == dict.fromkeys(rays, clients)
    assert {name: held[name] for name in held.keys() - rays} == {
        "prefect-server": {"stemline-prefect", "stemline-prefect-database"},
        "prefect-worker": {*clients, "stemline-notify", "stemline-prefect", "stemline-ray"},
        "mlflow": {*clients, "stemline-mlflow-server"},
        "migration": {"stemline-mlflow-server", "stemline-prefect-database"},
    }


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_are_asked_whether_they_start_take_work_and_live(repository: Path, overlay: str) -> None:
    deployments = [one for one in built(repository, overlay) if one["kind"] == "Deployment"]
    assert {one["metadata"]["name"] for one in deployments} == {"prefect-server", "prefect-worker", "mlflow"}
    for one in deployments:
        (each,) = one["spec"]["template"]["spec"]["containers"]
        ports = {port["containerPort"] for port in each["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert each[probe]["httpGet"]["port"] in ports, one["metadata"]["name"]
        if "worker" in each["command"]:
            assert "--with-healthcheck" in each["command"]


@needs_kubectl
def test_gpu_pods_go_where_gpus_are(repository: Path) -> None:
    wants = [(name, pod) for name, pod in every_pod(repository) if "nvidia.com/gpu" in json.dumps(pod["containers"])]
    assert {name for name, _ in wants} == {"gpu: ray 2", "rayjob: ray 1"}
    for _, pod in wants:
        assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@needs_kubectl
def test_clusters_grow_and_shrink(repository: Path) -> None:
    (cluster,) = (one for one in built(repository, "gpu") if one["kind"] == "RayCluster")
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    bounds = [(group["minReplicas"], group["maxReplicas"]) for group in cluster["spec"]["workerGroupSpecs"]]
    assert bounds == [(0, 8), (0, 4)]


@needs_kubectl
def test_nobody_from_outside_gets_in_but_the_operator_to_rays_head(repository: Path) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in built(repository, "base") if one["kind"] == "NetworkPolicy"
    }
    assert policies["inside"]["podSelector"] == {}
    assert policies["inside"]["ingress"] == [{"from": [{"podSelector": {}}]}]
    operator = policies["operator"]
    assert operator["podSelector"] == {"matchLabels": {"ray.io/node-type": "head"}}
    (way,) = operator["ingress"]
    assert "podSelector" in way["from"][0]
    assert {port["port"] for port in way["ports"]} == {6379, 8265}
    assert set(policies) == {"inside", "operator"}


@needs_kubectl
def test_the_pools_worker_watches_the_namespace_that_its_role_is_of(repository: Path) -> None:
    told = built(repository, "pool")
    (worker,) = (pod for name, pod in pods(told) if name == "prefect-worker")
    known = {one["name"]: one.get("value") for one in worker["containers"][0]["env"]}
    (role,) = (one for one in told if one["kind"] == "Role")
    assert known["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"] == role["metadata"]["namespace"]
    assert known["HOME"] == "/scratch"  # root's in that image
    (binding,) = (one for one in told if one["kind"] == "RoleBinding")
    assert binding["subjects"][0]["name"] == worker["serviceAccountName"]
    assert not [one for one in told if one["kind"].startswith("Cluster")]


def started_mlflow(repository: Path) -> Any:
    return documents(repository / "infra" / "kubernetes" / "base" / "mlflow.yaml")[0]["spec"]["template"]["spec"]


def test_mlflows_users_are_in_its_database_whatever_the_password(repository: Path, tmp_path: Path) -> None:
    (each,) = started_mlflow(repository)["containers"]
    address = "postgresql+psycopg://stemline:a%40b%2Fc%25d@postgres/mlflow"
    wrote = tmp_path / "auth.ini"
    command = each["args"][0].split("; exec")[0].replace("/scratch/auth.ini", str(wrote))
    subprocess.run(["sh", "-c", command], env={**os.environ, "MLFLOW_BACKEND_STORE_URI": address}, check=True)
    reads = (
        "from mlflow.server.auth.config import read_auth_config as r; c = r(); print(c.database_uri, c.admin_password)"
    )
    told = {**os.environ, "MLFLOW_AUTH_CONFIG_PATH": str(wrote), "MLFLOW_AUTH_ADMIN_PASSWORD": "x%@/"}
    said = subprocess.run([sys.executable, "-c", reads], env=told, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1].split() == [address, "x%@/"]
    assert "password" not in wrote.read_text()


@pytest.mark.slow
def test_the_migration_sets_up_an_empty_postgresql_and_leaves_a_ready_one(repository: Path) -> None:
    import psycopg

    (job,) = documents(repository / "infra" / "kubernetes" / "base" / "migration.yaml")
    mlflow, prefect = job["spec"]["template"]["spec"]["containers"]
    with database() as server:
        at = server.url.removeprefix("postgresql://").removesuffix("/postgres")
        with psycopg.connect(server.url, autocommit=True) as books:
            books.execute("create database mlflow")
            books.execute("create database prefect")
        told = {**os.environ, "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg://{at}/mlflow"}
        told["PREFECT_API_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg://{at}/prefect"
        told["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{told['PATH']}"
        for each in (mlflow, mlflow, prefect, prefect):
            subprocess.run([*each["command"], *each.get("args", [])], env=told, check=True, capture_output=True)
        tables = {name: tables_of(f"postgresql://{at}/{name}") for name in ("mlflow", "prefect")}
    assert {"runs", "users", "alembic_version", "alembic_version_auth"} <= tables["mlflow"]
    assert {"flow_run", "alembic_version"} <= tables["prefect"]


def tables_of(address: str) -> set[str]:
    import psycopg

    with psycopg.connect(address) as books:
        return {name for (name,) in books.execute("select tablename from pg_tables where schemaname = 'public'")}
