"""The certain points of a run's loss curve, for whoever hands them on: each is given once it is in a checkpoint.

A training that is taken back takes its curve back only to a checkpoint, so no step is ever handed on twice.
"""

from pathlib import Path
from typing import Any

from pipelines.runs import remote_checkpoints, run_folder
from pipelines.runs.run_place import RunPlace


class CurvePoints:
    """The curve of one run, followed in its folder; of one in an object store, in a folder that it is brought to."""

    def __init__(self, place: RunPlace, *, followed: str = "followed") -> None:
        # What is in an object store is brought here as it comes; the first worker may be at work beside.
        self.place = place
        self.folder: Path = place.folder / followed if place.address else place.folder
        self._certain = 0
        self._tails = {
            "train": run_folder.Tail(self.folder / run_folder.HISTORY),
            "speed": run_folder.Tail(self.folder / run_folder.SPEED),
        }
        self._waiting: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in self._tails}  # points by step
        self._after = -1  # the step up to which the points before the waiting ones were handed on

    def newest_step(self) -> int:
        """That of the newest checkpoint; the curve and the examples up to it are in the folder."""
        if not self.place.address:
            return run_folder.newest_step(self.folder)
        self._certain = remote_checkpoints.follow(self.folder, self.place.address, self._certain)
        return self._certain

    def between(self, done: int, certain: int) -> dict[int, dict[str, float]]:
        """The points of the steps after `done` and up to `certain`; of the files only what is new is read."""
        if done < self._after:  # another server, which is told everything
            self._tails = {kind: run_folder.Tail(tail.path) for kind, tail in self._tails.items()}
        self._after = done
        points: dict[int, dict[str, float]] = {}
        for kind, tail in self._tails.items():
            anew, rows = tail.look(done)
            if anew:
                self._waiting[kind] = {}
            waiting = self._waiting[kind]
            for row in rows:
                waiting.setdefault(row["step"], {}).update({f"{kind}/{name}": row[name] for name in row})
            for step in waiting:
                if done < step <= certain:
                    points.setdefault(step, {}).update(waiting[step])
        return points

    def forget(self, certain: int) -> None:
        """The points up to a step were handed on."""
        for waiting in self._waiting.values():
            for step in [step for step in waiting if step <= certain]:
                del waiting[step]
