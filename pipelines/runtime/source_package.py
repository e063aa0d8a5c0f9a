"""Our own source as a package that is sent to a cluster: what is on a list, and nothing else that lies beside it.

The folder may be all of site-packages, or a checkout that holds songs, stores and files with keys.
"""

import atexit
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipelines.runtime.step_keys import ROOMS, ROOT, STAMP

# What our code opens beside its source, as pyproject.toml lists it for a wheel, and what setup.py puts there.
_DATA = (
    "infra/prefect.yaml", "infra/presets/*.toml", "infra/taxonomies/*.toml", STAMP, "infra/requirements*.lock",
    "pipelines/report/assets/**/*.css", "pipelines/report/assets/**/*.js", "pipelines/report/assets/**/*.j2",
    "stemline/py.typed",
)  # fmt: skip
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # so that equal source is an equal package, which a cluster keeps


@cache
def source_package() -> str:
    """The path of a zip that lasts as long as this process."""
    folder = tempfile.mkdtemp(prefix="stemline-source-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "stemline.zip")
    write(path, ROOT)
    return str(path)


def write(path: Path, root: Path) -> None:
    """The package of the source below a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in sorted(_names(root)):
            package.writestr(zipfile.ZipInfo(name, _LONG_AGO), (root / name).read_bytes(), zipfile.ZIP_DEFLATED)


def _names(root: Path) -> Iterator[str]:
    patterns = (*(f"{room}/**/*.py" for room in ROOMS), *_DATA)
    for path in {path for pattern in patterns for path in root.glob(pattern)}:
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()
