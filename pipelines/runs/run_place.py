"""Where a training is kept: its folder, and for a store in an object store the address that outlives every machine."""

from dataclasses import dataclass
from pathlib import Path

from datasets.store import storage
from datasets.store.scratch import scratch

EXAMPLES = "examples"  # what there is to be listened to, in the folder of a training


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """A run of a store, the same on all machines."""

    store: str
    name: str

    @property
    def folder(self) -> Path:
        """Where this machine works on it; in a store on a disk that is where it is kept."""
        return scratch(self.store) / "runs" / self.name

    @property
    def address(self) -> str:
        """Where it is kept in an object store; empty for a store on a disk."""
        return storage.join(storage.absolute(self.store), "runs", self.name) if storage.is_remote(self.store) else ""

    @property
    def kept(self) -> str:
        """Where it is kept: the address, or the folder."""
        return self.address or str(self.folder)


def kept_files(store: str | Path, name: str) -> list[str]:
    """The addresses of the files of this name that the trainings of a store keep."""
    if not storage.is_remote(store):
        return [str(path) for path in sorted(Path(store).glob(f"runs/*/{name}"))]
    root = storage.join(store, "runs")
    paths = [path.split("/") for path in storage.files_below(root)]
    return [storage.join(root, *path) for path in paths if len(path) == 2 and path[1] == name]


def trainings_with_examples(store: str) -> list[str]:
    """Where the trainings of a store are kept that have something to be listened to."""
    root = storage.join(store, "runs")
    paths = [path.split("/") for path in storage.files_below(root)]
    return [storage.join(root, name) for name in sorted({path[0] for path in paths if path[1:2] == [EXAMPLES]})]
