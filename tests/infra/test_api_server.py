"""The overlays sent to a real API server (`--dry-run=server`), and what the pool's worker may do there.

Skipped without the programs kube-apiserver and etcd. Kinds of KubeRay are checked by their schemas
(test_kubernetes_built.py): no controller runs here, and nothing becomes a pod.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

PROGRAMS = ("kube-apiserver", "etcd", "kubectl", "openssl")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(name) is None for name in PROGRAMS), reason=f"needs {', '.join(PROGRAMS)}"),
]
OVERLAYS = ("base", "gpu", "pool")
READY_WITHIN_S = 180.0
ADMIN = "a-token-of-this-test"


class ApiServer:
    """An API server with RBAC on a free port, with an etcd behind it; both log into the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, (port, etcd, peers) = folder, _free_ports(3)
        self.address = f"https://127.0.0.1:{port}"
        (folder / "tokens.csv").write_text(f'{ADMIN},admin,admin,"system:masters"\n', encoding="utf-8")
        key = folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        store, others = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peers}"
        commands = {
            "etcd": [
                f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={store}", f"--advertise-client-urls={store}",
                f"--listen-peer-urls={others}", f"--initial-advertise-peer-urls={others}",
                f"--initial-cluster=default={others}",
            ],
            "kube-apiserver": [
                f"--etcd-servers={store}", f"--secure-port={port}", "--bind-address=127.0.0.1",
                f"--cert-dir={folder / 'certificates'}", "--authorization-mode=RBAC",
                f"--token-auth-file={folder / 'tokens.csv'}", "--service-cluster-ip-range=10.0.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}", "--disable-admission-plugins=ServiceAccount",
            ],
        }  # fmt: skip
        self.running = []
        for name, options in commands.items():
            with (folder / f"{name}.log").open("w") as log:
                self.running.append(subprocess.Popen([name, *options], cwd=folder, stdout=log, stderr=log))

    def kubectl(self, *words: str, told: str | None = None) -> "subprocess.CompletedProcess[str]":
        options = [f"--server={self.address}", f"--token={ADMIN}", "--insecure-skip-tls-verify"]
        command = ["kubectl", *options, f"--cache-dir={self.folder / 'cache'}", *words]
        return subprocess.run(command, input=told, capture_output=True, text=True, check=False)

    def wait(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while self.kubectl("get", "--raw", "/readyz").stdout != "ok":
            log = (self.folder / "kube-apiserver.log").read_text()[-2000:]
            assert all(one.poll() is None for one in self.running), log
            assert time.monotonic() < deadline_s, log
            time.sleep(1)

    def end(self) -> None:
        for one in reversed(self.running):
            one.terminate()
            with suppress(subprocess.TimeoutExpired):
                one.wait(30)
            one.kill()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with tempfile.TemporaryDirectory(prefix="api-server-") as folder:
        made = ApiServer(Path(folder))
        try:
            made.wait()
            yield made
        finally:
            made.end()


def core(repository: Path, overlay: str) -> list[Any]:
    """What is built of an overlay, but for kinds of KubeRay."""
    folder = repository / "infra" / "kubernetes" / overlay
    said = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return [one for one in yaml.safe_load_all(said.stdout) if one and not one["apiVersion"].startswith("ray.io/")]


def create(server: ApiServer, what: list[Any], *options: str) -> "subprocess.CompletedProcess[str]":
    return server.kubectl("create", "--validate=false", "-f", "-", *options, told=yaml.safe_dump_all(what))


@pytest.fixture(scope="module")
def namespace(server: ApiServer, repository: Path) -> str:
    (made,) = [one for one in core(repository, "base") if one["kind"] == "Namespace"]
    done = create(server, [made])
    assert done.returncode == 0, done.stderr
    return str(made["metadata"]["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_api_server_takes_every_core_kind(server: ApiServer, repository: Path, namespace: str, overlay: str) -> None:
    what = [one for one in core(repository, overlay) if one["kind"] != "Namespace"]
    done = create(server, what, "--dry-run=server", "--output=yaml")
    assert done.returncode == 0, done.stderr
    taken = list(yaml.safe_load_all(done.stdout))
    assert [one["metadata"]["name"] for one in taken] == [one["metadata"]["name"] for one in what]
    assert all(one["metadata"]["creationTimestamp"] for one in taken), "the server has filled in what was not said"


def test_an_api_server_refuses_what_is_wrong(server: ApiServer, repository: Path, namespace: str) -> None:
    (wrong,) = [
        one for one in core(repository, "base") if one["metadata"]["name"] == "mlflow" and "template" in one["spec"]
    ]
    wrong["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"] = "9000Gi"
    done = create(server, [wrong], "--dry-run=server")
    assert done.returncode != 0
    assert "must be less than or equal to memory limit" in done.stderr


def test_the_pools_worker_may_handle_jobs_in_its_namespace_and_nothing_else(
    server: ApiServer, repository: Path, namespace: str
) -> None:
    rights = [one for one in core(repository, "pool") if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    done = create(server, rights)
    assert done.returncode == 0, done.stderr
    account = f"--as=system:serviceaccount:{namespace}:prefect-worker"

    def may(verb: str, what: str, *where: str) -> bool:
        return server.kubectl("auth", "can-i", verb, what, account, *where).stdout.strip() == "yes"

    here = f"--namespace={namespace}"
    for verb in ("create", "get", "list", "watch", "patch", "delete"):
        assert may(verb, "jobs.batch", here), verb
    for what in ("pods", "pods/log", "events"):
        assert may("watch", what, here), what
    assert not may("create", "pods", here)
    assert not may("get", "secrets", here)
    assert not may("watch", "jobs.batch", "--namespace=default")
    assert not may("list", "pods", "--all-namespaces")
