"""What a model's card says: facts of the registry, and of the datasets that the version learned from.

The same functions answer the gate, the report and `stemline lineage`; a fact that nothing states any more, as of a
version from before it was recorded, is left out and never made up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import registry
from pipelines.evaluation.score_tables import song_table
from pipelines.evaluation.score_tables.song_table import LoudestLeak, Row, SourceInterval
from pipelines.lineage import song_licenses
from pipelines.lineage.song_licenses import SongLicenses
from pipelines.lineage.training_recordings import Ancestors, Ancestry
from pipelines.registry import Evaluation, Lineage, VersionFiles

WORST = 3  # songs that are named at most, and no more than a quarter of all


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSong:
    """A scored song: the mean over its sources, in dB."""

    title: str
    nsdr: float
    improvement: float  # over the unprocessed mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Everything a card says of a registered version."""

    uri: str
    name: str
    version: str
    champion: bool
    license: str  # of the model, as Hugging Face names it; empty where nobody stated one
    tags: Mapping[str, str]  # of the version: task, sources, sample_rate, commit and digests
    settings: Mapping[str, str]  # of the training, by dotted name
    splits: Mapping[str, int]  # songs of its own dataset, by split; empty where that is gone
    licenses: SongLicenses
    began_from: tuple[str, ...] = ()  # versions whose weights it began from, the latest first
    taught_by: tuple[str, ...] = ()  # versions whose estimates it learned from, and those that they began from
    protocol: str = ""  # of the evaluation shown; empty where nothing was scored
    num_songs: int = 0  # that were scored, without those that are left out
    left_out: int = 0  # scored songs that the gate does not count: it or the champion learned from them
    scores: tuple[SourceInterval, ...] = ()
    worst: tuple[WorstSong, ...] = ()
    below_mixture: int = 0  # songs that the unprocessed mixture scores higher in
    leaks: tuple[LoudestLeak, ...] = ()
    silent_sources: tuple[str, ...] = ()  # sources that are silent in every scored song
    decision: Mapping[str, Any] | None = None  # of the gate; None where it has not decided
    files: VersionFiles = field(default_factory=lambda: VersionFiles(run_id="", link="", paths=()))

    @property
    def sources(self) -> list[str]:
        return [source for source in self.tags.get("sources", "").split(", ") if source]

    @property
    def promoted(self) -> bool:
        return bool(self.decision and self.decision.get("promote"))


def card_of(ref: str, *, store: str, tables: str, license: str = "") -> ModelCard:
    """The card of `models:/NAME/VERSION` or `models:/NAME@alias`; InputError where there is no such version."""
    lineage = registry.lineage(ref, store=store)
    version = lineage.version
    ancestry = Ancestors(store, tables).of_version(version.uri)
    scored, evaluation = _scored_songs(lineage, store=store)
    left_out = set((lineage.decision or {}).get("left_out", ()))
    rows = [row for row in scored if row.get("track_id") not in left_out]
    return ModelCard(
        uri=version.uri,
        name=version.name,
        version=version.version,
        champion=version.alias == registry.CHAMPION,
        license=license,
        tags=lineage.tags,
        settings=lineage.settings,
        splits=_splits(ancestry),
        licenses=song_licenses.of_ancestry(ancestry),
        began_from=ancestry.versions[1:],
        taught_by=ancestry.taught_by,
        protocol=evaluation.protocol if evaluation else "",
        num_songs=len(rows),
        left_out=len(scored) - len(rows),
        scores=song_table.per_source(rows),
        worst=_worst(rows),
        below_mixture=sum((row.get("improvement") or 0.0) < 0 for row in rows),
        leaks=song_table.loudest_leaks(rows),
        silent_sources=song_table.silent_sources(rows),
        decision=lineage.decision,
        files=registry.files_of(version.uri, store=store),
    )


def _scored_songs(lineage: Lineage, *, store: str) -> tuple[list[dict[str, Any]], Evaluation | None]:
    """The songs of the last evaluation that has a table of them."""
    for evaluation in reversed(lineage.evaluations):
        if rows := registry.read_songs(evaluation.run_id, store=store):
            return rows, evaluation
    return [], lineage.evaluations[-1] if lineage.evaluations else None


def _splits(ancestry: Ancestry) -> dict[str, int]:
    """Songs of the dataset that a version learned from itself, by split."""
    own = ancestry.datasets[:1]
    counts = Counter(recording.split for recording in ancestry.recordings if recording.dataset in own)
    return {split: counts[split] for split in ("train", "valid", "test") if counts[split]}


def _worst(rows: Sequence[Row]) -> tuple[WorstSong, ...]:
    counted = [row for row in rows if row.get("nsdr") is not None and row.get("improvement") is not None]
    ordered = sorted(counted, key=lambda row: (row["nsdr"], row["track_id"]))
    return tuple(
        WorstSong(title=str(row["song"]), nsdr=row["nsdr"], improvement=row["improvement"])
        for row in ordered[: min(WORST, max(1, len(ordered) // 4))]
    )
