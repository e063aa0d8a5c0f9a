"""The wheel in an environment of its own, far from this checkout: what it holds, every verb, and a real Prefect server.

Its dependencies are those of the environment in which the tests run.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from flows import config as door
from flows.cli.operations import ui
from flows.console.progress_display import current
from tests.flows.cli.test_command_line import GIVEN, VERBS

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # beside others of its kind, an own server starves

ROOMS = ("models", "datasets", "pipelines", "flows", "infra", "stemline")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])('dist')"
EVERY_VERB = """
import json, sys
import models, datasets, pipelines, flows, infra, stemline
from flows.__main__ import main
from pipelines.runtime.step_keys import code_commit

places = [room.__file__ for room in (models, datasets, pipelines, flows, infra, stemline)]
assert all(place.startswith(sys.prefix) for place in places), places
codes = {" ".join(words): main([*words, "--print-config"]) for words in json.load(open("verbs.json"))}
assert stemline.configure("smoke", {"train.steps": 7}).train.steps == 7
print("codes", json.dumps(codes))
print("commit", code_commit())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel, the commit of the sources that it was built from, and where it is installed."""

    path: Path
    commit: str
    environment: Path


def run(*words: str | Path, cwd: Path, **variables: str) -> str:
    """What a program says on stdout; what it says on stderr is shown where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**environment, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def commit_all(folder: Path) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *who, "commit", "--quiet", "--message", "all", cwd=folder)
    return run("git", "rev-parse", "HEAD", cwd=folder).strip()


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Built from an sdist, which is built from a checkout, and installed in an environment in a user's repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for room in ROOMS:
        shutil.copytree(repository / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "requirements.lock", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    commit = commit_all(source)
    run(sys.executable, "-c", BUILD, "build_sdist", cwd=source)
    lab = folder / "song-lab"
    lab.mkdir()
    (lab / "pyproject.toml").write_text('[project]\nname = "song-lab"\n')
    commit_all(lab)
    with tarfile.open(next((source / "dist").glob("*.tar.gz"))) as packed:
        packed.extractall(lab, filter="data")
    unpacked = next(lab.glob("stemline-*"))
    run(sys.executable, "-c", BUILD, "build_wheel", cwd=unpacked)
    made = next((unpacked / "dist").glob("*.whl"))
    return Wheel(path=made, commit=commit, environment=_installed(made, lab / "venv", repository))


def _installed(wheel: Path, environment: Path, repository: Path) -> Path:
    """An environment with the wheel, which finds everything else where these tests find it."""
    uv = shutil.which("uv") or str(repository / ".uv" / "bin" / "uv")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=wheel.parent)
    python = environment / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, cwd=wheel.parent)
    inside = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=wheel.parent).strip()
    (Path(inside) / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return environment


def test_the_wheel_holds_every_file_of_our_packages_and_what_it_was_built_from(wheel: Wheel, repository: Path) -> None:
    with zipfile.ZipFile(wheel.path) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
        assert packed.read("infra/commit").decode().strip() == wheel.commit
        assert packed.read("infra/requirements.lock") == (repository / "requirements.lock").read_bytes()
    kept = run("git", "ls-files", *ROOMS, cwd=repository)
    packages = {path.parent for room in ROOMS for path in (repository / room).rglob("__init__.py")}
    assets = repository / "pipelines" / "report" / "assets"
    packages |= {assets, *(path for path in assets.iterdir() if path.is_dir())}
    files = {path for file in kept.splitlines() if (path := repository / file).parent in packages}
    assert assets / "curation" / "songs.html.j2" in files
    wanted = {str(path.relative_to(repository)) for path in files if path.name != "README.md"}
    (manual,) = (name for name in names - wanted if name.endswith(".data/data/share/man/man1/stemline.1"))
    assert names - wanted - {manual} == {"infra/commit", "infra/requirements.lock"}
    assert (wheel.environment / "share" / "man" / "man1" / "stemline.1").is_file()
    assert wanted - names == {"infra/compose.yaml"}  # which no verb opens


def test_every_verb_of_the_wheel_knows_its_settings_and_whose_commit_it_is(wheel: Wheel, tmp_path: Path) -> None:
    words = [[*verb.split(), *GIVEN.get(verb, [])] for verb in VERBS]
    (tmp_path / "verbs.json").write_text(json.dumps(words))
    said = run(wheel.environment / "bin" / "python", "-c", EVERY_VERB, cwd=tmp_path).splitlines()
    codes = json.loads(next(line for line in said if line.startswith("codes ")).removeprefix("codes "))
    assert len(codes) == len(VERBS)
    assert set(codes.values()) == {0}
    assert said[-1] == f"commit {wheel.commit}"
    assert [path.name for path in tmp_path.iterdir()] == ["verbs.json"]
    assert "Example" in run(wheel.environment / "bin" / "stemline", "deploy", "--help", cwd=tmp_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectServer:
    """The address of a Prefect server of its own, and the password that it asks for."""

    address: str
    password: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with ui._prefect(tmp_path_factory.mktemp("prefect"), current()) as (address, password):
        yield PrefectServer(address=f"{address}api", password=password)


def ask(server: PrefectServer, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    password = base64.b64encode(server.password.encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {password}"}
    asked = urllib.request.Request(server.address + path, data, headers, method=method)
    for wait_s in (1, 2, 4, 8, 0):  # Prefect says 503 while its database is locked, and its own client asks again
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or not wait_s:
                raise
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def deployments(server: PrefectServer) -> dict[str, dict[str, Any]]:
    """Every deployment by the name of its flow."""
    found = ask(server, "POST", "/deployments/filter", {})
    return {one["entrypoint"].rpartition(".")[2]: one for one in found}


def crons(deployment: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(one["schedule"]["cron"], one["active"]) for one in deployment["schedules"]]


def test_what_is_deployed_again_keeps_the_schedules_and_pauses_of_the_server(
    wheel: Wheel, server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deploy(*words: str) -> dict[str, dict[str, Any]]:
        program = wheel.environment / "bin" / "stemline"
        address = {"PREFECT_API_URL": server.address, "PREFECT_API_AUTH_STRING": server.password}
        run(program, "deploy", "--preset", "mine.toml", *words, cwd=tmp_path, **address)
        return deployments(server)

    (tmp_path / "mine.toml").write_text(
        '[train]\nsteps = 7\nbackup_uri = "copies"\n[model]\ninit_from = "first \N{GUITAR}"\n'
    )
    first = deploy("store.root=\N{MULTIPLE MUSICAL NOTES}", "corpus.root=songs")
    assert first.keys() == {"build_corpus", "train_model", "evaluate", "full_run", "retrain"}
    monkeypatch.chdir(tmp_path)
    wanted = door.load("mine.toml", ["store.root=\N{MULTIPLE MUSICAL NOTES}", "corpus.root=songs"])
    told = first["retrain"]["parameters"]
    given = [door.override("store.root", told["store"]), door.override("corpus.root", told["songs"])]
    monkeypatch.chdir("/")
    assert door.load(told["preset"], [*given, *told["overrides"]]) == wanted
    assert (wanted.train.steps, wanted.model.init_from) == (7, str(tmp_path / "first \N{GUITAR}"))
    (pulled,) = first["retrain"]["pull_steps"]
    assert str(wheel.environment) in pulled["prefect.deployments.steps.set_working_directory"]["directory"]

    (nightly,) = first["retrain"]["schedules"]
    assert crons(first["retrain"]) == [("0 3 * * *", True)]
    ask(server, "PATCH", f"/deployments/{first['retrain']['id']}/schedules/{nightly['id']}", {"active": False})
    ask(server, "POST", f"/deployments/{first['train_model']['id']}/pause_deployment")
    weekly = [{"active": True, "schedule": {"cron": "0 1 * * 0", "timezone": "UTC"}}]
    ask(server, "POST", f"/deployments/{first['full_run']['id']}/schedules", weekly)

    again = deploy("train.steps=9")
    assert crons(again["retrain"]) == [("0 3 * * *", False)]
    assert (again["train_model"]["paused"], again["retrain"]["paused"]) == (True, False)
    assert all("train.steps=9" in one["parameters"]["overrides"] for one in again.values())
    moved = deploy("--cron", "0 5 * * 1")
    assert crons(moved["retrain"]) == [("0 5 * * 1", True)]
    assert crons(moved["full_run"]) == [("0 1 * * 0", True)]
    assert moved["train_model"]["paused"]
    assert {one["id"] for one in moved.values()} == {one["id"] for one in first.values()}
