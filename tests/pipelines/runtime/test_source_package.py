"""What is sent to a cluster: our source, and nothing else that lies beside it or in its folders."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from pipelines.runtime.source_package import source_package, write
from pipelines.runtime.step_keys import ROOMS

OURS = {
    "models/a.py", "datasets/corpus/layouts/b.py", "pipelines/report/assets/page.css", "infra/commit",
    "pipelines/report/assets/report/songs.html.j2", "infra/presets/smoke.toml", "infra/requirements.lock",
}  # fmt: skip
THEIRS = (
    "torch/models/b.py", "six.py", ".hidden", ".env", "stemline.dist-info/METADATA", "flows/__pycache__/a.pyc",
    "store/chunks/a.parquet", "songs/Song/vocals.wav", "aws.env", "secrets.toml", "env/lib/x.py", "out/vocals.wav",
    "dist/x.whl", "model/weights.safetensors", "models.py", "datasets.zip",
    # beside our source, in our own folders
    "datasets/songs/Song/vocals.wav", "models/checkpoint/model.safetensors", "flows/.env", "flows/.keys.py",
    "pipelines/credentials.json", "infra/secrets.yaml", "infra/kubernetes/secret.yaml", "infra/terraform.tfvars",
    "datasets/store/chunks/a.parquet", "pipelines/report/assets/notes.txt", "models/x.pem", "infra/presets/x.json",
)  # fmt: skip


def test_of_a_folder_that_holds_more_a_cluster_is_sent_ours_alone(tmp_path: Path) -> None:
    """Of a checkout with songs and secrets in it, and of the folder of all installed packages."""
    for name in (*OURS, *THEIRS):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "folder/datasets/away.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder/models/weights.py").mkdir()
    write(tmp_path / "package.zip", tmp_path / "folder")
    assert set(zipfile.ZipFile(tmp_path / "package.zip").namelist()) == OURS


def test_everything_that_our_code_opens_is_sent_and_it_works_from_there(repository: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(source_package()).namelist())
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    declared = {
        str(path.relative_to(repository))
        for folder, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (repository / folder.replace(".", "/")).glob(pattern)
    }
    source = {str(path.relative_to(repository)) for room in ROOMS for path in (repository / room).rglob("*.py")}
    assert declared | source <= names
    assert {name.partition("/")[0] for name in names} == set(ROOMS)
    assert Path(source_package()).stat().st_size < 5 * 2**20
    zipfile.ZipFile(source_package()).extractall(tmp_path)
    program = "import flows.config, pipelines.report.html_page; print(flows.config.load('smoke', []).train.steps)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0


def test_equal_source_is_an_equal_package(tmp_path: Path, repository: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write(tmp_path / name, repository)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
