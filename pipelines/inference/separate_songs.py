"""Songs in, stem files out, in memory that does not grow with the song: what `stemline separate` runs.

A song is read twice: once for its loudness statistics, once through the network. Stems have the song's own sample
rate and exactly its length, so they lie on the original in any editor; they have the model's channel count.

Nothing is clipped silently: when a stem would pass full scale in a fixed-point format, all stems of that song are
turned down by one common gain, so that they keep their balance, and the gain is reported. Float files are never
touched.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets import audio
from datasets.audio.files import decode_blocks, probe
from datasets.audio.resampling import resample_blocks
from datasets.audio.samples import Samples
from datasets.audio.writers import AudioWriter
from datasets.corpus.scan import distinct_names, safe_name
from datasets.errors import AudioError, InputError
from datasets.ranges import NonNegativeInt, PositiveInt, ProperFraction, check_ranges
from datasets.store.ownership import outputs, recorded_files, require_ours
from models import inference, networks
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from torch import nn

# Raise it when the same song, model and settings give other stems (CONTRIBUTING.md)
VERSION = 1
STEP = Step(
    name="separate_songs",
    version=VERSION,
    uses={"audio": audio.VERSION, "inference": inference.VERSION, "networks": networks.VERSION},
)
FORMATS = {"wav16": "wav", "wav24": "wav", "float": "wav", "flac": "flac", "mp3": "mp3"}  # -> extension
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
FULL_SCALE = 1 - 2**-15  # the largest positive value that 16 bits hold
SUMMARY = "separation.json"  # the record of what is ours, from the first stem on; its key, last: the stems are whole
REMEDY = "choose another --out, or move that away"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateConfig:
    """How songs are separated and what is written."""

    format: str = "wav16"  # of the stems: wav16, wav24, float (32-bit WAV), flac (24 bit) or mp3
    two_stems: str = ""  # a source to write with "no_<source>", the sum of the others; empty writes every source
    overlap: ProperFraction = 0.25  # share of a segment that the next one covers again
    shifts: NonNegativeInt = 0  # delayed copies to average over; each costs a whole pass
    batch_size: PositiveInt = 1  # segments computed together; more is faster on a GPU
    seed: NonNegativeInt = 0  # seed of the delays of `shifts`
    device: str = "auto"  # cpu, cuda, mps, or "auto": the best of them that is there

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"separate.format={self.format!r}: use one of {', '.join(FORMATS)}")
        check_ranges(self, InputError, section="separate.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateInputs:
    """All that decides on the stems of a song besides the settings."""

    model: str  # the digest of its weights and configuration
    song: str  # the digest of its file


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparatedSong:
    """Where one song's stems are; `gain_db` is 0 unless they had to be turned down to fit the format."""

    song: str
    folder: str
    files: Mapping[str, str]  # stem -> path
    sample_rate: int
    num_samples: int
    gain_db: float
    reused: bool  # found finished, from an earlier run with the same song, model and settings


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSong:
    """A song that could not be separated, and why."""

    song: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateResult:
    """What came of every song, in the order given."""

    songs: tuple[SeparatedSong, ...]
    failed: tuple[FailedSong, ...]


def run(
    config: SeparateConfig,
    songs: Sequence[str],
    *,
    model: str,
    out: str,
    progress: Progress | None = None,
) -> SeparateResult:
    """Separate every song into `out/<song>/<stem>.<ext>` with the checkpoint at `model` (a folder or a file).

    A song that cannot be read becomes a `FailedSong`, and the others go on.
    """
    if not songs:
        raise InputError("no song given: name at least one audio file")
    separator = _Separator(config, model)
    _make_folder(Path(out))
    done: list[SeparatedSong] = []
    failed: list[FailedSong] = []
    for song, name in zip(songs, unique_names(songs), strict=True):
        try:
            done.append(_separate_song(separator, Path(song), Path(out) / name, progress))
        except InputError as error:
            failed.append(FailedSong(song=song, reason=str(error)))
        except OSError as error:  # a song that cannot be read is an InputError: this is its output folder
            failed.append(FailedSong(song=song, reason=f"cannot write to {out}: {error.strerror or error}"))
    return SeparateResult(songs=tuple(done), failed=tuple(failed))


def unique_names(songs: Sequence[str]) -> list[str]:
    """A safe folder name per song; equal ones get " (2)", " (3)", also where only upper and lower case differ."""
    return distinct_names(safe_name(Path(song).stem) for song in songs)


class _Separator:
    """A loaded model with its settings, and the digest of its weights and configuration."""

    def __init__(self, config: SeparateConfig, model: str) -> None:
        from models.errors import ModelError
        from models.networks.bag import interface
        from models.weights.loading import load_model
        from models.weights.model_ref import describe

        self.config = config
        try:
            described = describe(model)
            self.model: nn.Module = load_model(model)
        except ModelError as error:
            raise InputError(f"model {model}: {error}") from error
        self.interface = interface(self.model)
        self.device = _device(config.device)
        if config.two_stems and config.two_stems not in self.interface.sources:
            raise InputError(
                f"separate.two_stems={config.two_stems!r}: this model has {', '.join(self.interface.sources)}"
            )
        self.digest = described.digest

    @property
    def stems(self) -> tuple[str, ...]:
        only = self.config.two_stems
        return (only, f"no_{only}") if only else self.interface.sources

    def stems_of(self, mixture: Iterator[Samples], *, mean: float, std: float) -> Iterator[Samples]:
        """Blocks of stems (S, C, T) at the model's rate, S as in `stems`, from blocks of the mixture."""
        import torch

        from models.inference.separate import separate_stream

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
        ):
            block_SCT = estimates_SCT.cpu().numpy()
            if config.two_stems:
                chosen = self.interface.sources.index(config.two_stems)
                others_CT = np.delete(block_SCT, chosen, axis=0).sum(axis=0)
                block_SCT = np.stack([block_SCT[chosen], others_CT])
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


def _separate_song(separator: _Separator, song: Path, folder: Path, progress: Progress | None) -> SeparatedSong:
    if not song.is_file():
        raise InputError(f"{song}: {'a folder, not a song' if song.is_dir() else 'no such file'}")
    key = STEP.key(SeparateInputs(model=separator.digest, song=_content_digest(song)), separator.config)
    if (finished := _finished(song, folder, key)) is not None:
        return finished
    names = [_file_name(stem, separator.config.format) for stem in separator.stems]

    def is_damaged(name: str) -> bool:
        return name in recorded_files(folder, SUMMARY) and _is_damaged(folder / name)

    require_ours(folder, names, remedy=REMEDY, record=SUMMARY, also_ours=is_damaged)
    mixture = _Mixture(song, separator)
    with stage(progress, "separate", total=mixture.duration_s, unit="s") as heard:
        heard.note(song.name)
        _make_folder(folder)
        _clear(folder)
        with (
            outputs(folder, names, remedy=REMEDY, record=SUMMARY, also_ours=is_damaged),
            tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch,
        ):
            spool = _Spool(Path(scratch), separator.stems)
            for block_SCT in separator.stems_of(mixture.blocks(), mean=mixture.mean, std=mixture.std):
                spool.write(block_SCT)
                heard.advance(block_SCT.shape[-1] / mixture.model_rate)
            result = _write_stems(spool, mixture, folder, separator.config)
        _write_summary(folder, key, result)
        turned = f", turned down by {-result.gain_db:.1f} dB to fit {separator.config.format}" if result.gain_db else ""
        heard.finish(f"{song.name}: {len(result.files)} stems in {folder}{turned}")
    return result


class _Mixture:
    """A song as blocks at the model's rate; knows its length to the sample and its level after one reading."""

    def __init__(self, path: Path, separator: _Separator) -> None:
        import torch

        from models.inference.separate import input_statistics

        self.path, self.model_rate = path, separator.interface.sample_rate
        self.channels = separator.interface.audio_channels
        self.sample_rate = probe(path).sample_rate
        self.num_samples = 0
        blocks = (torch.from_numpy(block_CT) for block_CT in self._count())
        self.mean, self.std = input_statistics(separator.model, blocks)
        if not self.num_samples:
            raise AudioError("empty_file", f"{path}: no samples in it")
        self.duration_s = self.num_samples / self.sample_rate

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


class _Spool:
    """Stems as raw float32 on disk: the common gain is known only when the whole song has been separated."""

    def __init__(self, folder: Path, stems: Sequence[str]) -> None:
        self.paths = {stem: folder / f"{index}.f32" for index, stem in enumerate(stems)}
        self.channels = 0
        self.peak = 0.0

    def write(self, block_SCT: Samples) -> None:
        self.channels = block_SCT.shape[1]
        self.peak = max(self.peak, float(np.abs(block_SCT).max(initial=0.0)))
        for path, stem_CT in zip(self.paths.values(), block_SCT, strict=True):
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(stem_CT.T, dtype=np.float32).tobytes())

    def read(self, stem: str, *, block_samples: int = 1 << 18) -> Iterator[Samples]:
        with self.paths[stem].open("rb") as file:
            while data := file.read(block_samples * self.channels * 4):
                yield np.ascontiguousarray(np.frombuffer(data, dtype=np.float32).reshape(-1, self.channels).T)


def _write_stems(spool: _Spool, mixture: _Mixture, folder: Path, config: SeparateConfig) -> SeparatedSong:
    sample_rate = _writable_rate(mixture.sample_rate, config.format)
    num_samples = round(mixture.num_samples * sample_rate / mixture.sample_rate)

    def blocks_of(stem: str) -> Iterator[Samples]:
        converted = resample_blocks(spool.read(stem), source_rate=mixture.model_rate, target_rate=sample_rate)
        return _exactly(converted, num_samples)

    peak = spool.peak
    if sample_rate != mixture.model_rate:  # resampling moves peaks a little
        peak = max(float(np.abs(block_CT).max(initial=0.0)) for stem in spool.paths for block_CT in blocks_of(stem))
    gain = 1.0 if config.format == "float" or peak <= FULL_SCALE else FULL_SCALE / peak
    files = {}
    for stem in spool.paths:
        path = folder / _file_name(stem, config.format)
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
    )


def _writable_rate(sample_rate: int, format: str) -> int:
    """The song's own rate, or for MP3, which has nine of them, the next higher, at most 48 kHz."""
    if format != "mp3":
        return sample_rate
    return next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])


def _exactly(blocks: Iterator[Samples], num_samples: int) -> Iterator[Samples]:
    """The blocks, cut or zero-padded at the end: resampling there and back may be off by a sample."""
    left = num_samples
    channels = 1
    for block_CT in blocks:
        channels = block_CT.shape[0]
        if left <= 0:
            return
        yield block_CT[:, :left]
        left -= min(left, block_CT.shape[-1])
    if left > 0:
        yield np.zeros((channels, left), dtype=np.float32)


def _file_name(stem: str, format: str) -> str:
    return f"{safe_name(stem)}.{FORMATS[format]}"


def _is_damaged(path: Path) -> bool:
    """Whether nothing can be heard of a file any more: a stem of ours in pieces is nobody's work."""
    if not path.is_file() or path.is_symlink():
        return False
    try:
        probe(path)
    except AudioError:
        return True
    return False


def _clear(folder: Path) -> None:
    """Remove what a killed run left half written, known by the names that `_Spool` and `AudioWriter` give."""
    for leftover in folder.glob(".partial-*"):
        if leftover.is_dir() and all(re.fullmatch(r"\d+\.f32", path.name) for path in leftover.iterdir()):
            shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".tmp-*"):
        if re.fullmatch(r"\.tmp-[0-9a-f]+", leftover.name):
            leftover.unlink(missing_ok=True)


def _write_summary(folder: Path, key: str, result: SeparatedSong) -> None:
    files = {stem: Path(path).name for stem, path in result.files.items()}
    sizes = {stem: Path(path).stat().st_size for stem, path in result.files.items()}
    summary = {"key": key, **asdict(result), "folder": ".", "files": files, "file_bytes": sizes}
    summary["written"] = recorded_files(folder, SUMMARY)
    partial = folder / f".{SUMMARY}.partial"
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / SUMMARY)


def _finished(song: Path, folder: Path, key: str) -> SeparatedSong | None:
    """What an earlier run left in the folder, if it is the same work and still whole."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        whole = summary["key"] == key and all(
            (folder / name).stat().st_size == summary["file_bytes"][stem] for stem, name in summary["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    return SeparatedSong(
        song=str(song),
        folder=str(folder),
        files={stem: str(folder / name) for stem, name in summary["files"].items()},
        sample_rate=summary["sample_rate"],
        num_samples=summary["num_samples"],
        gain_db=summary["gain_db"],
        reused=True,
    )


def _content_digest(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error.strerror}; choose another --out") from error
    if shutil.disk_usage(folder).free == 0:
        raise InputError(f"no space left for {folder}; free some or choose another --out")
