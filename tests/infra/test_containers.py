"""What reaches an image, and what compose starts: read from the files, without a container."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from docker.utils.build import PatternMatcher

from tests.drills.podman import PROGRAMS
from tests.postgres import database

DRILL = "tests.drills.containers"
LACKS_ROOT = f"import os, runpy; os.geteuid = lambda: 1000; runpy.run_module('{DRILL}', run_name='__main__')"
SECRETS = ("STEMLINE_PASSWORD", "PREFECT_AUTH", "S3_KEY", "S3_SECRET", "RAY_AUTH_TOKEN", "MLFLOW_SECRET")
# What the images copy, and what must never be copied.
WANTED = (
    "requirements.lock", "requirements-extras.lock", "pyproject.toml", "README.md", "LICENSE", "models/errors.py",
    "flows/__main__.py", "pipelines/report/assets/report/songs.html.j2", "infra/__init__.py", "infra/prefect.yaml",
    "infra/presets/smoke.toml", "infra/taxonomies/default.toml",
)  # fmt: skip
UNWANTED = (
    "infra/.env", "infra/songs/one/vocals.wav", "infra/kubernetes/base/settings.yaml", "infra/compose.yaml", ".env",
    ".git/config", ".venv/bin/python", "tests/conftest.py", "requirements-dev.lock", "flows/.env.local",
    "models/__pycache__/errors.cpython-311.pyc", "stemline.egg-info/PKG-INFO", "docs/index.md",
)  # fmt: skip


@pytest.fixture(scope="module")
def services(repository: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((repository / "infra" / "compose.yaml").read_text(encoding="utf-8"))["services"])


@pytest.fixture(scope="module", params=["Dockerfile", "Dockerfile.cuda"])
def dockerfile(repository: Path, request: pytest.FixtureRequest) -> str:
    return (repository / "infra" / "docker" / request.param).read_text(encoding="utf-8")


def reaches_the_image(repository: Path, name: str) -> bool:
    """As Docker's client reads the file."""
    lines = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return not PatternMatcher(patterns).matches(name)


@pytest.mark.parametrize("name", WANTED)
def test_what_an_image_needs_reaches_it(repository: Path, name: str) -> None:
    assert (repository / name).is_file()
    assert reaches_the_image(repository, name)


@pytest.mark.parametrize("name", UNWANTED)
def test_nothing_else_reaches_an_image(repository: Path, name: str) -> None:
    assert not reaches_the_image(repository, name)


@pytest.mark.parametrize("name", ["infra/.env", "infra/songs/one/vocals.wav", ".env.local"])
def test_git_takes_no_secret_and_no_song_of_compose(repository: Path, name: str) -> None:
    told = subprocess.run(
        ["git", "check-ignore", "--no-index", "-v", name], cwd=repository, capture_output=True, text=True
    )
    if told.returncode > 1:
        pytest.skip("this copy of the project is no git checkout")
    assert told.stdout.startswith(".gitignore:")


def test_images_hold_no_tool_of_tests_and_a_user_with_a_home(dockerfile: str) -> None:
    assert set(re.findall(r"requirements[\w-]*\.lock", dockerfile)) == {"requirements.lock", "requirements-extras.lock"}
    assert re.search(r"useradd --create-home --uid 1000 .*stemline", dockerfile), "pods run as 1000"
    assert dockerfile.index("useradd") < dockerfile.index("\nENV HOME=/home/stemline\nUSER stemline\n")
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends (.+) \\", dockerfile)
    assert {"ffmpeg", "rsync", "wget"} <= set(packages.split())
    assert "git" not in packages.split()


def test_prefects_page_has_a_folder_that_its_user_may_write(dockerfile: str) -> None:
    assert re.search(r"PREFECT_UI_STATIC_DIRECTORY=/\S+", dockerfile)
    (made,) = re.findall(r"install --directory --owner stemline --group stemline (.+)", dockerfile)
    assert made.split() == ["/store", "/var/lib/prefect", '"$NUMBA_CACHE_DIR"', '"$PREFECT_UI_STATIC_DIRECTORY"']


def test_a_full_store_leaves_prefects_server_its_disk(services: dict[str, Any]) -> None:
    assert services["prefect"]["volumes"] == ["prefect:/var/lib/prefect"]
    assert services["prefect"]["environment"]["PREFECT_HOME"] == "/var/lib/prefect"


def test_every_image_has_a_version(repository: Path, services: dict[str, Any], dockerfile: str) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    tags = [one["image"] for one in services.values()] + re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert all(re.search(r":\S*\d+\.\d+|:RELEASE\.\d{4}", tag) for tag in tags), tags
    assert {tag for tag in tags if tag.startswith("stemline")} == {f"stemline:{version}"}


def test_no_argument_and_no_address_holds_a_secret(services: dict[str, Any]) -> None:
    words = re.compile("|".join([*SECRETS, "PGPASSWORD", "AWS_SECRET"]))
    for name, service in services.items():
        told = [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]
        assert not [word for word in told if words.search(word)], name
        # A password within an address would have to be percent-encoded, which compose cannot do.
        assert not [value for value in service.get("environment", {}).values() if re.search(r"://.*\$\{", value)], name
    mlflow = services["mlflow"]["environment"]
    assert mlflow["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://stemline@postgres/mlflow"
    assert mlflow["PGPASSWORD"] == mlflow["MLFLOW_AUTH_ADMIN_PASSWORD"] == "${STEMLINE_PASSWORD:?}"


def test_what_is_missing_is_named_before_anything_starts(services: dict[str, Any]) -> None:
    told = yaml.safe_dump(services)
    assert set(re.findall(r"\$\{(\w+):\?\}", told)) == set(SECRETS)
    assert set(re.findall(r"\$\{(\w+)", told)) == {*SECRETS, "SONGS", "STEMLINE_NOTIFY"}
    assert services["worker"]["environment"]["STEMLINE_NOTIFY"] == "${STEMLINE_NOTIFY:-}"


def test_who_waits_waits_for_an_answer(services: dict[str, Any]) -> None:
    once = {"databases", "buckets"}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in once else "service_healthy"
            assert how == {"condition": wanted}, name
            assert other in once or services[other]["healthcheck"], other
    assert {name for name in once if services[name]["restart"] != "on-failure"} == set()
    assert set(services["mlflow"]["depends_on"]) == once
    assert set(services["worker"]["depends_on"]) == {"prefect", "mlflow", "ray-head"}


def test_two_workers_of_ray_answer_to_the_name_that_is_scraped(services: dict[str, Any]) -> None:
    workers = [service for name, service in services.items() if name.startswith("ray-worker")]
    assert len(workers) == 2
    for service in workers:
        assert service["networks"]["default"]["aliases"] == ["ray-worker"]
        assert "deploy" not in service


def one_shot(services: dict[str, Any], name: str) -> str:
    python, option, code = services[name]["command"]
    assert (python, option) == ("python", "-c")
    return str(code)


def test_buckets_are_made_once(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        for _ in range(2):
            exec(one_shot(services, "buckets"), {})
        found = {one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]}
    assert found == {"mlflow", "stemline"}
    assert "--artifacts-destination s3://mlflow" in services["mlflow"]["command"][2]


def test_databases_are_made_once_on_a_real_postgresql(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    with database() as server:
        at = urlsplit(server.url)
        told = {"PGHOST": at.hostname, "PGPORT": str(at.port), "PGUSER": at.username, "PGPASSWORD": "p@ss/w%41rd"}
        for name, value in told.items():
            monkeypatch.setenv(name, str(value))
        with psycopg.connect(server.url, autocommit=True) as first:
            first.execute("create database stemline")  # as the image does with POSTGRES_DB
        for _ in range(2):
            exec(one_shot(services, "databases"), {})
        with psycopg.connect(server.url) as books:
            made = dict(books.execute("select datname, pg_encoding_to_char(encoding) from pg_database").fetchall())
        with psycopg.connect(dbname="prefect") as prefect:
            assert prefect.execute("select extname from pg_extension where extname = 'pg_trgm'").fetchone()
    assert {name: made[name] for name in ("prefect", "mlflow", "mlflow_users")} == dict.fromkeys(
        ("prefect", "mlflow", "mlflow_users"), "UTF8"
    )


@pytest.mark.parametrize("lacks", ["root", "programs", "mounts"])
def test_where_containers_cannot_run_make_containers_says_so(tmp_path: Path, lacks: str) -> None:
    """The drill itself, on a machine that lacks one of what it needs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in () if lacks == "programs" else PROGRAMS:
        (programs / name).write_text(f"#!/bin/sh\necho {name}: not permitted >&2\nexit 1\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    command = [sys.executable, "-c", LACKS_ROOT] if lacks == "root" else [sys.executable, "-m", DRILL]
    if lacks != "root" and os.geteuid() != 0:
        pytest.skip("who is not root learns that first")
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "images")], env={**os.environ, "PATH": str(programs)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    told = {"root": "Linux and root", "programs": "apt-get install podman", "mounts": "unshare: not permitted"}
    assert told[lacks] in " ".join(done.stdout.split())
    assert not (tmp_path / "images").exists()
