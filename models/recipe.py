"""How a model is trained: every knob of augmentation and of one optimization step.

They stand apart from `augment.py` and `learner.py`, which turn them, so that a command line can read and check a
configuration without importing torch.
"""

from dataclasses import dataclass, field

from .errors import ModelError

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes to a batch of stems before they are summed, in the order of the fields.

    The defaults are those of Demucs v2 to v4 (Défossez et al. 2021), pitch and tempo left out.
    """

    shift_s: float = 1.0  # each stem starts up to this much later, independently; 0 leaves them aligned
    flip_channels: bool = True  # swap left and right of a stem with probability 1/2
    flip_sign: bool = True  # turn a stem's sign with probability 1/2
    scale_probability: float = 1.0  # per batch
    scale_min: float = 0.25  # gain of each stem, uniform
    scale_max: float = 1.25
    remix_probability: float = 1.0  # per batch
    remix_group: int = 4  # stems change places inside groups of this many rows of the global batch; 1 leaves them

    def __post_init__(self) -> None:
        if self.shift_s < 0 or self.remix_group < 1:
            raise ModelError(f"shift_s={self.shift_s} must be >= 0 and remix_group={self.remix_group} >= 1")
        if not 0 < self.scale_min <= self.scale_max:
            raise ModelError(f"gains must satisfy 0 < scale_min <= scale_max, got {self.scale_min}, {self.scale_max}")
        for name in ("scale_probability", "remix_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name}={getattr(self, name)} is no probability")


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """One optimization step: Adam on the L1 distance between waveforms, as published for HT Demucs."""

    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0  # decoupled (AdamW) when not 0
    warmup_steps: int = 0  # steps over which the learning rate rises from 0
    final_fraction: float = 1.0  # of the learning rate at the last step, reached along a cosine; 1 keeps it constant
    max_grad_norm: float = 0.0  # 0 does not clip
    source_weights: tuple[float, ...] = ()  # of each source in the loss; empty counts them equally
    ema_decays: tuple[float, ...] = (0.9995, 0.9999)  # averages of the weights, each a candidate at validation
    precision: str = "float32"  # or "bfloat16": autocast in the forward pass, weights stay float32
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ModelError(f"learning_rate={self.learning_rate} must be above 0")
        if self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise ModelError(
                f"warmup_steps={self.warmup_steps} must be >= 0, final_fraction={self.final_fraction} in 0..1"
            )
        if self.precision not in PRECISIONS:
            raise ModelError(f"precision={self.precision!r}: give one of {', '.join(PRECISIONS)}")
        if any(not 0 < decay < 1 for decay in self.ema_decays):
            raise ModelError(f"ema_decays={self.ema_decays}: each must lie between 0 and 1")
        if any(weight < 0 for weight in self.source_weights) or (self.source_weights and not sum(self.source_weights)):
            raise ModelError(f"source_weights={self.source_weights}: give one weight >= 0 per source, not all 0")
