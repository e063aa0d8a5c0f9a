"""Beside Hugging Face's `datasets` nothing of ours is built, run or imported, and it is said what to do."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from stemline.name_clashes import name_clash

CLASH = "datasets 4.0 and stemline both have a package 'datasets'"


def _install(site: Path, *, listed_by: str) -> Path:
    """A distribution called `datasets`, as pip leaves it."""
    info = site / "datasets-4.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 4.0\n")
    files = {"top_level.txt": "datasets\n", "RECORD": "datasets/__init__.py,,\ndatasets-4.0.dist-info/METADATA,,\n"}
    (info / listed_by).write_text(files[listed_by])
    (site / "datasets").mkdir()  # some readers of metadata leave out files that are not there
    (site / "datasets" / "__init__.py").write_text("")
    return site


@pytest.mark.parametrize("listed_by", ["top_level.txt", "RECORD"])
def test_a_package_of_our_name_is_a_clash_and_others_are_none(tmp_path: Path, listed_by: str) -> None:
    other = tmp_path / "other" / "models_of_theirs-1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: models-of-theirs\nVersion: 1\n")
    (other / "top_level.txt").write_text("models_of_theirs\n")
    assert name_clash([str(tmp_path / "other")]) == ""
    assert name_clash() == ""
    clash = name_clash([str(_install(tmp_path / "site", listed_by=listed_by))])
    assert clash.startswith(CLASH)
    assert "Install stemline into an environment of its own" in clash


def test_commands_and_the_api_refuse_to_run_beside_it(tmp_path: Path, repository: Path) -> None:
    site = _install(tmp_path, listed_by="top_level.txt")
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{repository}"}
    for words in (("-m", "stemline", "--version"), ("-c", "import stemline; stemline.score")):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode, CLASH in done.stderr) == (2 if "-m" in words else 1, True), done.stderr


@pytest.mark.slow
def test_pip_is_refused_before_it_writes_a_file(tmp_path: Path, repository: Path) -> None:
    """In the environment of its own that pip builds in, Python names the folder that pip installs into."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=300)
    python = tmp_path / "venv" / "bin" / "python"
    build = [python, "setup.py", "--quiet", "build_py", "--build-lib", tmp_path / "built"]
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True, timeout=300).stdout
    _install(Path(site.strip()), listed_by="top_level.txt")
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(build, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert CLASH in done.stderr
    assert not (tmp_path / "built").exists()
