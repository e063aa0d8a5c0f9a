"""Audio as callers have it, NumPy or torch, (C, T) or (B, C, T), at any rate, and as models take it; and back."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import to_channels
from datasets.audio.resampling import resample
from datasets.errors import InputError

if TYPE_CHECKING:
    import torch

Samples = NDArray[np.float32]
Audio = TypeVar("Audio", NDArray[Any], "torch.Tensor")
MAX_RATE = 1_000_000


def as_batch(audio: Any, *, sample_rate: int, name: str = "audio") -> Samples:
    """Samples (B, C, T), float32, of an array or a tensor (C, T) or (B, C, T); InputError for anything else."""
    check_rate(sample_rate)
    if not hasattr(audio, "ndim"):
        raise InputError(f"{name} must be an array or a tensor, got {type(audio).__name__}")
    array = np.asarray(audio.detach().cpu().float().numpy() if _is_floating_tensor(audio) else audio)
    if array.dtype.kind != "f":
        raise InputError(
            f"{name} must be floating point with full scale at 1, got {array.dtype}; divide 16-bit integers by 32768"
        )
    if array.ndim not in (2, 3) or not all(array.shape):
        raise InputError(
            f"{name} must have the shape (channels, samples) or (batch, channels, samples), none of them 0, got "
            f"{array.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got NaN or infinite samples")
    batch_BCT = np.ascontiguousarray(array, dtype=np.float32)
    return batch_BCT if array.ndim == 3 else batch_BCT[None]


def check_rate(sample_rate: int) -> None:
    """InputError where that is no sample rate in Hz."""
    given: Any = sample_rate  # one of NumPy's as well
    if isinstance(given, bool) or not isinstance(given, Integral) or not 0 < sample_rate <= MAX_RATE:
        raise InputError(f"sample_rate must be a whole number of Hz, from 1 to {MAX_RATE}, got {sample_rate!r}")


def like(stems_BCT: Samples, audio: Audio) -> Audio:
    """The same samples as the caller gave `audio`: with or without a batch, as an array or a tensor on its device."""
    given: Any = audio
    shaped = stems_BCT if given.ndim == 3 else stems_BCT[0]
    if not _is_tensor(given):
        return shaped  # type: ignore[return-value]
    import torch

    return torch.from_numpy(shaped).to(given.device)  # type: ignore[return-value]


def with_channels(audio_CT: Samples, channels: int) -> Samples:
    """The audio with a model's channels: mono in each of them, stereo as its mean; InputError for other counts."""
    if len(audio_CT) > 2 and len(audio_CT) != channels:
        raise InputError(f"audio must have {channels} channels, 1 or 2, got {len(audio_CT)}; mix it down to stereo")
    return to_channels(audio_CT, channels)


def at_rate(separate: Callable[[Samples], Samples], audio_CT: Samples, *, sample_rate: int, model_rate: int) -> Samples:
    """Stems (S, C, T) at the rate of the audio, and exactly as long, of a function that works at the model's rate."""
    stems_SCT = separate(resample(audio_CT, source_rate=sample_rate, target_rate=model_rate))
    if sample_rate == model_rate:
        return stems_SCT
    back = [resample(stem_CT, source_rate=model_rate, target_rate=sample_rate) for stem_CT in stems_SCT]
    return np.stack([_exactly(stem_CT, audio_CT.shape[-1]) for stem_CT in back])


def by_source(stems_BSCT: Sequence[Samples], sources: Sequence[str], audio: Audio) -> dict[str, Audio]:
    """The stems of a batch by the name of their source, each in the form of `audio`."""
    stacked = np.stack(stems_BSCT)
    return {source: like(np.ascontiguousarray(stacked[:, place]), audio) for place, source in enumerate(sources)}


def _exactly(samples_CT: Samples, num_samples: int) -> Samples:
    """Cut, or filled with silence: a resampler may give a sample more or less."""
    missing = num_samples - samples_CT.shape[-1]
    return np.pad(samples_CT, ((0, 0), (0, missing))) if missing > 0 else samples_CT[:, :num_samples]


def _is_tensor(audio: Any) -> bool:
    """Without importing torch: whoever has a tensor has imported it."""
    return type(audio).__module__.partition(".")[0] == "torch" and hasattr(audio, "detach")


def _is_floating_tensor(audio: Any) -> bool:
    return _is_tensor(audio) and audio.is_floating_point()
