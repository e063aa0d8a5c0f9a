"""The one error a caller of `models` can mend, and the checks that every architecture shares."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `recipe.py` raises errors too, and is read by processes that do without torch
    from torch import Tensor


class ModelError(ValueError):
    """A configuration, file or batch that no model here can use. The message says what was seen and what would do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name: the name it resembles, or else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


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
