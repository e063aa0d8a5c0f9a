"""What the best weights so far make of one song, to be listened to: FLAC files in a training's folder.

`examples/reference/` has the mixture and its true stems, `examples/step-<n>/` the estimates of the weights that were
the best at that step. The validation has made these estimates anyway, so nothing is separated for them. They are no
part of the result, and no other start needs them.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.audio.writers import encode_flac
from datasets.corpus.scan import safe_name
from datasets.store.disk_errors import disk_errors
from pipelines.runs.run_folder import checkpoint_name

FOLDER = "examples"  # in that of the run, and among the files of its MLflow run
REFERENCE = "reference"
_GROWTH = 1.25  # a long training finds better weights hundreds of times, and is heard some dozen times


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A few seconds of a song that nobody learned from; arrays are (S, C, T)."""

    references_SCT: Samples
    estimates_SCT: Samples
    sources: tuple[str, ...]
    sample_rate: int


def due(folder: Path, step: int) -> bool:
    """Whether enough steps have passed since the last example: a quarter of those until then."""
    return step >= _GROWTH * max(steps(folder), default=0)


def steps(folder: Path) -> dict[int, Path]:
    """The folders of examples by step, the earliest first; that of the true stems as step 0."""
    reference = folder / FOLDER / REFERENCE
    files = {0: reference} if reference.exists() else {}
    return files | {int(path.name.rpartition("-")[2]): path for path in sorted(folder.glob(f"{FOLDER}/step-*"))}


def write(folder: Path, step: int, example: Example) -> None:
    """Write the estimates of a step, and the true stems if they are not there yet; each folder appears whole.

    All are made quieter alike where the true ones would exceed full scale.
    """
    mixture_CT = example.references_SCT.sum(axis=0)
    gain = 1 / max(1.0, float(np.abs(mixture_CT).max()), float(np.abs(example.references_SCT).max()))
    named = {0: (REFERENCE, {"mixture": mixture_CT} | _by_source(example, example.references_SCT))}
    named[step] = (checkpoint_name(step), _by_source(example, example.estimates_SCT))
    there = steps(folder)
    for number, (name, signals) in named.items():
        if number not in there:
            scaled = {source: gain * signal_CT for source, signal_CT in signals.items()}
            _write_whole(folder / FOLDER / name, scaled, example.sample_rate)


def forget_after(folder: Path, step: int) -> None:
    """Take back examples of weights that are to be learned again."""
    for number, path in steps(folder).items():
        if number > step:
            shutil.rmtree(path)


def _by_source(example: Example, signals_SCT: Samples) -> dict[str, Samples]:
    return {safe_name(source): signal_CT for source, signal_CT in zip(example.sources, signals_SCT, strict=True)}


def _write_whole(target: Path, signals: Mapping[str, Samples], sample_rate: int) -> None:
    with disk_errors(target.parents[1]):
        target.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            for name, signal_CT in signals.items():
                (temporary / f"{name}.flac").write_bytes(encode_flac(signal_CT, sample_rate=sample_rate, bits=16))
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
