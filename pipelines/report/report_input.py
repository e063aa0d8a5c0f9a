"""What the report of a model is made of, and how much of it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from datasets.errors import InputError
from datasets.field_constraints import Range, check_ranges
from datasets.schema import SOURCES, Score, Verdict
from pipelines.lineage.contamination import Contamination
from pipelines.report.audio_players import SongAudio
from pipelines.report.examples.augmentation_examples import AugmentationExample
from pipelines.report.examples.automix_examples import MixExample


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What the report shows."""

    # Length of what is played; nine players of 30 s are 8 MB, what a mail takes
    clip_s: Annotated[float, Range(ge=1, le=30)] = 18.0
    mixes: Annotated[int, Range(ge=0, le=12)] = 3  # automixes that are drawn and played; 0 leaves them out
    mix_s: Annotated[float, Range(ge=1, le=30)] = 10.0  # length of each of these
    # Length of the excerpt on which augmentation is shown; 0: none
    augment_s: Annotated[float, Range(ge=0, le=15)] = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="report.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Everything the page shows; a part that is empty is left out."""

    name: str  # of the registered model
    version: str = ""  # empty when nothing was registered
    promoted: bool = False
    reason: str = ""  # of the gate's decision
    champion_gain_db: float | None = None  # over the champion that the gate compared it with, song by song; None: none
    verdicts: Sequence[Verdict] = ()  # kept and dropped alike, those that could not be read included
    licenses: Mapping[str, int] = field(default_factory=dict)  # license -> songs
    scores: Sequence[Score] = ()
    split: str = "test"
    # Which scored songs were used in training; None where that was not checked
    contamination: Contamination | None = None
    history: Sequence[Mapping[str, Any]] = ()  # "step", "loss", "per_source", "valid_nsdr"
    sources: Sequence[str] = SOURCES  # the order of "per_source"
    song: SongAudio | None = None
    mixes: Sequence[MixExample] = ()
    sounds: Sequence[AugmentationExample] = ()  # of augmentation
    lineage: Mapping[str, str] = field(default_factory=dict)  # name -> digest, commit, ...
    config: str = ""  # the resolved configuration as TOML
