"""The services of `infra/compose.yaml` in Podman's containers, as its conditions say, part of `make containers`.

podman-compose 1.6 with Podman 4.3 waits for no condition, and does not start what depends on a one-shot service that
has ended. So its copy of the file has no `depends_on`, and the conditions are kept here: a service is started when the
health checks of those before it succeed and the one-shot ones have ended with 0.
"""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from tests.drills.podman import LIMITS, Podman, compose_file

READY_WITHIN_S = 300.0
PROJECT = "stemline"
PAGES = {
    "Prefect": "http://127.0.0.1:4200/", "Prefect's health": "http://127.0.0.1:4200/api/health",
    "MLflow": "http://127.0.0.1:5000/", "MLflow's health": "http://127.0.0.1:5000/health", "Ray": "http://127.0.0.1:8265/",
}  # fmt: skip


class Services:
    """podman-compose on a copy of the file; containers are named as it names them."""

    def __init__(self, podman: Podman, tools: Path, secrets: Mapping[str, str], songs: Path) -> None:
        self.podman, self.program = podman, tools / "podman-compose"
        self.secrets, self.songs = dict(secrets), songs
        self.services: dict[str, Any] = compose_file()["services"]

    def compose(self, *words: str, without: str = "", image: str = "") -> "subprocess.CompletedProcess[str]":
        """One command, `without` a secret, or with another `image` in the place of ours."""
        told = compose_file()
        for one in told["services"].values():
            one.pop("depends_on", None)
            if one.pop("build", None) and image:
                one["image"] = image
        copy, secrets = self.podman.folder / "compose.yaml", self.podman.folder / "compose.env"
        copy.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        kept = {**self.secrets, "SONGS": str(self.songs)}
        kept.pop(without, None)
        secrets.touch(mode=0o600)
        secrets.write_text("".join(f"{name}={value}\n" for name, value in kept.items()), encoding="utf-8")
        options = ["--env-file", secrets, "-f", copy, *(f"--podman-run-args={one}" for one in LIMITS)]
        return subprocess.run(
            [str(word) for word in (self.program, *options, *words)], env=self.podman.environment,
            cwd=self.podman.folder, capture_output=True, text=True, errors="replace", timeout=600, check=False,
        )  # fmt: skip

    def up(self) -> float:
        """Seconds until every page has answered 200, each service started when those before it are ready."""
        began_s = time.monotonic()
        waits_for = {name: one.get("depends_on", {}) for name, one in self.services.items()}
        for name in TopologicalSorter({name: set(others) for name, others in waits_for.items()}).static_order():
            for other, how in waits_for[name].items():
                self._wait(other, how["condition"])
            done = self.compose("up", "--detach", "--no-build", name)
            assert done.returncode == 0, f"{name}: {done.stdout[-1000:]} {done.stderr[-2000:]}"
        self.wait_for_pages()
        return time.monotonic() - began_s

    def _wait(self, name: str, condition: str) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self._is(name, condition):
            assert time.monotonic() < deadline_s, (
                f"{name}: no {condition}:\n{self.podman.logs(self.container(name))[-2000:]}"
            )
            time.sleep(1)

    def _is(self, name: str, condition: str) -> bool:
        if condition == "service_healthy":
            return self.podman.try_to("healthcheck", "run", self.container(name)).returncode == 0
        assert condition == "service_completed_successfully", condition
        state = self.state(name)
        return (state["Status"], state["ExitCode"]) == ("exited", 0)

    def wait_for_pages(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while wrong := {name: code for name in PAGES if (code := self.status(name)) != 200}:
            assert time.monotonic() < deadline_s, f"pages that do not answer 200: {wrong}"
            time.sleep(1)

    def status(self, page: str) -> int:
        """The code with which it answers who has the password; 0 if it does not."""
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, PAGES[page], "stemline", self.secrets["STEMLINE_PASSWORD"])
        try:
            with urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager)).open(
                PAGES[page], timeout=10
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def container(self, name: str) -> str:
        return f"{PROJECT}_{name}_1"

    def state(self, name: str) -> dict[str, Any]:
        """As Podman tells it: Status, ExitCode, Pid."""
        return dict(json.loads(self.podman("inspect", "--format", "{{json .State}}", self.container(name))))

    def inside(
        self, name: str, *command: str, timeout_s: float = 300.0, told: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """A command in a service's container."""
        options = ["--interactive"] if told is not None else []
        return self.podman.try_to("exec", *options, self.container(name), *command, timeout_s=timeout_s, told=told)

    def containers(self) -> dict[str, str]:
        """Names and ids of all there are, also of those that have ended."""
        told = self.podman("ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(line.split() for line in told)

    def left(self) -> Sequence[str]:
        """Containers, volumes and networks that are there."""
        networks = [name for name in self.podman("network", "ls", "--format", "{{.Name}}").split() if name != "podman"]
        return [*self.containers(), *self.podman("volume", "ls", "--quiet").split(), *networks]

    def down(self) -> None:
        """Everything away, and what has no container any more."""
        self.compose("down", "--volumes", "--timeout", "5")
        for name in self.containers():
            self.podman.try_to("rm", "--force", "--time", "2", name)
        self.podman.try_to("volume", "prune", "--force")
