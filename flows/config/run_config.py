"""`RunConfig`: every setting of a run, in sections that are declared beside the code that uses them."""

from dataclasses import dataclass, field

from datasets.errors import InputError
from datasets.field_constraints import NonNegativeFloat, check_ranges
from datasets.store.scratch import DEFAULT_GB
from flows.config.notify_config import NotifyConfig
from flows.retrain_policy import RetrainConfig
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import GateConfig
from pipelines.inference.listening_pages import ListenConfig
from pipelines.inference.separate_config import SeparateConfig
from pipelines.preparation.analyze import AnalyzeConfig
from pipelines.preparation.automix import AutomixConfig
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.ingest import CorpusConfig, IngestConfig
from pipelines.registry import RegistryConfig
from pipelines.report.report_input import ReportConfig
from pipelines.training.train_config import ModelConfig, TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Where everything is kept; what lies where inside is not for configuration."""

    # What holds checkpoints, reports and, unless `data` is set, everything else: a folder, or s3://BUCKET/FOLDER
    root: str = "stemline-store"
    # The folder of each machine for work on a store in an object store; empty: the one for temporary files (TMPDIR)
    scratch: str = ""
    # How much stays there for later commands; the longest unused goes first, what is in use never
    scratch_gb: NonNegativeFloat = DEFAULT_GB
    # The data folder: songs, tables and the list of forgotten recordings, such as s3://BUCKET/FOLDER; empty: the root
    data: str = ""

    def __post_init__(self) -> None:
        if not self.root.strip() or (self.data and not self.data.strip()):
            name, given = ("data", self.data) if self.root.strip() else ("root", self.root)
            raise InputError(f"store.{name} must name a folder, got {given!r}; give store.{name}=DIR, or leave it out")
        if "://" in self.scratch:
            raise InputError(f"store.scratch must be a folder of this machine, got {self.scratch!r}")

    @property
    def tables(self) -> str:
        """Where shards, tables and manifests are."""
        return self.data or self.root


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that shapes a run. Each section is declared beside the code that it turns."""

    automix_weight: NonNegativeFloat = 1.0  # how often training draws from the automixes for each draw from the songs
    store: StoreConfig = field(default_factory=StoreConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    analyze: AnalyzeConfig = field(default_factory=AnalyzeConfig)
    automix: AutomixConfig = field(default_factory=AutomixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    separate: SeparateConfig = field(default_factory=SeparateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    listen: ListenConfig = field(default_factory=ListenConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)

    def __post_init__(self) -> None:
        check_ranges(self, InputError)

    @property
    def wants_automixes(self) -> bool:
        """Whether training would ever draw one; if not, none is planned or rendered."""
        return self.automix_weight > 0 and self.automix.mixes_per_track > 0
