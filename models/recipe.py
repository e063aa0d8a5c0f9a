"""How a model is trained: every knob of augmentation and of one optimization step.

They stand apart from `augment.py` and `learner.py`, which turn them, so that a command line can read and check a
configuration without importing torch.
"""

import math
from dataclasses import dataclass, field

from .errors import ModelError

PRECISIONS = ("float32", "bfloat16")
MIN_QUANTIZED_MIB = 0.01
REPITCH_MARGIN = 2048  # samples at each end of an excerpt that a change of tempo or pitch may spoil


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes to a batch of stems before they are summed, in the order of the fields.

    The defaults are those of Demucs v2 to v4 (Défossez et al. 2021), pitch and tempo left out; all others are off.
    Unless said otherwise a probability is that of one stem.
    """

    remix_all: float = 0.0  # of a row: each of its stems is drawn from a song of its own, out of the whole dataset
    repitch_probability: float = 0.0  # of a row: all its stems get another tempo and pitch; published: 0.2
    repitch_semitones: int = 2  # at most, up or down
    repitch_tempo: float = 0.05  # standard deviation of the relative change of tempo
    repitch_max_tempo: float = 0.12  # where that is cut off; excerpts are read this much longer
    shift_s: float = 1.0  # each stem starts up to this much later, independently; 0 leaves them aligned
    shift_together: bool = False  # all stems of a row by the same time
    flip_channels: bool = True  # swap left and right of a stem with probability 1/2
    flip_sign: bool = True  # turn a stem's polarity with probability 1/2
    eq_probability: float = 0.0
    eq_db: float = 6.0  # greatest gain, up or down, drawn for each octave; between them it is smooth
    saturate_probability: float = 0.0
    saturate_db: float = 12.0  # greatest drive into the soft limit; a stem keeps its loudness
    codec_probability: float = 0.0  # what a lossy codec does: treble cut off, the rest coarse in every band
    width_probability: float = 0.0
    width_max: float = 1.5  # gain of the difference of left and right, uniform from 0 (mono)
    scale_probability: float = 1.0  # per batch
    scale_min: float = 0.25  # gain of each stem, uniform
    scale_max: float = 1.25
    mixup_probability: float = 0.0  # a stem of the same source from another row of its group is added to it
    remix_probability: float = 1.0  # per batch
    remix_group: int = 4  # stems change places inside groups of this many rows of the global batch; 1 leaves them

    def __post_init__(self) -> None:
        if self.shift_s < 0 or self.remix_group < 1:
            raise ModelError(f"shift_s={self.shift_s} must be >= 0 and remix_group={self.remix_group} >= 1")
        if not 0 < self.scale_min <= self.scale_max:
            raise ModelError(f"gains must satisfy 0 < scale_min <= scale_max, got {self.scale_min}, {self.scale_max}")
        for name in self.__dataclass_fields__:
            if (name.endswith("_probability") or name == "remix_all") and not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name}={getattr(self, name)} is no probability")
        if not 0 <= self.repitch_semitones <= 6 or not 0 <= self.repitch_tempo <= self.repitch_max_tempo <= 0.4:
            raise ModelError(
                f"repitch_semitones={self.repitch_semitones}, repitch_tempo={self.repitch_tempo}, "
                f"repitch_max_tempo={self.repitch_max_tempo}: 0 to 6 semitones, and 0 <= tempo <= max_tempo <= 0.4"
            )
        if min(self.eq_db, self.saturate_db, self.width_max) < 0:
            raise ModelError(
                f"eq_db={self.eq_db}, saturate_db={self.saturate_db} and width_max={self.width_max} must be >= 0"
            )
        if self.mixup_probability and self.remix_group < 2:
            raise ModelError("mixup_probability needs a remix_group of 2 or more rows to take stems from")

    def input_samples(self, segment_samples: int, sample_rate: int) -> int:
        """How long the excerpts must be that become segments of this length."""
        shifted = segment_samples + round(self.shift_s * sample_rate)
        if not self.repitch_probability:
            return shifted
        return math.ceil(shifted * (1 + self.repitch_max_tempo)) + 2 * REPITCH_MARGIN

    def shifted_samples(self, input_samples: int) -> int:
        """How much of an excerpt of this length is left when tempo has taken its share, before the shift."""
        if not self.repitch_probability:
            return input_samples
        return math.floor((input_samples - 2 * REPITCH_MARGIN) / (1 + self.repitch_max_tempo) + 1e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeConfig:
    """Differentiable quantisation (Défossez, Adi, Synnaeve 2021): bit widths that are learnt with the weights."""

    penalty: float = 0.0  # loss per MiB of the packed model; published: 1e-4 and 3e-4; 0 trains plainly
    group_size: int = 8  # weights that share a width
    min_mib: float = MIN_QUANTIZED_MIB  # in float32; smaller matrices, and vectors, stay float16
    learning_rate: float = 1e-3  # of the widths, constant; short trainings need more

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.min_mib < 0:
            raise ModelError(f"quantize.penalty={self.penalty} and quantize.min_mib={self.min_mib} must be >= 0")
        if self.group_size < 1 or self.learning_rate <= 0:
            raise ModelError(
                f"quantize.group_size={self.group_size} must be >= 1, "
                f"quantize.learning_rate={self.learning_rate} above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SingularConfig:
    """A penalty on the square of each weight matrix's largest singular value, as in Hybrid Demucs (2111.03600)."""

    penalty: float = 0.0  # loss per unit; published: 1e-5; 0 computes nothing
    min_mib: float = 1.0  # in float32; smaller matrices are left alone
    rank: int = 50  # of the random sketch in which the value is looked for
    iterations: int = 4  # of the sketch through the matrix and back

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.min_mib < 0:
            raise ModelError(f"singular.penalty={self.penalty} and singular.min_mib={self.min_mib} must be >= 0")
        if self.rank < 1 or self.iterations < 1:
            raise ModelError(f"singular.rank={self.rank} and singular.iterations={self.iterations} must be >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """One optimization step: Adam on the L1 distance between waveforms, as published for HT Demucs."""

    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0  # decoupled (AdamW) when not 0
    weight_decay_under: str = ""  # of parameters whose names begin so, such as "crosstransformer."; empty: of all
    warmup_steps: int = 0  # steps over which the learning rate rises from 0
    final_fraction: float = 1.0  # of the learning rate at the last step, reached along a cosine; 1 keeps it constant
    max_grad_norm: float = 0.0  # 0 does not clip
    source_weights: tuple[float, ...] = ()  # of each source in the loss; empty counts them equally
    robust_drop: float = 0.0  # share of rows with the highest loss that do not count, per source: against wrong labels
    robust_group: int = 8  # consecutive rows of the global batch among which they are looked for
    robust_after: int = 1000  # steps in which all count: an untrained model is worst at what is loud
    ema_decays: tuple[float, ...] = (0.9995, 0.9999)  # averages of the weights, each a candidate at validation
    epoch_ema_decays: tuple[float, ...] = ()  # the same, but taking in the weights only every `epoch_steps` steps
    epoch_steps: int = 800
    precision: str = "float32"  # or "bfloat16": autocast in the forward pass, weights stay float32
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    singular: SingularConfig = field(default_factory=SingularConfig)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ModelError(f"learning_rate={self.learning_rate} must be above 0")
        if self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise ModelError(
                f"warmup_steps={self.warmup_steps} must be >= 0, final_fraction={self.final_fraction} in 0..1"
            )
        if self.precision not in PRECISIONS:
            raise ModelError(f"precision={self.precision!r}: give one of {', '.join(PRECISIONS)}")
        for name in ("ema_decays", "epoch_ema_decays"):
            if any(not 0 < decay < 1 for decay in getattr(self, name)):
                raise ModelError(f"{name}={getattr(self, name)}: each must lie between 0 and 1")
        if self.epoch_ema_decays and self.epoch_steps < 2:
            raise ModelError(f"epoch_steps={self.epoch_steps}: an epoch has 2 steps or more")
        if self.robust_drop and not 1 <= round(self.robust_drop * self.robust_group) < self.robust_group:
            raise ModelError(
                f"robust_drop={self.robust_drop} of robust_group={self.robust_group} rows is not between one row and "
                "all but one"
            )
        if any(weight < 0 for weight in self.source_weights) or (self.source_weights and not sum(self.source_weights)):
            raise ModelError(f"source_weights={self.source_weights}: give one weight >= 0 per source, not all 0")
