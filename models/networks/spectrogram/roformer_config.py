"""What BS-RoFormer and Mel-Band RoFormer are configured by alike; each adds its bands."""

from dataclasses import dataclass
from typing import Annotated

from ...errors import ModelError, check_audio, source_names
from ...field_constraints import Range, check_ranges
from ..input_normalization import Normalization
from .centred_stft import check_hop, check_length


@dataclass(frozen=True, slots=True, kw_only=True)
class RoFormerConfig:
    """The larger model of both papers by default, with a mask for each of four sources."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")  # order of the estimates
    sample_rate: Annotated[int, Range(ge=1, le=1_000_000)] = 44100  # Hz
    audio_channels: Annotated[int, Range(ge=1, le=256)] = 2  # 1 for mono, 2 for stereo
    segment_s: Annotated[float, Range(gt=0, le=3600)] = 8.0  # seconds to separate at once; longer works too
    width: Annotated[int, Range(ge=1, le=2**16)] = 384  # features per token
    depth: Annotated[int, Range(ge=1, le=256)] = 12  # layers, each along frames and then along bands
    heads: Annotated[int, Range(ge=1, le=1024)] = 8  # attention heads
    head_width: Annotated[int, Range(ge=2, le=2**12)] = 48  # features per head, an even number
    nfft: Annotated[int, Range(ge=4, le=2**16)] = 2048  # samples per STFT window
    hop_length: Annotated[int, Range(ge=1, le=2**16)] = 441  # samples from frame to frame
    mask_hidden_layers: Annotated[int, Range(ge=0, le=64)] = 1  # of the networks that make a band's mask
    mask_expansion: Annotated[int, Range(ge=1, le=64)] = 4  # hidden units of these / width
    sum_layers: bool = False  # each layer reads the sum of what all before it gave
    zero_dc: bool = True  # estimates have no constant part
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1  # share of features dropped while training
    # the same for attention weights; 0 is far faster on CPUs
    attention_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1
    normalize: Normalization = "none"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        check_hop(self.hop_length, self.nfft)
        check_length(self.segment_samples, self.nfft)
        if self.head_width % 2:
            raise ModelError(f"head_width must be even, since positions turn pairs of features, got {self.head_width}")

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    def least_size_with(self, num_bands: int) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        block, hidden = max(8 * self.width, 3 * self.heads * self.head_width), self.mask_expansion * self.width
        masks = num_bands * hidden if self.mask_hidden_layers else 0
        return max(self.depth, self.mask_hidden_layers), self.width * max(block, self.nfft, masks)
