"""The folder of this machine in which is worked on a store: the store itself, or a folder for one in an object store.

What is there may be lost at any time; whatever has to last is brought to the store.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from datasets.store import storage

# Which folder, in the environment: processes that are started here, and workers of Ray, have it from there.
VARIABLE = "STEMLINE_SCRATCH"


def use(folder: str) -> None:
    """Work in this folder of this machine from now on; the one for temporary files (TMPDIR) where it is empty."""
    if folder:
        os.environ[VARIABLE] = str(Path(folder).expanduser().absolute())


def scratch(store: str | Path) -> Path:
    """Where this machine works on a store; each store in an object store has a folder of its own, which may be new."""
    if not storage.is_remote(store):
        return Path(store).expanduser().absolute()
    name = hashlib.sha256(storage.absolute(store).encode()).hexdigest()[:12]
    return Path(os.environ.get(VARIABLE) or tempfile.gettempdir(), f"{storage.SCRATCH}{name}")
