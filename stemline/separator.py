"""A model by any reference, and the separation of arrays and files with it."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from stemline import audio_arrays
from stemline.audio_arrays import Audio, Samples

if TYPE_CHECKING:
    import torch

    from pipelines.inference.stem_files import SeparatedSong


class Model:
    """A separation model that is loaded: `load_model` gives one.

    It has `sources` in the order of its estimates, the `sample_rate` at which it works in Hz, `audio_channels`, a
    `digest` that is equal for equal models, and its `network`, a torch module in evaluation mode.

    Example:

        model = stemline.load_model("models:/stemline@champion")
        stems = model.separate(audio, sample_rate=48_000)
        vocals = stems["vocals"]
    """

    ref: str  # as it was given to `load_model`
    digest: str  # 64 hex digits; equal for equal models
    sources: tuple[str, ...]  # what it separates, in the order of its estimates
    sample_rate: int  # Hz, at which it works; audio at another rate is resampled
    audio_channels: int  # that it takes and gives
    network: "torch.nn.Module"  # in evaluation mode

    def __init__(
        self, network: "torch.nn.Module", *, ref: str, digest: str, device: str = "auto", learned: tuple[str, ...] = ()
    ) -> None:
        from pipelines.inference.separate_config import SeparateConfig
        from pipelines.inference.song_separation import SongSeparator

        separator = SongSeparator(SeparateConfig(device=device), network, digest=digest)
        self.ref, self.digest, self.network = ref, digest, network
        self._learned = learned or (digest,)  # of a bag, the weights of its members
        self.sources, self.sample_rate = separator.interface.sources, separator.interface.sample_rate
        self.audio_channels, self.device = separator.interface.audio_channels, separator.device

    def __repr__(self) -> str:
        return f"<stemline.Model {self.ref}: {', '.join(self.sources)} at {self.sample_rate} Hz>"

    def separate(
        self,
        audio: Audio,
        *,
        sample_rate: int,
        overlap: float = 0.25,
        shifts: int = 0,
        batch_size: int = 1,
        seed: int = 0,
        mixture_consistency: str = "off",
    ) -> dict[str, Audio]:
        """The stems of a song by source, each as `audio` is: same kind, same length, same rate, float32.

        `audio` is (C, T), or (B, C, T) for songs of one length, floating point with full scale at 1; mono is
        accepted by every model, and stems have the model's channels. Each song is separated alone. `overlap` is the
        share of a segment that the next one covers again; `shifts` averages over as many delayed passes;
        `mixture_consistency` lets the stems sum to the mixture: by "residual" or "mask".

        Raises:
            InputError: The audio has another shape, other channels or type, or samples that are not finite.
        """
        import torch

        from models.errors import ModelError
        from models.inference.separate import separate

        def run(mixture_CT: Samples) -> Samples:
            estimates_SCT = separate(
                self.network, torch.from_numpy(mixture_CT), overlap=overlap, shifts=shifts, batch_size=batch_size,
                seed=seed, device=self.device, mixture_consistency=mixture_consistency,
            )  # fmt: skip
            estimated: Samples = estimates_SCT.cpu().numpy()
            return estimated

        batch_BCT = audio_arrays.as_batch(audio, sample_rate=sample_rate)
        rates = {"sample_rate": sample_rate, "model_rate": self.sample_rate}
        try:
            stems_BSCT = [
                audio_arrays.at_rate(run, audio_arrays.with_channels(audio_CT, self.audio_channels), **rates)
                for audio_CT in batch_BCT
            ]
        except ModelError as error:
            raise InputError(str(error)) from error
        return audio_arrays.by_source(stems_BSCT, self.sources, audio)

    def separate_file(
        self,
        path: str | Path,
        out: str | Path = "separated",
        *,
        format: str = "wav16",
        overlap: float = 0.25,
        shifts: int = 0,
        batch_size: int = 1,
        mixture_consistency: str = "off",
    ) -> "SeparatedSong":
        """Write the stems of an audio file to `out/SONG/SOURCE.EXT`, in memory that does not grow with the song.

        The answer has their paths by source in `files`. Stems have the file's rate and length; `format` is wav16,
        wav24, float, flac or mp3. Stems of the same file, model and options that are there already are kept. No other
        file is replaced.

        Raises:
            InputError: The file cannot be read, or something else lies where the stems would.
        """
        from datasets.corpus.layouts.separated_stems import Teacher
        from datasets.corpus.licenses import one_line
        from pipelines.inference import separate_songs
        from pipelines.inference.separate_config import SeparateConfig
        from pipelines.inference.song_separation import SongSeparator

        config = SeparateConfig(
            format=format, overlap=overlap, shifts=shifts, batch_size=batch_size, device=self.device,
            mixture_consistency=mixture_consistency,
        )  # fmt: skip
        name = self.ref if self.ref.startswith("models:") else Path(self.ref).name
        teacher = Teacher(weights=self._learned, name=one_line(name))
        separator = SongSeparator(config, self.network, digest=self.digest, teacher=teacher)
        result = separate_songs.separate_all(separator, [str(path)], out=str(out))
        for failed in result.failed:
            raise InputError(f"{failed.song}: {failed.reason}")
        return result.songs[0]


def load_model(
    ref: str | Path, *, store: str = "stemline-store", device: str = "auto", init_seed: int | None = None
) -> Model:
    """The model of a reference, ready to separate.

    A reference is `models:/NAME@alias` or `models:/NAME/VERSION` of the registry of `store`, a checkpoint folder, a
    `.safetensors` file, a published package of Demucs (`.th`, or the `.yaml` file of a bag), or an address in S3. The
    name of a network of the catalog, such as `htdemucs`, is an untrained one: it is built with the weights that
    `init_seed` draws, and refused without. `device` is cpu, cuda, mps, or "auto": the best of them that is there.

    Example:

        model = stemline.load_model("models:/stemline@champion", store="stemline-store")
        untrained = stemline.load_model("htdemucs-tiny", init_seed=0)

    Raises:
        InputError: There is no such model, or its files are not what was saved.
    """
    from models.errors import ModelError
    from models.networks.catalog import PRESETS
    from models.weights.loading import load_model as load
    from models.weights.model_identity import describe
    from pipelines import registry

    name = str(ref)
    try:
        if name in PRESETS and not Path(name).exists():
            network, digest = _untrained(name, init_seed)
            learned: tuple[str, ...] = ()
        else:
            place = registry.resolve(name, store=store)
            described = describe(place)
            network, digest, learned = load(place), described.digest, described.learned
    except ModelError as error:
        raise InputError(f"model {name}: {error}") from error
    return Model(network, ref=name, digest=digest, device=device, learned=learned)


def _untrained(name: str, seed: int | None) -> tuple[Any, str]:
    """A network with the first weights of a seed, and a digest of both."""
    import torch

    from models.networks import catalog

    if seed is None:
        raise InputError(
            f"{name} is a network of the catalog and has no trained weights here: give a checkpoint, a published file "
            f"or models:/NAME@alias, or load_model({name!r}, init_seed=0) for an untrained network"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = catalog.build(name).eval()
    facts = json.dumps([catalog.to_config(network), seed], sort_keys=True)
    return network, hashlib.sha256(facts.encode()).hexdigest()


def read_audio(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """A whole audio file as an array (C, T), full scale at 1, and its sample rate in Hz.

    Every format that `stemline separate` reads; surround is mixed down to stereo.

    Example:

        audio, sample_rate = stemline.read_audio("song.mp3")

    Raises:
        InputError: There is no such file, or it is no audio.
    """
    from datasets.audio.decoding import decode_blocks, probe

    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: {'a folder, not a song' if file.is_dir() else 'no such file'}")
    info = probe(file)
    channels = min(2, info.channels)
    blocks = list(decode_blocks(file, sample_rate=info.sample_rate, channels=channels))
    if not blocks:
        raise InputError(f"{path}: no samples in it")
    return np.concatenate(blocks, axis=1), info.sample_rate
