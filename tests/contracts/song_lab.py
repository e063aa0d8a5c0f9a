"""The sample distribution of the documentation, built as a wheel and unpacked on the import path, as pip does it."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns

from models import plugins
from models.networks import catalog

SAMPLE = Path(__file__).resolve().parents[2] / "docs" / "samples" / "song-lab"
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


@contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """Inside, `song_lab` and its entry points are found in a folder; afterwards they are forgotten."""
    copytree(SAMPLE, folder / "source", ignore=ignore_patterns("__pycache__", "build", "*.egg-info"))
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = (folder / "source" / "dist").glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    with on_path(site):
        yield site


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Inside, what lies in a folder can be imported and its entry points are found."""
    forget(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget(folder)


def write_distribution(folder: Path, name: str, entry_points: str, *, version: str = "1.0") -> None:
    """What pip leaves of a distribution that has these entry points; its modules are the caller's."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)


def forget(folder: Path) -> None:
    """Imports and entry points are remembered by a process; a test has others than the next."""
    for cached in (plugins._load, plugins._entry_points, plugins._owner, plugins._digest_at_import):
        cached.cache_clear()
    catalog._PLUGINS.clear()
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]
