"""Whether a model and songs go together: asked before the first song is computed, here and nowhere else.

Sources are matched by name, in whatever order either has them. A song at another sample rate is resampled to the
model's, and the estimates back, so that all that is said of a song is said at its own rate. All else is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from datasets import audio
from datasets.audio.audio_types import Samples
from datasets.audio.resampling import resample
from datasets.errors import InputError
from datasets.shards.manifests import Song
from datasets.shards.shards import sources_of

if TYPE_CHECKING:
    from models.weights.model_identity import ModelRef


class Interface(Protocol):
    """What a model takes and gives: a `ModelRef`, or the `ModelInterface` of a loaded one."""

    @property
    def sources(self) -> Sequence[str]: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def audio_channels(self) -> int: ...


def describe(ref: str, *, store: str) -> "ModelRef":
    """What `models:/NAME/N`, `models:/NAME@alias`, a checkpoint, a package or a bag is; InputError where it is none."""
    from models.errors import ModelError
    from models.weights import model_identity
    from pipelines import registry

    path = registry.resolve(ref, store=store)
    try:
        description = model_identity.describe(path)
    except ModelError as error:
        raise InputError(f"model {ref}: {error}") from error
    return replace(description, origins=(ref, *description.origins)) if ref.startswith("models:") else description


def check(model: Interface, songs: Iterable[Song], *, who: str) -> None:
    """InputError unless the model separates exactly the sources that each song has, and takes its channels."""
    first_of_file = {song.path: song for song in reversed(list(songs))}
    for song in sorted(first_of_file.values(), key=lambda song: song.track_id):
        check_sources(model.sources, sources_of(song), who=who, what=f"songs such as {song.track_id!r}")
        if song.channels != model.audio_channels:
            raise InputError(
                f"{who} takes {_channels(model.audio_channels)}, but songs such as {song.track_id!r} have "
                f"{song.channels}: ingest them with ingest.channels={model.audio_channels}, or take another model"
            )


def check_sources(separated: Sequence[str], sources: Sequence[str], *, who: str, what: str) -> None:
    """InputError unless a model separates exactly these sources, in any order."""
    if set(separated) != set(sources):
        raise InputError(
            f"{who} separates {', '.join(separated)}, but {what} have {', '.join(sources)}: take a model of these "
            f"sources, or ingest the songs with corpus.sources={list(separated)}"
        )


def _channels(number: int) -> str:
    return "one channel" if number == 1 else f"{number} channels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """What estimates of a song depend on besides song and model where their rates differ."""

    song_rate: int
    model_rate: int
    audio_version: int = audio.VERSION


def resampling(model: Interface, song: Song) -> Resampling | None:
    """How a song gets to the model's rate and back; None where it has that rate."""
    if model.sample_rate == song.sample_rate:
        return None
    return Resampling(song_rate=song.sample_rate, model_rate=model.sample_rate)


def at_rate_of(
    model: Interface, mixture_CT: Samples, sample_rate: int, separate: Callable[[Samples], Samples]
) -> Samples:
    """Estimates (S, C, T) at the mixture's rate and of its length, from a `separate` that works at the model's."""
    if model.sample_rate == sample_rate:
        return separate(mixture_CT)
    given_CT = resample(mixture_CT, source_rate=sample_rate, target_rate=model.sample_rate)
    made_SCT = separate(given_CT)
    flat = resample(made_SCT.reshape(-1, made_SCT.shape[-1]), source_rate=model.sample_rate, target_rate=sample_rate)
    # There and back may be off by a sample.
    missing = mixture_CT.shape[-1] - flat.shape[-1]
    flat = np.pad(flat, ((0, 0), (0, max(0, missing))))[:, : mixture_CT.shape[-1]]
    return flat.reshape(*made_SCT.shape[:2], -1)
