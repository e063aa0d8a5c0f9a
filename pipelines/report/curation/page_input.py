"""What the curation's page is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets.quality.rules.quality_rules import QualityRules
from datasets.schema import Verdict
from datasets.shards.manifests import Song
from pipelines.report.curation.plots import Shares

PAGE, DROPPED = "curation.html", "dropped.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A stretch of a song that shows why it was dropped."""

    source: str  # the stem that it is in; empty for the mixture
    start_s: float
    stop_s: float
    words: str = ""  # what to listen for
    track_id: str = ""  # of another song; empty for the dropped one


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationInput:
    """Everything the page shows."""

    key: str  # of the curation: the page of an equal one is not made again
    rules: QualityRules
    sources: Sequence[str]
    verdicts: Sequence[Verdict]  # on all songs
    songs: Mapping[str, Song]  # those that are stored
    evidence: Mapping[str, Sequence[Evidence]]
    matrices: Mapping[str, Shares]  # of the songs that the model was given
    min_own: float  # thresholds of the label rule, see `CurateConfig`
    max_foreign: float
    heard_db: float
    by_hand: Sequence[str]  # songs with a manual decision
    model: str = ""  # that checked the labels
    would_keep: Sequence[str] = ()  # what other settings would keep, in words
