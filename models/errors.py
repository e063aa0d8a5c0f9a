"""The one error a caller of `models` can mend, and the checks that every architecture shares."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `learner_config.py` raises errors too, and is read by processes that do without torch
    from torch import Tensor

# Options of networks, and numbers far beyond any that was published: larger ones would take hours, or overflow.
LARGEST = {
    "sample_rate": 1_000_000, "audio_channels": 256, "segment_s": 3600, "channels": 2**20, "growth": 16,
    "nfft": 2**28, "depth": 32, "dconv_depth": 64, "transformer_width": 2**20, "transformer_layers": 1024,
    "transformer_hidden_scale": 10**8,
}  # fmt: skip
MAX_FEATURES = 2**28  # of a layer; 6144 were published


class ModelError(ValueError):
    """A configuration, file or batch that no model here can use; the message names value, constraint and remedy."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """A hint for a message about an unknown name: the name it resembles, or else all of them."""
    names = sorted(candidates)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def source_names(sources: Any) -> tuple[str, ...]:
    """Sources as a tuple; ModelError where they are one text, whose letters would be taken for sources, or no texts."""
    names: tuple[Any, ...] = tuple(sources)
    if isinstance(sources, str) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"sources must be a list of names, got {sources!r}")
    return names


def check_size(config: Any) -> None:
    """ModelError where an option is so large that to build the network would take hours, or more than all memory."""
    for name, largest in LARGEST.items():
        if (value := getattr(config, name, 0)) > largest:
            raise ModelError(f"{name} must be at most {largest}, got {value}")
    features = config.channels * config.growth ** (config.depth - 1)
    if features > MAX_FEATURES:
        raise ModelError(
            f"channels={config.channels} and growth={config.growth} make {features} features in layer {config.depth}: "
            f"at most {MAX_FEATURES} are possible"
        )


def check_audio(sources: tuple[str, ...], sample_rate: int, segment_s: float) -> None:
    """ModelError unless these can describe the audio of any of the architectures."""
    if not sources or len(set(sources)) != len(sources):
        raise ModelError(f"sources {list(sources)}: name at least one, and none twice")
    if segment_s * sample_rate < 1:
        raise ModelError(f"segment_s {segment_s} is less than a sample long")


def check_mixture(mixture: "Tensor", audio_channels: int) -> None:
    """ModelError unless the mixture is (B, C, T) with the model's channels and at least one sample."""
    if mixture.dim() != 3 or mixture.shape[1] != audio_channels:
        raise ModelError(f"a mixture of shape {tuple(mixture.shape)}: want (batch, {audio_channels}, samples)")
    if not mixture.shape[-1]:
        raise ModelError("a mixture of 0 samples: want at least one")
