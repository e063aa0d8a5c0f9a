"""The rules of curation, on the signal and on what a model recognizes."""

from dataclasses import dataclass

from datasets.field_constraints import AnyNumber, PositiveInt, Probability
from datasets.quality.rules.quality_rules import QualityRules


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig(QualityRules):
    """The rules on the signal, those on what a model hears, and what a person decided."""

    # A model to check the labels with: models:/NAME@champion, a checkpoint or a bag; empty: none is asked
    model: str = ""
    min_own: Probability = 0.7  # share of a stem's sounding seconds in which the model must hear it as its own source
    # Share of a stem's sounding seconds in which the model may hear it as another source
    max_foreign: Probability = 0.3
    # Level of an output against the stem above which the model counts as hearing that source
    heard_db: AnyNumber = -10.0
    # Rules of plug-ins, after all others: names of entry points in stemline.curation_rules, or package.module:object
    plugins: tuple[str, ...] = ()
    overrides: str = ""  # a CSV or TOML file of decisions by hand: track_id, verdict (keep or drop), why
    num_workers: PositiveInt = 2  # copies of the model in memory, each with a CPU
    use_gpu: bool = False  # one GPU for each copy of the model
    batch_size: PositiveInt = 1  # segments that a model computes at once; more is faster on a GPU
