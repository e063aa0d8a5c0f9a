"""How a model is trained: every knob of augmentation and of one optimization step.

They stand apart from `augment.py` and `learner.py`, which turn them, so that a command line can read and check a
configuration without importing torch.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

from .errors import ModelError
from .field_constraints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Range,
    check_ranges,
)

OPTIMIZERS = ("adam", "muon")
PRECISIONS = ("float32", "bfloat16")
COMPILE_MODES = ("off", "on", "reduce-overhead")
TF32_MODES = ("off", "convolutions", "on")
MIN_QUANTIZED_MIB = 0.01
REPITCH_MARGIN = 2048  # samples at each end of an excerpt that a change of tempo or pitch may spoil


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes to a batch of stems before they are summed, in the order of the fields.

    The defaults are those of Demucs v2 to v4 (Défossez et al. 2021), pitch and tempo left out; all others are off.
    Unless said otherwise a probability is that of one stem.
    """

    # Probability that each stem of a row comes from a song of its own, out of the whole dataset
    remix_all: Probability = 0.0
    # Probability that all stems of a row get another tempo and pitch; published: 0.2
    repitch_probability: Probability = 0.0
    repitch_semitones: Annotated[int, Range(ge=0, le=6)] = 2  # largest transposition, up or down
    repitch_tempo: NonNegativeFloat = 0.05  # standard deviation of the relative change of tempo
    # Largest relative change of tempo; excerpts are read this much longer
    repitch_max_tempo: Annotated[float, Range(ge=0, le=0.4)] = 0.12
    shift_s: NonNegativeFloat = 1.0  # each stem starts up to this much later, independently; 0 leaves them aligned
    shift_together: bool = False  # delay all stems of a row by the same time
    flip_channels: bool = True  # swap left and right of a stem with probability 1/2
    flip_sign: bool = True  # turn a stem's polarity with probability 1/2
    eq_probability: Probability = 0.0  # probability that a stem goes through a random equalizer
    eq_db: NonNegativeFloat = 6.0  # largest gain of the equalizer, up or down, drawn for each octave and smooth between
    saturate_probability: Probability = 0.0  # probability that a stem is driven into a soft limit
    saturate_db: NonNegativeFloat = 12.0  # largest drive into the soft limit; a stem keeps its loudness
    # Probability of what a lossy codec does to a stem: treble cut, all bands coarse
    codec_probability: Probability = 0.0
    width_probability: Probability = 0.0  # probability that the stereo width of a stem changes
    width_max: NonNegativeFloat = 1.5  # largest gain of the difference of left and right, drawn evenly from 0 (mono)
    scale_probability: Probability = 1.0  # probability that the stems of a batch change their gain
    scale_min: PositiveFloat = 0.25  # least gain of a stem, drawn evenly
    scale_max: PositiveFloat = 1.25  # largest gain of a stem
    # Probability that a stem of the same source from another row of the group is added
    mixup_probability: Probability = 0.0
    remix_probability: Probability = 1.0  # probability that the stems of a batch change places between rows
    remix_group: PositiveInt = 4  # rows of the global batch among which stems change places; 1 leaves them
    # Plug-ins that each row goes through last: entry points in stemline.augmentations, or package.module:object
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)
        for low, high in (("scale_min", "scale_max"), ("repitch_tempo", "repitch_max_tempo")):
            if getattr(self, low) > getattr(self, high):
                raise ModelError(f"{low} must be <= {high}, got {getattr(self, low)} and {getattr(self, high)}")
        if self.mixup_probability and self.remix_group < 2:
            raise ModelError(
                f"mixup_probability={self.mixup_probability} takes stems from another row of a group: "
                f"remix_group must be >= 2, got {self.remix_group}"
            )

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

    # Loss per MiB of the packed model; published: 1e-4 and 3e-4; 0 trains without quantization
    penalty: NonNegativeFloat = 0.0
    group_size: PositiveInt = 8  # weights that share a bit width
    # Least size of a matrix, in float32, to be quantized; smaller ones, and vectors, stay float16
    min_mib: NonNegativeFloat = MIN_QUANTIZED_MIB
    learning_rate: PositiveFloat = 1e-3  # of the bit widths, constant; short trainings need more

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralPenaltyConfig:
    """A penalty on the square of each weight matrix's largest singular value, as in Hybrid Demucs (2111.03600)."""

    # Loss per unit of the squared largest singular values; published: 1e-5; 0 computes nothing
    penalty: NonNegativeFloat = 0.0
    min_mib: NonNegativeFloat = 1.0  # least size of a matrix, in float32, to be penalized
    rank: PositiveInt = 50  # dimensions of the random sketch in which the value is looked for
    iterations: PositiveInt = 4  # passes of the sketch through the matrix and back

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """One optimization step: by default Adam on the L1 distance between waveforms, as published for HT Demucs."""

    # "l1", or a plug-in: the name of an entry point in stemline.losses, or package.module:object
    loss: str = "l1"
    # "adam", as published, "muon": orthogonalized momentum (Jordan et al. 2024) for weights of two dimensions and more,
    # taken as matrices, and Adam for the others; or a plug-in: of stemline.optimizers, or a class such as
    # torch.optim:RMSprop, whose own defaults take the place of beta1 and beta2
    optimizer: str = "adam"
    learning_rate: PositiveFloat = 3e-4  # of Adam or a plug-in, after the warm-up
    matrix_learning_rate: PositiveFloat = 0.02  # of Muon, after the warm-up; it rises and falls as Adam's does
    matrix_momentum: Annotated[float, Range(ge=0, lt=1)] = 0.95  # Muon's decay of the mean of gradients
    beta1: Annotated[float, Range(ge=0, lt=1)] = 0.9  # Adam's decay of the mean of gradients
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.999  # Adam's decay of the mean of squared gradients
    weight_decay: NonNegativeFloat = 0.0  # decoupled weight decay (AdamW); 0: plain Adam
    weight_decay_under: str = ""  # decay only parameters whose names begin so, such as "crosstransformer."; empty: all
    warmup_steps: NonNegativeInt = 0  # steps over which the learning rate rises from 0
    # Learning rate at the last step as a share of the highest, reached along a cosine; 1: constant
    min_lr_ratio: Probability = 1.0
    max_grad_norm: NonNegativeFloat = 0.0  # gradients are clipped to this norm; 0: never
    source_weights: tuple[NonNegativeFloat, ...] = ()  # weight of each source in the loss; empty counts them equally
    # Share of rows with the highest loss that do not count, per source: against wrong labels
    trim_loss_drop: Annotated[float, Range(ge=0, lt=1)] = 0.0
    # Consecutive rows of the global batch among which the rows of the highest loss are looked for
    trim_loss_group: PositiveInt = 8
    trim_loss_after: NonNegativeInt = 1000  # steps in which all rows count: an untrained model is worst at what is loud
    # Decays of averages of the weights, each a candidate at validation
    ema_decays: tuple[Annotated[float, Range(gt=0, lt=1)], ...] = (0.9995, 0.9999)
    # The same for averages that take in the weights only every `epoch_steps` steps
    epoch_ema_decays: tuple[Annotated[float, Range(gt=0, lt=1)], ...] = ()
    epoch_steps: PositiveInt = 800  # steps between two updates of the averages of `epoch_ema_decays`
    # "float32", or "bfloat16": autocast in the forward pass (float32 on CPUs without its units), weights stay float32
    precision: str = "float32"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    spectral_penalty: SpectralPenaltyConfig = field(default_factory=SpectralPenaltyConfig)

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)
        if self.precision not in PRECISIONS:
            raise ModelError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.epoch_ema_decays and self.epoch_steps < 2:
            raise ModelError(f"epoch_steps must be >= 2 with epoch_ema_decays, got {self.epoch_steps}")
        if self.trim_loss_drop and not 1 <= round(self.trim_loss_drop * self.trim_loss_group) < self.trim_loss_group:
            raise ModelError(
                f"trim_loss_drop must take between one row and all but one of trim_loss_group={self.trim_loss_group} "
                f"rows, got {self.trim_loss_drop}"
            )
        if self.source_weights and not sum(self.source_weights):
            raise ModelError(f"source_weights must not all be 0, got {self.source_weights}")

    @property
    def compared_rows(self) -> int:
        """Consecutive rows whose losses are compared with each other, so that no part of a batch splits them."""
        return self.trim_loss_group if self.trim_loss_drop else 1


def equal_part(num_rows: int, limit: int, group: int = 1) -> int:
    """The most rows, up to `limit` (0: all), that divide `num_rows` into equal parts of whole groups of `group` rows.

    Parts of one size are one shape for a compiler, and one size of memory.
    """
    if not limit or limit >= num_rows:
        return num_rows
    sizes = (size for size in range(limit, 0, -1) if num_rows % size == 0 and size % group == 0)
    return next(sizes, min(group, num_rows))
