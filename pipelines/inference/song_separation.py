"""One song through a model that is loaded: read in blocks, separated, and its stems written whole."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode_blocks, probe
from datasets.audio.resampling import resample_blocks
from datasets.audio.surround import downmix_note
from datasets.audio.writers import AudioWriter
from datasets.corpus.layouts.separated_stems import Teacher
from datasets.corpus.licenses import one_line
from datasets.errors import AudioError, InputError
from datasets.store.ownership import outputs, recorded_files, require_ours
from pipelines.inference.separate_config import SeparateConfig
from pipelines.inference.stem_files import (
    FULL_SCALE,
    SUMMARY,
    SeparatedSong,
    Spool,
    clear,
    exactly,
    file_name,
    is_damaged_stem,
    make_folder,
    writable_rate,
    write_summary,
)
from pipelines.runtime.progress import Progress, stage

if TYPE_CHECKING:
    from torch import nn
REMEDY = "choose another --out, or move that away"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSong:
    """A song, and where its stems will be."""

    song: str
    folder: str
    key: str  # of its stems
    digest: str  # of its file


@dataclass(frozen=True, slots=True, kw_only=True)
class SongQueue:
    """Where a song stands among those that are separated one after the other."""

    number: int
    num_songs: int
    seconds_after: float  # of the songs after it, as their headers have it

    @property
    def place(self) -> str:
        """Before the song's name; empty for a single one."""
        return f"{self.number} of {self.num_songs}: " if self.num_songs > 1 else ""

    def left(self, speed: float) -> str:
        """What is left, at so many seconds of song per second."""
        more = self.num_songs - self.number
        return (
            f"; {self.number} of {self.num_songs} songs, about {self.seconds_after / speed:.0f} s left" if more else ""
        )


class SongSeparator:
    """A loaded model with its settings, and the digest of its weights and configuration."""

    def __init__(
        self, config: SeparateConfig, model: "nn.Module", *, digest: str, teacher: Teacher | None = None
    ) -> None:
        from models.networks.bag import interface

        self.config, self.model, self.digest = config, model, digest
        self.teacher = teacher or Teacher(weights=(digest,))  # what is noted beside the stems
        self.interface = interface(model)
        self.device = _device(config.device)
        if config.precision == "int8" and self.device != "cpu":
            raise InputError(
                f"separate.precision=int8 must run on a CPU, got separate.device={config.device!r}, which is "
                f"{self.device}: set separate.device=cpu, or separate.precision=bfloat16"
            )
        for setting, names in (("two_stems", filter(None, [config.two_stems])), ("stems", config.stems)):
            for name in names:
                if name not in self.interface.sources:
                    raise InputError(f"separate.{setting}={name!r}: this model has {', '.join(self.interface.sources)}")

    @classmethod
    def load(cls, config: SeparateConfig, model: str, *, teacher: Teacher | None = None) -> "SongSeparator":
        """The model of a checkpoint; InputError where it cannot be loaded, or not do what is asked.

        `teacher` is what is known of it besides its weights.
        """
        from models.errors import ModelError
        from models.weights.loading import load_model
        from models.weights.model_identity import describe

        try:
            described = describe(model)
            noted = teacher or Teacher(name=one_line(Path(model).name))
            return cls(
                config, load_model(model), digest=described.digest, teacher=replace(noted, weights=described.learned)
            )
        except ModelError as error:
            raise InputError(f"model {model}: {error}") from error

    @property
    def stems(self) -> tuple[str, ...]:
        only = self.config.two_stems
        if only:
            return (only, f"no_{only}")
        return tuple(name for name in self.interface.sources if name in (self.config.stems or self.interface.sources))

    def stems_of(self, mixture: Iterator[Samples], *, mean: float, std: float) -> Iterator[Samples]:
        """Blocks of stems (S, C, T) at the model's rate, S as in `stems`, from blocks of the mixture."""
        import torch

        from models.inference.separate import separate_stream
        from models.mixed_precision import DTYPES

        config = self.config
        for estimates_SCT in separate_stream(
            self.model,
            (torch.from_numpy(block_CT) for block_CT in mixture),
            mean=mean,
            std=std,
            overlap=config.overlap,
            shifts=config.shifts,
            batch_size=config.batch_size,
            seed=config.seed,
            device=self.device,
            dtype=DTYPES[config.precision],
            mixture_consistency=config.mixture_consistency,
        ):
            block_SCT = estimates_SCT.cpu().numpy()
            if config.two_stems:
                chosen = self.interface.sources.index(config.two_stems)
                others_CT = np.delete(block_SCT, chosen, axis=0).sum(axis=0)
                block_SCT = np.stack([block_SCT[chosen], others_CT])
            elif config.stems:
                block_SCT = block_SCT[[self.interface.sources.index(stem) for stem in self.stems]]
            yield block_SCT


def _device(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"separate.device={name!r} is not usable here: {error}") from error
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def separate_song(
    separator: SongSeparator, planned: PlannedSong, progress: Progress | None = None, queue: SongQueue | None = None
) -> SeparatedSong:
    """Write the stems of a song; InputError where it cannot be read or separated, or another's files are in the way.

    Of several songs, `queue` says which this is, and what comes after it.
    """
    began_s = time.monotonic()
    song, folder = Path(planned.song), Path(planned.folder)
    names = [file_name(stem, song, separator.config) for stem in separator.stems]

    def is_damaged(name: str) -> bool:
        return name in recorded_files(folder, SUMMARY) and is_damaged_stem(folder / name)

    require_ours(folder, names, remedy=REMEDY, record=SUMMARY, also_ours=is_damaged)
    mixture = _Mixture(song, separator)
    with stage(progress, "separate", total=mixture.duration_s, unit="s") as song_stage:
        song_stage.note(f"{queue.place if queue else ''}{song.name}")
        make_folder(folder)
        clear(folder)
        with (
            outputs(folder, names, remedy=REMEDY, record=SUMMARY, also_ours=is_damaged),
            tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch,
        ):
            spool = Spool(Path(scratch), separator.stems)
            for block_SCT in separator.stems_of(mixture.blocks(), mean=mixture.mean, std=mixture.std):
                spool.write(block_SCT)
                song_stage.advance(block_SCT.shape[-1] / mixture.model_rate)
            result = _write_stems(spool, mixture, folder, separator.config)
        write_summary(folder, planned.key, result, planned.digest, separator.teacher)
        turned = f", turned down by {-result.gain_db:.1f} dB to fit {separator.config.format}" if result.gain_db else ""
        speed = mixture.duration_s / max(1e-9, time.monotonic() - began_s)
        pace = f", {speed:.1f} s of song per second{queue.left(speed) if queue else ''}"
        song_stage.finish(f"{song.name}: {len(result.files)} stems in {folder}{turned}{pace}")
    return result


class _Mixture:
    """A song as blocks at the model's rate; knows its length to the sample and its level after one reading."""

    def __init__(self, path: Path, separator: SongSeparator) -> None:
        import torch

        from models.inference.separate import input_statistics

        self.path, self.model_rate = path, separator.interface.sample_rate
        self.channels = separator.interface.audio_channels
        info = probe(path)
        self.sample_rate = info.sample_rate
        self.num_samples = 0
        blocks = (torch.from_numpy(block_CT) for block_CT in self._count())
        self.mean, self.std = input_statistics(separator.model, blocks)
        if not self.num_samples:
            raise AudioError("empty_file", f"{path}: no samples in it")
        self.duration_s = self.num_samples / self.sample_rate
        self.notes = tuple(filter(None, (downmix_note(info),)))

    def blocks(self) -> Iterator[Samples]:
        return resample_blocks(self._read(), source_rate=self.sample_rate, target_rate=self.model_rate)

    def _read(self) -> Iterator[Samples]:
        return decode_blocks(self.path, sample_rate=self.sample_rate, channels=self.channels)

    def _count(self) -> Iterator[Samples]:
        def counted() -> Iterator[Samples]:
            for block_CT in self._read():
                self.num_samples += block_CT.shape[-1]
                yield block_CT

        return resample_blocks(counted(), source_rate=self.sample_rate, target_rate=self.model_rate)


def _write_stems(spool: Spool, mixture: _Mixture, folder: Path, config: SeparateConfig) -> SeparatedSong:
    sample_rate = writable_rate(mixture.sample_rate, config.format)
    num_samples = round(mixture.num_samples * sample_rate / mixture.sample_rate)

    def blocks_of(stem: str) -> Iterator[Samples]:
        converted = resample_blocks(spool.read(stem), source_rate=mixture.model_rate, target_rate=sample_rate)
        return exactly(converted, num_samples)

    peak = spool.peak
    if sample_rate != mixture.model_rate:  # resampling moves peaks a little
        peak = max(float(np.abs(block_CT).max(initial=0.0)) for stem in spool.paths for block_CT in blocks_of(stem))
    gain = 1.0 if config.format == "float" or peak <= FULL_SCALE else FULL_SCALE / peak
    files = {}
    for stem in spool.paths:
        path = folder / file_name(stem, mixture.path, config)
        with AudioWriter(path, sample_rate=sample_rate, channels=spool.channels, format=config.format) as writer:
            for block_CT in blocks_of(stem):
                writer.write(block_CT * np.float32(gain) if gain != 1.0 else block_CT)
        files[stem] = str(path)
    return SeparatedSong(
        song=str(mixture.path),
        folder=str(folder),
        files=files,
        sample_rate=sample_rate,
        num_samples=num_samples,
        gain_db=20 * float(np.log10(gain)),
        reused=False,
        notes=mixture.notes,
    )
