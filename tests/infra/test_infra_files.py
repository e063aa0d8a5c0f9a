"""Files for machines that are not here, against the schemas of those who will read them, and against each other."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.37"


@pytest.fixture(scope="module")
def infra(repository: Path) -> Path:
    return repository / "infra"


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def kuberay(repository: Path) -> Any:
    return json.loads((repository / "tests" / "infra" / "kuberay.json").read_text(encoding="utf-8"))


def check_resource(repository: Path, told: Any) -> None:
    """Raises unless Kubernetes, or KubeRay, takes it."""
    if told["apiVersion"].startswith("kustomize"):
        return
    if not told["apiVersion"].startswith("ray.io"):
        kubernetes_validate.validate(told, KUBERNETES, strict=True)
        return
    known = kuberay(repository)
    jsonschema.validate(told, {**known[told["kind"]], "RayCluster": known["RayCluster"]})
    for template in pod_templates(told):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pod_templates(told: Any) -> Iterator[Any]:
    spec = told["spec"].get("rayClusterSpec", told["spec"])
    yield from (group["template"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]])


def manifests(infra: Path) -> list[Any]:
    return [one for path in sorted((infra / "kubernetes").rglob("*.yaml")) for one in documents(path) if "kind" in one]


def test_kubernetes_and_kuberay_take_every_manifest(repository: Path, infra: Path) -> None:
    found = manifests(infra)
    assert {one["kind"] for one in found} == {
        "Kustomization", "Namespace", "PersistentVolumeClaim", "Deployment", "Service", "RayCluster", "RayJob",
        "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Job", "NetworkPolicy",
    }  # fmt: skip
    for one in found:
        check_resource(repository, one)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("RayCluster", lambda told: told["spec"].update(headGroupSpecs={})),
        ("RayCluster", lambda told: told["spec"]["workerGroupSpecs"][0].update(minReplicas="0")),
        ("RayCluster", lambda told: told["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})),
        ("RayCluster", lambda told: next(pod_templates(told))["spec"]["containers"][0].update(portz=[])),
        ("RayJob", lambda told: told["spec"].update(entrypoints="x")),
        ("Deployment", lambda told: told["spec"]["template"]["spec"].update(containerz=[])),
    ],
)
def test_a_misspelt_manifest_is_refused(repository: Path, infra: Path, kind: str, change: Any) -> None:
    told = next(one for one in manifests(infra) if one["kind"] == kind)
    change(told)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_resource(repository, told)


def pool(infra: Path) -> Any:
    return json.loads((infra / "kubernetes" / "pool" / "pool.json").read_text(encoding="utf-8"))


# In a process of its own: where Prefect's server is imported, MLflow's tables are set up together with Prefect's.
TAKES = """
import json, sys
from prefect.server.schemas.actions import WorkPoolCreate
for template in json.load(sys.stdin):
    try:
        WorkPoolCreate(name="stemline", type="kubernetes", base_job_template=template)
        print("taken")
    except ValueError as error:
        print(" ".join(str(error).split()))
"""


@pytest.mark.slow
def test_prefect_takes_the_pool_and_kubernetes_the_jobs_it_makes(infra: Path) -> None:
    from prefect.utilities.templating import apply_values

    told, misspelt = pool(infra), pool(infra)
    misspelt["variables"]["properties"].pop("memory")
    said = subprocess.run(
        [sys.executable, "-c", TAKES], input=json.dumps([told, misspelt]), capture_output=True, text=True, check=True
    )
    taken, refused = said.stdout.splitlines()
    assert taken == "taken"
    assert "memory" in refused
    known = told["variables"]["properties"]
    values = {name: said["default"] for name, said in known.items() if "default" in said}
    values |= {"name": "full-run", "labels": {"run": "x"}, "command": "prefect flow-run execute"}
    job = apply_values(told["job_configuration"]["job_manifest"], values)
    pod = job["spec"]["template"]["spec"]
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)  # Prefect asks for them where they mean nothing
    pod["containers"][0]["args"] = pod["containers"][0]["args"].split()  # as the worker does it
    kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_clusters_run_the_locked_ray_with_a_token_and_shared_memory(infra: Path) -> None:
    for told in (one for one in manifests(infra) if one["apiVersion"].startswith("ray.io")):
        spec = told["spec"].get("rayClusterSpec", told["spec"])
        assert spec["rayVersion"] == version("ray")
        assert spec["authOptions"] == {"mode": "token", "secretName": "stemline-ray"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for template in pod_templates(told):
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
            mounted = {mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
            assert {"/dev/shm", "/scratch"} <= mounted


def pods(infra: Path) -> Iterator[tuple[str, Any]]:
    """Every pod that runs our code, with what it is of."""
    for told in manifests(infra):
        if told["apiVersion"].startswith("ray.io"):
            yield from ((told["kind"], template["spec"]) for template in pod_templates(told))
        elif told["kind"] == "Deployment" and told["metadata"]["name"] == "prefect-worker":
            yield "worker", told["spec"]["template"]["spec"]
    (gpu,) = documents(infra / "kubernetes" / "gpu" / "kustomization.yaml")
    yield "gpu", yaml.safe_load(gpu["patches"][0]["patch"])[0]["value"]["template"]["spec"]
    yield "pool", pool(infra)["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]


def test_no_two_pods_share_a_disk_and_each_reaches_the_bucket_and_a_scratch_of_its_own(infra: Path) -> None:
    told = manifests(infra)
    claims = [one for one in told if one["kind"] == "PersistentVolumeClaim"]
    assert [(one["metadata"]["name"], one["spec"]["accessModes"]) for one in claims] == [("prefect", ["ReadWriteOnce"])]
    users = [one for one in told if "claimName" in json.dumps(one)]
    assert [(one["metadata"]["name"], one["spec"]["strategy"]["type"]) for one in users] == [
        ("prefect-server", "Recreate")
    ]
    (settings,) = (one for one in told if one["kind"] == "ConfigMap")
    assert settings["data"]["TMPDIR"] == "/scratch"
    seen = list(pods(infra))
    assert {kind for kind, _ in seen} == {"RayCluster", "RayJob", "worker", "gpu", "pool"}
    for kind, spec in seen:
        (container,) = spec["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}], kind
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= {one["name"] for one in container["env"]}, kind
        assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}["scratch"] == "/scratch"
        (scratch,) = (volume for volume in spec["volumes"] if volume["name"] == "scratch")
        assert "emptyDir" in scratch, kind
    (job,) = (one for one in told if one["kind"] == "RayJob")
    assert "store.root=s3://" in job["spec"]["entrypoint"]


def test_compose_takes_its_file_and_opens_ports_to_this_machine_only(infra: Path) -> None:
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    (told,) = documents(infra / "compose.yaml")
    jsonschema.validate(told, schema)
    ports = [port for service in told["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in told["services"].items():
        assert set(service.get("depends_on", [])) <= set(told["services"]), name
        named = [volume.split(":")[0] for volume in service.get("volumes", [])]
        assert all(volume in told["volumes"] or volume.startswith((".", "$")) for volume in named), name
    told["services"]["prefect"]["portz"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told, schema)


def test_rays_own_schema_takes_the_files_of_clouds(infra: Path) -> None:
    schema = json.loads(files("ray").joinpath("autoscaler/ray-schema.json").read_text())
    for path in sorted((infra / "ray").glob("*.yaml")):
        (told,) = documents(path)
        jsonschema.validate(told, schema)
        kinds = told["available_node_types"]
        assert kinds[told["head_node_type"]]["resources"] == {"CPU": 0}
        assert "spot" in json.dumps(kinds["songs"]).lower()
        nodes = [kind["node_config"] for kind in kinds.values()]
        assert all(node.get("BlockDeviceMappings") or node.get("disks") for node in nodes), "room for the scratch"
        if told["provider"]["type"] == "aws":
            assert {node["IamInstanceProfile"]["Name"] for node in nodes} == {"stemline"}, "the way to the bucket"
        told["max_workerz"] = 3
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(told, schema)


def test_images_copy_what_is_there_and_install_the_lock(repository: Path, infra: Path) -> None:
    for path in sorted((infra / "docker").iterdir()):
        text = path.read_text(encoding="utf-8")
        copied = [word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]]
        assert all((repository / name).exists() for name in copied), path
        assert {"models", "datasets", "pipelines", "flows", "infra", "stemline", "requirements.lock"} <= set(copied)
        assert "--require-hashes --requirement requirements-extras.lock" in text
        assert re.search(r"^USER stemline$", text, re.M), "nothing runs as root"


def test_no_secret_has_a_value_in_a_file(infra: Path) -> None:
    wanted = re.compile(r"^ *\w*(?:PASSWORD|SECRET|TOKEN|_KEY|AUTH_STRING)\w*: *(?!\$\{)\S+", re.M)
    for path in [*infra.rglob("*.yaml"), *infra.rglob("*.toml")]:
        assert not wanted.findall(path.read_text(encoding="utf-8")), path


def test_monitoring_reads_and_every_panel_asks_something(infra: Path) -> None:
    (scraped,) = documents(infra / "monitoring" / "prometheus.yaml")
    (rules,) = documents(infra / "monitoring" / scraped["rule_files"][0])
    jobs = {one["job_name"] for one in scraped["scrape_configs"]}
    board = json.loads((infra / "monitoring" / "grafana" / "stemline.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(asked) == len(board["panels"]) + 12
    assert {job for text in asked for job in re.findall(r'job="(\w+)"', text)} <= jobs
    (probed,) = [one["static_configs"] for one in scraped["scrape_configs"] if one["job_name"] == "probe"]
    (blackbox,) = documents(infra / "monitoring" / "blackbox.yaml")
    assert {one["labels"]["__param_module"] for one in probed} == set(blackbox["modules"])
    services = {one["labels"]["service"] for one in probed}
    assert {name for text in asked for name in re.findall(r'service="(\w+)"', text)} == services


def test_files_name_the_image_of_this_version(repository: Path, infra: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [path.read_text(encoding="utf-8") for path in sorted(infra.rglob("*")) if path.suffix in (".yaml", ".json")]
    tags = re.findall(r'stemline:(\d[^\s"]*)|newTag: "(.*)"', "\n".join(texts))
    assert {image or tag for image, tag in tags} == {project["version"]}
    assert len(tags) == 8
