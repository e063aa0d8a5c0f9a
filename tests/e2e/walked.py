"""A store that `stemline run` made, and what other commands answer about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drills import drill_road as drill
from tests.flows.command import asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """The road walked once, left in peace."""

    songs: Path
    store: Path
    answer: Mapping[str, Any]
    manifests: tuple[Path, ...]  # as that run left them

    def asked(self, *words: str) -> Any:
        """What another command answers about this store, in this process."""
        overrides = [word for word in words if "=" in word]  # the last of two wins
        return asked(*(word for word in words if "=" not in word), *self.settings, *overrides)

    @property
    def settings(self) -> tuple[str, ...]:
        return (f"store.root={self.store}", f"corpus.root={self.songs}", *drill.SETTINGS)
