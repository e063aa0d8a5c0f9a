"""On which songs and how a model is scored."""

from dataclasses import dataclass, replace

from datasets.errors import InputError
from datasets.field_constraints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ProperFraction,
    check_ranges,
)
from datasets.schema import SPLITS
from datasets.store import storage
from models.learner_config import PRECISIONS
from pipelines.evaluation import extra_metrics
from pipelines.evaluation.song_scoring import SCORERS, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """On which songs and how a model is scored; fields up to the precision are the protocol, without `museval_json`."""

    split: str = "test"  # which split is scored: train, valid or test
    overlap: ProperFraction = 0.25  # share of a segment that the next one covers again
    shifts: NonNegativeInt = 0  # seeded delays to average over
    window_s: PositiveFloat = 1.0  # length of BSS Eval's windows, which do not overlap
    full_bss_eval: bool = False  # compute ISR, SIR and SAR beside SDR; some 20 ms for each second of a song
    scorer: str = "stemline"  # "stemline", or "museval", which takes some 40 times as long for the same scores
    # Further scores, any of si_sdr, si_sir, si_sar, log_wmse, aura_mrstft, bleedless and fullness; the gate does not
    # look at them. The last four take some 10, 110, and together 40 ms for each second of a song
    extra_metrics: tuple[str, ...] = ()
    # Metrics of plug-ins, of which more is better: entry points in stemline.metrics, or package.module:object
    plugins: tuple[str, ...] = ()
    museval_json: str = ""  # a folder for the scores of every window, as museval writes them; full_bss_eval=true only
    max_song_s: NonNegativeFloat = 0.0  # how much of each song is scored, from its start; 0 takes the whole song
    precision: str = "float32"  # "float32" or "bfloat16"
    batch_size: PositiveInt = 1  # segments that a model computes at once
    # Songs separated at once, each by a copy of the model with a CPU, or a GPU; 0 takes as many as all nodes hold
    num_workers: NonNegativeInt = 0
    use_gpu: bool = False  # one GPU per worker

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"evaluate.split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.precision not in PRECISIONS:
            raise InputError(f"evaluate.precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.scorer not in SCORERS:
            raise InputError(f"evaluate.scorer must be one of {', '.join(SCORERS)}, got {self.scorer!r}")
        if unknown := [name for name in self.extra_metrics if name not in extra_metrics.LABELS]:
            raise InputError(
                f"evaluate.extra_metrics must be names out of {', '.join(extra_metrics.LABELS)}, got {unknown[0]!r}"
            )
        if self.museval_json and not self.full_bss_eval:
            raise InputError("evaluate.museval_json needs all four scores: set evaluate.full_bss_eval=true")
        check_ranges(self, InputError, section="evaluate.")

    @property
    def protocol(self) -> str:
        """Everything that scores depend on beside model and songs, in a line for tables."""
        length = f"first {self.max_song_s:g} s" if self.max_song_s else "whole songs"
        return (
            f"{self.split}, {length}; stems above -60 dBFS; "
            f"nSDR, BSS Eval v4 {'SDR, ISR, SIR, SAR' if self.full_bss_eval else 'SDR'} in "
            f"{self.window_s:g} s windows; "
            f"overlap {self.overlap:g}, shifts {self.shifts}, {self.precision}"
            + "".join(f"; {part}" for part in (extra_metrics.in_protocol(self.extra_metrics),) if part)
            + "".join(f"; {part}" for part in (extra_metrics.plugins_in_protocol(self.plugins),) if part)
            + ("" if self.scorer == "stemline" else f"; by {self.scorer}")
        )

    @property
    def measures(self) -> Protocol:
        """What scoring a song needs to know of all this."""
        return Protocol(
            text=self.protocol,
            window_s=self.window_s,
            full_bss_eval=self.full_bss_eval,
            scorer=self.scorer,
            extra_metrics=self.extra_metrics,
            plugins=self.plugins,
        )


def with_subfolder(config: EvaluateConfig, subfolder: str) -> EvaluateConfig:
    """The same scoring with museval's files in a folder of their own, so that no model's replace another's."""
    if not config.museval_json or not subfolder:
        return config
    return replace(config, museval_json=storage.join(config.museval_json, subfolder))
